"""ViViT: the four models of the paper, with Hugging Face's names, arguments and output fields."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from vivit_lab.errors import ConfigError, InputError
from vivit_lab.grid import TokenGrid
from vivit_lab.memory import require_bytes
from vivit_lab.model.attention import Attention, AttentionParts, expand_head_mask, heads_left, keep_heads, present_heads
from vivit_lab.model.blocks import Block, LayerNorm
from vivit_lab.model.config import ACTIVATIONS, ATTENTION_IMPLEMENTATIONS, VivitConfig, layer_axes, layer_layouts
from vivit_lab.model.embeddings import Embeddings, interpolate_positions
from vivit_lab.model.hooked import HookedMixin
from vivit_lab.model.hooks import HookPoint, has_hooks, layer_index
from vivit_lab.model.inputs import is_index
from vivit_lab.model.outputs import Encoded, VideoClassifierOutput, VivitModelOutput
from vivit_lab.model.pretrained import PretrainedMixin

__all__ = [
    "AttentionBlock",
    "AxialAttention",
    "FrameEmbeddings",
    "FrameReadout",
    "SplitAttention",
    "TemporalBlock",
    "VivitForVideoClassification",
    "VivitModel",
    "VivitPreTrainedModel",
    "expand_head_mask",
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
    """Return the blocks of the configuration's variant, one an attention layer; see ``vivit_lab.model.config``."""
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


def _require_room(config: VivitConfig) -> None:
    """Refuse a model whose parameters would not fit, before any of them is made."""
    device, width, grid = torch.empty(0).device, config.hidden_size, config.grid
    places = grid.t + grid.h * grid.w if config.variant == "factorized_encoder" else grid.num_tubelets
    tubelet = config.num_channels * math.prod(config.tubelet_size)
    mlps = config.num_hidden_layers
    mlps += config.num_temporal_layers if config.variant == "factorized_encoder" else 0
    layers = 4 * config.num_attention_layers * width + 2 * mlps * config.intermediate_size
    count = width * (places + tubelet + layers + (config.num_labels or 0))
    require_bytes(
        count * torch.get_default_dtype().itemsize,
        device,
        f"a model of about {count:,} parameters (hidden_size={width}, {config.num_hidden_layers} layers, "
        f"{config.num_frames} frames of {config.image_size}² pixels)",
        "correct these sizes of its configuration",
    )


