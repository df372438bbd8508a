"""Confidence: how sharply a head attends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vivit_lab.families.vivit import VivitForVideoClassification, VivitModel
from vivit_lab.heads.clips import clip_set
from vivit_lab.heads.importance import HeadImportance, made_importance, without_pruned
from vivit_lab.numbers import checked_numbers
from vivit_lab.records.attention import AttentionRecord, record_attention

__all__ = ["ConfidenceImportance"]


@checked_numbers(batch_size=(1, None))
@dataclass(frozen=True)
class ConfidenceImportance:
    """The mean over queries of a head's largest attention weight (Voita et al., ACL 2019, section 4).

    https://arxiv.org/abs/1905.09418. In (0, 1]; 1/tokens for uniform attention. It asks neither about a class nor
    whether anything uses the head, so it is the baseline that the others have to beat.

    Args:
        exclude_cls: leave the CLS key out (the paper leaves the end-of-sentence token out), rows not renormalised, so
            that a head that rests on CLS is not confident.
        layer_norm: divide each layer's values by their L2 norm.
        batch_size: clips in a pass.

    Cost: one pass a clip, and one blockwise pass over each pattern; exact over all queries.
    """

    exclude_cls: bool = False
    layer_norm: bool = False
    batch_size: int = 4

    def __call__(
        self, model: VivitModel | VivitForVideoClassification, data: Any, *, progress: bool | None = None
    ) -> HeadImportance:
        """Score all heads of a model; see ``MichelImportance.__call__``."""
        rows = []
        for batch in clip_set(data).batches(self.batch_size, progress, "confidence"):
            record = record_attention(model, batch.pixel_values)
            for clip in range(len(batch)):
                rows.append(torch.stack([self._of(record, layer, clip) for layer in record.layers]).cpu())
        return made_importance(
            self, model, without_pruned(torch.stack(rows), model), unit="mean largest attention weight"
        )

    def _of(self, record: AttentionRecord, layer: int, clip: int) -> Tensor:
        first = record.grid.offset if self.exclude_cls else 0
        total = torch.zeros(record.num_heads, device=record.device)
        for _, block in record.pattern_blocks(layer, clip, masked=False):
            total += block.narrow(2, first, block.shape[2] - first).amax(dim=2).sum(dim=1)
        return total / record.grid.num_tokens
