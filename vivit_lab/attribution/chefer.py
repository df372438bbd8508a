"""Chefer et al.'s relevance for bi-modal and encoder transformers, in row form and without a pattern in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
from vivit_lab.families.vivit import VivitForVideoClassification, VivitModel
from vivit_lab.numbers import checked_numbers
from vivit_lab.records.attention import FusedRows
from vivit_lab.records.gradients import GradientRecord
from vivit_lab.records.targets import TargetLike
from vivit_lab.video.clip import Clip

__all__ = ["CheferRelevance"]


@checked_numbers()
@dataclass(frozen=True)
class CheferRelevance:
    """Relevance by attention × gradient (Chefer, Gur & Wolf, ICCV 2021, https://arxiv.org/abs/2103.15679, eq. 5 and 6).

    Each layer's Ā = E_h[(∂y/∂A ⊙ A)+], negative products left out before the mean over heads, updates R ← R + Ā·R from
    R = I; the map is the CLS row of R. That row is carried from the top layer down, r ← r + r·Ā, so that a layer costs
    one blockwise pass.

    Adding a constant to the value bias, and taking it off the output bias again, changes no output of the model, but
    it does change ∂y/∂A and so this relevance. ``centred`` repairs that: each row's pattern-weighted mean of the
    gradient, Σ_j A_ij·(∂y/∂A)_ij, is subtracted from it, and with it all that such a constant adds.

    Args:
        centred: make the relevance independent of that constant. Not part of the paper.
        start_layer: the lowest layer taken in; negative counts from the last. The paper takes all.

    Cost for N tokens beside one forward and one backward pass: time 4·N²·d_model a layer; memory two blocks of rows,
    beside the record (4·N·d_model a layer).

    Example:
        >>> heat = CheferRelevance()(model, clip, target=3)
    """

    class_agnostic: ClassVar[bool] = False

    centred: bool = False
    start_layer: int = 0

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
        """Explain a batch of clips.

        Args:
            model: a ViViT, or a record of its gradients.
            pixel_values: (batch, frames, channels, height, width) or prepared clips; not with a record.
            target: a class, a ``Target`` or a function of the output; None for each clip's predicted class; not with a
                record, which has its own.
            queries: sequence indices whose rows of R are averaged; CLS by default, where classifiers read.
            head_mask: as for the model's forward; not with a record.
            interpolate_pos_encoding: whether clips of another size are taken; None says so once. Not with a record.

        Returns:
            A map of nonnegative relevance, in units of the target.

        Raises:
            InputError: the target, ``start_layer`` or ``queries`` do not fit, or a layer is missing from the record.
        """
        layers = layer_range(model, self.start_layer)
        forward = {"head_mask": head_mask, "interpolate_pos_encoding": interpolate_pos_encoding}
        record = gradient_record_of(model, pixel_values, target, layers, **forward)
        tokens, _ = query_tokens(record, queries)
        weights = one_hot_weights(record, tokens)
        with torch.no_grad(), torch.autocast(record.device.type, enabled=False):
            for layer in reversed(layers):
                only = tokens if layer == layers[-1] else None
                step = partial(
                    carry_products, record, layer, mix=FusedRows.carry, clamp="before", centred=self.centred, only=only
                )
                weights = record.carry(layer, weights, lambda own, step=step: own + step(own))
        return gradient_map(record, record.on_grid(weights), self, queries, f"relevance to the {record.unit}")
