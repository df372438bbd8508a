"""Intervals: how far a mean, a difference, a share or a ratio would move with other clips."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from vivit_lab.errors import InputError
from vivit_lab.numbers import MOST, check_number, check_whole, checked_numbers, is_whole

__all__ = [
    "BootstrapInterval",
    "Interval",
    "PairedDifference",
    "bootstrap_interval",
    "bootstrap_ratio",
    "paired_difference",
    "wilson_interval",
]

_BLOCK = 2**21  # numbers held at a time
_EXACT_UP_TO = 12  # clips; 4096 patterns of signs


@dataclass(frozen=True)
class BootstrapInterval:
    """A mean over clips and its interval.

    Args:
        mean: over the clips that have a value; NaN where none has.
        low: lower end; NaN for fewer than two clips, whose spread nobody knows.
        high: upper end; likewise.
        n: how many clips have a value.
    """

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class PairedDifference(BootstrapInterval):
    """The mean difference of two methods over the same clips, its interval, and how likely chance gives as much.

    Args:
        mean: see ``BootstrapInterval``.
        low: see ``BootstrapInterval``.
        high: see ``BootstrapInterval``.
        n: how many clips have both values.
        p: two-sided, of the hypothesis that either method might as well have had the other's value in each clip. It is
            of one comparison alone; of many, some are small by chance.
    """

    p: float


def bootstrap_interval(values: Any, *, level: float = 0.95, resamples: int = 4000, seed: int = 0) -> BootstrapInterval:
    """Return the mean and its percentile bootstrap interval (Efron & Tibshirani 1993, chapter 13).

    Clips are drawn with replacement, as many as there are; the interval spans the middle ``level`` of the means of
    such draws. With few clips (under about 20) it is somewhat too narrow.

    Args:
        values: one a clip, a tensor, array or list; NaN where a clip has none, which leaves that clip out.
        level: share of the draws inside the interval, in (0, 1).
        resamples: how many draws.
        seed: of the draws.

    Raises:
        InputError: an argument is wrong.

    Cost: ``resamples`` · clips operations, in blocks of 16 MB. The draws for a number of clips are kept, up to
    16 MB, so that many calls on the same clips are quick and share them.
    """
    _check(level, resamples)
    found = _vector(values, "values")
    found = found[~np.isnan(found)]
    return BootstrapInterval(*_interval(found, level, resamples, seed), n=len(found))


def paired_difference(a: Any, b: Any, *, level: float = 0.95, resamples: int = 4000, seed: int = 0) -> PairedDifference:
    """Return the mean of a - b over the clips that have both, its interval, and a sign-flip p-value.

    The interval is ``bootstrap_interval`` of the differences. The p-value is the share of patterns of signs that bring
    the mean as far from zero as it is: of all 2ⁿ patterns up to 12 clips, else of ``resamples`` random ones and the
    one that was seen.

    Args:
        a: one a clip.
        b: one a clip, of the same clips in the same order.
        level: see ``bootstrap_interval``.
        resamples: see ``bootstrap_interval``; also the random patterns of signs.
        seed: of both.

    Raises:
        InputError: the two have different lengths, or an argument is wrong.
    """
    _check(level, resamples)
    first, second = _vector(a, "a"), _vector(b, "b")
    if len(first) != len(second):
        raise InputError(f"a pair wants the same clips in both, got {len(first)} and {len(second)} values")
    difference = first - second
    difference = difference[~np.isnan(difference)]
    interval = _interval(difference, level, resamples, seed)
    return PairedDifference(*interval, n=len(difference), p=_sign_flip(difference, resamples, seed))


def _check(level: float, resamples: int) -> None:
    check_number("level", level, 0, 1, excluded="both")
    check_whole("resamples", resamples, 1, MOST if is_whole(resamples) and resamples > MOST else None)


def _vector(values: Any, name: str) -> np.ndarray:
    detach = getattr(values, "detach", None)
    if detach is not None:  # a tensor, maybe of another device or of bfloat16, which numpy does not know
        values = detach().cpu().double().numpy()
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1:
        raise InputError(f"{name} must hold one value a clip, (clips,), got {found.shape}")
    if np.isinf(found).any():
        raise InputError(f"{name} holds an infinity, which has no mean; NaN marks a clip without a value")
    return found


def _counts(n: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield blocks (draw, clip) of how often each draw holds each clip; a few small ones are kept for the next call."""
    yield from [_all_counts(n, resamples, seed)] if n * resamples <= _BLOCK else _drawn_counts(n, resamples, seed)


