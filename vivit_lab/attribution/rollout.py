"""Attention rollout, exact and without ever holding a token × token matrix of every head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from vivit_lab.attribution.base import AttributionMap
from vivit_lab.attribution.reading import check_fusion, fuse_heads, map_of, query_tokens, record_of, refuse_target
from vivit_lab.errors import InputError
from vivit_lab.families.vivit import VivitForVideoClassification, VivitModel
from vivit_lab.memory import require_bytes
from vivit_lab.model.inputs import is_index
from vivit_lab.numbers import checked_numbers
from vivit_lab.records.attention import AttentionRecord, AxialRecord, FusedRows
from vivit_lab.records.targets import TargetLike
from vivit_lab.video.clip import Clip

__all__ = ["AttentionRollout", "drop_lowest", "drop_lowest_keys"]

_DISCARDS = ("row", "matrix")


@checked_numbers()
@dataclass(frozen=True)
class AttentionRollout:
    """Attention rollout (Abnar & Zuidema 2020, https://arxiv.org/abs/2005.00928, section 3).

    Each layer mixes tokens by Â = residual·I + (1 - residual)·A, with A the pattern fused over heads and rows
    normalised to 1; the rollout of a query is its row of Â_L … Â_start. A row is carried from the top layer down, so
    that a layer costs one blockwise pass over its pattern.

    Class-agnostic: it does not depend on the classifier, so it cannot say why one class and not another.

    Args:
        head_fusion: ``"mean"``, ``"max"`` or ``"min"`` over the heads.
        discard_ratio: fraction of the lowest fused weights that are set to 0, in [0, 1). Weights on the CLS key are
            never dropped, and the fraction is one of all others.
        discard: ``"row"`` drops that fraction of each row; ``"matrix"`` of the whole layer, by one threshold.
        start_layer: the lowest layer that is multiplied in; negative counts from the last. Over all layers of a model
            whose features are spatially mixed early, a rollout is diffuse; its upper layers are not.
        residual: weight of the identity (the residual connection), in [0, 1).

    Raises:
        InputError: an argument is wrong.

    Cost for N tokens: time 2·N²·d_model a layer; memory one block of rows. ``discard="matrix"`` holds one fused N×N
    pattern at a time (39 MB for ViViT-B).

    Example:
        >>> heat = AttentionRollout(start_layer=8)(model, clip)
    """

    class_agnostic: ClassVar[bool] = True

    head_fusion: str = "mean"
    discard_ratio: float = 0.0
    discard: str = "row"
    start_layer: int = 0
    residual: float = 0.5

    def __post_init__(self) -> None:
        check_fusion(self.head_fusion)
        if self.discard not in _DISCARDS:
            raise InputError(f"discard={self.discard!r} is not known; choose one of {', '.join(_DISCARDS)}")
        for name in ("discard_ratio", "residual"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} must lie in [0, 1), got {getattr(self, name)}")

    def __call__(
        self,
        model: VivitModel | VivitForVideoClassification | AttentionRecord,
        pixel_values: Tensor | Clip | Sequence[Clip] | None = None,
        target: TargetLike = None,
        *,
        queries: int | Sequence[int] | Tensor | None = None,
        head_mask: Tensor | None = None,
        interpolate_pos_encoding: bool | None = None,
    ) -> AttributionMap:
        """Explain a batch of clips.

        Args:
            model: a ViViT, or the record of one.
            pixel_values: (batch, frames, channels, height, width) or prepared clips; not with a record.
            target: must be None: the method is class-agnostic.
            queries: sequence indices whose rollouts are averaged (``grid.token(t, y, x)``); CLS by default, all tokens
                where there is no CLS.
            head_mask: as for the model's forward; not with a record.
            interpolate_pos_encoding: whether clips of another size are taken; None says so once. Not with a record.

        Returns:
            A map whose values sum to 1 together with the CLS entry (``cls_share``). A row that is left with no weight
            at all (``residual=0`` and every head masked) carries nothing on.

        Raises:
            InputError: a target was given, ``start_layer`` or ``queries`` do not exist, or a layer is missing from the
                record.
        """
        refuse_target(self, target)
        count = model.num_layers if isinstance(model, AttentionRecord) else len(model.blocks)
        if not is_index(self.start_layer) or not -count <= self.start_layer < count:
            raise InputError(f"start_layer={self.start_layer} is outside the model's layers 0..{count - 1}")
        layers = range(self.start_layer % count, count)
        forward = {"head_mask": head_mask, "interpolate_pos_encoding": interpolate_pos_encoding}
        record = record_of(model, pixel_values, layers=layers, **forward)
        tokens, name = query_tokens(record, queries)
        weights = record.start_weights(tokens)
        few = None if isinstance(record, AxialRecord) else tokens  # rows of a factorised model have zeros
        with torch.autocast(record.device.type, enabled=False):
            for layer in reversed(layers):
                only = few if layer == layers[-1] else None
                weights = record.carry(layer, weights, partial(self._step, record, layer, only=only))
        return map_of(
            record, record.on_grid(weights), self, name, "share of the query's rollout; with CLS it sums to 1"
        )

    def _step(self, record: AttentionRecord, layer: int, weights: Tensor, only: list[int] | None) -> Tensor:
        """Return weights · Â of one layer; ``only`` names the rows that have weight, where they are few."""
        if only is not None and len(only) < 64:
            fused = fuse_heads(record.rows(layer, only), self.head_fusion, dim=1)  # (batch, row, key)
            if self.discard == "row" or not self.discard_ratio:
                share = weights.new_full((len(only),), 1 / len(only))
                index = torch.tensor(only, device=record.device)
                rows = [FusedRows(block, index, None, weights.shape[1]) for block in fused.unbind()]
                return torch.stack([self._mix(some, share, record.grid.offset) for some in rows])
        if self.head_fusion == "mean" and not self.discard_ratio:
            return self._linear(record, layer, weights)
        return torch.stack([self._nonlinear(record, layer, clip, row) for clip, row in enumerate(weights.unbind())])

    def _linear(self, record: AttentionRecord, layer: int, weights: Tensor) -> Tensor:
        attended = record.propagate(layer, weights)
        if record.head_mask is None:
            return self.residual * weights + (1 - self.residual) * attended
        # a masked pattern's rows all sum to the mean of the clip's mask
        kept = record.head_mask.select(0, layer).float().mean(dim=(1, 2, 3)).unsqueeze(1)
        total = self.residual + (1 - self.residual) * kept
        return _divide(self.residual * weights + (1 - self.residual) * attended, total)

    def _nonlinear(self, record: AttentionRecord, layer: int, clip: int, weights: Tensor) -> Tensor:
        offset, count = record.grid.offset, len(weights)
        blocks = (
            block.fused(fuse_heads(block.pattern, self.head_fusion, dim=0), count)
            for block in record.row_blocks(layer, clip)
        )
        if self.discard_ratio and self.discard == "matrix":
            what = f"one fused pattern of {count}² tokens"
            require_bytes(count**2 * 28, record.device, what, 'use discard="row", which works in blocks')
            parts = list(blocks)
            fused, keys = torch.cat([part.values for part in parts]), [part.keys for part in parts]
            kept = drop_lowest(fused.narrow(1, offset, fused.shape[1] - offset).reshape(1, -1), self.discard_ratio)
            fused = torch.cat((fused.narrow(1, 0, offset), kept.view(count, -1)), dim=1)
            support = [part for part in keys if part is not None]
            index = torch.arange(count, device=record.device)
            rows = FusedRows(fused, index, torch.cat(support) if support else None, count)
            return self._mix(rows, weights, offset, discard=False)
        total = torch.zeros_like(weights)
        for rows in blocks:
            total += self._mix(rows, weights.index_select(0, rows.index), offset)
        return total

    def _mix(self, rows: FusedRows, weights: Tensor, offset: int, discard: bool = True) -> Tensor:
        """Return weights · Â for some rows of a fused pattern."""
        if discard and self.discard_ratio:
            rows = replace(rows, values=drop_lowest_keys(rows.values, self.discard_ratio, offset))
        weights = _divide(weights, self.residual + (1 - self.residual) * rows.values.sum(dim=-1))
        return (rows.carry(weights) * (1 - self.residual)).index_add_(0, rows.index, weights * self.residual)


def _divide(weights: Tensor, total: Tensor) -> Tensor:
    """Divide by row sums; a row with nothing left carries nothing on."""
    return torch.where(total > 0, weights / total.clamp_min(torch.finfo(total.dtype).tiny), 0)


def drop_lowest(values: Float[Tensor, "row column"], ratio: float) -> Float[Tensor, "row column"]:
    """Return ``values`` with the lowest fraction of each row set to 0.

    Exactly ``int(ratio · columns)`` entries of a row are dropped; among equals, those that come first.

    Args:
        values: (row, column).
        ratio: fraction to drop, in [0, 1).
    """
    count = int(ratio * values.shape[-1])
    if not count:
        return values
    threshold = values.kthvalue(count, dim=-1, keepdim=True).values
    below, tied = values < threshold, values == threshold
    spare = count - below.sum(dim=-1, keepdim=True)
    return values.masked_fill(below | (tied & (tied.cumsum(dim=-1) <= spare)), 0)


def drop_lowest_keys(fused: Float[Tensor, "row key"], ratio: float, offset: int) -> Float[Tensor, "row key"]:
    """Return rows of a fused pattern without the lowest fraction of their weights; the first keys, CLS, are kept.

    Args:
        fused: (row, key).
        ratio: see ``drop_lowest``.
        offset: how many keys stand in front that are never dropped.
    """
    kept = drop_lowest(fused.narrow(1, offset, fused.shape[1] - offset), ratio)
    return torch.cat((fused.narrow(1, 0, offset), kept), dim=1)
