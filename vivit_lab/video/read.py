"""Read clips and frames of a video file, by frame index or time; and which frames make a clip."""

from __future__ import annotations

import os
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from av.error import FFmpegError

from vivit_lab.errors import DecodeError, DecodeWarning, InputError, ShortClipWarning
from vivit_lab.numbers import MOST, check_whole, checked_numbers
from vivit_lab.video.clip import Clip
from vivit_lab.video.decode import Decoding, decode_frames, rewind
from vivit_lab.video.folder import index_of, is_folder, read_pictures
from vivit_lab.video.index import FrameIndex, index_decoded, index_packets, load_index, remember_index
from vivit_lab.video.source import Source, choose_stream, is_path, source_name
from vivit_lab.warn import warn_caller

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "Processor",
    "read_clip",
    "read_frames",
    "read_video_pyav",
    "read_views",
    "sample_frame_indices",
    "temporal_views",
    "uniform_frame_indices",
]


@checked_numbers(clip_len=(1, MOST), seg_len=(1, None))
def sample_frame_indices(
    clip_len: int,
    frame_sample_rate: float,
    seg_len: int,
    *,
    generator: np.random.Generator | np.random.RandomState | int | None = None,
) -> np.ndarray:
    """Return the frames of a window at a random place: the documentation's sampler, seedable and for short videos too.

    The window spans ``int(clip_len · frame_sample_rate)`` frames; its end is drawn uniformly, and ``clip_len`` indices
    are spread evenly over it.

    Args:
        clip_len: how many frames to choose.
        frame_sample_rate: one frame in so many.
        seg_len: how many frames the video has (``probe(path).frames``).
        generator: where the place comes from: a generator, or a seed. A ``numpy.random.RandomState`` draws as the
            documentation's code does after ``numpy.random.seed``. None: a different place each time.

    Returns:
        (clip_len,) int64, not decreasing, in 0 … seg_len - 1. A video that is as long as the window, or shorter, is
        taken whole: its frames spread over the clip, and some repeat if there are fewer than ``clip_len``.

    Raises:
        InputError: an argument is not positive, or the window has no frame.

    Warns:
        ShortClipWarning: the video is shorter than the window.

    Example:
        >>> sample_frame_indices(32, 4, 300, generator=0)[:3]
    """
    if generator is not None and not hasattr(generator, "integers") and not hasattr(generator, "randint"):
        check_whole("generator, if it is a seed,", generator, 0)
    window = int(clip_len * frame_sample_rate)
    if window < 1:
        raise InputError(f"a window of {clip_len} frames · rate {frame_sample_rate} is empty: wanted a rate above 0")
    if window > seg_len:
        warn_caller(
            f"the video has {seg_len} frames, and {clip_len} frames · rate {frame_sample_rate:g} span {window}: "
            f"the clip spreads over the whole video instead{_repeats(clip_len, seg_len)}",
            ShortClipWarning,
        )
    end = seg_len if window >= seg_len else _draw(generator, window, seg_len)
    start = max(end - window, 0)
    return np.linspace(start, end, num=clip_len).clip(start, end - 1).astype(np.int64)


@checked_numbers(clip_len=(1, MOST), seg_len=(1, None))
def uniform_frame_indices(clip_len: int, seg_len: int) -> np.ndarray:
    """Return ``clip_len`` frames spread evenly over a whole video: the middles of equal parts.

    Args:
        clip_len: how many frames to choose.
        seg_len: how many frames the video has.

    Returns:
        (clip_len,) int64, not decreasing, in 0 … seg_len - 1; frames repeat if there are fewer than ``clip_len``.

    Raises:
        InputError: an argument is not positive.

    Warns:
        ShortClipWarning: the video has fewer frames than the clip.
    """
    if clip_len > seg_len:
        warn_caller(
            f"the video has {seg_len} frames, the clip {clip_len}{_repeats(clip_len, seg_len)}", ShortClipWarning
        )
    return (2 * np.arange(clip_len, dtype=np.int64) + 1) * seg_len // (2 * clip_len)


def _repeats(clip_len: int, seg_len: int) -> str:
    return f"; {clip_len - seg_len} of its frames are repetitions" if clip_len > seg_len else ""


def _draw(generator: np.random.Generator | np.random.RandomState | int | None, low: int, high: int) -> int:
    if isinstance(generator, np.random.RandomState):
        return int(generator.randint(low, high))
    return int(np.random.default_rng(generator).integers(low, high))


class Processor(Protocol):
    """What turns a clip into a model's input, such as ``VivitImageProcessor``."""

    def prepare(self, clip: Clip) -> Clip:
        """Return the clip with ``pixel_values`` and ``geometry``."""
        ...


