"""The parts that the factorised variants are composed of: attention along one axis, and what stands before the blocks.

The residual stream is (batch, token, d_model) in every variant, the tokens of one time side by side: t·h·w tubelets,
or t·(1 + h·w) in the spatial layers of a factorised encoder, where each time begins with its CLS token. An attention
along an axis folds its tokens into groups between the projections, so q, k, v and z are [batch, token, head, d_head]
everywhere, and scores and pattern [batch, head, group, query, key].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vivit_lab.errors import InputError
from vivit_lab.grid import TokenGrid
from vivit_lab.model.attention import Attention, AttentionParts
from vivit_lab.model.block import Block
from vivit_lab.model.config import VivitConfig
from vivit_lab.model.embeddings import Embeddings
from vivit_lab.model.hook_point import HookPoint
from vivit_lab.model.layer_norm import LayerNorm
from vivit_lab.model.positions import interpolate_positions
from vivit_lab.model.variants import layer_axes

__all__ = [
    "AttentionBlock",
    "AxialAttention",
    "FrameEmbeddings",
    "FrameReadout",
    "SplitAttention",
    "TemporalBlock",
    "fold_tokens",
    "make_blocks",
    "make_embeddings",
    "make_summary",
    "unfold_tokens",
]


def make_embeddings(config: VivitConfig) -> Embeddings:
    """Return the embeddings of the configuration's variant."""
    return (FrameEmbeddings if config.variant == "factorized_encoder" else Embeddings)(config)


def make_blocks(config: VivitConfig) -> list[Block]:
    """Return the blocks of the configuration's variant, one an attention layer; see ``vivit_lab.model.variants``."""
    axes = layer_axes(config)
    if config.variant == "factorized_encoder":
        spatial = [Block(config, AxialAttention(config, axis)) for axis in axes[: config.num_hidden_layers]]
        kinds = (TemporalBlock, *[Block] * len(axes))
        return spatial + [kind(config) for kind, _ in zip(kinds, axes[config.num_hidden_layers :], strict=False)]
    if config.variant == "factorized_self_attention_block":
        return [
            (AttentionBlock, Block)[layer % 2](config, AxialAttention(config, axis)) for layer, axis in enumerate(axes)
        ]
    attention = {"joint": Attention, "both": SplitAttention}
    return [Block(config, attention[axis](config)) for axis in axes]


def make_summary(config: VivitConfig) -> Callable[[Tensor, TokenGrid], Tensor]:
    """Return what makes one vector (batch, d_model) of the tokens (batch, token, d_model) of a grid."""
    if config.spatial_only_baseline:
        return _mean_of_frames
    return _first_token if config.classifier == "token" else _mean_of_tokens


def _first_token(x: Tensor, grid: TokenGrid) -> Tensor:
    return x.select(1, 0)


def _mean_of_tokens(x: Tensor, grid: TokenGrid) -> Tensor:
    return x.mean(dim=1)


def _mean_of_frames(x: Tensor, grid: TokenGrid) -> Tensor:
    return x.unflatten(1, (grid.t, -1)).select(2, 0).mean(dim=1)


def fold_tokens(tokens: Tensor, axis: str, times: int) -> Tensor:
    """Fold the tokens of (batch, head, token, …) into the groups that attend to each other: (batch, head, group, …).

    Args:
        tokens: ordered by time, then place.
        axis: ``"time"`` makes a group of each place, ``"space"`` one of each time.
        times: how many times there are.

    Raises:
        InputError: the tokens are not that many times a number of places.
    """
    if tokens.shape[2] % times:
        raise InputError(
            f"{tokens.shape[2]} tokens are not {times} times a number of places: pass the block the grid of the clips"
        )
    folded = tokens.unflatten(2, (times, -1))
    return folded.transpose(2, 3) if axis == "time" else folded


