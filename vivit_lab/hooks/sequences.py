"""Which tokens a layer's attention is about, and how weights on them lie on the token grid.

The rows of a rollout are weights on *states*: all places of the residual stream that a layer can read. In a model with
joint attention these are the tokens of the grid. A record of a factorised model (``vivit_lab.hooks.axial``) answers
otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float32
from torch import Tensor

if TYPE_CHECKING:
    from vivit_lab.grid import TokenGrid

__all__ = ["FusedRows", "RowBlock", "Sequences"]


class RowBlock(NamedTuple):
    """Some rows of one clip's pattern.

    Args:
        rows: which tokens of the layer's sequence they are the queries of.
        keys: (row, key) the tokens that each row attends to; None where every row attends to all, in order.
        pattern: (head, row, key) float32.
        gradient: of the pattern before the head mask, where a record has it.
    """

    rows: slice
    keys: Tensor | None
    pattern: Tensor
    gradient: Tensor | None = None

    def fused(self, values: Tensor, count: int) -> FusedRows:
        """Return the block with (row, key) values made of its pattern, in a sequence of ``count`` tokens."""
        return FusedRows(values, torch.arange(self.rows.start, self.rows.stop, device=values.device), self.keys, count)


@dataclass(frozen=True, eq=False)
class FusedRows:
    """Some rows of one clip's pattern, heads fused.

    Args:
        values: (row, key) float32.
        index: (row,) which tokens of the layer's sequence they are the queries of.
        keys: as in ``RowBlock``.
        count: length of the sequence.
    """

    values: Tensor
    index: Tensor
    keys: Tensor | None
    count: int

    def carry(self, weights: Float32[Tensor, " row"]) -> Float32[Tensor, " token"]:
        """Return weights · values, on the whole sequence."""
        if self.keys is None:
            return torch.matmul(weights, self.values)
        carried = weights.new_zeros(self.count)
        return carried.index_add_(0, self.keys.reshape(-1), (weights.unsqueeze(1) * self.values).reshape(-1))


class Sequences:
    """What a record says about the tokens of its layers, for a model whose layers all read the same tokens."""

    grid: TokenGrid
    pattern_blocks: Callable[..., Iterator[tuple[slice, Tensor]]]
    batch_size: Any
    device: Any

    @property
    def num_states(self) -> int:
        """Places of the residual stream, over all layers."""
        return self.grid.num_tokens

    def layer_states(self, layer: int) -> Tensor | None:
        """Return which states make up a layer's sequence, in its order; None where all do, in order."""
        return None

    def start_weights(self, tokens: Sequence[int]) -> Float32[Tensor, "batch state"]:
        """Return weights that average over some tokens of the grid."""
        index = torch.tensor(list(tokens), device=self.device)
        weights = torch.zeros(self.grid.num_tokens, device=self.device)
        weights = weights.index_add(0, index, weights.new_full((len(index),), 1 / len(index)))
        return weights.expand(self.batch_size, -1)

    def carry(
        self, layer: int, weights: Float32[Tensor, "batch state"], step: Callable[[Tensor], Tensor]
    ) -> Float32[Tensor, "batch state"]:
        """Apply a layer's step to the weights on its sequence, and leave those on other states as they are."""
        states = self.layer_states(layer)
        if states is None:
            return step(weights)
        return weights.index_copy(1, states, step(weights.index_select(1, states)))

    def on_grid(self, weights: Float32[Tensor, "batch state"]) -> Float32[Tensor, "batch token"]:
        """Return weights on states as weights on the tokens of the grid; the sum stays."""
        return weights

    def query_weights(self, layer: int, tokens: Sequence[int]) -> Float32[Tensor, "batch position"]:
        """Return weights on a layer's own sequence that average over what stands there for some tokens of the grid."""
        return Sequences.start_weights(self, tokens)

    def keys_on_grid(self, layer: int, weights: Float32[Tensor, "*row position"]) -> Float32[Tensor, "*row token"]:
        """Return weights on a layer's sequence as weights on the grid; the sum stays."""
        return weights

    def row_blocks(self, layer: int, clip: int, *, masked: bool = True) -> Iterator[RowBlock]:
        """Go through one clip's pattern in blocks of rows, each with no more keys than its rows attend to.

        Args:
            layer: recorded layer.
            clip: index in the batch.
            masked: whether to apply the head mask.

        Yields:
            The blocks. The next one overwrites the last.
        """
        for rows, pattern in self.pattern_blocks(layer, clip, masked=masked):
            yield RowBlock(rows, None, pattern)
