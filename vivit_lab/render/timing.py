"""When the frames of a clip are shown, and which of them can be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from vivit_lab.grid import TokenGrid
    from vivit_lab.video.clip import Clip

__all__ = ["clip_end", "format_seconds", "row_spans", "shown_frames"]

_TICK = 1.5 / 90000  # times closer than this may be one time in a movie file


def shown_frames(clip: Clip) -> list[int]:
    """Return the indices of the frames that have a time of their own.

    A clip that is longer than its video repeats frames at the same time; a movie can show a time only once, so the
    first of equal times is kept.
    """
    kept = [0]
    for index in range(1, len(clip)):
        if clip.seconds[index] - clip.seconds[kept[-1]] > _TICK:
            kept.append(index)
    return kept


def clip_end(clip: Clip) -> float:
    """Return when the last frame stops being shown, in seconds; if the clip does not say, one usual frame later."""
    last = float(clip.seconds[-1])
    if clip.end - last > _TICK:
        return float(clip.end)
    steps = np.diff(clip.seconds)
    steps = steps[steps > _TICK]
    if len(steps):
        return last + float(np.median(steps))
    return last + (1.0 / clip.fps if clip.fps > 0 else 0.04)


def row_spans(clip: Clip, grid: TokenGrid) -> np.ndarray:
    """Return (t, 2) float64: from when until when, in seconds, the frames of each tubelet row are shown."""
    edges = np.append(clip.seconds, clip_end(clip))
    return np.array([[edges[start], edges[stop]] for start, stop in map(grid.frame_span, range(grid.t))])


def format_seconds(seconds: float, span: float) -> str:
    """Return a time as text, in hundredths of a second, or in milliseconds where all there is spans under 2 s."""
    return f"{seconds:.{3 if span < 2 else 2}f} s"
