"""Multi-head self-attention: fused for speed, eager where the pattern itself is wanted.

Axis order inside is [batch, head, token, d_head]. A head mask multiplies each head's context (z), which is the same as
multiplying its pattern, because the context is linear in the pattern; so it works alike in every implementation.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from vivit_lab.errors import BackendError
from vivit_lab.model.config import VivitConfig
from vivit_lab.model.hook_point import HookPoint

__all__ = ["Attention", "attention_pattern", "fused_attention_with_lse"]


def attention_pattern(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """Return softmax(QKᵀ·scale) over the keys.

    The softmax is taken in float32 and cast back, as Hugging Face does.

    Args:
        query: (batch, head, query, d_head).
        key: (batch, head, key, d_head).
        scale: factor on the scores, 1/√d_head.

    Returns:
        (batch, head, query, key); every row sums to 1.
    """
    scores = torch.matmul(query, key.transpose(-1, -2)) * scale
    return functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)


def fused_attention_with_lse(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor | None]:
    """Return the fused context, and the log-sum-exp of each row's scores where the kernel tells it.

    PyTorch's CPU flash kernel computes the log-sum-exp anyway, which saves a pass over all scores when rows of the
    pattern are wanted later. Other devices return None, and it is computed when first needed.

    Args:
        query: (batch, head, token, d_head); key and value alike.
        key: see query.
        value: see query.
        scale: factor on the scores.

    Returns:
        context (batch, head, token, d_head) and the log-sum-exp (batch, head, token) in float32, or None.
    """
    kernel = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
    if kernel is None or query.device.type != "cpu" or query.dtype not in (torch.float32, torch.bfloat16):
        return functional.scaled_dot_product_attention(query, key, value, scale=scale), None
    context, lse = kernel(query, key, value, 0.0, False, scale=scale)
    wanted = query.shape[:3]
    if lse.shape != wanted:
        return context, None  # a build whose kernel reports it differently: computed on demand instead
    return context, lse.float()


class Attention(nn.Module):
    """Self-attention of one block, with hook points on q, k, v and z.

    Args:
        config: the model's configuration.

    Attributes:
        implementation: ``"eager"``, ``"sdpa"`` or ``"flash_attention_2"`` (SDPA pinned to its flash kernel).
        keep_lse: while a record is taken, the fused kernel's log-sum-exp is passed through ``hook_lse``.
    """

    def __init__(self, config: VivitConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.head_dim = config.head_dim
        self.scale = self.head_dim**-0.5
        self.dropout_prob = config.attention_probs_dropout_prob
        self.implementation = config.attn_implementation
        self.keep_lse = False
        inner = self.num_heads * self.head_dim
        self.q = nn.Linear(config.hidden_size, inner, bias=config.qkv_bias)
        self.k = nn.Linear(config.hidden_size, inner, bias=config.qkv_bias)
        self.v = nn.Linear(config.hidden_size, inner, bias=config.qkv_bias)
        self.o = nn.Linear(inner, config.hidden_size)
        self.hook_q = HookPoint()
        self.hook_k = HookPoint()
        self.hook_v = HookPoint()
        self.hook_z = HookPoint()
        self.hook_lse = HookPoint()

    def forward(
        self, x: Tensor, head_mask: Tensor | None = None, need_pattern: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Attend.

        Args:
            x: (batch, token, d_model), normalised.
            head_mask: broadcastable to (batch, head, 1, 1); multiplies each head, 1 keeps.
            need_pattern: compute this layer eagerly and return its pattern, whatever the implementation.

        Returns:
            (batch, token, d_model) before dropout, and the pattern after the mask (batch, head, query, key) or None.
        """
        # [batch, token, head, d_head] at the hook points, [batch, head, token, d_head] for the products
        split = (*x.shape[:-1], self.num_heads, self.head_dim)
        query = self.hook_q(self.q(x).view(split)).transpose(1, 2)
        key = self.hook_k(self.k(x).view(split)).transpose(1, 2)
        value = self.hook_v(self.v(x).view(split)).transpose(1, 2)
        pattern = None
        if need_pattern or self.implementation == "eager":
            pattern = attention_pattern(query, key, self.scale)
            pattern = functional.dropout(pattern, self.dropout_prob, self.training)
            if head_mask is not None and need_pattern:
                pattern = pattern * head_mask
                head_mask = None
            context = torch.matmul(pattern, value)
        else:
            context = self._fused(query, key, value)
        if head_mask is not None:
            context = context * head_mask
        context = self.hook_z(context.transpose(1, 2)).flatten(2)
        return self.o(context), pattern if need_pattern else None

    def _fused(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if self.keep_lse and not (self.training and self.dropout_prob):
            context, lse = fused_attention_with_lse(query, key, value, self.scale)
            if lse is not None:
                self.hook_lse(lse)
            return context
        dropout = self.dropout_prob if self.training else 0.0
        if self.implementation == "sdpa":
            return functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout, scale=self.scale)
        try:
            with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                return functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout, scale=self.scale)
        except RuntimeError as error:
            raise BackendError(
                f"flash_attention_2 has no kernel for {query.dtype} on {query.device} with d_head={self.head_dim}: "
                f"use attn_implementation='sdpa', which chooses a kernel that fits ({error})"
            ) from error
