"""The ways to compute attention that PyTorch has, each by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from vivit_lab.errors import BackendError, InputError
from vivit_lab.model.attention import attention_pattern

__all__ = ["BACKENDS", "attention_call"]

_KERNELS = {
    "math": SDPBackend.MATH,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}

#: ``sdpa`` is the default of the package: PyTorch chooses the kernel. The next four pin one. ``flex`` and ``compile``
#: are flex attention and the eager formula, through torch.compile, which calls a fused kernel where it knows the
#: formula. ``eager`` makes the pattern as a tensor.
BACKENDS = ("sdpa", *_KERNELS, "flex", "compile", "eager")


def attention_call(name: str, query: Tensor, key: Tensor, value: Tensor) -> Callable[[], Tensor]:
    """Return a call that attends.

    Args:
        name: of ``BACKENDS``.
        query: (batch, head, token, d_head); key and value alike.
        key: see query.
        value: see query.

    Raises:
        InputError: there is no such backend. (One that is known but missing here fails when it is called: with a
            ``BackendError``, or what compiling raises.)
    """
    if name not in BACKENDS:
        raise InputError(f"backend {name!r} is not known; choose of {', '.join(BACKENDS)}")
    if name == "sdpa":
        return partial(functional.scaled_dot_product_attention, query, key, value)
    if name in _KERNELS:
        return partial(_pinned, name, query, key, value)
    if name == "flex":
        from torch.nn.attention.flex_attention import flex_attention

        return partial(torch.compile(flex_attention, dynamic=False), query, key, value)
    attend = torch.compile(_eager, dynamic=False) if name == "compile" else _eager
    return partial(attend, query, key, value)


def _pinned(name: str, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    try:
        with sdpa_kernel(_KERNELS[name]):
            return functional.scaled_dot_product_attention(query, key, value)
    except RuntimeError as error:
        if not any(text in str(error) for text in ("No available kernel", "No viable backend")):
            raise
        raise BackendError(f"PyTorch has no {name} kernel for {query.dtype} on {query.device.type}") from error


def _eager(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return torch.matmul(attention_pattern(query, key, query.shape[-1] ** -0.5), value)
