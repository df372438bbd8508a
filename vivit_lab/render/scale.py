"""From relevance to colour: which number takes which level, and what is printed beside the colour bar."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vivit_lab.colormap import Colormap, choose_colormap, format_range, unit_interval, value_limits
from vivit_lab.errors import InputError

if TYPE_CHECKING:
    from vivit_lab.attribution.base import AttributionMap

__all__ = ["HeatScale", "heat_scale"]

_PEAK_OPACITY = 0.8  # the hottest place still shows what is below


@dataclass(frozen=True, eq=False)
class HeatScale:
    """The scale of a drawing: one pair of limits a tubelet row (the same for all, unless normalised by frame).

    Args:
        colormap: the colours.
        low: (t,) the value at the scale's lower end.
        high: (t,) the value at the scale's upper end.
        per_frame: whether each tubelet row has a scale of its own.
        fixed: whether the limits were given, rather than taken from the map.
        percentile: of the clip's relevance, where the scale ends there rather than at the largest; else None.
        beyond: whether values lie below ``low`` and above ``high``; they take the end's colour.
    """

    colormap: Colormap
    low: np.ndarray
    high: np.ndarray
    per_frame: bool = False
    fixed: bool = False
    percentile: float | None = None
    beyond: tuple[bool, bool] = (False, False)

    def levels(self, values: np.ndarray, row: int) -> np.ndarray:
        """Return the uint8 colour level of relevance values of tubelet row ``row``."""
        return Colormap.levels(unit_interval(values, self.low[row], self.high[row]))

    def opacity(self, alpha: float | None) -> np.ndarray:
        """Return how opaque each level is drawn, (256,) uint16 in 256ths.

        Args:
            alpha: one opacity in [0, 1] for all levels, or None: proportional to the heat (for signed relevance to its
                magnitude), from nothing to 0.8.

        Raises:
            InputError: alpha lies outside [0, 1].
        """
        if alpha is not None:
            if not 0 <= alpha <= 1:
                raise InputError(f"alpha must lie in [0, 1], or be None for heat-proportional opacity; got {alpha}")
            return np.full(256, round(alpha * 256), dtype=np.uint16)
        level = np.arange(256)
        # of 256 levels two are the middle, 127 and 128: both stand for "no relevance"
        heat = (np.abs(level - 127.5) - 0.5) / 127 if self.colormap.diverging else level / 255
        return np.rint(heat * _PEAK_OPACITY * 256).astype(np.uint16)

    def labels(self, row: int) -> tuple[str, ...]:
        """Return what stands below the colour bar, evenly spaced: the ends, and the zero of a diverging scale."""
        low, high = format_range(float(self.low[row]), float(self.high[row]))
        low, high = ("<= " if self.beyond[0] else "") + low, (">= " if self.beyond[1] else "") + high
        return (low, "0", high) if self.colormap.diverging else (low, high)

    @property
    def kind(self) -> str:
        """What the limits are shared by, in words."""
        if self.per_frame:
            return "per frame scale"
        if self.percentile is not None:
            return f"one scale for the clip, to its {_ordinal(self.percentile)} percentile"
        return "fixed scale" if self.fixed else "one scale for the clip"


def heat_scale(
    map: AttributionMap,
    colormap: str | Colormap | None = None,
    normalize: str = "clip",
    limits: tuple[float, float] | None = None,
    percentile: float | None = None,
) -> HeatScale:
    """Return the scale that a map is drawn on.

    Args:
        map: the relevance, a batch of one.
        colormap: a name or a ``Colormap``; None takes inferno, and coolwarm for signed relevance.
        normalize: "clip": one scale for all frames; "frame": each tubelet row from its own lowest to its own highest.
        limits: (low, high) of the scale, to compare several clips; for signed relevance (-m, m).
        percentile: the scale ends at this percentile p of the clip's relevance: (0, p), or (-p, p) of the magnitudes if
            signed. Where p is 0 the largest takes its place.

    Raises:
        InputError: the colour map does not exist or does not suit, ``normalize`` is neither, or the limits are not two
            finite ascending numbers, not centred though the relevance is signed, or contradict ``normalize="frame"``;
            or the percentile is not in (0, 100], or is given with one of the two.
    """
    if normalize not in ("clip", "frame"):
        raise InputError(f"normalize must be 'clip' or 'frame', got {normalize!r}")
    chosen = choose_colormap(colormap, signed=map.signed)
    values = map.relevance[0].cpu().numpy()
    rows = len(values)
    if percentile is not None:
        if limits is not None or normalize == "frame":
            other = "limits" if limits is not None else "normalize='frame'"
            raise InputError(f"percentile={percentile!r} and {other} both say where the colour scale ends: give one")
        return _to_percentile(values, chosen, percentile, signed=map.signed)
    if limits is not None:
        low, high = _checked(limits, map.signed)
        if normalize == "frame":
            raise InputError("limits give one scale for all frames, normalize='frame' one for each: give only one")
        beyond = (float(values.min()) < low, float(values.max()) > high)
        return HeatScale(chosen, np.full(rows, low), np.full(rows, high), fixed=True, beyond=beyond)
    if normalize == "frame":
        each = np.array([value_limits(row, signed=map.signed) for row in values])
        return HeatScale(chosen, each[:, 0], each[:, 1], per_frame=True)
    low, high = value_limits(values, signed=map.signed)
    return HeatScale(chosen, np.full(rows, low), np.full(rows, high))


def _to_percentile(values: np.ndarray, colormap: Colormap, percentile: float, *, signed: bool) -> HeatScale:
    if not isinstance(percentile, (int, float)) or isinstance(percentile, bool) or not 0 < percentile <= 100:
        raise InputError(f"percentile must be a number in (0, 100], got {percentile!r}")
    sizes = np.abs(values.astype(np.float64))
    end, largest = float(np.percentile(sizes, percentile)), float(sizes.max())
    kept = percentile if end > 0 else None  # nearly all relevance is 0: the scale is one to the largest, and says so
    high = end or largest or 1.0
    low = -high if signed else 0.0
    ends = np.full(len(values), low), np.full(len(values), high)
    beyond = (float(values.min()) < low, float(values.max()) > high)
    return HeatScale(colormap, *ends, percentile=kept, beyond=beyond)


def _ordinal(number: float) -> str:
    """Return "99th", "1st", "99.5th"."""
    text = f"{number:g}"
    whole = text.isdigit() and text[-2:] not in ("11", "12", "13")
    return text + ({"1": "st", "2": "nd", "3": "rd"}.get(text[-1], "th") if whole else "th")


def _checked(limits: tuple[float, float], signed: bool) -> tuple[float, float]:
    numbers = tuple(float(limit) for limit in limits)
    if len(numbers) != 2 or not all(map(math.isfinite, numbers)) or numbers[0] >= numbers[1]:
        raise InputError(f"limits must be two finite numbers (low, high) with low < high, got {tuple(limits)}")
    low, high = numbers
    if signed and low != -high:
        raise InputError(f"limits of signed relevance must be (-m, m), so that zero is the middle; got {numbers}")
    return (low, high)
