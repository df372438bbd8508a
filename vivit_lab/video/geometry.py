"""Where a model pixel lies in the source frame, and back.

Coordinates are continuous edges: pixel k covers [k, k+1). A resize multiplies, a crop subtracts, padding adds, so the
whole path is one scale and one offset an axis, and its inverse is exact.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from vivit_lab.numbers import checked_numbers

__all__ = ["Geometry", "displayed_size"]

Box = tuple[float, float, float, float]


@checked_numbers(source_size=(1, None), model_size=(1, None))
@dataclass(frozen=True)
class Geometry:
    """The resize, crop and pad between a source frame and the model's pixels.

    ``model = source * scale + offset`` on each axis, in edge coordinates.

    Args:
        source_size: (height, width) of the frame as shown, in pixels.
        model_size: (height, width) of the model's input, in pixels.
        scale: model pixels per source pixel, (vertical, horizontal).
        offset: model position of the source's top left corner, (vertical, horizontal); negative after a crop.
    """

    source_size: tuple[int, int]
    model_size: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)

    @classmethod
    @checked_numbers(height=(1, None), width=(1, None))
    def identity(cls, height: int, width: int) -> Geometry:
        """Return the geometry of pixels that were not touched."""
        return cls((height, width), (height, width))

    @checked_numbers(height=(1, None), width=(1, None))
    def resize(self, height: int, width: int) -> Geometry:
        """Return this geometry followed by a resize to (height, width)."""
        ratio = (height / self.model_size[0], width / self.model_size[1])
        return replace(
            self,
            model_size=(height, width),
            scale=(self.scale[0] * ratio[0], self.scale[1] * ratio[1]),
            offset=(self.offset[0] * ratio[0], self.offset[1] * ratio[1]),
        )

    @checked_numbers(height=(1, None), width=(1, None))
    def crop(self, top: int, left: int, height: int, width: int) -> Geometry:
        """Return this geometry followed by a crop; a negative ``top`` or ``left``, or a larger size, pads."""
        return replace(self, model_size=(height, width), offset=(self.offset[0] - top, self.offset[1] - left))

    @checked_numbers()
    def pad(self, top: int, left: int, bottom: int = 0, right: int = 0) -> Geometry:
        """Return this geometry followed by padding of that many pixels on each side."""
        height, width = self.model_size
        return self.crop(-top, -left, height + top + bottom, width + left + right)

    @checked_numbers(height=(1, None), width=(1, None))
    def of_resized_source(self, height: int, width: int) -> Geometry:
        """Return where the same model pixels lie on source frames that were resized to (height, width)."""
        ratio = (self.source_size[0] / height, self.source_size[1] / width)
        scale = (self.scale[0] * ratio[0], self.scale[1] * ratio[1])
        return replace(self, source_size=(height, width), scale=scale)

    def to_source(self, box: Box) -> Box:
        """Return the source box (top, left, bottom, right) of a model box; not clipped to the frame."""
        return (
            (box[0] - self.offset[0]) / self.scale[0],
            (box[1] - self.offset[1]) / self.scale[1],
            (box[2] - self.offset[0]) / self.scale[0],
            (box[3] - self.offset[1]) / self.scale[1],
        )

    def to_model(self, box: Box) -> Box:
        """Return the model box (top, left, bottom, right) of a source box; not clipped to the model's input."""
        return (
            box[0] * self.scale[0] + self.offset[0],
            box[1] * self.scale[1] + self.offset[1],
            box[2] * self.scale[0] + self.offset[0],
            box[3] * self.scale[1] + self.offset[1],
        )

    @property
    def visible(self) -> Box:
        """The part of the source frame (top, left, bottom, right) that the model sees, in source pixels."""
        top, left, bottom, right = self.to_source((0.0, 0.0, float(self.model_size[0]), float(self.model_size[1])))
        height, width = self.source_size
        return (max(top, 0.0), max(left, 0.0), min(bottom, float(height)), min(right, float(width)))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-able values."""
        return {
            "source_size": list(self.source_size),
            "model_size": list(self.model_size),
            "scale": list(self.scale),
            "offset": list(self.offset),
        }


def displayed_size(size: tuple[int, int], pixel_aspect: Fraction) -> tuple[int, int]:
    """Return the (height, width) in square pixels at which a player shows frames of pixels that are not square.

    Nothing is shrunk: wide pixels make a frame wider, narrow ones make it higher.

    Args:
        size: (height, width) of the frames in pixels.
        pixel_aspect: width of a pixel over its height.
    """
    height, width = size
    return (height, round(width * pixel_aspect)) if pixel_aspect >= 1 else (round(height / pixel_aspect), width)
