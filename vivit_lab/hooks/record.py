"""Attention on demand: queries and keys of one fused forward, and every reduction of the pattern computed from them.

A ViViT-B clip has 5.67 GB of attention patterns, but only 19 MB of queries and keys a layer. The record keeps those,
and the log-sum-exp of each row where the fused kernel tells it, so that an entry of the pattern is
exp(q·k·scale - lse). Rows, columns, heads, entropies and propagated rows are exact; only small blocks of the pattern
ever exist.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from vivit_lab.errors import InputError
from vivit_lab.grid import TokenGrid
from vivit_lab.hooks._record_html import record_html
from vivit_lab.hooks.sequences import Sequences
from vivit_lab.memory import require_bytes
from vivit_lab.model.inputs import is_index
from vivit_lab.numbers import check_whole

__all__ = ["AttentionRecord", "full_precision", "in_full_precision"]

# A block of the pattern should stay in the cache, and be large enough that threads seldom wait for each other: measured
# at ViT-B shape on two cores, 128 rows of 12 heads. An accelerator wants fewer, larger products.
_BLOCK_BYTES = {"cpu": 19_400_000}
_BLOCK_BYTES_ELSEWHERE = 256_000_000


def full_precision(device: torch.device) -> torch.autocast:
    """Keep a surrounding autocast away: a record's reductions are float32."""
    return torch.autocast(device.type, enabled=False)


def in_full_precision(method: Any) -> Any:
    """Run a method of a record in float32, whatever autocast surrounds it."""

    @wraps(method)
    def run(self: AttentionRecord, *args: Any, **options: Any) -> Any:
        with full_precision(self.device):
            return method(self, *args, **options)

    return run


