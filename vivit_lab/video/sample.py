"""Which frames of a video make a clip."""

from __future__ import annotations

import warnings

import numpy as np

from vivit_lab.errors import InputError, ShortClipWarning
from vivit_lab.numbers import MOST, check_whole, checked_numbers

__all__ = ["sample_frame_indices", "uniform_frame_indices"]


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
        warnings.warn(
            f"the video has {seg_len} frames, and {clip_len} frames · rate {frame_sample_rate:g} span {window}: "
            f"the clip spreads over the whole video instead{_repeats(clip_len, seg_len)}",
            ShortClipWarning,
            stacklevel=2,
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
        warnings.warn(
            f"the video has {seg_len} frames, the clip {clip_len}{_repeats(clip_len, seg_len)}",
            ShortClipWarning,
            stacklevel=2,
        )
    return (2 * np.arange(clip_len, dtype=np.int64) + 1) * seg_len // (2 * clip_len)


def _repeats(clip_len: int, seg_len: int) -> str:
    return f"; {clip_len - seg_len} of its frames are repetitions" if clip_len > seg_len else ""


def _draw(generator: np.random.Generator | np.random.RandomState | int | None, low: int, high: int) -> int:
    if isinstance(generator, np.random.RandomState):
        return int(generator.randint(low, high))
    return int(np.random.default_rng(generator).integers(low, high))