@functools.lru_cache(maxsize=4)
def _all_counts(n: int, resamples: int, seed: int) -> np.ndarray:
    return np.concatenate(list(_drawn_counts(n, resamples, seed)))


def _drawn_counts(n: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    for rows in _blocks(resamples, n):
        drawn = rng.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)


def _signs(n: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield blocks (pattern, clip) of random signs, likewise."""
    yield from [_all_signs(n, resamples, seed)] if n * resamples <= _BLOCK else _drawn_signs(n, resamples, seed)


@functools.lru_cache(maxsize=4)
def _all_signs(n: int, resamples: int, seed: int) -> np.ndarray:
    return np.concatenate(list(_drawn_signs(n, resamples, seed)))


def _drawn_signs(n: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng((seed, 1))  # other numbers than the intervals'
    for rows in _blocks(resamples, n):
        yield rng.integers(2, size=(rows, n)) * 2.0 - 1


def _blocks(resamples: int, n: int) -> Iterator[int]:
    step = max(1, _BLOCK // n)
    for start in range(0, resamples, step):
        yield min(step, resamples - start)


def _interval(values: np.ndarray, level: float, resamples: int, seed: int) -> tuple[float, float, float]:
    n = len(values)
    if n < 2:
        return (float(values[0]) if n else math.nan, math.nan, math.nan)
    means = np.concatenate([block @ values for block in _counts(n, resamples, seed)]) / n
    low, high = np.quantile(means, ((1 - level) / 2, (1 + level) / 2))
    return (float(values.mean()), float(low), float(high))


def _sign_flip(values: np.ndarray, resamples: int, seed: int) -> float:
    n = len(values)
    if not n:
        return math.nan
    seen = abs(values.sum()) * (1 - 1e-12)  # what equals it up to rounding is as far from zero
    if n <= _EXACT_UP_TO:
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=n)))
        return float((np.abs(signs @ values) >= seen).mean())
    as_far = sum(int((np.abs(block @ values) >= seen).sum()) for block in _signs(n, resamples, seed))
    return (as_far + 1) / (resamples + 1)


class Interval(NamedTuple):
    """The ends of an interval."""

    low: float
    high: float


@checked_numbers()
def wilson_interval(successes: int, count: int, *, level: float = 0.95) -> Interval:
    """Return the interval of a proportion by Wilson's score (Wilson 1927, "Probable inference, the law of succession").

    It is never of zero width, stays in 0 … 1, and covers near its level for few cases too: 4 of 4 is [0.51, 1].

    Args:
        successes: how many.
        count: of how many cases.
        level: of confidence, in (0, 1).

    Raises:
        InputError: there are no cases, more successes than cases, or the level is none.
    """
    whole = all(isinstance(value, int) and not isinstance(value, bool) for value in (successes, count))
    if not whole or count < 1 or not 0 <= successes <= count:
        raise InputError(f"wanted successes of at least one case, 0 … count, got {successes!r} of {count!r}")
    if not 0 < level < 1:
        raise InputError(f"level must lie between 0 and 1, got {level!r}")
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, scale = successes / count, 1 + z * z / count
    middle = (share + z * z / (2 * count)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    # rounding must not move an end past the share itself, at 0 and at 1
    return Interval(min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half)))


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
