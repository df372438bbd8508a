"""Attention on demand: one fused forward leaves queries and keys; any row, column or reduction is exact."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial, wraps
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from vivit_lab.drawing import draw
from vivit_lab.errors import InputError
from vivit_lab.families.vivit import VivitForVideoClassification, VivitModel
from vivit_lab.grid import TokenGrid
from vivit_lab.memory import require_bytes
from vivit_lab.model.attention import AttentionParts
from vivit_lab.model.cache import run_provenance
from vivit_lab.model.config import AttentionLayout, layer_layouts
from vivit_lab.model.inputs import is_index
from vivit_lab.numbers import check_whole
from vivit_lab.records.inputs import Pixels, as_pixel_values
from vivit_lab.video.clip import Clip

if TYPE_CHECKING:
    from vivit_lab.grid import TokenGrid

__all__ = [
    "AttentionRecord",
    "AxialRecord",
    "FrameSequences",
    "FusedRows",
    "RowBlock",
    "Sequences",
    "Switch",
    "axial_scores",
    "check_layers",
    "evaluating",
    "full_precision",
    "head_axes",
    "in_full_precision",
    "record_attention",
    "record_layouts",
    "record_provenance",
    "score_blocks",
    "support_values",
]


def head_axes(layout: AttentionLayout, heads: int) -> list[tuple[str, slice]]:
    """Return each axis of a layer with the heads that attend along it."""
    if layout.axis == "both":
        return [("time", slice(0, heads // 2)), ("space", slice(heads // 2, heads))]
    return [(layout.axis, slice(0, heads))]


def axial_scores(
    left: Tensor, right: Tensor, layout: AttentionLayout, axis: str, time: int, places: Tensor | None = None
) -> Tensor:
    """Return the products of the tokens of one time with those of their support along an axis.

    Args:
        left: (…, token, d_head), such as queries.
        right: (…, token, d_head), such as keys.
        layout: of the layer.
        axis: ``"time"`` or ``"space"``.
        time: whose tokens are the rows.
        places: which of its tokens; None for all.

    Returns:
        (…, row, key): a key for each time, or for each place.
    """
    left, right = (side.unflatten(-2, (layout.times, -1)) for side in (left, right))  # (…, time, place, d_head)
    left = left.select(-3, time)
    left = left if places is None else left.index_select(-2, places)
    if axis == "space":
        return torch.matmul(left, right.select(-3, time).transpose(-1, -2))
    right = right if places is None else right.index_select(-2, places)
    return torch.einsum("...pd,...tpd->...pt", left, right)


def support_values(
    left: Tensor,
    right: Tensor,
    layout: AttentionLayout,
    time: int,
    places: Tensor | None,
    finish: Callable[[Tensor, slice], Tensor],
) -> tuple[Tensor, Tensor]:
    """Return the values of some rows of one time on their support, and where that is.

    Args:
        left: (…, head, token, d_head).
        right: (…, head, token, d_head).
        layout: of the layer; not a joint one.
        time: whose tokens are the rows.
        places: which of its tokens; None for all.
        finish: (products (…, head, row, key) of some heads, which heads) → values, such as a softmax.

    Returns:
        (…, head, row, key) values, and (row, key) tokens. A row of a layer with both axes has the keys of its time
        first, and then those of its place at other times; a head has zeros on the other axis.
    """
    parts = {}
    for axis, heads in head_axes(layout, left.shape[-3]):
        start, count = heads.start, heads.stop - heads.start
        mine, other = left.narrow(-3, start, count), right.narrow(-3, start, count)
        parts[axis] = finish(axial_scores(mine, other, layout, axis, time, places), heads)
    rows = torch.arange(layout.places, device=left.device) if places is None else places
    keys = {
        "time": rows.unsqueeze(1) + torch.arange(layout.times, device=left.device) * layout.places,
        "space": torch.arange(layout.places, device=left.device).expand(len(rows), -1) + time * layout.places,
    }
    if layout.axis != "both":
        return parts[layout.axis], keys[layout.axis]
    times = torch.arange(layout.times, device=left.device)
    others = times.masked_select(times != time)
    early, late = parts["time"], parts["space"]
    own = early.new_zeros(*early.shape[:-1], layout.places)
    own.scatter_(-1, rows.unsqueeze(1).expand(*early.shape[:-1], 1), early.narrow(-1, time, 1))
    early = torch.cat((own, early.index_select(-1, others)), dim=-1)
    late = torch.cat((late, late.new_zeros(*late.shape[:-1], len(others))), dim=-1)
    return torch.cat((early, late), dim=-3), torch.cat((keys["space"], keys["time"].index_select(1, others)), dim=1)


def score_blocks(
    query: Tensor, key: Tensor, layout: AttentionLayout, reduce: Callable[[Tensor], Tensor]
) -> Iterator[Tensor]:
    """Apply a function of (head, row, key) scores to every row of some heads, and yield it for each axis's heads."""
    for axis, heads in head_axes(layout, len(query)):
        start, count = heads.start, heads.stop - heads.start
        mine, other = query.narrow(0, start, count), key.narrow(0, start, count)
        done = [reduce(axial_scores(mine, other, layout, axis, time)) for time in range(layout.times)]
        yield torch.cat(done, dim=1)


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