class VivitPreTrainedModel(PretrainedMixin, HookedMixin, nn.Module):
    """Backbone that ``VivitModel`` and ``VivitForVideoClassification`` share; module paths are the hook names.

    Args:
        config: the model's configuration.
    """

    def __init__(self, config: VivitConfig) -> None:
        super().__init__()
        _require_room(config)
        self.config = config
        self.gradient_checkpointing = False
        self._checkpoint_options: dict[str, Any] = {"use_reentrant": False}
        embed = make_embeddings(config)
        # the embeddings' own hook points, under the names that other libraries give them
        self.hook_embed, self.hook_pos_embed = embed.hook_embed, embed.hook_pos_embed
        self.embed = embed
        self.blocks = nn.ModuleList(make_blocks(config))
        for layer in config.pruned_heads:
            keep_heads(self.attention_layers[layer], heads_left(config, layer))
        self.ln_final = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self._summary = make_summary(config)

    def init_weights(self) -> None:
        """Draw new weights from the default generator: normal(0, initializer_range), biases, CLS and positions 0."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv3d)):
                nn.init.normal_(module.weight, std=self.config.initializer_range)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
        for name, parameter in self.named_parameters():
            if name.endswith(("cls_token", "position")):
                nn.init.zeros_(parameter)

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return self.embed.position.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the parameters."""
        return self.embed.position.dtype

    @property
    def attention_layers(self) -> list[Attention]:
        """The attention module of each block."""
        return [cast("Attention", block.attn) for block in self.blocks]

    @property
    def attn_implementation(self) -> str:
        """How attention is computed now."""
        return self.attention_layers[0].implementation

    def set_attn_implementation(self, implementation: str) -> None:
        """Switch between ``"eager"``, ``"sdpa"`` and ``"flash_attention_2"``; weights and results stay the same.

        Raises:
            ConfigError: there is no such implementation.
        """
        if implementation not in ATTENTION_IMPLEMENTATIONS:
            raise ConfigError(
                f"attn_implementation={implementation!r} is not known; "
                f"choose one of {', '.join(ATTENTION_IMPLEMENTATIONS)}"
            )
        for attention in self.attention_layers:
            attention.implementation = implementation
        self.config = self.config.replace(attn_implementation=implementation)

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any] | None = None) -> None:
        """Recompute each block in the backward pass instead of keeping its activations (in training mode).

        Args:
            gradient_checkpointing_kwargs: further arguments of ``torch.utils.checkpoint.checkpoint``.
        """
        self.gradient_checkpointing = True
        self._checkpoint_options = {"use_reentrant": False, **(gradient_checkpointing_kwargs or {})}

    def gradient_checkpointing_disable(self) -> None:
        """Keep activations again."""
        self.gradient_checkpointing = False

    def grid_of(self, pixel_values: Tensor, interpolate_pos_encoding: bool | None = False) -> TokenGrid:
        """Return the token grid of a batch (batch, frames, channels, height, width), or raise what is wrong with it."""
        return self.embed.grid_of(pixel_values, interpolate_pos_encoding)

    def summary_of(self, encoded: Encoded) -> Tensor:
        """Return the vector (batch, d_model) that stands for the clip: its CLS token, or the mean of its tokens."""
        return self._summary(encoded.last_hidden_state, encoded.grid or self.config.grid)

    def head_mask_of(self, head_mask: Any, batch: int) -> Tensor | None:
        """Return what a record of a pass keeps as its mask: (layers, batch or 1, heads, 1, 1), or None for no effect.

        Heads are counted as before any was pruned, and those that were are masked out.

        Args:
            head_mask: as for the models' ``forward``.
            batch: number of clips.
        """
        like, layers, heads = self.embed.position, len(self.blocks), self.config.num_attention_heads
        mask = expand_head_mask(head_mask, layers, batch, heads, like=like)
        present = expand_head_mask(present_heads(self.config, like), layers, batch, heads, like=like)
        return mask if present is None else present if mask is None else mask * present

    def encode(
        self,
        pixel_values: Tensor | None,
        head_mask: Tensor | None,
        output_attentions: bool | Sequence[int] | None = None,
        output_hidden_states: bool | None = None,
        interpolate_pos_encoding: bool | None = False,
        collect: Callable[[int, AttentionParts], None] | None = None,
    ) -> Encoded:
        """Run embeddings, blocks and final LayerNorm.

        The arguments are those of the models' ``forward``; ``collect`` is called with each layer's index and what its
        attention was made of.
        """
        if pixel_values is None:
            raise InputError("pixel_values is missing: pass (batch, frames, channels, height, width)")
        grid = self.grid_of(pixel_values, interpolate_pos_encoding)
        stored = self.config.extra
        wanted = self._pattern_layers(
            stored.get("output_attentions") if output_attentions is None else output_attentions
        )
        if output_hidden_states is None:
            output_hidden_states = bool(stored.get("output_hidden_states"))
        batch = pixel_values.shape[0]
        if wanted or any(attention.pattern_hooked for attention in self.attention_layers):
            self._check_memory(wanted, batch, grid)
        sizes = (len(self.blocks), batch, self.config.num_attention_heads)
        mask = expand_head_mask(head_mask, *sizes, like=self.embed.position)
        x = self.embed(pixel_values, interpolate_pos_encoding)
        hidden_states = [x]
        x, patterns = self.run_blocks(
            x,
            mask,
            grid=grid,
            wanted=wanted,
            collect=collect,
            keep=hidden_states.append if output_hidden_states else None,
        )
        x = self.ln_final(x)
        hidden_states[-1] = x  # as transformers 4.56 has it: the last entry is after the final LayerNorm
        return Encoded(
            x,
            tuple(hidden_states) if output_hidden_states else None,
            tuple(patterns[layer] for layer in wanted) if wanted else None,
            grid,
        )

    def run_blocks(
        self,
        x: Tensor,
        mask: Tensor | None,
        *,
        grid: TokenGrid | None = None,
        start: int = 0,
        stop: int | None = None,
        wanted: Sequence[int] = (),
        collect: Callable[[int, AttentionParts], None] | None = None,
        keep: Callable[[Tensor], None] | None = None,
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Run some blocks on a residual stream.

        Args:
            x: (batch, token, d_model).
            mask: what ``expand_head_mask`` gives, for all layers.
            grid: of the clips; None is the configuration's.
            start: the first block.
            stop: the block before which to stop; None for all.
            wanted: layers whose pattern to return.
            collect: called with each layer's index and what its attention was made of.
            keep: called with each block's output.

        Returns:
            The residual stream (batch, token, d_model), and layer → pattern.
        """
        patterns: dict[int, Tensor] = {}
        masks = [None] * len(self.blocks) if mask is None else mask.unbind()
        saving = self.gradient_checkpointing and self.training and torch.is_grad_enabled()
        for layer, (block, mask) in list(enumerate(zip(self.blocks, masks, strict=True)))[start:stop]:
            listen = None if collect is None else partial(collect, layer)
            given = (x, mask, layer in wanted, listen, grid)
            if saving and not has_hooks(block):  # a hook runs once, so what it sees is not computed again
                x, pattern = cast("Any", checkpoint(block, *given, **self._checkpoint_options))
            else:
                x, pattern = block(*given)
            if keep is not None:
                keep(x)
            if pattern is not None:
                patterns[layer] = pattern
        return x, patterns

    def run_part(
        self,
        inputs: Tensor,
        head_mask: Tensor | None = None,
        interpolate_pos_encoding: bool | None = False,
        *,
        start_at_layer: int | None = None,
        stop_at_layer: int | None = None,
    ) -> Any:
        """Run some of the layers, as ``run_with_cache`` describes.

        Args:
            inputs: pixel values, or with ``start_at_layer`` the residual stream that enters it, (batch, token,
                d_model).
            head_mask: as for the model's forward.
            interpolate_pos_encoding: as for the model's forward.
            start_at_layer: the first layer; None begins with the embeddings.
            stop_at_layer: the layer before which to stop; None goes to the output.

        Returns:
            The residual stream before ``stop_at_layer``, or the model's output.

        Raises:
            InputError: there is no such layer, or the inputs do not fit.
        """
        count, width = len(self.blocks), self.config.hidden_size
        start = 0 if start_at_layer is None else layer_index("start_at_layer", start_at_layer, count - 1, count)
        stop = None if stop_at_layer is None else layer_index("stop_at_layer", stop_at_layer, count, count)
        if stop is not None and stop < start:
            raise InputError(f"stop_at_layer={stop_at_layer} lies before start_at_layer={start_at_layer}")
        grid = None  # a residual stream is one of the configuration's grid
        if start_at_layer is None:
            grid = self.grid_of(inputs, interpolate_pos_encoding)  # says what is wrong with them
            x = self.embed(inputs, interpolate_pos_encoding)
        elif inputs.ndim == 3 and inputs.shape[2] == width:
            x = inputs
        else:
            raise InputError(
                f"start_at_layer wants the residual stream (batch, token, {width}) that enters the layer, got "
                f"{tuple(inputs.shape)}"
            )
        mask = expand_head_mask(head_mask, count, len(x), self.config.num_attention_heads, like=self.embed.position)
        x, _ = self.run_blocks(x, mask, grid=grid, start=start, stop=stop)
        return x if stop is not None else self.outputs_of(Encoded(self.ln_final(x), None, None, grid))

    def outputs_of(self, encoded: Encoded) -> Any:
        """Return the output that the backbone's result gives; each model has its own."""
        return encoded

    def _pattern_layers(self, output_attentions: bool | Sequence[int] | None) -> list[int]:
        count = len(self.blocks)
        if output_attentions is None or isinstance(output_attentions, (bool, np.bool_)):
            return list(range(count)) if output_attentions else []
        try:
            layers = [operator.index(layer) for layer in output_attentions]
        except TypeError as error:
            raise InputError(
                f"output_attentions is True, False or a list of layers, got {output_attentions!r}"
            ) from error
        pairs = zip(output_attentions, layers, strict=True)
        wrong = [given for given, layer in pairs if not is_index(given) or not -count <= layer < count]
        if wrong:
            raise InputError(f"output_attentions names layers {wrong}; the model has layers 0..{count - 1}")
        return [layer % count for layer in layers]

    def pattern_entries(self, layer: int, grid: TokenGrid) -> int:
        """Return how many numbers a layer's pattern of one clip has, over all of its heads."""
        heads = heads_left(self.config, layer)
        return layer_layouts(self.config, grid)[layer].scores(heads, self.config.num_attention_heads)

    def _check_memory(self, layers: list[int], batch: int, grid: TokenGrid) -> None:
        hooked = [layer for layer, each in enumerate(self.attention_layers) if each.pattern_hooked]
        entries = {layer: self.pattern_entries(layer, grid) for layer in (*layers, *hooked)}
        heads = max(self.attention_layers[layer].num_heads for layer in entries)
        size = torch.finfo(self.dtype).bits // 8
        # beside the patterns that are kept, one layer's scores and its float32 softmax exist for a moment
        wanted = batch * (sum(entries[layer] for layer in layers) * size + max(entries.values()) * (4 + size))
        seen = f"{grid.num_tokens}² tokens" if self.config.variant == "spacetime" else f"{grid.num_tokens} tokens"
        require_bytes(
            wanted,
            self.device,
            f"attentions of {len(layers) or 'hooked'} layers × {batch} clips × {heads} heads × {seen}",
            "use record_attention(model, pixel_values), which gives any row, column or head on demand, "
            "or output_attentions=[layer] for one layer",
        )


class Pooler(nn.Module):
    """``pooler_act`` (tanh) of dense(CLS), or of dense(mean of all tokens) where the model has no CLS.

    Args:
        config: the model's configuration.
    """

    def __init__(self, config: VivitConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.pooler_output_size or config.hidden_size)
        self.activation = ACTIVATIONS[config.pooler_act]

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, d_model) to (batch, ``pooler_output_size``)."""
        return self.activation(self.dense(x))


class VivitModel(VivitPreTrainedModel):
    """The bare ViViT: joint space-time attention over all tubelets and a CLS token (Arnab et al. 2021, model 1).

    Args:
        config: the model's configuration.
        add_pooling_layer: whether to add the pooler, ``pooler_act`` of dense(CLS).

    Example:
        >>> model = VivitModel(VivitConfig(num_hidden_layers=2)).eval()
        >>> model(torch.zeros(1, 32, 3, 224, 224)).last_hidden_state.shape
        torch.Size([1, 3137, 768])
    """

    def __init__(self, config: VivitConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.pooler = Pooler(config) if add_pooling_layer else None
        self.init_weights()

    def forward(
        self,
        pixel_values: Tensor | None = None,
        head_mask: Tensor | None = None,
        output_attentions: bool | Sequence[int] | None = None,
        output_hidden_states: bool | None = None,
        interpolate_pos_encoding: bool = False,
        return_dict: bool | None = None,
    ) -> Any:
        """Encode a batch of clips.

        Args:
            pixel_values: (batch, frames, channels, height, width), normalised; cast to the model's dtype.
            head_mask: (heads,), (layers, heads) or (layers, 1 or batch, heads, 1, 1); 1 keeps and 0 removes a head;
                differentiable, in every attention implementation.
            output_attentions: True for the patterns of all layers, or a list of layers; those layers alone are computed
                eagerly. 5.67 GB a clip for all of ViViT-B: ``record_attention`` gives the same on demand. None is what
                the checkpoint's configuration says, else False.
            output_hidden_states: also return the embeddings and each block's output; None as above.
            interpolate_pos_encoding: allow other frame counts and pixel sizes; resizes the positions.
            return_dict: False returns a tuple of the fields that are present.

        Returns:
            ``VivitModelOutput``.

        Raises:
            InputError: ``pixel_values``, ``head_mask`` or ``output_attentions`` do not fit the model.
            GridError: frames or pixels are no whole number of tubelets.
            OutOfMemoryBudgetError: the attentions asked for do not fit into the memory that is free.
        """
        encoded = self.encode(
            pixel_values, head_mask, output_attentions, output_hidden_states, interpolate_pos_encoding
        )
        output = self.outputs_of(encoded)
        return output.to_tuple() if return_dict is False else output

    def outputs_of(self, encoded: Encoded) -> VivitModelOutput:
        """Return the output that the backbone's result gives."""
        pooled = None if self.pooler is None else self.pooler(self.summary_of(encoded))
        output = VivitModelOutput(encoded.last_hidden_state, pooled, encoded.hidden_states, encoded.attentions)
        return output.on_grid(encoded.grid) if self.config.spatial_only_baseline else output


