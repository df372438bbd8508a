"""Attention × gradient of one layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vivit_lab.attribution.base import AttributionMap
from vivit_lab.attribution.products import carry_products, gradient_map, gradient_record_of
from vivit_lab.attribution.reading import query_tokens
from vivit_lab.families.vivit import VivitForVideoClassification, VivitModel
from vivit_lab.numbers import checked_numbers
from vivit_lab.records.attention import FusedRows, full_precision
from vivit_lab.records.gradients import GradientRecord
from vivit_lab.records.targets import TargetLike
from vivit_lab.video.clip import Clip

__all__ = ["AttentionGradient"]


@checked_numbers()
@dataclass(frozen=True)
class AttentionGradient:
    """Attention × gradient of one layer, from the query tokens to every tubelet: E_h[(A_l ⊙ ∂y/∂A_l)+][query, :].

    One layer's term of ``CheferRelevance`` (Chefer, Gur & Wolf, ICCV 2021, eq. 5; Grad-SAM, Barkan et al. 2021, weighs
    the pattern alike). It shows what one layer's attention adds to the target, not what reached that layer: in the last
    layer only CLS has a gradient where the classifier reads CLS.

    Args:
        layer: which layer; negative counts from the last.
        positive: leave negative products out before the mean over heads; else the map is signed and A ⊙ ∂y/∂A is the
            first-order share of each entry in the target.
        centred: as for ``CheferRelevance``.

    Cost: one forward pass, a backward pass down to that layer, and one row a query.
    """

    class_agnostic: ClassVar[bool] = False

    layer: int = -1
    positive: bool = True
    centred: bool = False

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
            A map in units of the target.

        Raises:
            InputError: the target, ``layer`` or ``queries`` do not fit.
        """
        forward = {"head_mask": head_mask, "interpolate_pos_encoding": interpolate_pos_encoding}
        record = gradient_record_of(model, pixel_values, target, [self.layer], **forward)
        tokens, _ = query_tokens(record, queries)
        with torch.no_grad(), full_precision(record.device):
            layer, clamp = record.layer_index(self.layer), "before" if self.positive else "never"
            weights = record.query_weights(layer, tokens)
            fused = carry_products(
                record, layer, weights, FusedRows.carry, clamp=clamp, centred=self.centred, only=tokens
            )
            fused = record.keys_on_grid(layer, fused)
        scale = f"attention × gradient of the {record.unit}"
        return gradient_map(record, fused, self, queries, scale, signed=not self.positive)
