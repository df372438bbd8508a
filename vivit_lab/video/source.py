"""Open a video and choose its stream, or say why it is no video."""

from __future__ import annotations

import io
import os
import stat
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path, PurePath
from typing import IO, TYPE_CHECKING, Any

import av
import numpy as np
from av.error import FFmpegError
from av.sidedata.sidedata import SideDataContainer

from vivit_lab.errors import InputError, NotAVideoError, VideoNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "DECODER_ERRORS",
    "PICTURE_SUFFIXES",
    "VIDEO_SUFFIXES",
    "Source",
    "choose_stream",
    "exact",
    "holds_pictures",
    "is_path",
    "is_video_name",
    "open_container",
    "open_video",
    "orientation",
    "pixel_aspect",
    "source_name",
    "upright",
]

#: Endings of file names that are taken for videos where a directory is searched, in lower case.
VIDEO_SUFFIXES = frozenset(
    ".3gp .avi .flv .gif .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .mxf .ogv .ts .webm .wmv .y4m".split()
)


#: Endings of the names of pictures, in lower case.
PICTURE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


def holds_pictures(folder: str | Path) -> bool:
    """Whether a path is a folder that holds a picture, and so may be a video's frames."""
    folder = Path(folder)
    return folder.is_dir() and any(file.suffix.lower() in PICTURE_SUFFIXES for file in folder.iterdir())


def is_video_name(name: str | PurePath) -> bool:
    """Whether a path or URL ends as a video's does, in capitals too."""
    return PurePath(name).suffix.lower() in VIDEO_SUFFIXES


#: A video: the path of a file, its bytes, or a binary file object that can seek.
Source = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes]

#: What decoding a packet may raise: PyAV 19 forgets the codec where a damaged header stops the decoder's start, and
#: then raises a bare ValueError.
DECODER_ERRORS = (FFmpegError, ValueError)

_STILL_BRANDS = {"avif", "heic", "heix", "mif1"}  # containers that look like mp4 and hold one picture
# A title in Latin-1 is no reason to refuse a video: PyAV 19 decodes it by itself, those before must be told to.
_ANY_TITLE: dict[str, Any] = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "replace"}
# FFmpeg reads the open file that it is given. It may open nothing else, as no protocol has this name.
_OPEN_NOTHING_ELSE = {"protocol_whitelist": "none"}
_TEXT = {"ansi", "bintext", "xbin", "idf"}  # FFmpeg draws text files as if they were video
_LISTS = {
    "ffconcat": "an ffconcat script",
    "#extm3u": "an M3U playlist",
    "<mpd": "a DASH manifest",
    "v=0": "an SDP session",
    "[playlist]": "a PLS playlist",
    "<smil": "a SMIL playlist",
    "<asx": "an ASX playlist",
    "[reference]": "a list of references",
    "rtsptext": "a list of references",
    "<assetmap": "an IMF asset map",
}


def is_path(source: Any) -> bool:
    """Whether a source is the path of a file, and not its bytes or an open file."""
    return isinstance(source, (str, os.PathLike))


def source_name(source: Source) -> str:
    """Return what errors call a video: its path, the name of an open file, or how many bytes it has.

    Raises:
        InputError: it is no path, no bytes and no file object.
    """
    if isinstance(source, (str, os.PathLike)):
        name = os.fspath(source)
        return os.fsdecode(name) if isinstance(name, bytes) else name
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"the video of {len(memoryview(source).cast('B')):,} bytes"
    if hasattr(source, "read"):
        name = getattr(source, "name", None)
        return name if isinstance(name, str) and name else f"the open {type(source).__name__}"
    raise InputError(
        f"wanted a video: its path, its bytes, or a binary file object that can seek; got {type(source).__name__}"
    )


