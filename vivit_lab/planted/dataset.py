"""Planted clips as a torch dataset, and as a batch with their truth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from vivit_lab.errors import InputError
from vivit_lab.numbers import checked_numbers
from vivit_lab.planted.clip import PlantedClip, planted_clip
from vivit_lab.planted.config import PlantedConfig

__all__ = ["PlantedDataset", "normalise", "planted_batch", "stack_clips"]


def normalise(frames: np.ndarray) -> torch.Tensor:
    """Return uint8 frames (..., T, H, W, 3) as a float32 tensor (..., T, 3, H, W) in -1 … 1: value / 127.5 - 1."""
    return torch.from_numpy(np.moveaxis(frames, -1, -3).astype(np.float32, order="C")).div_(127.5).sub_(1)


def stack_clips(clips: Sequence[PlantedClip]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return clips as a batch.

    Args:
        clips: at least one, all of the same frames and size.

    Returns:
        ``(pixel_values, labels)``: float32 (B, T, 3, H, W) in -1 … 1, and int64 (B,).

    Raises:
        InputError: there are no clips, or they differ in frames or size.
    """
    shapes = sorted({clip.frames.shape for clip in clips})
    if len(shapes) != 1:
        raise InputError(f"wanted at least one clip, all of one shape (T, H, W, 3), got {len(clips)} of {shapes}")
    pixel_values = torch.stack([normalise(clip.frames) for clip in clips])
    return pixel_values, torch.tensor([clip.label for clip in clips])


def planted_batch(
    config: PlantedConfig, indices: Iterable[int]
) -> tuple[torch.Tensor, torch.Tensor, list[PlantedClip]]:
    """Return clips of a configuration as a batch, with their truth.

    Args:
        config: what to draw.
        indices: which clips, each from 0.

    Returns:
        ``(pixel_values, labels, clips)``: float32 (B, T, 3, H, W) in -1 … 1, int64 (B,), and the clips, which know
        their masks.

    Raises:
        InputError: there are no indices, or one is not a whole number from 0.

    Example:
        >>> pixel_values, labels, clips = planted_batch(PlantedConfig(), range(8))
        >>> truth = clips[0].token_mask(TokenGrid.from_video(16, 48, 48, (2, 8, 8)))
    """
    clips = [planted_clip(config, index) for index in indices]
    return (*stack_clips(clips), clips)


@checked_numbers()
class PlantedDataset(Dataset[tuple[torch.Tensor, int]]):
    """``length`` clips of a configuration; item i is the same tensor in every process and epoch.

    An item is ``(pixel_values, label)``: float32 (T, 3, H, W) in -1 … 1, and an int 0 … 7. Clips are drawn when they
    are asked for (about 4 ms each at the default size and hardest level, on one core) and not kept.

    Args:
        config: size, level, split and seed.
        length: how many clips; any run of eight holds each class once.
        start: index of the first clip.

    Raises:
        InputError: the length is not positive or the start is negative.
    """

    def __init__(self, config: PlantedConfig, length: int, start: int = 0) -> None:
        if length < 1 or start < 0:
            raise InputError(f"wanted a positive length and a start from 0, got length={length}, start={start}")
        self.config, self.length, self.start = config, int(length), int(start)

    def __len__(self) -> int:
        return self.length

    @checked_numbers()
    def clip(self, item: int) -> PlantedClip:
        """Return an item with its truth.

        Raises:
            IndexError: there is no such item (the protocol by which ``for`` ends).
        """
        if not -self.length <= item < self.length:
            raise IndexError(f"item {item} of a dataset of {self.length} clips")
        return planted_clip(self.config, self.start + item % self.length)

    def __getitem__(self, item: int) -> tuple[torch.Tensor, int]:
        clip = self.clip(item)
        return normalise(clip.frames), clip.label
