"""What a method may be called with, and what half precision makes of it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vivit_lab.errors import InputError, PrecisionWarning
from vivit_lab.model.inputs import check_pixels, has_values
from vivit_lab.video.clip import Clip

__all__ = ["Pixels", "as_pixel_values", "half_dtype", "warn_of_differences", "warn_of_error"]


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


_SHARE = 0.25
"""Error of a difference of two of a model's scores, as a share of eps·|score|: half precision's rounding of the
residual stream gave 0.05 to 0.5 in the bundled models, in float16 and bfloat16 alike."""

_TOLERATED = 0.1
"""The share of a result's size that its error may have before it is worth a warning."""


def half_dtype(model: Any) -> torch.dtype | None:
    """Return the half-precision dtype that a model computes in now, by its parameters or autocast; None for others."""
    kind = model.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else model.dtype
    return dtype if dtype in (torch.float16, torch.bfloat16) else None


def warn_of_differences(model: Any, name: str, effects: Tensor, scores: Tensor) -> None:
    """Warn where effects, differences of scores, are hardly larger than what half precision does to the scores.

    The rule: the error of a difference is about eps·|score|/4, and a tenth of the effects' root mean square is too
    much. Clip by clip, since one clip's effects may be far smaller than another's.

    Args:
        model: what gave the scores.
        name: of the method.
        effects: (clip, …), NaN where there is none.
        scores: (clip,), the scores that the effects are differences of.

    Warns:
        PrecisionWarning: see above.
    """
    dtype = half_dtype(model)
    if dtype is None or not has_values(effects):
        return
    error = _SHARE * torch.finfo(dtype).eps * scores.detach().double().abs().cpu()
    size = effects.detach().double().cpu().flatten(1).square().nanmean(dim=1).sqrt()
    warn_of_error(dtype, name, error, size)


def warn_of_error(dtype: torch.dtype, name: str, error: Tensor, size: Tensor) -> None:
    """Warn where the estimated error of a result is more than a tenth of its size.

    Args:
        dtype: what it was computed in.
        name: of the method.
        error: (clip,) estimated root mean square of the error.
        size: (clip,) root mean square of the result.

    Warns:
        PrecisionWarning: see above.
    """
    wrong = (error > _TOLERATED * size).nonzero().flatten().tolist()
    if not wrong:
        return
    worst = max(wrong, key=lambda clip: float(error[clip]) / max(float(size[clip]), 1e-300))
    warnings.warn(
        f"{name} in {str(dtype).removeprefix('torch.')}: for {len(wrong)} of {len(size)} clips rounding alone is more "
        f"than a tenth of the result (clip {worst}: about {float(error[worst]):.2g} in values of "
        f"{float(size[worst]):.2g}); compute it in float32: model.float()",
        PrecisionWarning,
        stacklevel=3,
    )
