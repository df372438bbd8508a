"""Attention on demand in the factorised variants: each layer as an operator on tokens, of which its support exists.

A layer that attends along time mixes token (t, y, x) with (·, y, x); one along space with (t, ·, ·). As an operator on
all N tokens that is a block-diagonal matrix, A_time = Σ_p e_p e_pᵀ ⊗ A_p, with a t×t pattern for each place p, and
A_space with a pattern of the places for each time. Where half of the heads do either (model 4), the mean over heads is
½(E A_time + E A_space). Rows, rollouts and relevances are products of these operators, so their maps lie on (t, h, w)
as those of joint attention do; they are computed from rows with the keys of their support alone: t, h·w or t + h·w - 1.

The factorised encoder (model 2) has two kinds of layers on different tokens. Its states are the temporal CLS, and for
each time a CLS and the tubelets. A temporal layer acts on {temporal CLS, CLS of each time}, a spatial layer on the
tokens of each time, and each leaves the other states as they are: the CLS of a time *is* the token that the temporal
layers read (after a LayerNorm, and with a position added). So the row of the temporal CLS in the product of all layers
gives tubelet (t, y, x) the weight r_t · s_t(y, x), with r the temporal rollout and s_t the spatial rollout of time t.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor

from vivit_lab.hooks.axial_sequences import FrameSequences
from vivit_lab.hooks.record import AttentionRecord, full_precision, in_full_precision
from vivit_lab.hooks.sequences import RowBlock
from vivit_lab.hooks.support import score_blocks, support_values
from vivit_lab.model.variants import AttentionLayout

__all__ = ["AxialRecord"]

_ROWS = 64  # dense rows that exist at once


@dataclass(frozen=True, eq=False, repr=False)
class AxialRecord(FrameSequences, AttentionRecord):
    """An ``AttentionRecord`` of a factorised model. Rows and columns are of the effective operator on all tokens.

    Where a layer's sequence is not that of the grid (factorised encoder), they are read on the grid: as a query, CLS
    stands for the mean over the CLS tokens of all times in a spatial layer, and a tubelet for its time's token in a
    temporal layer; as a key, the token of a time is spread evenly over its tubelets.

    Args:
        layouts: layer → which tokens it joins, for all layers of the model.
    """

    layouts: dict[int, AttentionLayout] = field(default_factory=dict)

    @in_full_precision
    def rows(
        self, layer: int, queries: int | Sequence[int] | Tensor, *, masked: bool = True
    ) -> Float32[Tensor, "batch head query key"]:
        """Return what some queries attend to, 0 outside the layer's axis; see ``AttentionRecord.rows``."""
        layer, tokens = self.layer_index(layer), self.token_indices(queries)
        self._require(2 * self.num_heads * len(tokens), f"{len(tokens)} rows")
        sequence = [self._mean_row(layer, self.query_weights(layer, [token]).select(0, 0)) for token in tokens]
        pattern = self.keys_on_grid(layer, torch.stack(sequence, dim=2))
        return self._masked(layer, pattern) if masked else pattern

    def _mean_row(self, layer: int, weights: Tensor) -> Tensor:
        """Return the mean of rows of a layer's sequence by their weights, (batch, head, position), without mask."""
        layout = self.layouts[layer]
        query, key = self.queries[layer].float(), self.keys[layer].float()
        chosen = weights.nonzero().squeeze(1)
        if layout.axis == "joint":
            scores = torch.matmul(query.index_select(2, chosen), key.transpose(-1, -2)) * self.scale
            return torch.einsum("bhqk,q->bhk", scores.softmax(dim=-1), weights.index_select(0, chosen))
        total = query.new_zeros(query.shape[:3])
        times = chosen // layout.places
        for time in times.unique().tolist():
            places = chosen[times == time] - time * layout.places
            values, keys = support_values(query, key, layout, time, places, self._softmax)
            share = weights.index_select(0, places + time * layout.places)
            total.index_add_(2, keys.reshape(-1), (values * share.unsqueeze(-1)).flatten(-2))
        return total

    def _softmax(self, scores: Tensor, heads: slice, time: int = 0) -> Tensor:
        return torch.softmax(scores * self.scale, dim=-1)

    @in_full_precision
    def columns(self, layer: int, keys: int | Sequence[int] | Tensor) -> Float32[Tensor, "batch head query key"]:
        """Return which queries attend to some keys; see ``AttentionRecord.columns``. Costs all rows, in blocks."""
        layer, index = self.layer_index(layer), self._index(keys)
        self._require(2 * self.num_heads * len(index), f"{len(index)} columns")
        return torch.cat([rows.index_select(3, index) for rows in self._all_rows(layer)], dim=2)

    @in_full_precision
    def pattern(self, layer: int, head: int) -> Float32[Tensor, "batch query key"]:
        """Return the effective pattern of one head on all tokens; see ``AttentionRecord.pattern``."""
        layer, head = self.layer_index(layer), self.head_index(head)
        self._require(3 * self.grid.num_tokens, "the pattern of one head")
        return torch.cat([rows.select(1, head) for rows in self._all_rows(layer)], dim=1)

    def _all_rows(self, layer: int) -> Iterator[Tensor]:
        for start in range(0, self.grid.num_tokens, _ROWS):
            yield self.rows(layer, list(range(start, min(start + _ROWS, self.grid.num_tokens))))

    @in_full_precision
    def propagate(self, layer: int, weights: Float32[Tensor, "batch position"]) -> Float32[Tensor, "batch position"]:
        """Return weights · E_h[A] on the layer's own sequence; see ``AttentionRecord.propagate``."""
        layer = self.layer_index(layer)
        carried = []
        for clip, share in enumerate(weights.float().unbind()):
            total = torch.zeros_like(share)
            for block in self.row_blocks(layer, clip):
                part = share.narrow(0, block.rows.start, block.rows.stop - block.rows.start)
                total += block.fused(block.pattern.mean(dim=0), len(share)).carry(part)
            carried.append(total)
        return torch.stack(carried)

    def row_blocks(self, layer: int, clip: int, *, masked: bool = True) -> Iterator[RowBlock]:
        """Go through one clip's pattern, one time after the other, with the keys of each row's support."""
        layer = self.layer_index(layer)
        if self.layouts[layer].axis == "joint":
            yield from super().row_blocks(layer, clip, masked=masked)
            return
        mask = self._mask(layer, clip) if masked else None
        for rows, keys, pattern in self.supports(layer, self.queries, self.keys, clip, self._softmax):
            yield RowBlock(rows, keys, pattern if mask is None else pattern * mask)

    def supports(
        self,
        layer: int,
        lefts: dict[int, Tensor],
        rights: dict[int, Tensor],
        clip: int,
        finish: Callable[[Tensor, slice, int], Tensor],
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Go through the products of one clip's tokens on the support of a layer, one time after the other.

        Args:
            layer: a recorded layer that is not joint.
            lefts: layer → (batch, head, token, d_head), such as queries.
            rights: layer → (batch, head, token, d_head), such as keys.
            clip: index in the batch.
            finish: (products (head, row, key) of some heads, which heads, which time) → values.

        Yields:
            The rows, (row, key) tokens and (head, row, key) values.
        """
        layout = self.layouts[layer]
        left, right = lefts[layer].select(0, clip).float(), rights[layer].select(0, clip).float()
        for time in range(layout.times):
            with full_precision(self.device):
                values, keys = support_values(left, right, layout, time, None, partial(_at, finish, time))
            yield slice(time * layout.places, (time + 1) * layout.places), keys, values

    def pattern_blocks(self, layer: int, clip: int, *, masked: bool = True) -> Iterator[tuple[slice, Tensor]]:
        """Go through one clip's pattern on the layer's sequence in dense blocks; ``row_blocks`` leaves zeros out."""
        layer = self.layer_index(layer)
        if self.layouts[layer].axis == "joint":
            yield from super().pattern_blocks(layer, clip, masked=masked)
            return
        for rows, keys, pattern, _ in self.row_blocks(layer, clip, masked=masked):
            assert keys is not None, "a block along an axis has keys"
            dense = pattern.new_zeros(*pattern.shape[:2], self.layouts[layer].tokens)
            yield rows, dense.scatter_(2, keys.expand(len(pattern), -1, -1), pattern)

    @in_full_precision
    def _reduce_scores(self, layer: int, reduce: Any) -> Tensor:
        """Apply a function of (head, row, key) scores to every row of every clip, along its own axis alone."""
        layout = self.layouts[layer]
        if layout.axis == "joint":
            return super()._reduce_scores(layer, reduce)
        pairs = zip(self.queries[layer].float(), self.keys[layer].float() * self.scale, strict=True)
        return torch.stack([torch.cat(list(score_blocks(q, k, layout, reduce))) for q, k in pairs])


def _at(finish: Callable[[Tensor, slice, int], Tensor], time: int, products: Tensor, heads: slice) -> Tensor:
    return finish(products, heads, time)