class Switch:
    """A boolean attribute of any objects, to be switched off for a while.

    Args:
        name: the attribute, such as ``"training"``.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._lock = Lock()
        self._held: dict[int, tuple[Any, int]] = {}  # id → the object, which keeps its id, and how many need it off

    @contextmanager
    def off(self, objects: Iterable[Any]) -> Iterator[None]:
        """Switch the attribute off, and on again where it was on as soon as nobody needs it off."""
        with self._lock:
            mine = [one for one in objects if id(one) in self._held or getattr(one, self.name)]
            for one in mine:
                setattr(one, self.name, False)
                self._held[id(one)] = (one, self._held.get(id(one), (one, 0))[1] + 1)
        try:
            yield
        finally:
            with self._lock:
                for one in mine:
                    count = self._held[id(one)][1] - 1
                    if count:
                        self._held[id(one)] = (one, count)
                    else:
                        del self._held[id(one)]
                        setattr(one, self.name, True)


class FrameSequences(Sequences):
    """The answers of ``Sequences`` for factorised models; those without CLS have the tokens of the grid as states."""

    layouts: dict[int, AttentionLayout]

    @property
    def has_frames(self) -> bool:
        """Whether each time is a sequence with a CLS of its own: a factorised encoder."""
        return self.grid.cls

    @property
    def _above(self) -> int:
        """How many states stand before those of the times: the temporal CLS, if any."""
        return int(self.has_frames and any(layout.axis == "joint" for layout in self.layouts.values()))

    def _is_temporal(self, layer: int) -> bool:
        return self.layouts[layer % len(self.layouts)].axis == "joint"

    @property
    def num_states(self) -> int:
        """Places of the residual stream, over all layers."""
        return self._above + self.grid.t * (int(self.has_frames) + self.grid.h * self.grid.w)

    def layer_states(self, layer: int) -> Tensor | None:
        """Return which states make up a layer's sequence, in its order; None where all do, in order."""
        if not self._above:
            return None
        if not self._is_temporal(layer):
            return torch.arange(1, self.num_states, device=self.device)
        frames = torch.arange(self.grid.t, device=self.device) * (1 + self.grid.h * self.grid.w) + 1
        return torch.cat((frames.new_zeros(1), frames))

    def start_weights(self, tokens: Sequence[int]) -> Float32[Tensor, "batch state"]:
        """Return weights that average over some tokens of the grid; CLS is the one that the classifier reads."""
        weights = super().start_weights(tokens)
        if not self.has_frames:
            return weights
        if not self._above:
            return self._on_frames(weights)
        tubelets = self._framed(weights).flatten(1)
        return torch.cat((weights.narrow(1, 0, 1), tubelets), dim=1)

    def _framed(self, weights: Tensor) -> Tensor:
        """Return (batch, t, 1 + h·w) of weights on the grid's tokens, with 0 for the CLS of each time."""
        frames = weights.narrow(1, 1, self.grid.num_tubelets).unflatten(1, (self.grid.t, -1))
        return torch.cat((frames.new_zeros(*frames.shape[:2], 1), frames), dim=2)

    def _on_frames(self, weights: Tensor) -> Tensor:
        """Return (batch, t·(1 + h·w)) of weights on the grid's tokens, CLS spread over the CLS of all times."""
        frames = self._framed(weights)
        frames.select(2, 0).add_(weights.narrow(1, 0, 1) / self.grid.t)
        return frames.flatten(1)

    def on_grid(self, weights: Float32[Tensor, "batch state"]) -> Float32[Tensor, "batch token"]:
        """Return weights on states as weights on the tokens of the grid: every CLS counts as CLS."""
        if not self.has_frames:
            return weights
        above = weights.narrow(1, 0, self._above).sum(dim=1, keepdim=True)
        frames = weights.narrow(1, self._above, weights.shape[1] - self._above).unflatten(1, (self.grid.t, -1))
        cls = above + frames.select(2, 0).sum(dim=1, keepdim=True)
        return torch.cat((cls, frames.narrow(2, 1, frames.shape[2] - 1).flatten(1)), dim=1)

    def query_weights(self, layer: int, tokens: Sequence[int]) -> Float32[Tensor, "batch position"]:
        """Return weights on a layer's own sequence that average over what stands there for some tokens of the grid.

        For CLS that is the temporal CLS, or in a spatial layer the mean over the CLS of all times; for a tubelet in a
        temporal layer it is its time's token.
        """
        weights = super().start_weights(tokens)
        if not self.has_frames:
            return weights
        if not self._is_temporal(layer):
            return self._on_frames(weights)
        return torch.cat((weights.narrow(1, 0, 1), self._framed(weights).sum(dim=2)), dim=1)

    def keys_on_grid(self, layer: int, weights: Float32[Tensor, "*row position"]) -> Float32[Tensor, "*row token"]:
        """Return weights on a layer's sequence as weights on the grid; a time's token is spread over its tubelets."""
        if not self.has_frames:
            return weights
        if self._is_temporal(layer):
            places = self.grid.h * self.grid.w
            spread = weights.narrow(-1, 1, self.grid.t).repeat_interleave(places, dim=-1) / places
            return torch.cat((weights.narrow(-1, 0, 1), spread), dim=-1)
        frames = weights.unflatten(-1, (self.grid.t, -1))
        cls = frames.select(-1, 0).sum(dim=-1, keepdim=True)
        return torch.cat((cls, frames.narrow(-1, 1, frames.shape[-1] - 1).flatten(-2)), dim=-1)


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
        return draw(self)

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


