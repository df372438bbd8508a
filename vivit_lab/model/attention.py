"""Multi-head self-attention: fused for speed, eager where the pattern is wanted, and with heads taken out for good."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Float32
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from vivit_lab.errors import BackendError, InputError
from vivit_lab.grid import TokenGrid
from vivit_lab.model.config import VivitConfig
from vivit_lab.model.hooks import HookPoint
from vivit_lab.model.inputs import has_values

if TYPE_CHECKING:
    from vivit_lab.model.config import VivitConfig

__all__ = [
    "Attention",
    "AttentionParts",
    "attention_pattern",
    "constant_layers",
    "constant_placeholders",
    "expand_head_mask",
    "fused_attention_with_lse",
    "heads_left",
    "keep_heads",
    "present_heads",
    "put_back",
    "take_heads",
    "whole_projection",
]


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


def heads_left(config: VivitConfig, layer: int) -> tuple[int, ...]:
    """Return the heads that a layer has, by the numbers they were born with."""
    gone = config.pruned_heads.get(layer, ())
    return tuple(head for head in range(config.num_attention_heads) if head not in gone)


def present_heads(config: VivitConfig, like: Tensor) -> Tensor | None:
    """Return (layers, heads), 1 where a head is there and 0 where it was pruned; None where all are there."""
    if not config.pruned_heads:
        return None
    present = torch.ones(config.num_attention_layers, config.num_attention_heads)
    for layer, heads in config.pruned_heads.items():
        present[layer, list(heads)] = 0
    return present.to(like.device, like.dtype)


def keep_heads(attention: Attention, heads: Sequence[int]) -> None:
    """Cut an attention layer down to some of its heads, in place.

    Of the others go the rows of W_q, W_k, W_v with their biases, and the columns of W_o; b_o stays. The context of a
    head is thereby zero, value bias included, as under a head mask of 0. With no head left, the branch is b_o alone.

    Args:
        attention: the layer.
        heads: which of the heads that it has to keep, by the numbers they were born with.
    """
    now = range(attention.num_heads) if attention.kept_heads is None else attention.kept_heads
    places = torch.tensor([list(now).index(head) for head in sorted(heads)], dtype=torch.long)
    for linear in (attention.q, attention.k, attention.v):
        linear.weight = _taken(linear.weight, 0, places, attention.head_dim)
        if linear.bias is not None:
            linear.bias = _taken(linear.bias, 0, places, attention.head_dim)
        linear.out_features = len(linear.weight)
    attention.o.weight = _taken(attention.o.weight, 1, places, attention.head_dim)
    attention.o.in_features = attention.o.weight.shape[1]
    attention.num_heads, attention.kept_heads = len(places), tuple(sorted(heads))


def _taken(parameter: Tensor, dim: int, heads: Tensor, head_dim: int) -> nn.Parameter:
    rows = (heads.unsqueeze(1) * head_dim + torch.arange(head_dim)).flatten().to(parameter.device)
    return nn.Parameter(parameter.detach().index_select(dim, rows), requires_grad=parameter.requires_grad)


def take_heads(values: Tensor, heads: Sequence[int] | None) -> Tensor:
    """Return some heads of (batch, head, …); None is all."""
    if heads is None:
        return values
    return values.index_select(1, torch.tensor(heads, dtype=torch.long, device=values.device))


def put_back(parts: AttentionParts, heads: Sequence[int], count: int) -> AttentionParts:
    """Return what a layer was made of with ``count`` heads, zeros for those that are gone."""
    index = torch.tensor(heads, dtype=torch.long, device=parts.query.device)

    def padded(values: Tensor, fill: float = 0.0) -> Tensor:
        whole = values.new_full((values.shape[0], count, *values.shape[2:]), fill)
        return whole.index_copy(1, index, values)

    filled = {name: padded(value) for name, value in parts._asdict().items() if name != "lse"}
    # the log-sum-exp of scores that are all zero
    lse = None if parts.lse is None else padded(parts.lse, math.log(parts.query.shape[2]))
    return type(parts)(**filled, lse=lse)


def whole_projection(attention: Attention) -> Tensor:
    """Return W_o as (d_model, head, d_head), zeros for heads that were pruned."""
    heads = attention.o.weight.unflatten(1, (attention.num_heads, attention.head_dim))
    if attention.kept_heads is None:
        return heads
    index = torch.tensor(attention.kept_heads, dtype=torch.long, device=heads.device)
    return heads.new_zeros((len(heads), attention.born_heads, attention.head_dim)).index_copy(1, index, heads)


def constant_placeholders(state: Mapping[str, Tensor], config: VivitConfig) -> dict[str, Tensor]:
    """Return a state dict for transformers 4, which cannot have a layer without heads.

    Such a layer is written with its first head, all of whose weights are zero: that adds nothing to b_o, exactly.

    Args:
        state: parameter → tensor.
        config: of the model.
    """
    width, head_dim = config.hidden_size, config.head_dim
    filled = dict(state)
    for layer in constant_layers(config):
        for name in (name for name in state if name.startswith(f"blocks.{layer}.attn.") and not state[name].numel()):
            rows = (head_dim, width) if name.endswith("weight") else (head_dim,)
            filled[name] = state[name].new_zeros((width, head_dim) if ".o." in name else rows)
    return filled


def constant_layers(config: VivitConfig) -> list[int]:
    """Return the layers without a head, whose attention is a constant."""
    return [layer for layer in sorted(config.pruned_heads) if not heads_left(config, layer)]


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