@checked_numbers(num_frames=(1, 100_000))
def read_clip(
    path: Source,
    num_frames: int | None = None,
    stride: int = 1,
    start: int | float = 0,
    *,
    stream: int = 0,
    threads: int | str = "auto",
    processor: Processor | None = None,
    fps: float | None = None,
    index: FrameIndex | None = None,
) -> Clip:
    """Read the frames start, start + stride, start + 2·stride, … of a video.

    Args:
        path: a video: the path of its file, its bytes, a binary file object that can seek, or a folder of numbered
            pictures (frame_0001.png, …).
        num_frames: how many frames; None reads to the end of the video.
        stride: 1 takes every frame, 2 every other, …
        start: an int is the first frame's index, where a negative one counts from the end of the video (-32: the last
            32 frames begin there). A float is a time in seconds from the first frame: the frame shown then.
        stream: which of the file's video streams, from 0.
        threads: decoding threads; "auto" is quickest for one clip, 1 is best where many clips are read at once.
        processor: if given, its ``prepare`` is applied, and the clip has ``pixel_values`` too.
        fps: pictures a second, for a folder; None takes 25 and says so.
        index: the index of that stream (``load_index``), where it is known already.

    Returns:
        The clip. If the video ends before the window does, its last frame in reach repeats, and a warning says how
        often. Memory: 3 bytes a pixel and frame.

    Raises:
        VideoNotFoundError: there is no such file.
        NotAVideoError: it is no video: audio only, a still image, a playlist, a pipe, not media.
        InputError: an argument is out of range, or ``start`` lies beyond the video.
        DecodeError: a frame cannot be decoded, or the file was cut off before it.
        OutOfMemoryBudgetError: the frames would not fit into the free memory.

    Warns:
        ShortClipWarning: the video is shorter than the window.
        DecodeWarning: the decoder concealed damage.
        ColorWarning: the video is HDR, which is read without tone mapping.

    Example:
        >>> clip = read_clip("samoyed.mp4", 16, stride=2, start=1.5)
    """
    for name, value in (("num_frames", num_frames), ("stride", stride)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1):
            raise InputError(f"{name} must be a positive integer, got {value!r}")

    def window(index: FrameIndex) -> np.ndarray:
        first = _first_frame(source_name(path), index, start)
        available = -(-(len(index) - first) // stride)
        count = available if num_frames is None else int(num_frames)
        wanted = first + stride * np.arange(min(count, available))
        if count <= available:
            return wanted
        _warn_short(source_name(path), index, count, count - available, int(wanted[-1]), stride)
        return np.concatenate([wanted, np.full(count - available, wanted[-1])])

    clip = _clip(path, index_of(path, stream, fps) if index is None else index, window, stream, threads)
    return clip if processor is None else processor.prepare(clip)


@checked_numbers()
def read_frames(
    path: Source,
    indices: Sequence[int] | np.ndarray,
    *,
    stream: int = 0,
    threads: int | str = "auto",
    fps: float | None = None,
    index: FrameIndex | None = None,
) -> Clip:
    """Read the frames of a video at given indices.

    Between indices that are far apart the decoder jumps, so a few frames of a long video are quick.

    Args:
        path: a video: the path of its file, its bytes, a binary file object that can seek, or a folder of numbered
            pictures (frame_0001.png, …).
        indices: frame indices from 0, not decreasing (a clip is in the order of time); an index may repeat.
        stream: which of the file's video streams, from 0.
        threads: decoding threads; "auto" is quickest for one clip, 1 is best where many clips are read at once.
        fps: pictures a second, for a folder; None takes 25 and says so.
        index: the index of that stream (``load_index``), where it is known already.

    Raises:
        VideoNotFoundError: there is no such file.
        NotAVideoError: it is no video: audio only, a still image, a playlist, a pipe, not media.
        InputError: the indices are empty, decrease, are no integers, or lie outside the video.
        DecodeError: a frame cannot be decoded, or the file was cut off before it.
        OutOfMemoryBudgetError: the frames would not fit into the free memory.

    Warns:
        DecodeWarning: the decoder concealed damage.
        ColorWarning: the video is HDR, which is read without tone mapping.
    """

    def choose(index: FrameIndex) -> np.ndarray:
        wanted = _check_indices(source_name(path), indices, index)
        if np.any(np.diff(wanted) < 0):
            raise InputError("indices must not decrease, as a clip is in the order of time: sort them first")
        return wanted

    return _clip(path, index_of(path, stream, fps) if index is None else index, choose, stream, threads)


def _check_indices(name: str, indices: Sequence[int] | np.ndarray, index: FrameIndex) -> np.ndarray:
    """Return frame indices as int64 (n,).

    Raises:
        InputError: they are empty, no integers, or outside the video.
        DecodeError: the file lists such a frame, but was cut off before it.
    """
    wanted = np.asarray(indices)
    if wanted.ndim != 1 or not wanted.size or not np.issubdtype(wanted.dtype, np.integer):
        raise InputError(f"indices must be a sequence of at least one integer, got {indices!r}")
    if wanted.min() < 0 or wanted.max() >= len(index):
        worst = int(wanted.min() if wanted.min() < 0 else wanted.max())
        _check_cut_off(name, index, worst)
        raise InputError(f"frame {worst} is outside {name}, which has {len(index)} frames, 0 … {len(index) - 1}")
    return wanted.astype(np.int64)


def _first_frame(name: str, index: FrameIndex, start: int | float) -> int:
    if isinstance(start, (int, np.integer)) and not isinstance(start, bool):
        first = int(start) + (len(index) if start < 0 else 0)
        if 0 <= first < len(index):
            return first
        _check_cut_off(name, index, first)
        raise InputError(f"start={start} is outside {name}, which has {len(index)} frames")
    if not isinstance(start, (float, np.floating)) or not 0 <= start < index.end:
        raise InputError(
            f"start={start!r} is outside {name}: wanted a frame index (int), or seconds (float) from 0 to before "
            f"{index.end:.3f}"
        )
    return index.frame_at(float(start))


def _check_cut_off(name: str, index: FrameIndex, frame: int) -> None:
    if 0 <= len(index) <= frame < len(index) + index.missing:
        raise DecodeError(
            f"{name} is cut off: its table lists {len(index) + index.missing} frames, but the file ends after frame "
            f"{len(index) - 1} at {index.seconds[-1]:.3f} s, before frame {frame}"
        )


def _warn_short(name: str, index: FrameIndex, count: int, held: int, last: int, stride: int) -> None:
    _check_cut_off(name, index, last + stride)
    hint = ""
    if index.header_seconds and index.header_seconds > index.end * 1.05 + 0.1:
        hint = f" (its header speaks of {index.header_seconds:.3f} s: the file may be cut off)"
    warn_caller(
        f"{name} has {len(index)} frames and ends at {index.end:.3f} s{hint}: of the {count} frames with stride "
        f"{stride} that were asked for, the last {held} repeat frame {last}",
        ShortClipWarning,
    )


def _clip(
    path: Source,
    index: FrameIndex,
    choose: Callable[[FrameIndex], np.ndarray],
    stream: int,
    threads: int | str,
) -> Clip:
    name, wanted = source_name(path), choose(index)
    if is_folder(path):
        (frames, troubles), aspect = read_pictures(name, wanted), Fraction(1)
    else:
        decoded = decode_frames(path, index, wanted, stream=stream, threads=threads, renumber=True)
        if decoded.numbering is not index:  # times turned out to be in disorder: frames have other numbers and times
            index = decoded.numbering
            remember_index(path, stream, index)
            wanted = choose(index)
            decoded = decode_frames(path, index, wanted, stream=stream, threads=threads)
        frames, troubles, aspect = decoded.frames, decoded.troubles, decoded.pixel_aspect
    if troubles:
        _warn_damage(name, wanted, troubles)
    file = name if is_path(path) else None
    return Clip(
        frames,
        index.seconds[wanted],
        wanted,
        index.fps,
        index.end_of(int(wanted[-1])),
        file,
        decode_warnings=troubles,
        pixel_aspect=aspect,
    )


def read_video_pyav(container: Any, indices: Sequence[int] | np.ndarray) -> np.ndarray:
    """Read frames from an open PyAV container: the documentation's helper, but it seeks.

    Takes and gives what ``read_video_pyav`` of the transformers documentation does, and is quicker where the frames lie
    late in a long file. As there, frames come as stored: a rotation that the file asks for is *not* applied
    (`read_clip` does apply it). Unlike there, an index that repeats gives its frame again, so a short video still fills
    its window, and an index beyond the end is an error instead of a missing frame.

    Args:
        container: ``av.open(path)``; its first video stream is read. Where it stands does not matter, before or after.
        indices: frame indices from 0, in any order, which the frames keep.

    Returns:
        (n, H, W, 3) uint8 RGB.

    Raises:
        InputError: the indices are empty, no integers, or outside the video.
        NotAVideoError: the container has no video.
        DecodeError: a frame cannot be decoded.

    Warns:
        DecodeWarning: the decoder concealed damage.
    """
    name = str(container.name or "the container")
    stream = choose_stream(container, name, 0)
    try:
        rewind(container)
    except FFmpegError as error:
        return _reopened(name, indices, error)
    index = index_packets(container, stream)
    if index.from_start:  # what its first packets brought was used up when the container was opened or read
        return _reopened(name, indices, InputError("its palette or header comes once, with the first packet"))
    if index.obstacle is not None:
        rewind(container)
        index = index_decoded(container, stream, index.obstacle)
    wanted = _check_indices(name, indices, index)
    decoding = _decode_open(container, stream, index, wanted, seek=True)
    if not decoding.sound:
        decoding = _decode_open(container, stream, index, wanted, seek=False)
    if decoding.disorder is not None:
        rewind(container)
        index = index_decoded(container, stream, decoding.disorder)
        wanted = _check_indices(name, indices, index)
        decoding = _decode_open(container, stream, index, wanted, seek=False)
    if decoding.missing:
        raise decoding.error(name)
    if decoding.troubles:
        _warn_damage(name, wanted, decoding.troubles)
    return decoding.frames()


def _decode_open(container: Any, stream: Any, index: FrameIndex, wanted: np.ndarray, *, seek: bool) -> Decoding:
    rewind(container)
    decoding = Decoding(index, wanted, as_shown=False)
    decoding.run(container, stream, seek=seek and index.seekable)
    return decoding


def _warn_damage(name: str, wanted: np.ndarray, troubles: int) -> None:
    warn_caller(
        f"{name}: the decoder reported damage {troubles} time(s) on the way to frames {wanted.min()} … {wanted.max()}; "
        "what it concealed may show wrong pixels",
        DecodeWarning,
    )


def _reopened(name: str, indices: Sequence[int] | np.ndarray, error: Exception) -> np.ndarray:
    """Read a kind of file in which PyAV cannot go back (raw streams) by opening it anew."""
    if not os.path.isfile(name):
        raise DecodeError(f"{name} cannot be read from its beginning: {error}; open it anew from a file") from error
    index = load_index(name)
    return decode_frames(name, index, _check_indices(name, indices, index), as_shown=False).frames


def temporal_views(start: int, stop: int, frames: int, stride: int, views: int) -> np.ndarray:
    """Return the frames of windows spread evenly over a stretch of a video.

    Args:
        start: first frame of the stretch.
        stop: one past its last frame.
        frames: frames of a window.
        stride: distance of its frames.
        views: how many windows, from the first that fits to the last; a single one lies in the middle.

    Returns:
        (views, frames) int64, each row not decreasing; where the stretch is shorter than a window its last frame
        repeats.

    Raises:
        InputError: an argument is not positive, or the stretch is empty.
    """
    if min(frames, stride, views) < 1 or not 0 <= start < stop:
        raise InputError(
            f"wanted frames, stride and views of at least 1 and 0 <= start < stop; got {frames}, {stride}, {views}, "
            f"{start}, {stop}"
        )
    room = max(stop - start - (stride * (frames - 1) + 1), 0)
    firsts = np.rint(np.linspace(0, room, views)).astype(np.int64) if views > 1 else np.array([room // 2])
    return (start + firsts[:, None] + stride * np.arange(frames)).clip(max=stop - 1)


@checked_numbers(num_frames=(1, 100_000), stride=(1, None), views=(1, 1000))
def read_views(
    path: Source,
    num_frames: int,
    stride: int = 2,
    views: int = 4,
    *,
    processor: Processor | None = None,
    stream: int = 0,
    threads: int | str = "auto",
    fps: float | None = None,
) -> list[Clip]:
    """Read windows spread evenly over a whole video, as the paper's inference does (4 of 32 frames at stride 2).

    Args:
        path: a video: the path of its file, its bytes, a binary file object that can seek, or a folder of numbered
            pictures.
        num_frames: frames of a window.
        stride: distance of its frames.
        views: how many windows; see ``temporal_views``.
        processor: if given, its ``prepare`` is applied, and the clips have ``pixel_values`` too.
        stream: which of the file's video streams, from 0.
        threads: decoding threads.
        fps: pictures a second, for a folder; None takes 25 and says so.

    Returns:
        A clip for each view, in the order of time.

    Raises:
        VideoError: the file cannot be read.
        InputError: an argument is not positive.

    Example:
        >>> len(read_views("abseiling.mp4", 32, views=4))
        4
    """
    index = index_of(path, stream, fps)
    windows = temporal_views(0, len(index), num_frames, stride, views)
    clips = [read_frames(path, window, stream=stream, threads=threads, index=index) for window in windows]
    return clips if processor is None else [processor.prepare(clip) for clip in clips]
