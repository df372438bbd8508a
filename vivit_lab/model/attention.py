"""Multi-head self-attention: fused for speed, eager where the pattern itself is wanted.

Axis order inside is [batch, head, token, d_head]. A head mask multiplies each head's context (z), which is the same as
multiplying its pattern, because the context is linear in the pattern; so it works alike in every implementation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Float32
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from vivit_lab.errors import BackendError
from vivit_lab.model.config import VivitConfig
from vivit_lab.model.hook_point import HookPoint

__all__ = ["Attention", "AttentionParts", "attention_pattern", "fused_attention_with_lse"]


class AttentionParts(NamedTuple):
    """What one attention layer was made of in one forward pass; all but ``lse`` are (batch, head, token, d_head).

    Args:
        query: as multiplied, after ``hook_q``.
        key: after ``hook_k``.
        value: after ``hook_v``.
        context: pattern · value, before the head mask.
        lse: (batch, head, token) log-sum-exp of each row's scores in float32, where the kernel told it.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    context: Tensor
    lse: Tensor | None


def attention_pattern(
    query: Float[Tensor, "batch head query d_head"], key: Float[Tensor, "batch head key d_head"], scale: float
) -> Float[Tensor, "batch head query key"]:
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


def fused_attention_with_lse(
    query: Float[Tensor, "batch head token d_head"],
    key: Float[Tensor, "batch head token d_head"],
    value: Float[Tensor, "batch head token d_head"],
    scale: float,
) -> tuple[Float[Tensor, "batch head token d_head"], Float32[Tensor, "batch head token"]] | None:
    """Return the fused context and the log-sum-exp of each row's scores, or None where no kernel tells the latter.

    PyTorch's CPU flash kernel computes the log-sum-exp anyway, which saves a pass over all scores when rows of the
    pattern are wanted later.

    Args:
        query: (batch, head, token, d_head); key and value alike.
        key: see query.
        value: see query.
        scale: factor on the scores.

    Returns:
        Context (batch, head, token, d_head) and log-sum-exp (batch, head, token) in float32.
    """
    kernel = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
    if kernel is None or query.device.type != "cpu" or query.dtype not in (torch.float32, torch.bfloat16):
        return None
    context, lse = kernel(query, key, value, 0.0, False, scale=scale)
    # a build whose kernel reports it differently: computed on demand instead
    return (context, lse.float()) if lse.shape == query.shape[:3] else None


class Attention(nn.Module):
    """Self-attention of one block, with hook points on q, k, v and z.

    Args:
        config: the model's configuration.

    Attributes:
        implementation: ``"eager"``, ``"sdpa"`` or ``"flash_attention_2"`` (SDPA pinned to its flash kernel).
    """

    def __init__(self, config: VivitConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.head_dim = config.head_dim
        self.scale = self.head_dim**-0.5
        self.dropout_prob = config.attention_probs_dropout_prob
        self.implementation = config.attn_implementation
        inner = self.num_heads * self.head_dim
        self.q = nn.Linear(config.hidden_size, inner, bias=config.qkv_bias)
        self.k = nn.Linear(config.hidden_size, inner, bias=config.qkv_bias)
        self.v = nn.Linear(config.hidden_size, inner, bias=config.qkv_bias)
        self.o = nn.Linear(inner, config.hidden_size)
        self.hook_q = HookPoint()
        self.hook_k = HookPoint()
        self.hook_v = HookPoint()
        self.hook_z = HookPoint()

    def forward(
        self,
        x: Tensor,
        head_mask: Tensor | None = None,
        need_pattern: bool = False,
        collect: Callable[[AttentionParts], None] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend.

        Args:
            x: (batch, token, d_model), normalised.
            head_mask: broadcastable to (batch, head, 1, 1); multiplies each head, 1 keeps.
            need_pattern: compute this layer eagerly and return its pattern, whatever the implementation.
            collect: called with what the layer was made of, before the head mask.

        Returns:
            (batch, token, d_model) before dropout, and the pattern after the mask (batch, head, query, key) or None.

        Raises:
            BackendError: the flash kernel was asked for and there is none for this input.
        """
        split = "batch token (head d_head) -> batch token head d_head"
        query = self.hook_q(rearrange(self.q(x), split, head=self.num_heads)).transpose(1, 2)
        key = self.hook_k(rearrange(self.k(x), split, head=self.num_heads)).transpose(1, 2)
        value = self.hook_v(rearrange(self.v(x), split, head=self.num_heads)).transpose(1, 2)
        pattern, lse = None, None
        if need_pattern or self.implementation == "eager":
            pattern = attention_pattern(query, key, self.scale)
            pattern = functional.dropout(pattern, self.dropout_prob, self.training)
            context = torch.matmul(pattern, value)
        else:
            context, lse = self._fused(query, key, value, want_lse=collect is not None)
        if collect is not None:
            collect(AttentionParts(query, key, value, context, lse))
        if head_mask is not None:
            context = context * head_mask
            pattern = pattern * head_mask if need_pattern and pattern is not None else None
        context = rearrange(
            self.hook_z(context.transpose(1, 2)), "batch token head d_head -> batch token (head d_head)"
        )
        return self.o(context), pattern if need_pattern else None

    def _fused(self, query: Tensor, key: Tensor, value: Tensor, *, want_lse: bool) -> tuple[Tensor, Tensor | None]:
        dropout = self.dropout_prob if self.training else 0.0
        if want_lse and not dropout:
            both = fused_attention_with_lse(query, key, value, self.scale)
            if both is not None:
                return both
        if self.implementation == "sdpa":
            fused = functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout, scale=self.scale)
            return fused, None
        try:
            with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                fused = functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout, scale=self.scale)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            dropped = f" and dropout {dropout}" if dropout else ""
            raise BackendError(
                f"flash_attention_2 has no kernel for {query.dtype} on {query.device} with d_head={self.head_dim}"
                f"{dropped}: use attn_implementation='sdpa', which chooses a kernel that fits ({error})"
            ) from error
        return fused, None
