"""Painting of heat over source frames: integer arithmetic on whole frames, tables made once a clip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vivit_lab.errors import InputError
from vivit_lab.render.place import SourcePlace, check_pair, source_place
from vivit_lab.render.scale import HeatScale, heat_scale

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vivit_lab.attribution.base import AttributionMap
    from vivit_lab.colormap import Colormap
    from vivit_lab.video.clip import Clip

__all__ = ["GAP", "LAYOUTS", "Painter", "make_painter"]

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
