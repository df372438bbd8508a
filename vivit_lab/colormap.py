"""Colour maps as lookup tables, and the scales that lead to them.

Sequential maps are for relevance that starts somewhere and grows; a diverging map is for signed relevance, and its
middle is zero. The lightness of each changes evenly from its start (of a diverging one from its middle), so a picture
shows no edge that the numbers do not have, and most colour-blind eyes can read it. There is no rainbow.

Sources of the colours:

- viridis, magma, inferno, plasma: Nathaniel Smith, Stéfan van der Walt and Eric Firing, CC0;
- cividis: Nuñez, Anderton and Renslow, "Optimizing colormaps with consideration for color vision deficiency", 2018;
- coolwarm: Moreland, "Diverging color maps for scientific visualization", 2009;
- RdBu_r: ColorBrewer's RdBu by Cynthia Brewer (colorbrewer2.org, Apache-2.0), blue for negative.
"""

from __future__ import annotations

import base64
import difflib
import functools
import math
import zlib
from dataclasses import dataclass

import numpy as np

from vivit_lab.errors import InputError

__all__ = [
    "COLORMAP_NAMES",
    "Colormap",
    "choose_colormap",
    "format_range",
    "get_colormap",
    "unit_interval",
    "value_limits",
]

# 256×3 levels each: red, then green, then blue, as differences modulo 256, deflated (about 200 characters a table).
_TABLES = {
    "viridis": (
        "eNqNUgkOxCAIxPq1fUL//xTpgoMD1mSXOUATqaZ8RJrTxSSiTFMqk4FUVuRU7FWC62O4QDMYEZfRYXRFdKpXHJnNz7TV2kEeVZ35j5Af631D"
        "DqXQl0FBWEHYiXc8uz58uwi7p4acmn10XoscupecsDo7CjO6piHG8mGEfRE2asIB1Xm5+O8PghSICQ=="
    ),
    "magma": (
        "eNptUgkOwCAIg/n/NzPlriKlNC4gDomID/igr89Jsa0QzkCT6AGLDLKlqzmcrDtt082hbgSiL5m1ZE6angOnVEW50pl6VsWQWYZpsFvmCOia"
        "gg3AfpC6UYvPDoSHQS5uZfZayetgRfAt6yG6q1u0UUwjkAruEqQWdKAOwj5aQp4A42pv1jxeLb7c+/p7/ddMLbc="
    ),
    "inferno": (
        "eNqNUtEWhSAIA/H+/x9bB8YIfLo4RqYuwEREHeoIW/DFsW5v6PT3iwo5vsBvhzOXSkzgQkLijvBpDzzAARJBvSG/MEu50lUoagpRTXi6bdOL"
        "7jDnWq1mx3t1o+714WrnuBBQhfHU7dvmYLPVQtNizZKMZFzBSSSF5Kv9d/Mf8nNdAMmRlNzsjHgGnR5q4oJ5pfm7rirDS7Bws43h9ts02y8L"
        "hmuf"
    ),
    "plasma": (
        "eNp9UVsOhEAIQ2YTfzy3x9ZNhkfb3VEeLYiJWI7P8DGcbIukYJCinSlDEvRgxmRVWdczGKYTRGFWCLsTZrQX7D0n0vaWESw/3eviD/238GX7"
        "MHagQiYIihORg/qGaINOOQypLmIXhLjbStyAkjUyQIpF//eSvdDrU2PoZfL4crbc/rq+zMSeCQ=="
    ),
    "cividis": (
        "eNqVUgcOgCAMbKsv8T/+/zdURqULYjxu4YixCrDGeR4VVIGNfTWKmVTAqoNPF7C7+ydov6dYaDq197z6c8GwCrT60/HCz83ywL4m+RJt4TnT"
        "ZMEO5x7fd0gc5R/gac5j7cBUUR1VI9D0DHbJXoZic70mFLMowtJYuA7gAQ1yRBw="
    ),
    "coolwarm": (
        "eNp9kusRxCAIhIGyUsMVfX0Z9RR5ic7Bsmsy+cE35kEknEVqaQ5dM790baPuGQrEAZcAxKZmSXQLFbdLLFbzYVl/kIhkPFieGihPGe9GIzwG"
        "421EuDDC/n+2l9V56wiwNMxGPVZdM1XrmFZe7vI1pnB/AYgg0GwwiiG3YtXhvJgbWutGdWFKx+O8fZTaY5P/BeqjfquCUuw="
    ),
    "RdBu_r": (
        "eNp1ktEZwyAIhA9t9+lK2X+GQKOAArU/yJ0PySfimxatuPYv++JVXPNoPcf48BwAfCFuSCAoaSrCIl6DfeqIUobwrbgu+NOMXnRCXuLSckJv"
        "7rAaiDSzPJ3u02cnNyuuy8w2NLNw6JGT9d9CCrjCNLvN0JT0mMZ2P+yHU7vbsgZbLKwp4WLk1J25QNrMiYfhz+ucAvHnkwNfYclElg=="
    ),
}
_DIVERGING = ("coolwarm", "RdBu_r")

