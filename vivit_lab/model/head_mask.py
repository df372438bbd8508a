"""Head masks in the one form that layers multiply with."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vivit_lab.errors import InputError
from vivit_lab.model.inputs import has_values

__all__ = ["expand_head_mask"]


def expand_head_mask(head_mask: Any, layers: int, batch: int, heads: int, like: Tensor) -> Tensor | None:
    """Bring a head mask to (layers, batch or 1, heads, 1, 1), in the device and dtype of ``like``.

    A mask on an accelerator is taken as it is, since reading its numbers would stop the device.

    Args:
        head_mask: (heads,) for all layers, (layers, heads), or Hugging Face's (layers, batch or 1, heads, 1, 1); or a
            ``HeadMask``, or whatever else gives one of these by ``tensor()``.
        layers: number of layers.
        batch: number of clips.
        heads: number of heads.
        like: a tensor whose device and dtype to take.

    Raises:
        InputError: the mask has another shape, or, where it lies on the CPU, a number outside [0, 1] or NaN.
    """
    if head_mask is None:
        return None
    if not isinstance(head_mask, Tensor) and callable(getattr(head_mask, "tensor", None)):
        head_mask = head_mask.tensor()
    if not isinstance(head_mask, Tensor):
        raise InputError(f"head_mask must be a tensor or a HeadMask, got {type(head_mask).__name__}")
    shape = tuple(head_mask.shape)
    if shape == (heads,):
        mask = head_mask.reshape(1, 1, heads, 1, 1).expand(layers, -1, -1, -1, -1)
    elif shape == (layers, heads):
        mask = head_mask.reshape(layers, 1, heads, 1, 1)
    elif shape in ((layers, 1, heads, 1, 1), (layers, batch, heads, 1, 1)):
        mask = head_mask
    else:
        raise InputError(
            f"head_mask must be ({heads},), ({layers}, {heads}) or ({layers}, 1 or {batch} clips, {heads}, 1, 1): "
            f"heads, layers × heads, or one for each clip; 1 keeps; got {shape}"
        )
    if mask.device.type == "cpu" and has_values(mask):
        _check_range(mask.detach())
    return mask.to(device=like.device, dtype=like.dtype)


def _check_range(mask: Tensor) -> None:
    inside = (mask >= 0) & (mask <= 1)  # False for NaN
    if bool(inside.all()):
        return
    layer, clip, head = (~inside).nonzero()[0, :3].tolist()
    where = f"layer {layer}, head {head}" + (f", clip {clip}" if mask.shape[1] > 1 else "")
    raise InputError(
        f"head_mask must lie in [0, 1] (1 keeps a head, 0 removes it), got {float(mask[layer, clip, head])} at {where}"
    )