@contextmanager
def open_video(
    source: Source, stream: int = 0, *, threads: int | str = "auto", strict: bool = False
) -> Iterator[tuple[Any, Any]]:
    """Open a video for decoding one of its streams; a context manager.

    Args:
        source: the path of a video file, its bytes, or a binary file object that can seek. A file object is read from
            its beginning, and stands where it stood afterwards.
        stream: which of the file's video streams, from 0. Cover pictures of audio files do not count.
        threads: how many threads decode; "auto" lets FFmpeg choose.
        strict: make the decoder report damage that it would otherwise conceal.

    Yields:
        PyAV's container and video stream.

    Raises:
        VideoNotFoundError: there is no such file.
        NotAVideoError: a directory, a pipe or device, an empty file, no media, a playlist, audio only, a still image.
        InputError: the file has no video stream of that number, ``threads`` is neither positive nor "auto", or a file
            object gives text or cannot seek.
    """
    name = source_name(source)
    if threads != "auto" and (isinstance(threads, (str, bool)) or threads < 1):
        raise InputError(f"threads must be a positive integer or 'auto', got {threads!r}")
    with open_container(source) as container:
        chosen: Any = choose_stream(container, name, stream)
        context = chosen.codec_context
        if threads == "auto":
            chosen.thread_type = "AUTO"
        else:
            context.thread_count = int(threads)
            chosen.thread_type = "AUTO" if int(threads) > 1 else "NONE"
        if strict:
            context.options = {"err_detect": "explode"}
        yield container, chosen


@contextmanager
def open_container(source: Source) -> Iterator[Any]:
    """Open a file of any media; see ``open_video``. A context manager that yields PyAV's container."""
    name = source_name(source)
    with _opened(source, name) as file, _container(file, name) as container:
        yield container


