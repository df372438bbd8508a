"""A clip: decoded frames that know when they are shown and which frames of the file they were."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from vivit_lab.errors import InputError
from vivit_lab.numbers import checked_numbers
from vivit_lab.video.geometry import Geometry, displayed_size

if TYPE_CHECKING:
    import torch

__all__ = ["Clip"]


@checked_numbers(decode_warnings=(0, None))
@dataclass(frozen=True, eq=False)
class Clip:
    """Frames of one video, as shown (rotation applied), with their place in time.

    Args:
        frames: (T, H, W, 3) uint8 RGB.
        seconds: (T,) float64, presentation time of each frame in the file, in seconds from the first frame; not
            decreasing. A frame that repeats (a video shorter than the window) repeats its time.
        indices: (T,) int64, index of each frame in the file, in presentation order from 0.
        fps: average frame rate of the *file*, in frames a second.
        end: when the last frame stops being shown, in seconds on the same clock as ``seconds``.
        path: the file it came from, or None.
        decode_warnings: how many times the decoder reported damage.
        pixel_values: (1, T, C, h, w) what the model is given, once a processor prepared the clip.
        geometry: how ``pixel_values`` were cut from ``frames``, once a processor prepared the clip.
        pixel_aspect: width of a pixel of ``frames`` over its height. Where it is not 1 (anamorphic video) the frames
            are the stored pixels, and so is what the model is given, as in the code that models are trained with;
            movies, sheets and widgets show ``displayed()``.

    Raises:
        InputError: the frames are not (T, H, W, 3) uint8, the pixel aspect is not positive, or the other fields do not
            match the frames.
    """

    frames: np.ndarray
    seconds: np.ndarray
    indices: np.ndarray
    fps: float
    end: float
    path: str | None = None
    decode_warnings: int = 0
    pixel_values: torch.Tensor | None = field(default=None, repr=False)
    geometry: Geometry | None = None
    pixel_aspect: Fraction = Fraction(1)

    def __post_init__(self) -> None:
        frames = self.frames
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not frames.shape[0]:
            raise InputError(f"a clip's frames must be (T, H, W, 3) uint8 RGB, got {frames.shape} {frames.dtype}")
        object.__setattr__(self, "seconds", np.asarray(self.seconds, dtype=np.float64))
        object.__setattr__(self, "indices", np.asarray(self.indices, dtype=np.int64))
        for name in ("seconds", "indices"):
            if getattr(self, name).shape != (len(frames),):
                raise InputError(f"{name} must have one entry a frame ({len(frames)}), got {getattr(self, name).shape}")
        times = [*np.asarray(self.seconds, dtype=float).tolist(), self.fps, self.end]
        if not np.isfinite(times).all():
            raise InputError(f"seconds, fps and end must be finite, got seconds={self.seconds}, {self.fps}, {self.end}")
        if np.any(np.diff(self.seconds) < 0):
            raise InputError("seconds must not decrease: frames are kept in presentation order")
        if not self.pixel_aspect > 0:
            raise InputError(f"a clip's pixel_aspect must be above 0, got {self.pixel_aspect}")
        if self.end < self.seconds[-1]:
            raise InputError(f"end={self.end} s lies before the last frame at {self.seconds[-1]} s")
        if self.geometry is not None and self.geometry.source_size != self.size:
            raise InputError(f"the geometry is of {self.geometry.source_size} frames, the clip's are {self.size}")

    @classmethod
    @checked_numbers()
    def from_frames(cls, frames: np.ndarray, fps: float = 25.0) -> Clip:
        """Return a clip of frames (T, H, W, 3) uint8 RGB shown at a constant rate."""
        frames = np.asarray(frames)
        if not fps > 0:
            raise InputError(f"fps must be positive, got {fps}")
        count = len(frames)
        return cls(frames, np.arange(count) / fps, np.arange(count), float(fps), count / fps)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the frames in pixels."""
        return (self.frames.shape[1], self.frames.shape[2])

    def displayed(self) -> Clip:
        """Return the clip in square pixels, as a player shows it: its frames stretched, the geometry with them.

        Frames of square pixels are not copied. What the model was given (``pixel_values``) stays as it is.
        """
        if self.pixel_aspect == 1:
            return self
        height, width = displayed_size(self.size, self.pixel_aspect)
        axis = 2 if height == self.size[0] else 1
        return replace(
            self,
            frames=np.stack([_stretched(frame, axis - 1, (height, width)[axis - 1]) for frame in self.frames]),
            geometry=None if self.geometry is None else self.geometry.of_resized_source(height, width),
            pixel_aspect=Fraction(1),
        )

    def __len__(self) -> int:
        return len(self.frames)

    def __repr__(self) -> str:
        height, width = self.size
        source = f" of {self.path}" if self.path else ""
        prepared = "" if self.geometry is None else f", prepared at {'×'.join(map(str, self.geometry.model_size))}"
        aspect = "" if self.pixel_aspect == 1 else f", pixels {self.pixel_aspect} as wide as high"
        return (
            f"Clip({len(self)} frames {height}×{width}{source}, {self.seconds[0]:.3f}–{self.end:.3f} s, "
            f"{self.fps:.3g} fps{aspect}{prepared})"
        )

    def _repr_html_(self) -> str:
        """Say what it is, above some of its frames."""
        from vivit_lab.html import facts_table, frame_tiles, report_html  # here, as drawing needs pillow

        height, width = self.size
        facts = {
            "clip": f"{len(self)} frames of {height}×{width}, {self.fps:.3g} fps",
            "pixels": None if self.pixel_aspect == 1 else f"{self.pixel_aspect} as wide as high",
            "time": f"{self.seconds[0]:.3f}–{self.end:.3f} s",
            "file": self.path,
            "damage": f"{self.decode_warnings} warnings of the decoder" if self.decode_warnings else None,
            "prepared": None if self.geometry is None else "×".join(map(str, self.geometry.model_size)),
        }
        return report_html(
            facts_table(facts), frame_tiles(self.displayed().frames, [f"{at:.2f} s" for at in self.seconds])
        )

    def prepared(self, pixel_values: torch.Tensor, geometry: Geometry) -> Clip:
        """Return the same clip with what the model is given, and how it was cut from the frames."""
        return replace(self, pixel_values=pixel_values, geometry=geometry)


def _stretched(frame: np.ndarray, axis: int, size: int) -> np.ndarray:
    """Return a frame with one axis enlarged to a size, linear between the centres of its pixels."""
    count = frame.shape[axis]
    place = ((np.arange(size) + 0.5) * count / size - 0.5).clip(0, count - 1)
    before = place.astype(np.int64)
    after = np.minimum(before + 1, count - 1)
    weight = np.expand_dims(np.round(256 * (place - before)).astype(np.uint16), (1 - axis, 2))
    mixed = frame.take(before, axis) * (256 - weight) + frame.take(after, axis) * weight  # at most 255·256
    return ((mixed + 128) >> 8).astype(np.uint8)
