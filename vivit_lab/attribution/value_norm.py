"""Rollout of vector norms: how much each token really adds to another, not only how much it is attended to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vivit_lab.attribution.base import AttributionMap
from vivit_lab.attribution.products import layer_range, one_hot_weights
from vivit_lab.attribution.reading import map_of, query_tokens, refuse_target, require_one_sequence
from vivit_lab.families.vivit import VivitForVideoClassification, VivitModel
from vivit_lab.model.attention import Attention, whole_projection
from vivit_lab.numbers import checked_numbers
from vivit_lab.records.attention import full_precision
from vivit_lab.records.targets import TargetLike
from vivit_lab.records.values import ValueRecord, record_values
from vivit_lab.video.clip import Clip

__all__ = ["ValueNormRollout", "token_gram"]

_TOKENS = 256  # tokens whose transformed values (head, d_model) exist at once


@checked_numbers()
@dataclass(frozen=True)
class ValueNormRollout:
    """Norm-based attention with the residual connection (Kobayashi et al., EMNLP 2020 and 2021), rolled out.

    The papers: https://arxiv.org/abs/2004.10102 and https://arxiv.org/abs/2109.07152. A layer's attention adds to
    token i the vectors F_ij = Σ_h A_h,ij f_h(x_j), with f_h(x_j) the value of token j in head h after the output
    projection's part of that head; the residual connection adds x_i itself to F_ii. Row i of N̂ is ‖F_ij‖ over j,
    divided by its sum, and the map is the CLS row of N̂_L … N̂_start, carried from the top layer down (the papers look
    at single layers). The output bias belongs to no token and is left out. This ViViT normalises before the attention,
    so the residual stream enters as it is, and the value within f_h is of the normalised token; the MLP is not part of
    it.

    Class-agnostic: it does not depend on the classifier, so it cannot say why one class and not another.

    Args:
        start_layer: the lowest layer that is multiplied in; negative counts from the last.
        residual: whether the residual connection is counted.

    Cost for N tokens and H heads: ‖F_ij‖² = aᵀ·Gram_j·a with one H×H Gram matrix a token, so N²·H·(d_head + H) products
    a layer beside the forward pass; memory some blocks of rows, beside the record with values and states.
    """

    class_agnostic: ClassVar[bool] = True

    start_layer: int = 0
    residual: bool = True

    def __call__(
        self,
        model: VivitModel | VivitForVideoClassification,
        pixel_values: Tensor | Clip | Sequence[Clip],
        target: TargetLike = None,
        *,
        queries: int | Sequence[int] | Tensor | None = None,
        head_mask: Tensor | None = None,
        interpolate_pos_encoding: bool | None = None,
    ) -> AttributionMap:
        """Explain a batch of clips.

        Args:
            model: a ViViT; its output projections are read, so a record does not suffice.
            pixel_values: (batch, frames, channels, height, width) or prepared clips.
            target: must be None: the method is class-agnostic.
            queries: sequence indices whose rollouts are averaged; CLS by default.
            head_mask: as for the model's forward; it multiplies A_h.
            interpolate_pos_encoding: whether clips of another size are taken; None is yes, and says so once.

        Returns:
            A map whose values sum to 1 together with the CLS entry (``cls_share``). A row with nothing in it carries
            nothing on.

        Raises:
            InputError: a target was given, or ``start_layer`` or ``queries`` do not exist, or it is a factorised
                encoder.
        """
        refuse_target(self, target)
        require_one_sequence(self, model.config)
        layers = layer_range(model, self.start_layer)
        forward = {"head_mask": head_mask, "interpolate_pos_encoding": interpolate_pos_encoding}
        record = record_values(model, pixel_values, layers=layers, **forward)
        tokens, name = query_tokens(record, queries)
        weights = one_hot_weights(record, tokens)
        with torch.no_grad(), full_precision(record.device):
            for layer in reversed(layers):
                projection = model.attention_layers[layer]
                rows = [self._step(record, layer, clip, row, projection) for clip, row in enumerate(weights.unbind())]
                weights = torch.stack(rows)
        return map_of(record, weights, self, name, "share of the query's rollout; with CLS it sums to 1")

    def _step(self, record: ValueRecord, layer: int, clip: int, weights: Tensor, attention: Attention) -> Tensor:
        """Return weights · N̂ of one layer of one clip, (token,)."""
        values = record.values[layer].select(0, clip).float()
        state = record.states[layer].select(0, clip).float()
        projection = whole_projection(attention).float()  # (d_model, head, d_head)
        gram = token_gram(values, projection)
        total = torch.zeros_like(weights)
        for rows, pattern in record.pattern_blocks(layer, clip):
            size = rows.stop - rows.start
            share = pattern.permute(2, 1, 0)  # (key, row, head)
            norms = (torch.bmm(share, gram) * share).sum(dim=-1).clamp_(min=0).sqrt_()  # (key, row)
            if self.residual:
                own = pattern.narrow(2, rows.start, size).diagonal(dim1=1, dim2=2)  # (head, row)
                context = own.unsqueeze(-1) * values.narrow(1, rows.start, size)  # (head, row, d_head)
                added = torch.einsum("hrd,mhd->rm", context, projection) + state.narrow(0, rows.start, size)
                index = torch.arange(rows.start, rows.stop, device=norms.device).unsqueeze(0)
                norms.scatter_(0, index, added.norm(dim=-1).unsqueeze(0))
            sums = norms.sum(dim=0)
            part = weights.narrow(0, rows.start, size)
            part = torch.where(sums > 0, part / sums.clamp_min(torch.finfo(sums.dtype).tiny), 0)
            total += torch.matmul(norms, part)
        return total


def token_gram(values: Tensor, projection: Tensor) -> Tensor:
    """Return the Gram matrix of each token's transformed values, f_h(x_j)·f_h'(x_j).

    Args:
        values: (head, token, d_head).
        projection: (d_model, head, d_head), the output projection's weight.

    Returns:
        (token, head, head).
    """
    grams = []
    for some in values.split(_TOKENS, dim=1):
        transformed = torch.einsum("htd,mhd->thm", some, projection)
        grams.append(torch.bmm(transformed, transformed.transpose(1, 2)))
    return torch.cat(grams)
