"""The ratio of two means over the same clips, and its interval."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from vivit_lab.errors import InputError
from vivit_lab.statistics.bootstrap import BootstrapInterval, _check, _counts, _vector

__all__ = ["bootstrap_ratio"]


def bootstrap_ratio(
    numerator: Any, denominator: Any, *, level: float = 0.95, resamples: int = 4000, seed: int = 0
) -> BootstrapInterval:
    """Return Σ numerator / Σ denominator over clips, and its percentile bootstrap interval.

    The ratio of means, not the mean of ratios: one clip whose denominator is near zero would decide the latter. Clips
    are drawn as pairs of both numbers. Where the denominator's own interval reaches zero, the ratio has none that is
    finite (Fieller 1954), and its ends are NaN.

    Args:
        numerator: one a clip; NaN leaves the clip out.
        denominator: one a clip, of the same clips.
        level: share of the draws inside the interval, in (0, 1).
        resamples: how many draws.
        seed: of the draws; the same ones as ``bootstrap_interval``'s.

    Returns:
        ``mean`` is the ratio; NaN where the denominators sum to nothing, as told by their rounding.

    Raises:
        InputError: the two have different lengths, or an argument is wrong.
    """
    _check(level, resamples)
    above, below = _vector(numerator, "numerator"), _vector(denominator, "denominator")
    if len(above) != len(below):
        raise InputError(f"a ratio wants the same clips in both, got {len(above)} and {len(below)} values")
    known = ~(np.isnan(above) | np.isnan(below))
    above, below = above[known], below[known]
    count = len(above)
    small = 1e-9 * float(np.abs(below).sum()) if count else 0.0
    if not count or abs(below.sum()) <= small:
        return BootstrapInterval(math.nan, math.nan, math.nan, count)
    ratio = float(above.sum() / below.sum())
    if count < 2:
        return BootstrapInterval(ratio, math.nan, math.nan, count)
    drawn = np.concatenate([block @ np.stack((above, below), axis=1) for block in _counts(count, resamples, seed)])
    turned = drawn[:, 1] * np.sign(below.sum()) <= small
    if turned.mean() >= (1 - level) / 2:
        return BootstrapInterval(ratio, math.nan, math.nan, count)
    drawn = drawn[~turned]
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], ((1 - level) / 2, (1 + level) / 2))
    return BootstrapInterval(ratio, float(low), float(high), count)
