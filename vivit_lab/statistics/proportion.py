"""How far a share of so many cases can be trusted."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

from vivit_lab.errors import InputError
from vivit_lab.numbers import checked_numbers

__all__ = ["Interval", "wilson_interval"]


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
