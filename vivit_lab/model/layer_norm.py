"""LayerNorm with hook points on its scale and its output: one fused call until somebody looks inside."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vivit_lab.model.hook_point import HookPoint

__all__ = ["LayerNorm"]


class LayerNorm(nn.LayerNorm):
    """(x - mean) / scale · weight + bias, with scale = √(variance + eps).

    ``hook_scale`` sees the scale (…, 1), ``hook_normalized`` the output. Only a hook that may change the scale makes
    the steps run one by one, which rounds differently in the last place.

    Args:
        size: length of the last axis.
        eps: added to the variance.
    """

    def __init__(self, size: int, eps: float) -> None:
        super().__init__(size, eps=eps)
        self.hook_scale = HookPoint()
        self.hook_normalized = HookPoint()

    def forward(self, input: Tensor) -> Tensor:
        """Normalise the last axis."""
        if self.hook_scale.edited:
            return self.hook_normalized(self.scaled(input, self.hook_scale(self.scale_of(input))))
        if self.hook_scale.hooked:
            self.hook_scale(self.scale_of(input))
        return self.hook_normalized(super().forward(input))

    def scale_of(self, x: Tensor) -> Tensor:
        """Return √(variance + eps) of the last axis, (…, 1), in the dtype of ``x``."""
        variance = _wide(x).var(dim=-1, keepdim=True, correction=0)
        return torch.sqrt(variance + self.eps).to(x.dtype)

    def scaled(self, x: Tensor, scale: Tensor) -> Tensor:
        """Return (x - mean) / scale · weight + bias for a scale of any origin, broadcast to ``x``."""
        wide = _wide(x)
        normalised = (wide - wide.mean(dim=-1, keepdim=True)) / _wide(scale)
        return (normalised * self.weight + self.bias).to(x.dtype)


def _wide(x: Tensor) -> Tensor:
    """The tensor in float32 where it is narrower, because half precision cannot hold a sum of squares."""
    return x.float() if x.dtype.itemsize < 4 else x
