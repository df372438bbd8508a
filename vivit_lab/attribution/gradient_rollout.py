"""Attention rollout whose patterns are weighed with the gradient of a target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from vivit_lab.attribution.base import AttributionMap
from vivit_lab.attribution.products import (
    carry_products,
    gradient_map,
    gradient_record_of,
    layer_range,
    one_hot_weights,
)
from vivit_lab.attribution.reading import query_tokens
from vivit_lab.attribution.rollout import drop_lowest_keys
from vivit_lab.errors import InputError
from vivit_lab.families.vivit import VivitForVideoClassification, VivitModel
from vivit_lab.numbers import checked_numbers
from vivit_lab.records.attention import FusedRows
from vivit_lab.records.gradients import GradientRecord
from vivit_lab.records.targets import TargetLike
from vivit_lab.video.clip import Clip

__all__ = ["GradientRollout"]


@checked_numbers()
@dataclass(frozen=True)
class GradientRollout:
    """Class-specific rollout (Gildenblat's vit-explain, 2020, after Abnar & Zuidema 2020).

    Each layer mixes tokens by Â = residual·I + (1 - residual)·(E_h[A ⊙ ∂y/∂A])+, negative values left out after the
    mean over heads, its rows then divided by their sums; the map is the CLS row of Â_L … Â_start, carried from the top
    down. Unlike vit-explain, rows are divided by row sums, layers meet their own gradients, and no weight on the CLS
    key is dropped.

    The gradient is in units of the target, the identity is not: where gradients are small, as in large models or where
    the target is a probability, the identity outweighs them and the map keeps to the query's own token (see
    ``cls_share``). ``residual=0`` leaves the identity out.

    Args:
        discard_ratio: fraction of the lowest fused weights of each row that are set to 0, in [0, 1), CLS key aside.
        start_layer: the lowest layer that is multiplied in; negative counts from the last.
        residual: weight of the identity, in [0, 1).

    Raises:
        InputError: an argument is wrong.

    Cost: as ``CheferRelevance``.
    """

    class_agnostic: ClassVar[bool] = False

    discard_ratio: float = 0.0
    start_layer: int = 0
    residual: float = 0.5

    def __post_init__(self) -> None:
        for name in ("discard_ratio", "residual"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} must lie in [0, 1), got {getattr(self, name)}")

    def __call__(
        self,
        model: VivitModel | VivitForVideoClassification | GradientRecord,
        pixel_values: Tensor | Clip | Sequence[Clip] | None = None,
        target: TargetLike = None,
        *,
        queries: int | Sequence[int] | Tensor | None = None,
        head_mask: Tensor | None = None,
        interpolate_pos_encoding: bool | None = None,
    ) -> AttributionMap:
        """Explain a batch of clips; the arguments are those of ``CheferRelevance``.

        Returns:
            A map whose values sum to 1 together with the CLS entry (``cls_share``). A row that is left with no weight
            at all (``residual=0`` and no positive product) carries nothing on.

        Raises:
            InputError: the target, ``start_layer`` or ``queries`` do not fit, or a layer is missing from the record.
        """
        layers = layer_range(model, self.start_layer)
        forward = {"head_mask": head_mask, "interpolate_pos_encoding": interpolate_pos_encoding}
        record = gradient_record_of(model, pixel_values, target, layers, **forward)
        tokens, _ = query_tokens(record, queries)
        weights = one_hot_weights(record, tokens)
        offset = record.grid.offset

        def mix(rows: FusedRows, weights: Tensor) -> Tensor:
            if self.discard_ratio:
                rows = replace(rows, values=drop_lowest_keys(rows.values, self.discard_ratio, offset))
            total = self.residual + (1 - self.residual) * rows.values.sum(dim=-1)
            share = torch.where(total > 0, weights / total.clamp_min(torch.finfo(total.dtype).tiny), 0)
            carried = rows.carry(share) * (1 - self.residual)
            return carried.index_add_(0, rows.index, share * self.residual)

        with torch.no_grad(), torch.autocast(record.device.type, enabled=False):
            for layer in reversed(layers):
                only = tokens if layer == layers[-1] else None
                step = partial(carry_products, record, layer, mix=mix, clamp="after", only=only)
                weights = record.carry(layer, weights, step)
        scale = "share of the query's rollout; with CLS it sums to 1"
        return gradient_map(record, record.on_grid(weights), self, queries, scale)
