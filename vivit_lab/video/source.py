"""Open a video file and choose its stream, or say why it is no video."""

from __future__ import annotations

import os
from contextlib import contextmanager
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from av.error import FFmpegError

from vivit_lab.errors import InputError, NotAVideoError, VideoNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["DECODER_ERRORS", "choose_stream", "exact", "open_video", "orientation", "upright"]

#: What decoding a packet may raise: PyAV 19 forgets the codec where a damaged header stops the decoder's start, and
#: then raises a bare ValueError.
DECODER_ERRORS = (FFmpegError, ValueError)

_STILL_BRANDS = {"avif", "heic", "heix", "mif1"}  # containers that look like mp4 and hold one picture
# A title in Latin-1 is no reason to refuse a video: PyAV 19 decodes it by itself, those before must be told to.
_ANY_TITLE: dict[str, Any] = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "replace"}
_TEXT = {"ansi", "bintext", "xbin", "idf"}  # FFmpeg draws text files as if they were video


@contextmanager
def open_video(
    path: str | os.PathLike[str], stream: int = 0, *, threads: int | str = "auto", strict: bool = False
) -> Iterator[tuple[Any, Any]]:
    """Open a file for decoding one of its video streams; a context manager.

    Args:
        path: a video file.
        stream: which of the file's video streams, from 0. Cover pictures of audio files do not count.
        threads: how many threads decode; "auto" lets FFmpeg choose.
        strict: make the decoder report damage that it would otherwise conceal.

    Yields:
        PyAV's container and video stream.

    Raises:
        VideoNotFoundError: there is no such file.
        NotAVideoError: a directory, an empty file, no media, audio only, a still image.
        InputError: the file has no video stream of that number, or ``threads`` is neither positive nor "auto".
    """
    name = os.fspath(path)
    if threads != "auto" and (isinstance(threads, (str, bool)) or threads < 1):
        raise InputError(f"threads must be a positive integer or 'auto', got {threads!r}")
    with _open(name) as container:
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


def _open(name: str) -> Any:
    if not os.path.exists(name):
        raise VideoNotFoundError(f"there is no file {name}")
    if os.path.isdir(name):
        raise NotAVideoError(f"{name} is a directory; wanted the path of one video file")
    if os.path.isfile(name) and not os.path.getsize(name):
        raise NotAVideoError(f"{name} is empty (0 bytes)")
    try:
        return av.open(name, **_ANY_TITLE)
    except PermissionError:
        raise
    except FFmpegError as error:
        raise NotAVideoError(
            f"{name} cannot be opened as a video ({error.strerror}): it is not media, or the part that describes it "
            "is damaged or cut off (an mp4 often keeps that part at its end)"
        ) from error


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


def orientation(frame: Any) -> tuple[int, bool]:
    """Return how a player shows a frame: (quarter turns counter-clockwise, then whether it is mirrored left to right).

    Only quarter turns are exact on pixels: other angles count as the nearest one, or as none half way between.

    Args:
        frame: a decoded PyAV frame.
    """
    data = frame.side_data.get("DISPLAYMATRIX")
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
