"""What a method may be called with: pixel values, a prepared clip, or several of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vivit_lab.errors import InputError
from vivit_lab.video.clip import Clip

__all__ = ["Pixels", "as_pixel_values"]


class Pixels(NamedTuple):
    """What a model is given, and where it came from.

    Args:
        values: (batch, frames, channels, height, width).
        frame_indices: for each clip, the source index of every frame; None for bare pixel values.
        sources: for each clip, its file (``"path"``) and how its pixels were cut from it (``"geometry"``); likewise.
    """

    values: Tensor
    frame_indices: list[list[int]] | None = None
    sources: list[dict[str, Any]] | None = None


def as_pixel_values(inputs: Tensor | Clip | Sequence[Clip]) -> Pixels:
    """Return pixel values and, for clips, where they came from.

    Args:
        inputs: pixel values, or clips that a processor prepared.

    Raises:
        InputError: it is neither, or a clip was not prepared.
    """
    if isinstance(inputs, Tensor):
        return Pixels(inputs)
    clips = [inputs] if isinstance(inputs, Clip) else list(inputs) if isinstance(inputs, Sequence) else []
    if not clips or not all(isinstance(clip, Clip) for clip in clips):
        raise InputError(f"wanted pixel_values (a tensor), a Clip or a list of Clips, got {type(inputs).__name__}")
    batch = [clip.pixel_values for clip in clips]
    prepared = [pixels for pixels in batch if pixels is not None]
    if len(prepared) < len(batch):
        raise InputError("a clip has no pixel values yet: prepare it first, clip = processor.prepare(clip)")
    sources = [
        {"path": clip.path, "geometry": clip.geometry.to_dict() if clip.geometry is not None else None}
        for clip in clips
    ]
    return Pixels(torch.cat(prepared), [clip.indices.tolist() for clip in clips], sources)
