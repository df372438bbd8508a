"""The photographs behind the shapes, and crops of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from PIL import Image

from vivit_lab.errors import InputError

__all__ = ["Crop", "draw_crop", "photographs", "render_crop"]

_SHORT_SIDE = 3  # of a photograph, in sizes of the crop: a crop shows a ninth of it or less
_GAIN = 0.6
_RANGE = (80, 175)  # grey levels left to photographs; shapes take those below and above


@dataclass(frozen=True)
class Crop:
    """A square cut out of a photograph, turned and tinted.

    Args:
        photo: index of the photograph in its split.
        top: place of the cut as a fraction of the room there is, 0 … 1.
        left: the same along columns.
        turn: one of the eight symmetries of a square: quarter turns, plus 4 for mirrored.
        channels: order of the colour channels.
        tint: grey levels added to each channel.
    """

    photo: int
    top: float
    left: float
    turn: int
    channels: tuple[int, int, int]
    tint: tuple[float, float, float]


@cache
def photographs(split: str, size: int) -> tuple[np.ndarray, ...]:
    """Return the photographs of a split, each (rows, columns, 3) float32 with mean 0, short side ``3 * size`` pixels.

    Raises:
        InputError: there is no such split.
    """
    folder = resources.files("vivit_lab.planted") / "photos"
    names = sorted(item.name for item in folder.iterdir() if item.name.startswith(f"{split}-"))
    if not names:
        raise InputError(f"there are no photographs of split {split!r}")
    found = []
    for name in names:
        with (folder / name).open("rb") as file, Image.open(file) as image:
            scale = _SHORT_SIDE * size / min(image.size)
            wanted = (round(image.width * scale), round(image.height * scale))
            pixels = np.asarray(image.convert("RGB").resize(wanted, Image.Resampling.BOX), np.float32)
        pixels = pixels - pixels.mean()
        pixels.flags.writeable = False
        found.append(pixels)
    return tuple(found)


def draw_crop(rng: np.random.Generator, count: int) -> Crop:
    """Draw a crop of one of ``count`` photographs."""
    channels = rng.permutation(3).tolist()
    tint = rng.uniform(-20, 20, 3).tolist()
    top, left = rng.random(2).tolist()
    return Crop(int(rng.integers(count)), top, left, int(rng.integers(8)), tuple(channels), tuple(tint))


def render_crop(crop: Crop, split: str, size: int, scale: int) -> np.ndarray:
    """Return the crop, (size, size, 3) float32 in grey levels 80 … 175.

    Args:
        crop: what to cut.
        split: whose photographs.
        size: rows and columns to cut, in pixels.
        scale: the ``size`` of `photographs`.
    """
    photo = photographs(split, scale)[crop.photo]
    top, left = (round(part * (room - size)) for part, room in zip((crop.top, crop.left), photo.shape, strict=False))
    pixels = photo[top : top + size, left : left + size][..., list(crop.channels)]
    pixels = np.rot90(pixels[:, ::-1] if crop.turn >= 4 else pixels, crop.turn % 4)
    pixels = pixels * np.float32(_GAIN) + np.asarray(crop.tint, np.float32) + np.float32(127.5)
    return np.clip(pixels, *_RANGE)
