"""Attention layers from which heads were taken out for good, and how they are written and read.

Heads keep the numbers they were born with: a head mask, a record and ``pruned_heads`` of a pruned model all count as
the whole model did. A head mask's entries for heads that are gone have no effect, and a record shows such heads as
masked out: zero queries, keys, values and context, and a pattern that is 0 after the mask.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from vivit_lab.model.attention import Attention, AttentionParts
    from vivit_lab.model.config import VivitConfig

__all__ = [
    "constant_layers",
    "constant_placeholders",
    "heads_left",
    "keep_heads",
    "present_heads",
    "put_back",
    "take_heads",
    "whole_projection",
]


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
