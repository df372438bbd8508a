"""Where the tokens of a grid lie on the pixels of a source frame.

The rule: **a source pixel takes the tubelet that its centre falls in**, half-open at the far edge. So every source
pixel that the model saw belongs to exactly one place (y, x), also where a tubelet's box has fractional source
coordinates; a pixel whose centre lies outside the model's input belongs to none.

Resize, crop and pad act on each axis alone, so two short tables (a row's y, a column's x) describe the whole frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vivit_lab.errors import GridError, InputError

if TYPE_CHECKING:
    from vivit_lab.attribution.base import AttributionMap
    from vivit_lab.grid import TokenGrid
    from vivit_lab.video.clip import Clip
    from vivit_lab.video.geometry import Geometry

__all__ = ["SourcePlace", "check_pair", "outside_text", "share_outside", "source_place"]

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
        InputError: the map holds several clips, the clip was not prepared, or the map names other frames, another file
            or another way in which the pixels were cut.
        GridError: the grid covers other pixels or frames than the model was given of this clip.
    """
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
