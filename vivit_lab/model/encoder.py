"""The backbone: embeddings, blocks, final LayerNorm. What is asked of it is checked here, before anything runs."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vivit_lab.errors import ConfigError, InputError
from vivit_lab.grid import TokenGrid
from vivit_lab.memory import require_bytes
from vivit_lab.model.attention import Attention, AttentionParts
from vivit_lab.model.config import ATTENTION_IMPLEMENTATIONS, VivitConfig
from vivit_lab.model.factorized import make_blocks, make_embeddings, make_summary
from vivit_lab.model.head_mask import expand_head_mask
from vivit_lab.model.hook_names import layer_index
from vivit_lab.model.hook_point import has_hooks
from vivit_lab.model.hooked import HookedMixin
from vivit_lab.model.inputs import is_index
from vivit_lab.model.layer_norm import LayerNorm
from vivit_lab.model.pretrained import PretrainedMixin
from vivit_lab.model.pruned import heads_left, keep_heads, present_heads
from vivit_lab.model.variants import layer_layouts

__all__ = ["Encoded", "VivitPreTrainedModel", "expand_head_mask"]


class Encoded(NamedTuple):
    """What the backbone gives to the heads on top of it."""

    last_hidden_state: Tensor
    hidden_states: tuple[Tensor, ...] | None
    attentions: tuple[Tensor, ...] | None
    grid: TokenGrid | None = None


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
