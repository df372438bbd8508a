"""What a method may be called with: pixel values, a prepared clip, or several of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vivit_lab.errors import InputError
from vivit_lab.model.inputs import check_pixels
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


def as_pixel_values(inputs: Tensor | Clip | Sequence[Clip] | Pixels) -> Pixels:
    """Return pixel values and, for clips, where they came from.

    Args:
        inputs: pixel values, clips that a processor prepared, or what this function returned.

    Raises:
        InputError: it is neither, a clip was not prepared, or a pixel is NaN, infinite or not normalised; see
            ``check_pixels``.
    """
    if isinstance(inputs, Pixels):
        return inputs
    if isinstance(inputs, Tensor):
        check_pixels(inputs)
        return Pixels(inputs)
    clips = [inputs] if isinstance(inputs, Clip) else list(inputs) if isinstance(inputs, Sequence) else []
    if not clips or not all(isinstance(clip, Clip) for clip in clips):
        raise InputError(f"wanted pixel_values (a tensor), a Clip or a list of Clips, got {type(inputs).__name__}")
    batch = [clip.pixel_values for clip in clips]
    prepared = [pixels for pixels in batch if pixels is not None]
    if len(prepared) < len(batch):
        raise InputError("a clip has no pixel values yet: prepare it first, clip = processor.prepare(clip)")
    sizes = {tuple(pixels.shape[1:]) for pixels in prepared}
    if len(sizes) > 1:
        raise InputError(
            f"the clips of one batch must have one size (frames, channels, height, width), got {sorted(sizes)}: call "
            "once for each size"
        )
    for number, (clip, pixels) in enumerate(zip(clips, prepared, strict=True)):
        where = clip.path or (f"clip {number}" if len(clips) > 1 else "the clip")
        check_pixels(pixels, f"pixel_values of {where}", normalised=True)
    sources = [
        {"path": clip.path, "geometry": clip.geometry.to_dict() if clip.geometry is not None else None}
        for clip in clips
    ]
    return Pixels(torch.cat(prepared), [clip.indices.tolist() for clip in clips], sources)
