"""Several windows of one video: the views whose logits are averaged."""

from __future__ import annotations

import numpy as np

from vivit_lab.errors import InputError
from vivit_lab.numbers import checked_numbers
from vivit_lab.video.clip import Clip
from vivit_lab.video.folder import index_of
from vivit_lab.video.read import Processor, read_frames
from vivit_lab.video.source import Source

__all__ = ["read_views", "temporal_views"]


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
