"""What a method may be called with: pixel values, a prepared clip, or several of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vivit_lab.errors import InputError
from vivit_lab.video.clip import Clip

__all__ = ["as_pixel_values"]


def as_pixel_values(inputs: Tensor | Clip | Sequence[Clip]) -> tuple[Tensor, list[list[int]] | None]:
    """Return (batch, frames, channels, height, width) and, for clips, the source index of every frame.

    Args:
        inputs: pixel values, or clips that a processor prepared.

    Raises:
        InputError: it is neither, or a clip was not prepared.
    """
    if isinstance(inputs, Tensor):
        return inputs, None
    clips = [inputs] if isinstance(inputs, Clip) else list(inputs) if isinstance(inputs, Sequence) else []
    if not clips or not all(isinstance(clip, Clip) for clip in clips):
        raise InputError(f"wanted pixel_values (a tensor), a Clip or a list of Clips, got {type(inputs).__name__}")
    batch = [clip.pixel_values for clip in clips]
    prepared = [pixels for pixels in batch if pixels is not None]
    if len(prepared) < len(batch):
        raise InputError("a clip has no pixel values yet: prepare it first, clip = processor.prepare(clip)")
    return torch.cat(prepared), [clip.indices.tolist() for clip in clips]