@contextmanager
def _opened(source: Source, name: str) -> Iterator[IO[bytes]]:
    """Yield a binary file at its beginning."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        if not len(source):
            raise NotAVideoError(f"{name} is empty")
        yield io.BytesIO(source)
    elif isinstance(source, (str, os.PathLike)):
        _check_path(name)
        with open(name, "rb", buffering=0) as file:
            yield file
    else:
        _check_file(source, name)
        place = source.tell()
        source.seek(0)
        try:
            yield source
        finally:
            source.seek(place)


def _check_path(name: str) -> None:
    try:
        status = os.stat(name)
    except PermissionError:
        raise
    except (OSError, ValueError) as error:
        url = ". A URL is not read: download it first, and give the path of the file" if "://" in name else ""
        raise VideoNotFoundError(f"there is no file {name}{url}") from error
    if stat.S_ISDIR(status.st_mode):
        raise NotAVideoError(f"{name} is a directory; wanted the path of one video file")
    if not stat.S_ISREG(status.st_mode):
        raise NotAVideoError(
            f"{name} is a pipe, socket or device; wanted a file, in which a reader can go back: write the video to a "
            "file, or give its bytes"
        )
    if not status.st_size:
        raise NotAVideoError(f"{name} is empty (0 bytes)")


def _check_file(file: Any, name: str) -> None:
    if getattr(file, "closed", False):
        raise InputError(f"{name} is closed; wanted an open file")
    if hasattr(file, "readable") and not file.readable():
        raise InputError(f'{name} is not open for reading; wanted open(path, "rb")')
    if isinstance(file, io.TextIOBase) or isinstance(file.read(0), str):
        raise InputError(f'{name} is open as text; wanted a binary file: open(path, "rb")')
    if not (hasattr(file, "seek") and (not hasattr(file, "seekable") or file.seekable())):
        raise InputError(f"{name} cannot seek, and a video is read in more than one pass; give its bytes: file.read()")


def _container(file: IO[bytes], name: str) -> Any:
    kind = _list_kind(file.read(1024))
    if kind is not None:
        raise NotAVideoError(
            f"{name} is {kind}, not a video: it names other files, and those are not read from here; wanted the path "
            "of one of them"
        )
    file.seek(0)
    try:
        return av.open(file, container_options=_OPEN_NOTHING_ELSE, **_ANY_TITLE)
    except PermissionError:
        raise
    except FFmpegError as error:
        raise NotAVideoError(
            f"{name} cannot be opened as a video ({error.strerror}): it is not media, or the part that describes it "
            "is damaged or cut off (an mp4 often keeps that part at its end)"
        ) from error


def _list_kind(head: bytes) -> str | None:
    """Return what kind of list of other files a text is that begins so, or None."""
    text = head.decode("utf-8", "replace").lstrip("\ufeff \r\n\t").lower()
    for mark, kind in _LISTS.items():
        if text.startswith(mark) or (mark.startswith("<") and text.startswith("<") and mark in text):
            return kind
    return None


def choose_stream(container: Any, name: str, stream: int) -> Any:
    """Return the video stream of an open container, by its number among the video streams.

    Args:
        container: an open PyAV container.
        name: what errors call it.
        stream: the number, from 0; cover pictures do not count.

    Raises:
        NotAVideoError: it has no video: audio only, text, a still image.
        InputError: there is no video stream of that number.
    """
    kind = container.format.name
    streams = [one for one in container.streams.video if not _is_cover(one)]
    if not streams:
        what = "a cover picture, but no video" if container.streams.video else "no video stream"
        sound = len(container.streams.audio)
        raise NotAVideoError(f"{name} has {what} ({kind}, {sound} audio stream{'' if sound == 1 else 's'})")
    if isinstance(stream, bool) or not 0 <= stream < len(streams):
        raise InputError(f"{name} has {len(streams)} video stream(s), numbered from 0; got stream={stream}")
    chosen = streams[stream]
    codec = chosen.codec_context.name if chosen.codec_context else None
    if codec is None:
        raise NotAVideoError(f"{name}: this build of FFmpeg has no decoder for its video stream ({kind})")
    if codec in _TEXT:
        raise NotAVideoError(f"{name} is a text file, not a video")
    if _is_still(container, chosen):
        raise NotAVideoError(
            f"{name} is a still image ({kind}); wanted a video. Clip.from_frames takes arrays of frames"
        )
    return chosen


def _is_cover(stream: Any) -> bool:
    return bool(stream.disposition & stream.disposition.__class__.attached_pic)


def _is_still(container: Any, stream: Any) -> bool:
    kind = container.format.name
    if kind.endswith("_pipe") or kind == "image2" or container.metadata.get("major_brand") in _STILL_BRANDS:
        return True
    return kind in {"gif", "apng"} and stream.frames == 1


def exact(ratio: Any) -> Fraction | None:
    """Return a ratio of PyAV as a Fraction, which is what it is before PyAV 19 only; None where there is none."""
    if ratio is None or not ratio.denominator:
        return None
    return Fraction(ratio.numerator, ratio.denominator)


def pixel_aspect(stream: Any) -> Fraction:
    """Return the width of a stored pixel of a stream over its height; 1 where the file does not say."""
    aspect = exact(stream.sample_aspect_ratio)
    return aspect if aspect is not None and aspect > 0 else Fraction(1)


def orientation(frame: Any) -> tuple[int, bool]:
    """Return how a player shows a frame: (quarter turns counter-clockwise, then whether it is mirrored left to right).

    Only quarter turns are exact on pixels: other angles count as the nearest one, or as none half way between.

    Args:
        frame: a decoded PyAV frame.
    """
    # not frame.side_data, which ties the frame into a cycle: decoded frames would pile up until the next collection
    data = SideDataContainer(frame).get("DISPLAYMATRIX")  # pyright: ignore[reportCallIssue]
    if data is None:
        return (0, False)
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].astype(float) / 65536
    # rows of [[a, b], [c, d]] are where the stored x and y axes point on the screen, y downwards
    mirrored = a * d - b * c < 0
    if mirrored:  # undo the mirroring, which comes last, to find the turn before it
        a, c = -a, -c
    turns = {(1, 0): 0, (0, -1): 1, (-1, 0): 2, (0, 1): 3}.get((round(a), round(b)), 0)
    return (turns, bool(mirrored))


def upright(pixels: np.ndarray, turns: int, mirrored: bool) -> np.ndarray:
    """Return (H, W, 3) pixels as shown: turned counter-clockwise by quarter turns, then mirrored left to right."""
    turned = np.rot90(pixels, turns) if turns else pixels
    return turned[:, ::-1] if mirrored else turned