def unfold_tokens(groups: Tensor, axis: str) -> Tensor:
    """Undo ``fold_tokens``."""
    return (groups.transpose(2, 3) if axis == "time" else groups).flatten(2, 3)


class AxialAttention(Attention):
    """Attention along one axis: over the times of a place, or over the places of a time.

    Args:
        config: the model's configuration.
        axis: ``"time"`` or ``"space"``.
    """

    def __init__(self, config: VivitConfig, axis: str) -> None:
        super().__init__(config)
        self.axis = axis
        self.times = config.grid.t

    def masked(self, pattern: Any, head_mask: Tensor) -> Any:
        """Return the pattern (batch, head, group, query, key) after the head mask."""
        return pattern * head_mask.unsqueeze(-1)

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, need_pattern: bool, recording: bool, grid: TokenGrid | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        eager = need_pattern or self.implementation == "eager" or self.pattern_hooked
        times = self.times if grid is None else grid.t
        return self._along(self.axis, (query, key, value), times, eager=eager, recording=recording, points=self)

    def _along(
        self,
        axis: str,
        parts: tuple[Tensor, Tensor, Tensor],
        times: int,
        *,
        eager: bool,
        recording: bool,
        points: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        query, key, value = (fold_tokens(part, axis, times) for part in parts)
        if eager:
            pattern = self._pattern(query, key, fixed=recording, points=points)
            return unfold_tokens(torch.matmul(pattern, value), axis), pattern, None
        # to the kernel, groups are further heads
        flat = (part.flatten(1, 2) for part in (query, key, value))
        context, lse = self._fused(*flat, want_lse=recording)
        sizes = query.shape[1:3]
        lse = None if lse is None else unfold_tokens(lse.unflatten(1, sizes), axis)
        return unfold_tokens(context.unflatten(1, sizes), axis), None, lse


class PatternPoints(nn.Module):
    """Hook points on the scores and the pattern of some of a layer's heads."""

    def __init__(self) -> None:
        super().__init__()
        self.hook_attn_scores = HookPoint()
        self.hook_pattern = HookPoint()


class SplitAttention(AxialAttention):
    """Factorised dot-product attention: the first half of the heads along time, the second half along space.

    Scores and patterns have hook points for each half, ``attn.time.hook_pattern`` and ``attn.space.hook_pattern``, and
    a pattern is the pair (time, space).

    Args:
        config: the model's configuration.
    """

    def __init__(self, config: VivitConfig) -> None:
        super().__init__(config, "both")
        del self.hook_attn_scores, self.hook_pattern
        self.time, self.space = PatternPoints(), PatternPoints()

    @property
    def pattern_hooked(self) -> bool:
        """Whether a hook wants the scores or pattern of either half."""
        points = (half for part in (self.time, self.space) for half in (part.hook_attn_scores, part.hook_pattern))
        return any(point.hooked for point in points)

    @property
    def time_heads(self) -> int:
        """How many of the heads that are there attend along time; they come first."""
        half = self.born_heads // 2
        return half if self.kept_heads is None else sum(head < half for head in self.kept_heads)

    def masked(self, pattern: Any, head_mask: Tensor) -> Any:
        """Return the pair of patterns after the head mask."""
        sizes = [part.shape[1] for part in pattern]
        masks = head_mask.unsqueeze(-1).split(sizes, dim=1)
        return tuple(part * mask for part, mask in zip(pattern, masks, strict=True))

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, need_pattern: bool, recording: bool, grid: TokenGrid | None
    ) -> tuple[Tensor, Any, Tensor | None]:
        eager = need_pattern or self.implementation == "eager" or self.pattern_hooked
        times = self.times if grid is None else grid.t
        sizes = [self.time_heads, query.shape[1] - self.time_heads]
        halves = zip(*(part.split(sizes, dim=1) for part in (query, key, value)), strict=True)
        done = [
            self._along(axis, parts, times, eager=eager, recording=recording, points=points)
            for axis, parts, points in zip(("time", "space"), halves, (self.time, self.space), strict=True)
        ]
        contexts, patterns, lse = zip(*done, strict=True)
        known = [part for part in lse if part is not None]
        return torch.cat(contexts, dim=1), patterns, torch.cat(known, dim=1) if len(known) == 2 else None


