"""Painting of heat over source frames: where tokens lie, and which number takes which colour."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vivit_lab.colormap import Colormap, choose_colormap, format_range, unit_interval, value_limits
from vivit_lab.errors import GridError, InputError
from vivit_lab.video.clip import Clip

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vivit_lab.attribution.base import AttributionMap
    from vivit_lab.colormap import Colormap
    from vivit_lab.grid import TokenGrid
    from vivit_lab.video.geometry import Geometry

__all__ = [
    "GAP",
    "LAYOUTS",
    "HeatScale",
    "Painter",
    "SourcePlace",
    "check_pair",
    "heat_scale",
    "make_painter",
    "outside_text",
    "share_outside",
    "source_place",
]

_WORTH_SAYING = 0.0005  # of the relevance outside the frame


@dataclass(frozen=True, eq=False)
class SourcePlace:
    """The tables that spread values of places (y, x) over the source pixels.

    Args:
        visible: (top, left, bottom, right), the half-open box of source pixels whose centres the model saw.
        rows: (bottom - top,) the y of each visible row.
        columns: (right - left,) the x of each visible column.
        row_weights: (bottom - top, h) float32, how much of each y a row takes; None for nearest.
        column_weights: (right - left, w) float32, likewise.
    """

    visible: tuple[int, int, int, int]
    rows: np.ndarray
    columns: np.ndarray
    row_weights: np.ndarray | None = None
    column_weights: np.ndarray | None = None

    @property
    def window(self) -> tuple[slice, slice]:
        """The visible part of a source frame as slices (rows, columns)."""
        top, left, bottom, right = self.visible
        return (slice(top, bottom), slice(left, right))

    def spread(self, values: np.ndarray) -> np.ndarray:
        """Return values (h, w, ...) at each visible source pixel, (rows, columns, ...)."""
        if self.row_weights is None or self.column_weights is None:
            return np.take(values[:, self.columns], self.rows, axis=0)
        return self.row_weights @ values.astype(np.float32) @ self.column_weights.T


def check_pair(clip: Clip, map: AttributionMap) -> Geometry:
    """Refuse a map that was not made of this clip, and return the clip's geometry.

    Raises:
        InputError: it is no clip, the map holds several, the clip was not prepared, or the map names other frames,
            another file or another way in which the pixels were cut.
        GridError: the grid covers other pixels or frames than the model was given of this clip.
    """
    if not isinstance(clip, Clip):
        raise InputError(
            f"a {type(clip).__name__} has no frames to draw on: wanted a Clip, "
            "clip = processor.prepare(read_clip(path))"
        )
    if len(map) != 1:
        raise InputError(f"wanted the map of one clip, got a batch of {len(map)}: pick one with map[i]")
    geometry, grid = clip.geometry, map.grid
    if geometry is None:
        raise InputError(
            "the clip was not prepared, so it is not known which of its pixels the model saw: "
            "use clip = processor.prepare(clip), with the processor whose pixel values the map was made of"
        )
    if grid.image_size != tuple(geometry.model_size):
        raise GridError(
            f"the map's grid covers {grid.image_size[0]}×{grid.image_size[1]} model pixels, but the clip was prepared "
            f"at {geometry.model_size[0]}×{geometry.model_size[1]}: give the clip that the map was made of"
        )
    if grid.num_frames != len(clip):
        raise GridError(
            f"the map's grid covers {grid.num_frames} frames, the clip has {len(clip)}: "
            "give the clip that the map was made of"
        )
    if map.frame_indices is not None and list(map.frame_indices[0]) != clip.indices.tolist():
        raise InputError(
            f"the map is of the file's frames {_short(map.frame_indices[0])}, the clip holds "
            f"{_short(clip.indices.tolist())}: give the clip that the map was made of"
        )
    if map.sources is not None:
        _check_source(clip, geometry, map.sources[0])
    return geometry


def _check_source(clip: Clip, geometry: Geometry, source: dict[str, Any]) -> None:
    """Refuse a clip of another file, or one whose pixels were cut otherwise, than a map was made of."""
    if source["path"] != clip.path:
        raise InputError(
            f"the map is of the file {source['path']}, the clip is of {clip.path}: give the clip that the map was made "
            "of; if the file was moved, dataclasses.replace(clip, path=...) says so"
        )
    if source["geometry"] != geometry.to_dict():
        raise InputError(
            f"the map is of pixels that were cut from their frames by {source['geometry']}, the clip's by "
            f"{geometry.to_dict()}: give the clip that the map was made of, or prepare it with the same processor"
        )


def share_outside(geometry: Geometry, map: AttributionMap) -> float:
    """Return the share of the relevance, in [0, 1], that lies on padding outside the frame.

    Relevance (its magnitude, if signed) counts as spread evenly over its tubelet's pixels.
    """
    height, width = geometry.source_size
    top, left, bottom, right = geometry.to_model((0.0, 0.0, float(height), float(width)))
    inside = []
    for low, high, tokens, pixels in (
        (top, bottom, map.grid.h, map.grid.tubelet[1]),
        (left, right, map.grid.w, map.grid.tubelet[2]),
    ):
        edges = np.clip(np.arange(tokens + 1) * float(pixels), low, high)
        inside.append(np.diff(edges) / pixels)
    sizes = np.abs(map.relevance[0].double().cpu().numpy()).sum(axis=0)
    total = float(sizes.sum())
    return 1 - float(inside[0] @ sizes @ inside[1]) / total if total else 0.0


def outside_text(geometry: Geometry, map: AttributionMap) -> str:
    """Return "x % of the relevance lies outside the frame", or "" where it is 0.05 % at most."""
    share = share_outside(geometry, map)
    return f"{100 * share:.1f} % of the relevance lies outside the frame" if share > _WORTH_SAYING else ""


def source_place(geometry: Geometry, grid: TokenGrid, interpolation: str = "nearest") -> SourcePlace:
    """Return the tables of a grid on a source frame.

    Args:
        geometry: how the model's pixels were cut from the source frame.
        grid: the token grid on the model's pixels.
        interpolation: "nearest": a pixel takes its tubelet's value, so edges lie where the tubelets' do; "bilinear":
            it blends between the centres of the four nearest tubelets of the same frame, for the eye.

    Raises:
        InputError: the interpolation is neither, or the model saw the centre of no pixel of the source frame.
    """
    if interpolation not in ("nearest", "bilinear"):
        raise InputError(f"interpolation must be 'nearest' or 'bilinear', got {interpolation!r}")
    edges, indices, weights = [], [], []
    for axis, tokens in enumerate((grid.h, grid.w)):
        centres = (np.arange(geometry.source_size[axis]) + 0.5) * geometry.scale[axis] + geometry.offset[axis]
        position = centres / grid.tubelet[axis + 1]
        inside = np.flatnonzero((position >= 0) & (position < tokens))
        if not len(inside):
            raise InputError(f"the model saw the centre of no pixel of the source frame: {geometry}")
        position = position[inside]
        edges.append((int(inside[0]), int(inside[-1]) + 1))
        indices.append(position.astype(np.int64))
        weights.append(_blend(position, tokens))
    visible = (edges[0][0], edges[1][0], edges[0][1], edges[1][1])
    if interpolation == "nearest":
        return SourcePlace(visible, indices[0], indices[1])
    return SourcePlace(visible, indices[0], indices[1], weights[0], weights[1])


def _blend(position: np.ndarray, tokens: int) -> np.ndarray:
    """Return (pixels, tokens) weights of the two nearest tubelet centres; beyond the outermost centre, of that one."""
    place = np.clip(position - 0.5, 0, tokens - 1)
    return np.clip(1 - np.abs(place[:, None] - np.arange(tokens)), 0, 1).astype(np.float32)


def _short(indices: list[int]) -> str:
    if len(indices) <= 4:
        return str(list(indices))
    return f"[{indices[0]}, {indices[1]}, … {indices[-1]}] ({len(indices)})"


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


LAYOUTS = ("overlay", "side_by_side", "heat")
"""The ways to show a frame and its heat."""

GAP = 8
"""Pixels between the two pictures of the layout "side_by_side"."""

_GAP_COLOR = 17
_HATCH_LEVEL = 128


@dataclass(frozen=True, eq=False)
class Painter:
    """Paints the frames of one clip with the heat of its map.

    Args:
        clip: the clip in square pixels; its frames are not changed.
        values: (t, h, w) float32 relevance.
        frames_per_row: how many frames a tubelet row covers.
        place: where the grid lies on the source frame.
        scale: which value takes which colour.
        layout: one of ``LAYOUTS``.
        colors: (256, 3) uint16, the colour of each level times its opacity in 256ths.
        clear: (256,) uint16, what is left of the frame at each level, in 256ths.
    """

    clip: Clip
    values: np.ndarray
    frames_per_row: int
    place: SourcePlace
    scale: HeatScale
    layout: str
    colors: np.ndarray
    clear: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of a painted frame in pixels."""
        height, width = self.clip.size
        return (height, 2 * width + GAP if self.layout == "side_by_side" else width)

    def paint(self, indices: Iterable[int] | None = None) -> Iterator[np.ndarray]:
        """Yield the painted frames (H, W', 3) uint8 RGB, one at a time; each is a new array.

        Args:
            indices: which frames of the clip, by default all of them in order.
        """
        hatch = _hatch(*self.clip.size)
        row, layers = -1, (np.empty(0), np.empty(0))
        for index in range(len(self.clip)) if indices is None else indices:
            if index // self.frames_per_row != row:  # the frames of a tubelet share its heat
                row = index // self.frames_per_row
                layers = self._layers(row)
            frame = self.clip.frames[index]
            painted = self._heat_over(frame, hatch, *layers)
            if self.layout == "side_by_side":
                gap = np.full((frame.shape[0], GAP, 3), _GAP_COLOR, dtype=np.uint8)
                painted = np.concatenate([frame, gap, painted], axis=1)
            yield painted

    def _layers(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the visible window's colours times opacity (rows, columns, 3), and what is left of the frame."""
        if self.place.row_weights is None:  # few tokens are coloured, then spread over many pixels
            levels = self.scale.levels(self.values[row], row)
            return self.place.spread(self.colors[levels]), self.place.spread(self.clear[levels][..., None])
        levels = self.scale.levels(self.place.spread(self.values[row]), row)
        return self.colors[levels], self.clear[levels][..., None]

    def _heat_over(self, frame: np.ndarray, hatch: np.ndarray, colors: np.ndarray, clear: np.ndarray) -> np.ndarray:
        window = self.place.window
        painted = np.empty_like(frame)
        for part in _outside(self.place.visible, frame.shape):
            painted[part] = _unseen(frame[part], hatch[part], plain=self.layout == "heat")
        if self.layout == "heat":
            painted[window] = (colors >> 8).astype(np.uint8)
            return painted
        mixed = np.multiply(frame[window], clear, dtype=np.uint16)
        mixed += colors
        mixed += 128  # half of a 256th: rounds to nearest; 255·256 + 128 still fits into 16 bits
        mixed >>= 8
        painted[window] = mixed
        return painted


def make_painter(
    clip: Clip,
    map: AttributionMap,
    *,
    layout: str = "overlay",
    colormap: str | Colormap | None = None,
    alpha: float | None = None,
    normalize: str = "clip",
    limits: tuple[float, float] | None = None,
    percentile: float | None = None,
    interpolation: str = "nearest",
) -> Painter:
    """Check that a map belongs to a clip and make the painter of the two; the arguments are those of ``to_frames``.

    Raises:
        InputError: an argument is not one of its choices, or the clip and the map do not belong together.
        GridError: the map's grid covers other pixels or frames than the clip.
    """
    if layout not in LAYOUTS:
        raise InputError(f"layout must be one of {LAYOUTS}, got {layout!r}")
    if layout == "heat" and alpha is not None:
        raise InputError("layout='heat' shows no frame below the heat, so alpha has no effect: leave it out")
    check_pair(clip, map)
    clip = clip.displayed()
    assert clip.geometry is not None, "a clip that goes with a map was prepared"
    scale = heat_scale(map, colormap, normalize, limits, percentile)
    opacity = np.full(256, 256, dtype=np.uint16) if layout == "heat" else scale.opacity(alpha)
    return Painter(
        clip=clip,
        values=map.relevance[0].cpu().numpy(),
        frames_per_row=map.grid.tubelet[0],
        place=source_place(clip.geometry, map.grid, interpolation),
        scale=scale,
        layout=layout,
        colors=scale.colormap.table.astype(np.uint16) * opacity[:, None],
        clear=np.uint16(256) - opacity,
    )


def _outside(visible: tuple[int, int, int, int], shape: tuple[int, ...]) -> list[tuple[slice, slice]]:
    """Return the up to four bands of a frame around its visible box."""
    top, left, bottom, right = visible
    middle = slice(top, bottom)
    bands = [
        (slice(0, top), slice(None)),
        (slice(bottom, shape[0]), slice(None)),
        (middle, slice(0, left)),
        (middle, slice(right, shape[1])),
    ]
    return [
        band for band in bands if all(len(range(*part.indices(size))) for part, size in zip(band, shape, strict=False))
    ]


def _unseen(frame: np.ndarray, hatch: np.ndarray, *, plain: bool) -> np.ndarray:
    """Return pixels that the model never saw: dark, grey, hatched; no colour, so never taken for heat."""
    if plain:
        grey = np.full(hatch.shape, 40, dtype=np.uint16)
    else:
        red, green, blue = (frame[..., channel].astype(np.uint16) for channel in range(3))
        grey = (77 * red + 150 * green + 29 * blue >> 8) * 3 // 10 + 24  # the luma, at 30 %
    grey = np.where(hatch, (grey + _HATCH_LEVEL) // 2, grey).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def _hatch(height: int, width: int) -> np.ndarray:
    """Return (height, width) bool, true on diagonal lines about 32 of which cross the shorter side."""
    period = max(6, min(height, width) // 32)
    return (np.arange(height)[:, None] + np.arange(width)[None]) % period < max(1, period // 6)
