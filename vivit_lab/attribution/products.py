"""What the methods share that weigh the pattern with its gradient: A ⊙ ∂y/∂A, fused over heads, in blocks of rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor

from vivit_lab.attribution.base import AttributionMap
from vivit_lab.attribution.reading import map_of, query_tokens
from vivit_lab.errors import InputError
from vivit_lab.families.vivit import VivitForVideoClassification, VivitModel
from vivit_lab.model.inputs import is_index
from vivit_lab.records.attention import AttentionRecord, AxialRecord, FusedRows
from vivit_lab.records.gradients import GradientRecord, record_gradients
from vivit_lab.records.targets import TargetLike
from vivit_lab.video.clip import Clip

__all__ = [
    "carry_products",
    "fuse_products",
    "gradient_map",
    "gradient_record_of",
    "layer_range",
    "one_hot_weights",
    "product_rows",
]

_FEW = 64  # so many rows or fewer are computed as rows rather than in blocks


def gradient_record_of(
    model: VivitModel | VivitForVideoClassification | AttentionRecord,
    pixel_values: Tensor | Clip | Sequence[Clip] | None,
    target: TargetLike,
    layers: Sequence[int] | None = None,
    **options: Any,
) -> GradientRecord:
    """Return the gradient record given, or take one of the ``layers`` that are needed.

    Raises:
        InputError: a record came with what belongs to a forward pass or with a target, or has no gradients; or a model
            without clips.
    """
    if not isinstance(model, AttentionRecord):
        if pixel_values is None:
            raise InputError("pixel_values is missing: pass (model, pixel_values, …), or a record of gradients")
        return record_gradients(model, pixel_values, target, layers=layers, **options)
    if not isinstance(model, GradientRecord):
        raise InputError(
            "this method needs gradients, which an AttentionRecord has not: take a record with "
            "record_gradients(model, pixel_values, target)"
        )
    forward = [options.get(name) for name in ("head_mask", "interpolate_pos_encoding")]
    if any(given is not None and given is not False for given in (pixel_values, target, *forward)):
        raise InputError(
            "a record holds its own clips, target, head mask and grid: pass either (model, pixel_values, …) or "
            "(record), not both"
        )
    return model


def layer_range(model: Any, start_layer: int) -> range:
    """Return the layers of a model or record from ``start_layer`` on; negative counts from the last.

    Raises:
        InputError: there is no such layer.
    """
    count = model.num_layers if isinstance(model, AttentionRecord) else len(model.blocks)
    if not is_index(start_layer) or not -count <= start_layer < count:
        raise InputError(f"start_layer={start_layer} is outside the model's layers 0..{count - 1}")
    return range(start_layer % count, count)


def one_hot_weights(record: AttentionRecord, tokens: Sequence[int]) -> Float32[Tensor, "batch token"]:
    """Return (batch, token) weights that average over some tokens."""
    return record.start_weights(tokens)


def fuse_products(product: Tensor, dim: int, *, clamp: str) -> Tensor:
    """Return the mean over the head axis of A ⊙ ∂y/∂A, with what is negative left out.

    Args:
        product: overwritten.
        dim: the head axis.
        clamp: ``"before"`` the mean (Chefer et al.), ``"after"`` it (gradient rollout), or ``"never"``.
    """
    if clamp == "before":
        return product.relu_().mean(dim=dim)
    return product.mean(dim=dim).relu_() if clamp == "after" else product.mean(dim=dim)


def product_rows(
    record: GradientRecord, layer: int, tokens: Sequence[int], *, centred: bool = False
) -> Float32[Tensor, "batch head row key"]:
    """Return A ⊙ ∂y/∂A of some rows, (batch, head, row, key)."""
    rows = record.gradient_rows(layer, tokens, centred=centred)
    return rows.mul_(record.rows(layer, tokens, masked=False))


def carry_products(
    record: GradientRecord,
    layer: int,
    weights: Float32[Tensor, "batch token"],
    mix: Callable[[FusedRows, Tensor], Tensor],
    *,
    clamp: str,
    centred: bool = False,
    only: Sequence[int] | None = None,
) -> Float32[Tensor, "batch token"]:
    """Carry token weights through a layer's fused products.

    Args:
        record: the gradients.
        layer: recorded layer.
        weights: (batch, token) on the layer's sequence.
        mix: (fused products of some rows, weights of these rows (row,)) → (token,); what it gives for blocks of rows
            is summed.
        clamp: see ``fuse_products``.
        centred: see ``GradientRecord.gradient_rows``.
        only: the tokens that have weight, where it is known that no other has. Not used in a factorised model.

    Returns:
        (batch, token).
    """
    if only is not None and len(set(only)) <= _FEW and not isinstance(record, AxialRecord):
        tokens = sorted(set(only))
        index = torch.tensor(tokens, device=record.device)
        fused = fuse_products(product_rows(record, layer, tokens, centred=centred), 1, clamp=clamp)
        pairs = zip(fused.unbind(), weights.unbind(), strict=True)
        count = record.grid.num_tokens
        return torch.stack([mix(FusedRows(a, index, None, count), row.index_select(0, index)) for a, row in pairs])
    carried = []
    for clip, row in enumerate(weights.unbind()):
        total = torch.zeros_like(row)
        for block in record.gradient_row_blocks(layer, clip, centred=centred):
            assert block.gradient is not None, "a record of gradients has them"
            fused = fuse_products(block.gradient.mul_(block.pattern), 0, clamp=clamp)
            part = row.narrow(0, block.rows.start, block.rows.stop - block.rows.start)
            total += mix(block.fused(fused, len(row)), part)
        carried.append(total)
    return torch.stack(carried)


def gradient_map(
    record: GradientRecord,
    relevance: Tensor,
    method: Any,
    queries: int | Sequence[int] | Tensor | None,
    scale: str,
    *,
    signed: bool = False,
) -> AttributionMap:
    """Return the map of a relevance (batch, token) that a method read from a gradient record."""
    rows = "" if queries is None else f"; read from {query_tokens(record, queries)[1]}"
    return map_of(record, relevance, method, [name + rows for name in record.targets], scale, signed=signed)
