"""Numbers that a model must not be given: NaN, infinities, and pixels that were never normalised."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from vivit_lab.errors import InputError

__all__ = ["LARGEST_PIXEL", "check_pixels", "has_values", "is_index"]

LARGEST_PIXEL = 20.0
"""Normalised pixels lie within ±20: (pixel - mean) / std reaches 1 / std, and no processor in use has std < 0.05."""

_AXES = ("clip", "frame", "channel", "row", "column")


def is_index(value: Any) -> bool:
    """Whether a value counts layers, heads, tokens or classes: an integer, and no bool, as ``True`` is not layer 1."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.bool_))


def has_values(tensor: Tensor) -> bool:
    """Whether a tensor's numbers can be read now: it is not fake, and no graph is being made of the pass."""
    from torch._subclasses.fake_tensor import FakeTensor

    if (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or tensor.is_meta
        or isinstance(tensor, FakeTensor)
    ):
        return False
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor):  # pyright: ignore[reportAttributeAccessIssue]
        return False
    return not (tensor.is_cuda and torch.cuda.is_current_stream_capturing())


def check_pixels(pixel_values: Tensor, name: str = "pixel_values", *, normalised: bool = False) -> None:
    """Refuse pixel values that would give meaningless results in silence. Costs one pass over the pixels.

    Args:
        pixel_values: (batch, frames, channels, height, width), or what else the model will refuse by its shape.
        name: what they are called in the message.
        normalised: whether it is known that a processor made them, so that any finite range is right.

    Raises:
        InputError: there is none, a pixel is NaN or infinite, or beyond ±20 in pixels of unknown origin, such as
            levels 0..255.
    """
    if pixel_values.ndim and not pixel_values.numel():
        raise InputError(f"{name} holds no pixel, wanted at least one clip; got the shape {tuple(pixel_values.shape)}")
    if not pixel_values.is_floating_point() or not has_values(pixel_values):
        return  # what is no floating point is refused by its dtype
    values = pixel_values.detach()
    low, high = (float(end) for end in values.aminmax())
    if not (-float("inf") < low and high < float("inf")):  # also where they are NaN
        wrong = ~values.isfinite()
        place, count = _place(wrong), int(wrong.sum())
        value = float(values[tuple(wrong.nonzero()[0].tolist())])
        raise InputError(
            f"{name} holds {value} at {place}, {count} such of {values.numel()}: every result would be NaN; look at "
            "how the frames were read and normalised"
        )
    if not normalised and max(-low, high) > LARGEST_PIXEL:
        raise InputError(
            f"{name} lies between {low:.4g} and {high:.4g}, but normalised pixels lie within ±{LARGEST_PIXEL:g}: these "
            "look like levels 0..255; pass the frames through the model's VivitImageProcessor, "
            "clip = processor.prepare(clip) (a prepared clip may have any range)"
        )


def _place(wrong: Tensor) -> str:
    first = wrong.nonzero()[0].tolist()
    if len(first) != len(_AXES):
        return f"index {tuple(first)}"
    return ", ".join(f"{axis} {index}" for axis, index in zip(_AXES, first, strict=True))