class VivitForVideoClassification(VivitPreTrainedModel):
    """A ViViT with a linear classifier on the CLS token.

    Args:
        config: the model's configuration; ``num_labels=0`` leaves the classifier out (logits are then the CLS token).
    """

    def __init__(self, config: VivitConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.classifier = nn.Linear(config.hidden_size, config.num_labels) if config.num_labels else nn.Identity()
        self.init_weights()

    def forward(
        self,
        pixel_values: Tensor | None = None,
        head_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | Sequence[int] | None = None,
        output_hidden_states: bool | None = None,
        interpolate_pos_encoding: bool = False,
        return_dict: bool | None = None,
    ) -> Any:
        """Classify a batch of clips.

        Args:
            pixel_values: see ``VivitModel.forward``.
            head_mask: see ``VivitModel.forward``.
            labels: (batch,) integer classes, (batch, num_labels) floats for several labels a clip, or (batch,) floats
                for regression; gives the loss that ``problem_type`` names, or else that these imply.
            output_attentions: see ``VivitModel.forward``.
            output_hidden_states: see ``VivitModel.forward``.
            interpolate_pos_encoding: see ``VivitModel.forward``.
            return_dict: see ``VivitModel.forward``.

        Returns:
            ``VideoClassifierOutput``.

        Raises:
            InputError: see ``VivitModel.forward``; or the labels do not fit.
        """
        encoded = self.encode(
            pixel_values, head_mask, output_attentions, output_hidden_states, interpolate_pos_encoding
        )
        output = self.outputs_of(encoded)
        if labels is not None and output.logits is not None:
            output.loss = classification_loss(output.logits, labels, self.config)
        return output.to_tuple() if return_dict is False else output

    def outputs_of(self, encoded: Encoded) -> VideoClassifierOutput:
        """Return the output, without a loss, that the backbone's result gives."""
        logits = self.classifier(self.summary_of(encoded))
        return VideoClassifierOutput(None, logits, encoded.hidden_states, encoded.attentions)

    def split_logits(self, logits: Float[Tensor, "*batch num_labels"]) -> dict[str, Tensor]:
        """Return the logits of each group of classes, where several classifiers stand side by side.

        Args:
            logits: (…, num_labels).

        Returns:
            Name of the group → (…, classes of the group), in the order of ``config.label_groups``.

        Raises:
            ConfigError: the configuration has no ``label_groups``.
        """
        groups = self.config.label_groups
        if groups is None:
            raise ConfigError("this model has one group of classes: config.label_groups is None")
        return dict(zip(groups, logits.split(list(groups.values()), dim=-1), strict=True))


def classification_loss(
    logits: Float[Tensor, "batch num_labels"], labels: Shaped[Tensor, "batch ..."], config: VivitConfig
) -> Float[Tensor, ""]:
    """Return the mean loss: squared error, cross entropy, or binary cross entropy with logits.

    Args:
        logits: (batch, num_labels).
        labels: see ``VivitForVideoClassification.forward``.
        config: names the ``problem_type``; where it is None, one label means regression, integer labels cross entropy,
            and floating-point labels binary cross entropy.

    Raises:
        ConfigError: the model has no classifier.
        InputError: the labels do not have the shape or range that the loss wants.
    """
    count = config.num_labels or 0
    if not count:
        raise ConfigError("labels were given, but the model has no classifier (num_labels=0)")
    kind = config.problem_type
    if kind is None and count == 1:
        kind = "regression"
    elif kind is None:
        kind = "multi_label_classification" if labels.is_floating_point() else "single_label_classification"
    labels = labels.to(logits.device)
    batch = len(logits)
    wanted = {
        "regression": ((batch,), (batch, 1)) if count == 1 else ((batch, count),),
        "single_label_classification": ((batch,), (batch, 1)),
        "multi_label_classification": ((batch, count),),
    }[kind]
    if tuple(labels.shape) not in wanted:
        raise InputError(
            f"{kind} wants labels {' or '.join(map(str, wanted))}, got {tuple(labels.shape)} {labels.dtype}"
        )
    if kind == "regression":
        return functional.mse_loss(logits.reshape(labels.shape), labels.to(logits.dtype))
    if kind == "multi_label_classification":
        return functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
    labels = labels.reshape(-1).long()
    if labels.device.type == "cpu" and not torch.compiler.is_compiling() and bool((labels >= count).any()):
        raise InputError(f"labels must lie in 0..{count - 1}, got {labels.tolist()}")
    return functional.cross_entropy(logits, labels)
