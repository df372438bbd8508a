"""The MLP's activations, under the names a config.json uses."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["ACTIVATIONS"]


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def _linear(x: Tensor) -> Tensor:
    return x


def _clipped_gelu(x: Tensor) -> Tensor:
    return functional.gelu(x).clamp(-10, 10)


def _squared_relu(x: Tensor) -> Tensor:
    return functional.relu(x).square()


_tanh_gelu = partial(functional.gelu, approximate="tanh")

#: ``gelu_fast``, ``gelu_new`` and ``gelu_pytorch_tanh`` are one formula,
#: 0.5·x·(1 + tanh(√(2/π)·(x + 0.044715·x³))), which PyTorch computes in one fused kernel.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_10": _clipped_gelu,
    "gelu_accurate": _tanh_gelu,
    "gelu_fast": _tanh_gelu,
    "gelu_new": _tanh_gelu,
    "gelu_python": functional.gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "leaky_relu": functional.leaky_relu,
    "linear": _linear,
    "mish": functional.mish,
    "quick_gelu": _quick_gelu,
    "relu": functional.relu,
    "relu2": _squared_relu,
    "relu6": functional.relu6,
    "selu": functional.selu,
    "sigmoid": torch.sigmoid,
    "silu": functional.silu,
    "swish": functional.silu,
    "tanh": torch.tanh,
}
