"""Raw attention: one row of one layer's pattern."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vivit_lab.attribution.base import AttributionMap
from vivit_lab.attribution.reading import check_fusion, fuse_heads, map_of, query_tokens, record_of, refuse_target
from vivit_lab.errors import InputError
from vivit_lab.families.vivit import VivitForVideoClassification, VivitModel
from vivit_lab.numbers import checked_numbers
from vivit_lab.records.attention import AttentionRecord, full_precision
from vivit_lab.records.targets import TargetLike
from vivit_lab.video.clip import Clip

__all__ = ["RawAttention"]

_FEW = 64  # so many rows or fewer exist at once


@checked_numbers()
@dataclass(frozen=True)
class RawAttention:
    """Attention of one layer from the query tokens to every tubelet, heads fused: E_h A_l[query, :].

    Class-agnostic: it does not depend on the classifier. It shows one layer, not what reached the output.

    Args:
        layer: which layer; negative counts from the last.
        head_fusion: ``"mean"``, ``"max"`` or ``"min"`` over the heads.
        head: one head instead of a fusion over all.

    Raises:
        InputError: an argument is wrong.

    Cost: one row a query, O(tokens · d_model), beside the forward.
    """

    class_agnostic: ClassVar[bool] = True

    layer: int = -1
    head_fusion: str = "mean"
    head: int | None = None

    def __post_init__(self) -> None:
        check_fusion(self.head_fusion)

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
            queries: sequence indices whose attention is averaged; CLS by default (all tokens where there is no CLS).
            head_mask: as for the model's forward; not with a record.
            interpolate_pos_encoding: whether clips of another size are taken; None says so once. Not with a record.

        Returns:
            A map whose values and the CLS entry's sum to 1 for a mean over unmasked heads.

        Raises:
            InputError: a target was given, or ``layer``, ``head`` or ``queries`` do not exist.
        """
        refuse_target(self, target)
        forward = {"head_mask": head_mask, "interpolate_pos_encoding": interpolate_pos_encoding}
        record = record_of(model, pixel_values, layers=[self.layer], **forward)
        tokens, name = query_tokens(record, queries)
        with full_precision(record.device):
            fused = self._mean_row(record, tokens)
        scale = "attention probability" + ("" if record.head_mask is None else ", after the head mask")
        if self.head is None and self.head_fusion != "mean":
            scale += f", {self.head_fusion} over the heads"
        elif record.head_mask is None:
            scale += "; with CLS it sums to 1"
        return map_of(record, fused, self, name, scale)

    def _mean_row(self, record: AttentionRecord, tokens: list[int]) -> Tensor:
        """Return the mean row of the fused pattern, (batch, token): of few tokens at once, else in blocks."""
        head = None if self.head is None else self._head(record)
        if len(tokens) <= _FEW:
            return self._fuse(record.rows(self.layer, tokens), head, 1).mean(dim=1)
        means = []
        layer = record.layer_index(self.layer)
        for clip, weights in enumerate(record.query_weights(layer, tokens).unbind()):
            total = torch.zeros_like(weights)
            for block in record.row_blocks(layer, clip):
                part = weights.narrow(0, block.rows.start, block.rows.stop - block.rows.start)
                total += block.fused(self._fuse(block.pattern, head, 0), len(weights)).carry(part)
            means.append(total)
        return record.keys_on_grid(layer, torch.stack(means))

    def _fuse(self, pattern: Tensor, head: int | None, dim: int) -> Tensor:
        return fuse_heads(pattern, self.head_fusion, dim) if head is None else pattern.select(dim, head)

    def _head(self, record: AttentionRecord) -> int:
        if self.head is None or not -record.num_heads <= self.head < record.num_heads:
            raise InputError(f"head={self.head} is outside 0..{record.num_heads - 1}")
        return self.head
