"""The backbone: embeddings, blocks, final LayerNorm. What is asked of it is checked here, before anything runs."""

from __future__ import annotations

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
from vivit_lab.model.block import Block
from vivit_lab.model.config import ATTENTION_IMPLEMENTATIONS, VivitConfig
from vivit_lab.model.embeddings import Embeddings
from vivit_lab.model.pretrained import PretrainedMixin

__all__ = ["Encoded", "VivitPreTrainedModel", "expand_head_mask"]


class Encoded(NamedTuple):
    """What the backbone gives to the heads on top of it."""

    last_hidden_state: Tensor
    hidden_states: tuple[Tensor, ...] | None
    attentions: tuple[Tensor, ...] | None


class VivitPreTrainedModel(PretrainedMixin, nn.Module):
    """Backbone that ``VivitModel`` and ``VivitForVideoClassification`` share; module paths are the hook names.

    Args:
        config: the model's configuration.
    """

    def __init__(self, config: VivitConfig) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        self._checkpoint_options: dict[str, Any] = {"use_reentrant": False}
        self.embed = Embeddings(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.ln_final = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

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
            elif isinstance(module, Embeddings):
                nn.init.zeros_(module.cls_token)
                nn.init.zeros_(module.position)

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return self.embed.cls_token.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the parameters."""
        return self.embed.cls_token.dtype

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

    def grid_of(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False) -> TokenGrid:
        """Return the token grid of a batch (batch, frames, channels, height, width), or raise what is wrong with it."""
        return self.embed.grid_of(pixel_values, interpolate_pos_encoding)

    def encode(
        self,
        pixel_values: Tensor | None,
        head_mask: Tensor | None,
        output_attentions: bool | Sequence[int] | None = None,
        output_hidden_states: bool | None = None,
        interpolate_pos_encoding: bool = False,
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
        if wanted:
            self._check_memory(len(wanted), batch, grid)
        sizes = (len(self.blocks), batch, self.config.num_attention_heads)
        mask = expand_head_mask(head_mask, *sizes, like=self.embed.cls_token)
        x = self.embed(pixel_values, interpolate_pos_encoding)
        hidden_states, patterns = [x], {}
        masks = [None] * len(self.blocks) if mask is None else mask.unbind()
        for layer, (block, mask) in enumerate(zip(self.blocks, masks, strict=True)):
            listen = None if collect is None else partial(collect, layer)
            if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
                x, pattern = cast(
                    "Any", checkpoint(block, x, mask, layer in wanted, listen, **self._checkpoint_options)
                )
            else:
                x, pattern = block(x, mask, layer in wanted, listen)
            if output_hidden_states:
                hidden_states.append(x)
            if pattern is not None:
                patterns[layer] = pattern
        x = self.ln_final(x)
        hidden_states[-1] = x  # as transformers 4.56 has it: the last entry is after the final LayerNorm
        return Encoded(
            x,
            tuple(hidden_states) if output_hidden_states else None,
            tuple(patterns[layer] for layer in wanted) if wanted else None,
        )

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
        wrong = [layer for layer in layers if not -count <= layer < count]
        if wrong:
            raise InputError(f"output_attentions names layers {wrong}; the model has layers 0..{count - 1}")
        return [layer % count for layer in layers]

    def _check_memory(self, layers: int, batch: int, grid: TokenGrid) -> None:
        tokens, heads = grid.num_tokens, self.config.num_attention_heads
        size = torch.finfo(self.dtype).bits // 8
        # beside the patterns that are kept, one layer's scores and its float32 softmax exist for a moment
        wanted = batch * heads * tokens**2 * (layers * size + 4 + size)
        require_bytes(
            wanted,
            self.device,
            f"attentions of {layers} layers × {batch} clips × {heads} heads × {tokens}² tokens",
            "use record_attention(model, pixel_values), which gives any row, column or head on demand, "
            "or output_attentions=[layer] for one layer",
        )


def expand_head_mask(head_mask: Tensor | None, layers: int, batch: int, heads: int, like: Tensor) -> Tensor | None:
    """Bring a head mask to (layers, batch or 1, heads, 1, 1), in the device and dtype of ``like``.

    Args:
        head_mask: (heads,) for all layers, (layers, heads), or Hugging Face's (layers, batch or 1, heads, 1, 1).
        layers: number of layers.
        batch: number of clips.
        heads: number of heads.
        like: a tensor whose device and dtype to take.

    Raises:
        InputError: the mask has another shape.
    """
    if head_mask is None:
        return None
    shape = tuple(head_mask.shape)
    if shape == (heads,):
        mask = head_mask.reshape(1, 1, heads, 1, 1).expand(layers, -1, -1, -1, -1)
    elif shape == (layers, heads):
        mask = head_mask.reshape(layers, 1, heads, 1, 1)
    elif shape in ((layers, 1, heads, 1, 1), (layers, batch, heads, 1, 1)):
        mask = head_mask
    else:
        raise InputError(
            f"head_mask must be ({heads},), ({layers}, {heads}) or ({layers}, 1 or {batch} clips, {heads}, 1, 1): "
            f"heads, layers × heads, or one for each clip; 1 keeps; got {shape}"
        )
    return mask.to(device=like.device, dtype=like.dtype)
