"""Corruptions of a clip: frames in another order, a tube blurred or swapped, another clip."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vivit_lab.errors import InputError
from vivit_lab.grid import TokenGrid
from vivit_lab.interventions.points import TokensLike, token_mask
from vivit_lab.numbers import MOST, checked_numbers
from vivit_lab.video.clip import Clip

__all__ = [
    "BlurTube",
    "Corruption",
    "FreezeFrame",
    "OtherClip",
    "ReverseFrames",
    "ShuffleFrames",
    "SwapRegion",
    "blur",
    "check_pixels",
]

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


@checked_numbers()
@dataclass(frozen=True, eq=False)
class BlurTube(Corruption):
    """A tube of tubelets blurred: something stays there, without detail and, by default, without motion.

    Args:
        tokens: which tubelets, a ``Region`` or a mask (t, h, w).
        grid: the token grid they lie on.
        sigma: standard deviation of the Gaussian in space, as a fraction of the image's height and width, each its own.
        still: blur the mean frame, so that nothing moves inside the tube; else each frame by itself, where what moves
            keeps moving.

    Raises:
        InputError: sigma is not positive.
        GridError: the tokens do not fit the grid.
    """

    tokens: TokensLike
    grid: TokenGrid
    sigma: float = 0.1
    still: bool = True

    def __post_init__(self) -> None:
        token_mask(self.tokens, self.grid)
        if not 0 < self.sigma < float("inf"):
            raise InputError(f"sigma must be positive and finite, a fraction of the image's side; got {self.sigma!r}")

    def on_pixels(self, pixels: Tensor) -> Tensor:
        """See ``Corruption``."""
        inside = _model_mask(self.tokens, self.grid, pixels)
        return torch.where(inside, self._blurred(pixels), pixels)

    def on_clip(self, clip: Clip) -> Clip:
        """See ``Corruption``."""
        inside = _source_mask(self.tokens, self.grid, clip)
        frames = torch.from_numpy(clip.frames).permute(0, 3, 1, 2).float().unsqueeze(0)
        blurred = self._blurred(frames)[0].permute(0, 2, 3, 1).round().clamp(0, 255).to(torch.uint8).numpy()
        pixels = None if clip.pixel_values is None else self.on_pixels(clip.pixel_values)
        return replace(clip, frames=np.where(inside[..., None], blurred, clip.frames), pixel_values=pixels)

    def _blurred(self, pixels: Tensor) -> Tensor:
        source = pixels.mean(dim=1, keepdim=True) if self.still else pixels
        return blur(source, self.sigma).expand_as(pixels)


@dataclass(frozen=True, eq=False)
class OtherClip(Corruption):
    """Another clip in its place, aligned in time.

    Pixel values are aligned by their share of the clip (first to first, last to last), clips by the seconds from their
    first frame; where the other one is shorter, its last frame stays.

    Args:
        other: pixel values, one clip or one for each of the batch; or a ``Clip``, which a ``Clip`` needs.
    """

    other: Tensor | Clip = field(repr=False)

    def on_pixels(self, pixels: Tensor) -> Tensor:
        """See ``Corruption``.

        Raises:
            InputError: the other clip has other channels or pixels, or there are as few as neither one nor the batch.
        """
        other = self.other.pixel_values if isinstance(self.other, Clip) else self.other
        if other is None:
            raise InputError("the other clip has no pixel values yet: prepare it first, clip = processor.prepare(clip)")
        check_pixels(other)
        if other.shape[2:] != pixels.shape[2:] or len(other) not in (1, len(pixels)):
            raise InputError(
                f"the other clip must be one, or {len(pixels)}, of (channels, height, width) "
                f"{tuple(pixels.shape[2:])}; got {tuple(other.shape)}"
            )
        count, there = pixels.shape[1], other.shape[1]
        share = torch.arange(count, dtype=torch.float64) / max(1, count - 1)
        order = (share * (there - 1)).round().long()
        return other.index_select(1, order.to(other.device)).to(pixels).expand_as(pixels)

    def on_clip(self, clip: Clip) -> Clip:
        """See ``Corruption``. The times stay the clip's; ``indices`` tell which frames of the other file are shown.

        Raises:
            InputError: the other one is not a ``Clip``, has frames of another size, or only one of the two is prepared.
        """
        other = self.other
        if not isinstance(other, Clip):
            raise InputError("a Clip is replaced by a Clip, which has frames; the other one is a tensor")
        if other.size != clip.size or (other.pixel_values is None) != (clip.pixel_values is None):
            raise InputError(
                f"the other clip has frames {other.size}, this one {clip.size}; wanted one size, and both prepared or "
                "neither"
            )
        at = clip.seconds - clip.seconds[0]
        order = np.clip(np.searchsorted(other.seconds - other.seconds[0], at + 1e-9, side="right") - 1, 0, None)
        pixels = None
        if clip.pixel_values is not None and other.pixel_values is not None:
            if other.pixel_values.shape[2:] != clip.pixel_values.shape[2:]:
                raise InputError("the two clips were prepared to different sizes: prepare both by one processor")
            pixels = other.pixel_values.index_select(1, torch.from_numpy(order)).to(clip.pixel_values)
        return replace(
            clip, frames=other.frames[order], indices=other.indices[order], path=other.path, pixel_values=pixels
        )


@dataclass(frozen=True, eq=False)
class SwapRegion(Corruption):
    """A tube of tubelets taken from another clip, aligned in time as by ``OtherClip``.

    Args:
        tokens: which tubelets, a ``Region`` or a mask (t, h, w).
        grid: the token grid they lie on.
        other: see ``OtherClip``.

    Raises:
        GridError: the tokens do not fit the grid.
    """

    tokens: TokensLike
    grid: TokenGrid
    other: Tensor | Clip = field(repr=False)

    def __post_init__(self) -> None:
        token_mask(self.tokens, self.grid)

    def on_pixels(self, pixels: Tensor) -> Tensor:
        """See ``Corruption``."""
        inside = _model_mask(self.tokens, self.grid, pixels)
        return torch.where(inside, OtherClip(self.other).on_pixels(pixels), pixels)

    def on_clip(self, clip: Clip) -> Clip:
        """See ``Corruption``. The clip stays itself: its times, path and indices."""
        inside = _source_mask(self.tokens, self.grid, clip)
        frames = OtherClip(self.other).on_clip(clip).frames
        pixels = None if clip.pixel_values is None else self.on_pixels(clip.pixel_values)
        return replace(clip, frames=np.where(inside[..., None], frames, clip.frames), pixel_values=pixels)


def blur(
    pixels: Float[Tensor, "*row channel height width"], sigma: float
) -> Float[Tensor, "*row channel height width"]:
    """Return each frame blurred by a Gaussian.

    Args:
        pixels: any pixels.
        sigma: standard deviation, as a fraction of the height and of the width. At the borders the weights that fall
            outside are left out and the others sum to 1.
    """

    def weights(size: int) -> Tensor:
        place = torch.arange(size, device=pixels.device, dtype=torch.float32)
        return torch.softmax(-0.5 * ((place.unsqueeze(0) - place.unsqueeze(1)) / (sigma * size)).square(), dim=1)

    rows, columns = (weights(size).to(pixels.dtype) for size in pixels.shape[-2:])
    return rows @ pixels @ columns.transpose(0, 1)


def _inside(tokens: TokensLike, grid: TokenGrid) -> Tensor:
    """Return (t, h, w) bool."""
    return grid.unflatten(token_mask(tokens, grid))


def _model_mask(tokens: TokensLike, grid: TokenGrid, pixels: Tensor) -> Tensor:
    """Return (frame, 1, height, width) bool: the model's pixels inside."""
    size = (pixels.shape[1], *pixels.shape[-2:])
    if size != (grid.num_frames, *grid.image_size):
        raise InputError(
            f"the grid covers (frames, height, width) {(grid.num_frames, *grid.image_size)}, the pixels are {size}"
        )
    inside = _inside(tokens, grid)
    for axis, repeat in enumerate(grid.tubelet):
        inside = inside.repeat_interleave(repeat, dim=axis)
    return inside.unsqueeze(1).to(pixels.device)


def _source_mask(tokens: TokensLike, grid: TokenGrid, clip: Clip) -> np.ndarray:
    """Return (frame, height, width) bool: the source's pixels whose centres lie inside."""
    if len(clip) != grid.num_frames:
        raise InputError(f"the grid covers {grid.num_frames} frames, the clip has {len(clip)}")
    geometry = clip.geometry
    if geometry is None or geometry.model_size != grid.image_size:
        raise InputError(
            f"a region of a clip wants the clip prepared at the grid's {grid.image_size}: "
            "clip = processor.prepare(clip)"
        )
    inside = _inside(tokens, grid).repeat_interleave(grid.tubelet[0], dim=0).numpy()
    for axis, (size, count, step) in enumerate(
        zip(geometry.source_size, (grid.h, grid.w), grid.tubelet[1:], strict=True)
    ):
        centre = (np.arange(size) + 0.5) * geometry.scale[axis] + geometry.offset[axis]
        place = np.floor(centre / step).astype(int)
        taken = np.take(inside, np.clip(place, 0, count - 1), axis=axis + 1)
        seen = (place >= 0) & (place < count)
        inside = taken & (seen[:, None] if axis == 0 else seen)
    return inside