class AttentionBlock(Block):
    """A block without an MLP: x + attention(LN(x)).

    Args:
        config: the model's configuration.
        attention: its attention layer.
    """

    def __init__(self, config: VivitConfig, attention: Attention) -> None:
        super().__init__(config, attention)
        del self.ln2, self.mlp, self.hook_resid_mid, self.hook_mlp_out

    def forward(
        self,
        x: Tensor,
        head_mask: Tensor | None = None,
        need_pattern: bool = False,
        collect: Callable[[AttentionParts], None] | None = None,
        grid: TokenGrid | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the residual stream (batch, token, d_model), and the pattern where it was asked for."""
        x = self.hook_resid_pre(x)
        attended, pattern = self.attn(self.ln1(x), head_mask, need_pattern, collect, grid)
        return self.hook_resid_post(x + self.hook_attn_out(self.dropout(attended))), pattern


class FrameEmbeddings(Embeddings):
    """Embeddings of a factorised encoder: each time is a sequence of its own, CLS and h·w tubelets.

    The positions, (1, 1 + h·w, d_model), are the same at all times.

    Args:
        config: the model's configuration.
    """

    @property
    def places(self) -> TokenGrid:
        """The grid of one time."""
        return TokenGrid(1, self.grid.h, self.grid.w, self.grid.tubelet)

    def sequence_of(self, tubelets: Tensor, grid: TokenGrid) -> Tensor:
        """Return (batch, t·(1 + h·w), d_model) of tubelets (batch, t·h·w, d_model)."""
        assert self.cls_token is not None, "a factorised encoder has CLS tokens"
        frames = tubelets.unflatten(1, (grid.t, -1))
        cls = self.cls_token.unsqueeze(0).expand(len(frames), grid.t, -1, -1)
        return torch.cat((cls, frames), dim=2).flatten(1, 2)

    def positions_of(self, grid: TokenGrid) -> Tensor:
        """Return the positions (1, t·(1 + h·w), d_model)."""
        places = interpolate_positions(self.position, self.places.shape, (1, grid.h, grid.w))
        return places.repeat(1, grid.t, 1)


class FrameReadout(nn.Module):
    """From the spatial layers of a factorised encoder to the temporal ones: a token for each time, and CLS in front.

    Args:
        config: the model's configuration.
    """

    def __init__(self, config: VivitConfig) -> None:
        super().__init__()
        self.times = config.grid.t
        self.ln = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.position = nn.Parameter(torch.zeros(1, 1 + self.times, config.hidden_size))
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, grid: TokenGrid | None = None) -> Tensor:
        """Map (batch, t·(1 + h·w), d_model) to (batch, 1 + t, d_model)."""
        times = self.times if grid is None else grid.t
        frames = self.ln(x.unflatten(1, (times, -1)).select(2, 0))
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), frames), dim=1)
        return self.dropout(x + interpolate_positions(self.position, (self.times, 1, 1), (times, 1, 1)))


class TemporalBlock(Block):
    """The first temporal block of a factorised encoder, which reads the CLS token of each time first.

    Args:
        config: the model's configuration.
    """

    def __init__(self, config: VivitConfig) -> None:
        super().__init__(config)
        self.enter = FrameReadout(config)

    def forward(
        self,
        x: Tensor,
        head_mask: Tensor | None = None,
        need_pattern: bool = False,
        collect: Callable[[AttentionParts], None] | None = None,
        grid: TokenGrid | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the residual stream (batch, 1 + t, d_model), and the pattern where it was asked for."""
        return super().forward(self.enter(x, grid), head_mask, need_pattern, collect, grid)