COLORMAP_NAMES = tuple(_TABLES)
"""The names that ``get_colormap`` knows."""


@dataclass(frozen=True, eq=False)
class Colormap:
    """A table of 256 colours.

    Args:
        name: what it is called.
        table: (256, 3) uint8 RGB; made read-only.
        diverging: whether the middle of the table stands for zero.

    Raises:
        InputError: the table is not (256, 3) uint8.
    """

    name: str
    table: np.ndarray
    diverging: bool = False

    def __post_init__(self) -> None:
        if self.table.shape != (256, 3) or self.table.dtype != np.uint8:
            raise InputError(f"a colormap's table must be (256, 3) uint8, got {self.table.shape} {self.table.dtype}")
        table = self.table.copy()
        table.flags.writeable = False
        object.__setattr__(self, "table", table)

    @staticmethod
    def levels(values: np.ndarray) -> np.ndarray:
        """Return the row of the table (uint8) that each value in [0, 1] takes; values outside take the nearest end.

        Raises:
            InputError: a value is NaN, which has no colour.
        """
        values = np.asarray(values, dtype=np.float32)
        if np.isnan(values).any():
            raise InputError("NaN has no colour: leave the places out that hold none before colouring the others")
        # each level takes 1/256 of the interval, the last one also its end
        return np.clip(values * np.float32(256), 0, 255).astype(np.uint8)

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Colour values.

        Args:
            values: any shape, in [0, 1] (``unit_interval`` brings them there); outside takes the nearest end's colour.

        Returns:
            (*values.shape, 3) uint8 RGB.

        Raises:
            InputError: a value is NaN.
        """
        return self.table[self.levels(values)]


@functools.cache
def _named(name: str) -> Colormap:
    steps = np.frombuffer(zlib.decompress(base64.b64decode(_TABLES[name])), dtype=np.uint8).reshape(3, 256)
    return Colormap(name, np.cumsum(steps, axis=1, dtype=np.uint8).T, name in _DIVERGING)


def get_colormap(name: str | Colormap) -> Colormap:
    """Return a colour map by its name (upper and lower case alike); a ``Colormap`` is returned as it is.

    Raises:
        InputError: there is no such colour map; the message names those that come nearest.
    """
    if isinstance(name, Colormap):
        return name
    known = {candidate.lower(): candidate for candidate in COLORMAP_NAMES}
    if str(name).lower() in known:
        return _named(known[str(name).lower()])
    near = difflib.get_close_matches(str(name).lower(), known, n=2)
    hint = f"did you mean {' or '.join(repr(known[found]) for found in near)}? " if near else ""
    raise InputError(f"no colormap {name!r}: {hint}There are {', '.join(COLORMAP_NAMES)}")


def choose_colormap(colormap: str | Colormap | None, *, signed: bool) -> Colormap:
    """Return the colour map for a kind of relevance: by default inferno, and coolwarm where it is signed.

    Raises:
        InputError: there is no such colour map, or it does not suit: a sequential one hides which relevance is
            negative, a diverging one shows a zero in the middle of numbers that have none there.
    """
    if colormap is None:
        return get_colormap("coolwarm" if signed else "inferno")
    chosen = get_colormap(colormap)
    if chosen.diverging != signed:
        kind, wanted = ("signed", "diverging") if signed else ("not signed", "sequential")
        names = [name for name in COLORMAP_NAMES if (name in _DIVERGING) == signed]
        raise InputError(
            f"the relevance is {kind}: wanted a {wanted} colormap ({', '.join(names)}), got {chosen.name!r}"
        )
    return chosen


def value_limits(values: np.ndarray, *, signed: bool) -> tuple[float, float]:
    """Return the (low, high) that a colour scale spans.

    The smallest and largest value; if signed, minus and plus the largest magnitude, so that zero is the middle. Values
    that are all alike (to the precision of float32) have no contrast to stretch: the scale then starts at zero.

    Args:
        values: any shape, finite.
        signed: whether the sign has a meaning.
    """
    low, high = float(np.min(values)), float(np.max(values))
    reach = max(abs(low), abs(high))
    if reach == 0:
        return (-1.0, 1.0) if signed else (0.0, 1.0)
    if signed:
        return (-reach, reach)
    if high - low <= 1e-6 * reach:
        return (min(low, 0.0), max(high, 0.0))
    return (low, high)


def unit_interval(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return float32 values with ``low`` at 0 and ``high`` at 1, clipped to [0, 1]."""
    span = np.float64(high) - np.float64(low)
    return np.clip((np.asarray(values, dtype=np.float64) - low) / span, 0.0, 1.0).astype(np.float32)


def format_range(low: float, high: float) -> tuple[str, str]:
    """Return two numbers as text, with enough digits that their difference is right to about a percent."""
    reach, span = max(abs(low), abs(high)), abs(high - low)
    digits = 3
    if reach > 0 and span > 0:
        digits = min(9, max(3, 3 + math.ceil(math.log10(reach / span) - 0.05)))
    return (f"{low:.{digits}g}", f"{high:.{digits}g}")
