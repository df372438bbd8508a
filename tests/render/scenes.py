"""Small clips and maps that the rendering tests share."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from vivit_lab.attribution import AttributionMap
from vivit_lab.grid import TokenGrid
from vivit_lab.video import Clip, Geometry

GRID = TokenGrid(3, 4, 4, tubelet=(2, 8, 8))

GEOMETRIES = {
    "identity": Geometry.identity(32, 32),
    "squeezed, not square": Geometry.identity(50, 90).resize(32, 32),
    "resized and cropped, landscape": Geometry.identity(45, 80).resize(36, 64).crop(2, 16, 32, 32),
    "resized and cropped, portrait": Geometry.identity(97, 41).resize(76, 32).crop(22, 0, 32, 32),
    "padded": Geometry.identity(20, 31).pad(6, 0, 6, 1),
    "padded and cropped": Geometry.identity(20, 60).crop(-5, 11, 32, 32),
    "enlarged": Geometry.identity(9, 7).resize(32, 32),
}


def make_clip(geometry: Geometry, frames: int = 6, *, seconds: list[float] | None = None, seed: int = 0) -> Clip:
    """Return a prepared clip of coloured noise between 40 and 215, so that any tint shows."""
    height, width = geometry.source_size
    pixels = np.random.default_rng(seed).integers(40, 216, (frames, height, width, 3), dtype=np.uint8)
    times = np.arange(frames) / 25 if seconds is None else np.array(seconds)
    clip = Clip(pixels, times, 3 * np.arange(frames), 25.0, float(times[-1]) + 0.04, path="/somewhere/private/dog.mp4")
    return clip.prepared(torch.zeros(1, frames, 3, *geometry.model_size), geometry)


def make_map(grid: TokenGrid = GRID, relevance: Any = None, **fields: Any) -> AttributionMap:
    """Return a map of given (t, h, w) relevance, by default random in [0, 1]."""
    if relevance is None:
        relevance = torch.rand(*grid.shape, generator=torch.Generator().manual_seed(1))
    fields = {"method": "AttentionRollout", "parameters": {"head_fusion": "mean"}, "scale": "sums to 1", **fields}
    return AttributionMap(torch.as_tensor(relevance, dtype=torch.float32)[None], grid, **fields)


def one_hot(position: tuple[int, int, int], grid: TokenGrid = GRID, **fields: Any) -> AttributionMap:
    """Return a map that is 1 at one tubelet and 0 elsewhere."""
    relevance = torch.zeros(grid.shape)
    relevance[position] = 1
    return make_map(grid, relevance, **fields)


def planted_pixels(geometry: Geometry, grid: TokenGrid, y: int, x: int) -> np.ndarray:
    """Return (H, W) bool: the source pixels whose centre lies in the box of place (y, x), one pixel at a time."""
    box = grid.pixel_box(y, x)
    top, left, bottom, right = geometry.to_source((float(box[0]), float(box[1]), float(box[2]), float(box[3])))
    inside = np.zeros(geometry.source_size, dtype=bool)
    for row in range(geometry.source_size[0]):
        for column in range(geometry.source_size[1]):
            inside[row, column] = top <= row + 0.5 < bottom and left <= column + 0.5 < right
    return inside


def seen_pixels(geometry: Geometry) -> np.ndarray:
    """Return (H, W) bool: the source pixels whose centre the model saw."""
    top, left, bottom, right = geometry.visible
    rows = np.arange(geometry.source_size[0]) + 0.5
    columns = np.arange(geometry.source_size[1]) + 0.5
    return ((rows >= top) & (rows < bottom))[:, None] & ((columns >= left) & (columns < right))[None]