_TRAINING = Switch("training")


def record_attention(
    model: VivitModel | VivitForVideoClassification,
    pixel_values: Tensor | Clip | Sequence[Clip] | Pixels,
    *,
    layers: Sequence[int] | None = None,
    head_mask: Tensor | None = None,
    interpolate_pos_encoding: bool | None = None,
) -> AttentionRecord:
    """Run one forward pass, in evaluation mode and without gradients, and keep what attention is made of.

    The attention implementation of the model is used as it is; under SDPA no pattern is ever formed. Several threads
    may record one model at once.

    Args:
        model: a ViViT.
        pixel_values: (batch, frames, channels, height, width), or prepared clips.
        layers: which layers to keep; all by default.
        head_mask: as for the model's forward.
        interpolate_pos_encoding: whether clips of another size are taken; None is yes, and says so once.

    Returns:
        The record. Memory: 2·tokens·d_model a layer and clip (19 MB for ViViT-B in float32).

    Raises:
        InputError: the input, the layers or the mask do not fit the model.

    Example:
        >>> record = record_attention(model, clip)
        >>> record.rows(layer=-1, queries=0).shape  # where CLS looks
        torch.Size([1, 12, 1, 3137])
    """
    given = as_pixel_values(pixel_values)
    pixels = given.values
    count = len(model.blocks)
    wanted = check_layers(layers, count)
    grid = model.grid_of(pixels, interpolate_pos_encoding)
    queries: dict[int, Tensor] = {}
    keys: dict[int, Tensor] = {}
    lse: dict[int, Tensor] = {}

    def collect(layer: int, parts: AttentionParts) -> None:
        if layer in wanted:
            queries[layer], keys[layer] = parts.query, parts.key
            if parts.lse is not None:
                lse[layer] = parts.lse

    with evaluating(model), torch.no_grad():
        encoded = model.encode(
            pixels.to(model.device), head_mask, False, False, interpolate_pos_encoding, collect=collect
        )
        output = model.outputs_of(encoded)
    attention = model.attention_layers[0]
    layouts = record_layouts(model, grid)
    return (AxialRecord if layouts else AttentionRecord)(
        grid,
        queries,
        keys,
        scale=attention.scale,
        num_layers=count,
        lse=lse,
        head_mask=model.head_mask_of(head_mask, pixels.shape[0]),
        output=output,
        model_id=model.name_or_path or type(model).__name__,
        frame_indices=given.frame_indices,
        sources=given.sources,
        provenance=record_provenance(model, queries[wanted[0]].dtype),
        **layouts,
    )


def record_layouts(model: VivitModel | VivitForVideoClassification, grid: TokenGrid) -> dict[str, Any]:
    """Return what a record of a factorised model keeps besides, as arguments of it; nothing for joint attention."""
    if model.config.variant == "spacetime":
        return {}
    return {"layouts": dict(enumerate(layer_layouts(model.config, grid)))}


def record_provenance(model: VivitModel | VivitForVideoClassification, dtype: torch.dtype) -> dict[str, str]:
    """Return how a forward pass was computed, to be kept with what came of it."""
    return run_provenance(model, dtype)


def check_layers(layers: Sequence[int] | None, count: int) -> list[int]:
    """Return layers sorted and counted from 0; None is all of them.

    Raises:
        InputError: there are none, or one does not exist.
    """
    if layers is None:
        return list(range(count))
    chosen = list(layers) if isinstance(layers, (Sequence, range)) else []
    if not chosen or any(not is_index(layer) or not -count <= layer < count for layer in chosen):
        raise InputError(f"layers must be a list of some of 0..{count - 1}, got {layers}")
    return sorted({layer % count for layer in chosen})


def evaluating(model: torch.nn.Module) -> AbstractContextManager[None]:
    """Put a model into evaluation mode, and every module back as it was.

    Threads may do so at once: the mode comes back when the last one leaves. Modules that were in evaluation mode before
    stay in it.
    """
    return _TRAINING.off(model.modules())