@dataclass(frozen=True, eq=False)
class AttentionRecord(Sequences):
    """Queries and keys of a forward pass, with exact reductions of the attention pattern computed on demand.

    Everything is computed in float32. Patterns are after the head mask, as ``output_attentions`` gives them.

    Args:
        grid: token grid of the clips.
        queries: layer → (batch, head, token, d_head), in the dtype of the forward pass.
        keys: layer → (batch, head, token, d_head).
        scale: factor on the scores, 1/√d_head.
        num_layers: layers of the model, recorded or not.
        lse: layer → (batch, head, token) log-sum-exp of each row's scores, for layers where it is known already.
        head_mask: (layers, batch or 1, heads, 1, 1), or None.
        output: what the model returned, so that a prediction costs nothing more.
        model_id: which model.
        frame_indices: for each clip, the source index of each frame, where known.
        sources: for each clip, its file and geometry, where known.
        provenance: dtype, device and attention implementation of the forward pass, and versions.
    """

    grid: TokenGrid
    queries: dict[int, Tensor]
    keys: dict[int, Tensor]
    scale: float
    num_layers: int
    lse: dict[int, Tensor] = field(default_factory=dict)
    head_mask: Tensor | None = None
    output: Any = None
    model_id: str | None = None
    frame_indices: list[list[int]] | None = None
    sources: list[dict[str, Any]] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def layers(self) -> list[int]:
        """The layers that were recorded."""
        return sorted(self.queries)

    @property
    def batch_size(self) -> int:
        """How many clips were recorded."""
        return len(self.queries[self.layers[0]])

    @property
    def num_heads(self) -> int:
        """Heads in a layer."""
        return self.queries[self.layers[0]].shape[1]

    @property
    def device(self) -> torch.device:
        """Where the record lives."""
        return self.queries[self.layers[0]].device

    @property
    def nbytes(self) -> int:
        """Bytes that the record holds."""
        parts = [*self.queries.values(), *self.keys.values(), *self.lse.values()]
        return sum(part.numel() * part.element_size() for part in parts)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.batch_size} clips, layers {self.layers[0]}–{self.layers[-1]}, "
            f"{self.num_heads} heads, {self.grid.num_tokens} tokens, {self.nbytes / 1e6:.1f} MB)"
        )

    def _repr_html_(self) -> str:
        return record_html(self)

    def layer_index(self, layer: int) -> int:
        """Return a layer's index from 0; negative ones count from the model's last layer.

        Raises:
            InputError: that layer was not recorded.
        """
        if not is_index(layer):
            raise InputError(f"a layer is an integer, got {layer!r}")
        index = layer + self.num_layers if layer < 0 else layer
        if index not in self.queries:
            raise InputError(f"layer {layer} is not in the record of {self.layers} (the model has {self.num_layers})")
        return index

    def head_index(self, head: int) -> int:
        """Return a head's index from 0; negative ones count from the last.

        Raises:
            InputError: there is no such head.
        """
        if not is_index(head) or not -self.num_heads <= head < self.num_heads:
            raise InputError(f"head {head} is outside 0..{self.num_heads - 1}")
        return head % self.num_heads

    def token_indices(self, tokens: int | Sequence[int] | Tensor) -> list[int]:
        """Return sequence indices as a list, negative ones resolved.

        Raises:
            InputError: there are none, or one is no token of the grid.
        """
        count = self.grid.num_tokens
        try:
            index = np.asarray(tokens.tolist() if isinstance(tokens, Tensor) else tokens).reshape(-1)
        except ValueError as error:
            raise InputError(f"wanted token indices (integers), got {tokens!r}") from error
        if not index.size or index.dtype.kind not in "iu":
            raise InputError(f"wanted token indices (integers), got {tokens!r}")
        index = index.astype(np.int64)
        if index.min() < -count or index.max() >= count:
            raise InputError(f"a token index is outside the sequence of {count} tokens: {tokens!r}")
        return [int(token) for token in index % count]

    @in_full_precision
    def rows(
        self, layer: int, queries: int | Sequence[int] | Tensor, *, masked: bool = True
    ) -> Float32[Tensor, "batch head query key"]:
        """Return what some queries attend to.

        Args:
            layer: recorded layer.
            queries: sequence indices (0 is CLS; ``grid.token(t, y, x)`` gives a tubelet's).
            masked: whether to apply the head mask.

        Returns:
            (batch, head, query, key) float32; rows sum to 1 (to the head's mask value). Cost: O(queries · tokens).

        Raises:
            InputError: no such layer or token.
            OutOfMemoryBudgetError: so many rows do not fit into the memory that is free.
        """
        layer, index = self.layer_index(layer), self._index(queries)
        self._require(2 * self.num_heads * len(index), f"{len(index)} rows")
        query = self.queries[layer].index_select(2, index).float() * self.scale
        key = self.keys[layer].float()
        if self.batch_size > 1 and self.device.type == "cpu":
            # keys of a fused projection lie apart: matmul would copy those of a batch transposed, which is far slower
            key = key.clone(memory_format=torch.contiguous_format)
        pattern = torch.softmax(torch.matmul(query, key.transpose(-1, -2)), dim=-1)
        return self._masked(layer, pattern) if masked else pattern

    @in_full_precision
    def columns(self, layer: int, keys: int | Sequence[int] | Tensor) -> Float32[Tensor, "batch head query key"]:
        """Return which queries attend to some keys.

        Args:
            layer: recorded layer.
            keys: sequence indices.

        Returns:
            (batch, head, query, key) float32. Cost: O(keys · tokens), after one blockwise pass over the layer's scores
            where the kernel did not tell their log-sum-exp.

        Raises:
            InputError: no such layer or token.
            OutOfMemoryBudgetError: so many columns do not fit into the memory that is free.
        """
        layer, index = self.layer_index(layer), self._index(keys)
        self._require(2 * self.num_heads * len(index), f"{len(index)} columns")
        key = self.keys[layer].index_select(2, index).float()
        scores = torch.matmul(self.queries[layer].float(), key.transpose(-1, -2)).mul_(self.scale)
        return self._masked(layer, scores.sub_(self.log_sum_exp(layer).unsqueeze(-1)).exp_())

    @in_full_precision
    def pattern(self, layer: int, head: int) -> Float32[Tensor, "batch query key"]:
        """Return the whole pattern of one head: (batch, query, key) float32, 39 MB a clip for ViViT-B.

        Raises:
            InputError: no such layer or head.
            OutOfMemoryBudgetError: it does not fit into the memory that is free.
        """
        layer, head = self.layer_index(layer), self.head_index(head)
        self._require(3 * self.grid.num_tokens, "the pattern of one head")
        query, key = self.queries[layer].select(1, head).float(), self.keys[layer].select(1, head).float()
        scores = torch.matmul(query, key.transpose(-1, -2)).mul_(self.scale)
        pattern = torch.softmax(scores, dim=-1)
        mask = self._mask(layer)
        return pattern if mask is None else pattern * mask.select(1, head)

    def log_sum_exp(self, layer: int) -> Float32[Tensor, "batch head token"]:
        """Return the log-sum-exp of each row's scores, (batch, head, token) float32, computed once a layer."""
        layer = self.layer_index(layer)
        if layer not in self.lse:
            self.lse[layer] = self._reduce_scores(layer, lambda scores: torch.logsumexp(scores, dim=-1))
        return self.lse[layer]

    def entropy(self, layer: int) -> Float32[Tensor, "batch head query"]:
        """Return the entropy of every row before the head mask, (batch, head, query) float32, in nats.

        0 is a query that looks at one token, log(tokens) one that looks everywhere alike. Cost: one blockwise pass.
        """

        def of_block(scores: Tensor) -> Tensor:
            log_pattern = torch.log_softmax(scores, dim=-1)
            return -(log_pattern.exp() * log_pattern).sum(dim=-1)

        return self._reduce_scores(self.layer_index(layer), of_block)

    @in_full_precision
    def propagate(self, layer: int, weights: Float[Tensor, "batch token"]) -> Float32[Tensor, "batch token"]:
        """Return weights · E_h[A]: token weights carried from a layer's output to its input, heads averaged.

        Args:
            layer: recorded layer.
            weights: (batch, token) float32, a weight for each query.

        Returns:
            (batch, token) float32. Exact; O(tokens² · d_model) time and one block of memory.
        """
        layer = self.layer_index(layer)
        carried = []
        for clip, share in enumerate(weights.float().unbind()):
            per_head = (share / self.num_heads).expand(self.num_heads, -1)  # (head, token)
            mask = self._mask(layer, clip)
            if mask is not None:
                per_head = per_head * mask.squeeze(-1)
            total = torch.zeros_like(share)
            for rows, block in self.pattern_blocks(layer, clip, masked=False):
                part = per_head.narrow(1, rows.start, rows.stop - rows.start)
                total += torch.matmul(part.reshape(-1), block.flatten(0, 1))
            carried.append(total)
        return torch.stack(carried)

    def pattern_blocks(self, layer: int, clip: int, *, masked: bool = True) -> Iterator[tuple[slice, Tensor]]:
        """Go through one clip's pattern in blocks of rows.

        Args:
            layer: recorded layer.
            clip: index in the batch.
            masked: whether to apply the head mask.

        Yields:
            The rows, and their pattern (head, row, key) in float32. The block is overwritten by the next one.
        """
        layer = self.layer_index(layer)
        check_whole("clip", clip, -len(self.keys[layer]), len(self.keys[layer]) - 1)
        key = self.keys[layer].select(0, clip).float()
        query = self.queries[layer].select(0, clip).float()
        lse = self.log_sum_exp(layer).select(0, clip).unsqueeze(-1)
        key = key * self.scale
        # On a CPU, exp(q·k·scale - lse) is one product, [q, -lse] · [k·scale, 1]ᵀ. An accelerator may round the factors
        # of a product (TF32), which a score bears but a log-sum-exp does not: there it is subtracted.
        folded = self.device.type == "cpu"
        if folded:
            query = torch.cat((query, -lse), dim=-1)
            key = torch.cat((key, torch.ones_like(lse)), dim=-1)
        key = key.transpose(-1, -2).clone(memory_format=torch.contiguous_format)
        heads, count = query.shape[:2]
        size = self._block_rows(heads, count)
        buffer = query.new_empty((heads * size, count))
        mask = self._mask(layer, clip) if masked else None
        for start in range(0, count, size):
            rows = slice(start, min(start + size, count))
            block = buffer.narrow(0, 0, heads * (rows.stop - start)).view(heads, -1, count)
            with full_precision(self.device):
                torch.bmm(query.narrow(1, start, rows.stop - start), key, out=block)
            if not folded:
                block.sub_(lse.narrow(1, start, rows.stop - start))
            block.exp_()
            if mask is not None:
                block.mul_(mask)
            yield rows, block

    def _masked(self, layer: int, pattern: Tensor) -> Tensor:
        mask = self._mask(layer)
        return pattern if mask is None else pattern * mask

    def _require(self, vectors: int, what: str) -> None:
        """Refuse what would need that many float32 vectors of tokens for each clip."""
        wanted = 4 * self.batch_size * vectors * self.grid.num_tokens
        what = f"{what} for {self.batch_size} clips of {self.grid.num_tokens} tokens"
        require_bytes(wanted, self.device, what, "ask for fewer rows() or columns() at a time")

    def _index(self, tokens: int | Sequence[int] | Tensor) -> Tensor:
        return torch.tensor(self.token_indices(tokens), device=self.device)

    def _mask(self, layer: int, clip: int | None = None) -> Tensor | None:
        """The head mask of a layer, (batch or 1, head, 1, 1), or of one of its clips, (head, 1, 1)."""
        if self.head_mask is None:
            return None
        mask = self.head_mask.select(0, layer).float()
        return mask if clip is None else mask.select(0, clip % len(mask))

    @in_full_precision
    def _reduce_scores(self, layer: int, reduce: Any) -> Tensor:
        """Apply a function of (head, row, key) scores to every row of every clip, block by block."""
        results = []
        for query, key in zip(self.queries[layer], self.keys[layer], strict=True):
            scaled = (key.float() * self.scale).transpose(-1, -2)
            size = self._block_rows(*query.shape[:2])
            blocks = [reduce(torch.bmm(part.float(), scaled)) for part in query.split(size, dim=1)]
            results.append(torch.cat(blocks, dim=1))
        return torch.stack(results)

    def _block_rows(self, heads: int, count: int) -> int:
        budget = _BLOCK_BYTES.get(self.device.type, _BLOCK_BYTES_ELSEWHERE)
        return max(1, min(count, budget // (heads * count * 4)))
