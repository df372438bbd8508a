"""Multi-head self-attention: fused for speed, eager where the pattern itself is wanted.

Axis order inside is [batch, head, token, d_head]. A head mask multiplies each head's context (z), which is the same as
multiplying its pattern, because the context is linear in the pattern; so it works alike in every implementation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Float32
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from vivit_lab.errors import BackendError
from vivit_lab.grid import TokenGrid
from vivit_lab.model.config import VivitConfig
from vivit_lab.model.hook_point import HookPoint
from vivit_lab.model.pruned import put_back, take_heads

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
    return _softmax(torch.matmul(query, key.transpose(-1, -2)) * scale)


def _softmax(scores: Tensor) -> Tensor:
    return functional.softmax(scores, dim=-1, dtype=torch.float32).to(scores.dtype)


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
    """Self-attention of one block, with hook points on all that it computes.

    A hook on the scores or the pattern makes this layer eager; one on the result has it computed head by head.

    Args:
        config: the model's configuration.

    Attributes:
        implementation: ``"eager"``, ``"sdpa"`` or ``"flash_attention_2"`` (SDPA pinned to its flash kernel).
        num_heads: heads that are there; ``born_heads`` before any was pruned.
        kept_heads: which they are, by the numbers they were born with; None where none was pruned.
    """

    def __init__(self, config: VivitConfig) -> None:
        super().__init__()
        self.num_heads = self.born_heads = config.num_attention_heads
        self.kept_heads: tuple[int, ...] | None = None
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
        self.hook_attn_scores = HookPoint()
        self.hook_pattern = HookPoint()
        self.hook_result = HookPoint()

    @property
    def pattern_hooked(self) -> bool:
        """Whether a hook wants this layer's scores or pattern, so that it cannot be fused."""
        return self.hook_attn_scores.hooked or self.hook_pattern.hooked

    def forward(
        self,
        x: Tensor,
        head_mask: Tensor | None = None,
        need_pattern: bool = False,
        collect: Callable[[AttentionParts], None] | None = None,
        grid: TokenGrid | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend.

        Args:
            x: (batch, token, d_model), normalised.
            head_mask: (batch or 1, head, 1, 1), of the heads as they were before any was pruned; multiplies each head,
                1 keeps.
            need_pattern: compute this layer eagerly and return its pattern, whatever the implementation.
            collect: called with what the layer was made of, before the head mask.
            grid: of the clips, for attention along one of its axes; joint attention needs none.

        Returns:
            (batch, token, d_model) before dropout, and the pattern after the mask (batch, head, query, key) or None.

        Raises:
            BackendError: the flash kernel was asked for and there is none for this input; or a hook changes the pattern
                while ``collect`` waits for queries and keys that would tell another one.
        """
        split = "batch token (head d_head) -> batch token head d_head"
        query = self.hook_q(rearrange(self.q(x), split, d_head=self.head_dim)).transpose(1, 2)
        key = self.hook_k(rearrange(self.k(x), split, d_head=self.head_dim)).transpose(1, 2)
        value = self.hook_v(rearrange(self.v(x), split, d_head=self.head_dim)).transpose(1, 2)
        context, pattern, lse = self._attend(query, key, value, need_pattern, collect is not None, grid)
        if collect is not None:
            parts = AttentionParts(query, key, value, context, lse)
            if self.kept_heads is not None:
                parts = put_back(parts, self.kept_heads, self.born_heads)
            collect(parts)
            context = take_heads(parts.context, self.kept_heads)
        if head_mask is not None:
            head_mask = take_heads(head_mask, self.kept_heads)
            context = context * head_mask
            pattern = self.masked(pattern, head_mask) if need_pattern and pattern is not None else None
        return self._output(self.hook_z(context.transpose(1, 2))), pattern if need_pattern else None

    def masked(self, pattern: Any, head_mask: Tensor) -> Any:
        """Return the pattern after the head mask."""
        return pattern * head_mask

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, need_pattern: bool, recording: bool, grid: TokenGrid | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the context, and the pattern and log-sum-exp where they came with it."""
        if need_pattern or self.implementation == "eager" or self.pattern_hooked:
            pattern = self._pattern(query, key, fixed=recording)
            return torch.matmul(pattern, value), pattern, None
        context, lse = self._fused(query, key, value, want_lse=recording)
        return context, None, lse

    def head_results(self, z: Float[Tensor, "batch token head d_head"]) -> Float[Tensor, "batch token head d_model"]:
        """Return what each head adds to the residual stream, without the output bias."""
        weight = rearrange(self.o.weight, "d_model (head d_head) -> head d_head d_model", d_head=self.head_dim)
        return torch.einsum("...hd,hdm->...hm", z, weight.to(z))  # z may come from a cache in another dtype

    def _output(self, z: Tensor) -> Tensor:
        if self.hook_result.hooked:
            result, edited = self.head_results(z), self.hook_result.edited
            result = self.hook_result(result)
            if edited:
                return result.sum(dim=2) + self.o.bias
        return self.o(rearrange(z, "batch token head d_head -> batch token (head d_head)"))

    def _pattern(self, query: Tensor, key: Tensor, *, fixed: bool, points: Any = None) -> Tensor:
        """The pattern after dropout and the hooks at ``points``; ``fixed`` refuses hooks that change it."""
        points = points or self
        if not self.pattern_hooked:
            pattern = attention_pattern(query, key, self.scale)
            return functional.dropout(pattern, self.dropout_prob, self.training)
        scores = torch.matmul(query, key.transpose(-1, -2)) * self.scale
        pattern = _softmax(_hooked(points.hook_attn_scores, scores, fixed=fixed))
        pattern = functional.dropout(pattern, self.dropout_prob, self.training)
        return _hooked(points.hook_pattern, pattern, fixed=fixed)

    def _fused(self, query: Tensor, key: Tensor, value: Tensor, *, want_lse: bool) -> tuple[Tensor, Tensor | None]:
        if not query.shape[1]:
            return value, None  # all heads were pruned; kernels fail on none
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


def _hooked(point: HookPoint, tensor: Tensor, *, fixed: bool) -> Tensor:
    if not (fixed and point.edited):
        return point(tensor)
    version = None if tensor.is_inference() else tensor._version
    result = point(tensor)
    if result is not tensor or version is None or tensor._version != version:
        raise BackendError(
            f"a hook changes {point.name or 'an attention pattern'}, but a record is being taken of the queries and "
            "keys, which would tell another pattern: read the pattern with run_with_cache(names_filter=...) instead"
        )
    return result
