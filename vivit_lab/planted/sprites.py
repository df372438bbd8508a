"""Drawn shapes: random outlines, each filled or as an outline with the background in its hole.

Drawn rather than scanned digits: they need no licence and no further dependency, they never run out, at 12 pixels their
kind is a matter of a few pixels in any rotation, and no two splits can share one.
"""

from __future__ import annotations

from functools import cache
from math import ceil

import numpy as np

from vivit_lab.errors import InputError
from vivit_lab.planted.config import SPLITS

__all__ = ["COUNTS", "outline", "sprite_alpha"]

COUNTS = {"train": 600, "validation": 100, "test": 100}
"""How many outlines a split has."""

_SAMPLES = 4  # per pixel and axis, for smooth edges
_STROKE = 0.2  # of the diameter
_ANGLES = 360


def outline(split: str, sprite: int) -> np.ndarray:
    """Return the radius of a shape in each of 360 directions, one degree apart.

    The shape lies between a circle and a regular polygon of three to six corners, somewhat dented. Its area is that
    of the unit disc, so that no outline looks larger than another.

    Args:
        split: "train", "validation" or "test"; their outlines are drawn from different seeds.
        sprite: index of the outline, below ``COUNTS[split]``.

    Raises:
        InputError: there is no such outline.
    """
    if split not in COUNTS or not 0 <= sprite < COUNTS[split]:
        raise InputError(f"no outline {sprite} of split {split!r}: wanted one of {COUNTS} (outlines of each split)")
    rng = np.random.default_rng([0x5A, SPLITS.index(split), sprite])
    angle = np.arange(_ANGLES) * (2 * np.pi / _ANGLES)
    sector = 2 * np.pi / rng.integers(3, 7)
    polygon = np.cos(sector / 2) / np.cos((angle + rng.uniform(0, 2 * np.pi)) % sector - sector / 2)
    radius = 1 - rng.uniform(0.2, 0.7) * (1 - polygon)
    for waves in (2, 3, 4):
        radius = radius + rng.uniform(0, 0.24 / waves) * np.cos(waves * angle + rng.uniform(0, 2 * np.pi))
    return radius / np.sqrt(np.mean(radius**2))


@cache
def sprite_alpha(split: str, sprite: int, diameter: int, outlined: bool) -> np.ndarray:
    """Return how much of each pixel a shape covers, (n, n) float32 in 0 … 1, n odd, the centre in the middle.

    Args:
        split: as for `outline`.
        sprite: as for `outline`.
        diameter: of the disc of the same area, in pixels.
        outlined: draw a stroke of a fifth of the diameter inside the edge, and leave the rest open.
    """
    radius = outline(split, sprite) * (diameter / 2)
    half = ceil(radius.max())
    place = (np.arange((2 * half + 1) * _SAMPLES) + 0.5) / _SAMPLES - half - 0.5
    rows, columns = np.meshgrid(place, place, indexing="ij")
    distance = np.hypot(rows, columns)
    edge = radius[np.round(np.degrees(np.arctan2(rows, columns))).astype(int) % _ANGLES]
    covered = distance < edge
    if outlined:
        covered &= distance > edge - _STROKE * diameter
    count = 2 * half + 1
    alpha = covered.reshape(count, _SAMPLES, count, _SAMPLES).mean((1, 3), dtype=np.float32)
    alpha.flags.writeable = False  # it is shared by every clip that shows the shape
    return alpha
