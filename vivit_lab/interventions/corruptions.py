"""Corruptions in time: the same frames in another order. Each is called on pixel values or on a clip.

What stays and what goes is the point of each: a shuffle keeps every frame and takes motion away, a reversal keeps
motion and takes its direction, a still keeps one frame alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from vivit_lab.errors import InputError
from vivit_lab.numbers import MOST, checked_numbers
from vivit_lab.video.clip import Clip

__all__ = ["Corruption", "FreezeFrame", "ReverseFrames", "ShuffleFrames", "check_pixels"]

Inputs = TypeVar("Inputs", Tensor, Clip)


class Corruption(ABC):
    """Base of the corruptions: called on pixel values or a ``Clip``, it returns another of the same kind and shape.

    Pixel values are (batch, frames, channels, height, width); all clips of a batch are corrupted alike, so that a clip
    is changed in the same way alone and in a batch. Of a ``Clip`` the frames and, where a processor prepared it, the
    pixel values change together. Nothing is changed in place.
    """

    def __call__(self, inputs: Inputs) -> Inputs:
        """Return the corrupted clips.

        Raises:
            InputError: it is neither pixel values nor a clip, or the corruption does not fit it.
        """
        if isinstance(inputs, Clip):
            return self.on_clip(inputs)
        check_pixels(inputs)
        return self.on_pixels(inputs)

    @abstractmethod
    def on_pixels(self, pixels: Tensor) -> Tensor:
        """Return corrupted pixel values (batch, frames, channels, height, width)."""

    @abstractmethod
    def on_clip(self, clip: Clip) -> Clip:
        """Return a corrupted clip."""


class FrameOrder(Corruption):
    """Base of the corruptions that only say which frame is shown when."""

    @abstractmethod
    def order(self, count: int) -> Tensor:
        """Return (frame,) int64: which of ``count`` frames is shown in each place."""

    def on_pixels(self, pixels: Tensor) -> Tensor:
        """See ``Corruption``."""
        return pixels.index_select(1, self.order(pixels.shape[1]).to(pixels.device))

    def on_clip(self, clip: Clip) -> Clip:
        """See ``Corruption``. The times stay the places'; ``indices`` tell which frame of the file is shown there."""
        order = self.order(len(clip)).numpy()
        pixels = None if clip.pixel_values is None else self.on_pixels(clip.pixel_values)
        return replace(clip, frames=clip.frames[order], indices=clip.indices[order], pixel_values=pixels)


@checked_numbers()
@dataclass(frozen=True)
class ShuffleFrames(FrameOrder):
    """The same frames in a random order: what each frame shows stays, what happens between them goes.

    Args:
        seed: of the order, which is never the clip's own where there are two pieces or more.
        length: frames that stay together. 2 leaves the tubelets of a ViViT whole and their motion with them.

    Raises:
        InputError: the length is not positive.
    """

    seed: int = 0
    length: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.length, bool) or not isinstance(self.length, int) or self.length < 1:
            raise InputError(f"length must be a positive number of frames, got {self.length!r}")

    @checked_numbers(count=(1, MOST))
    def order(self, count: int) -> Tensor:
        """See ``FrameOrder``.

        Raises:
            InputError: the frames are no whole number of pieces.
        """
        if count % self.length:
            raise InputError(f"{count} frames are no whole number of pieces of {self.length} frames")
        pieces, generator = count // self.length, torch.Generator().manual_seed(self.seed)
        order = torch.randperm(pieces, generator=generator)
        while pieces > 1 and bool((order == torch.arange(pieces)).all()):
            order = torch.randperm(pieces, generator=generator)
        return torch.arange(count).reshape(pieces, self.length)[order].reshape(-1)


@checked_numbers()
@dataclass(frozen=True)
class FreezeFrame(FrameOrder):
    """One frame shown all the time: no motion at all.

    Args:
        frame: which one; negative ones count from the end. None is the middle one.
    """

    frame: int | None = None

    @checked_numbers(count=(1, MOST))
    def order(self, count: int) -> Tensor:
        """See ``FrameOrder``.

        Raises:
            InputError: the clip has no such frame.
        """
        frame = count // 2 if self.frame is None else self.frame
        if not -count <= frame < count:
            raise InputError(f"frame={frame} does not exist in a clip of {count} frames")
        return torch.full((count,), frame % count)


@dataclass(frozen=True)
class ReverseFrames(FrameOrder):
    """The clip played backwards: every frame and every speed stays, directions turn. Twice is the clip itself."""

    @checked_numbers(count=(1, MOST))
    def order(self, count: int) -> Tensor:
        """See ``FrameOrder``."""
        return torch.arange(count).flip(0)


def check_pixels(pixels: Tensor) -> None:
    """Refuse what is no batch of pixel values.

    Raises:
        InputError: it is none.
    """
    if not isinstance(pixels, Tensor) or pixels.ndim != 5 or not pixels.shape[0] or not pixels.shape[1]:
        got = tuple(pixels.shape) if isinstance(pixels, Tensor) else type(pixels).__name__
        raise InputError(f"wanted pixel values (batch, frames, channels, height, width) or a Clip, got {got}")
