"""The backbone: embeddings, blocks, final LayerNorm. What is asked of it is checked here, before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vivit_lab.errors import ConfigError, InputError
from vivit_lab.grid import TokenGrid
from vivit_lab.memory import require_bytes
from vivit_lab.model.attention import Attention
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
        return [block.attn for block in self.blocks if isinstance(block, Block)]

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

    def gradient_checkpointing_enable(self) -> None:
        """Recompute each block in the backward pass instead of keeping its activations (in training mode)."""
        self.gradient_checkpointing = True

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
        output_attentions: bool | Sequence[int],
        output_hidden_states: bool,
        interpolate_pos_encoding: bool,
    ) -> Encoded:
        """Run embeddings, blocks and final LayerNorm; the arguments are those of the models' ``forward``."""
        if pixel_values is None:
            raise InputError("pixel_values is missing: pass (batch, frames, channels, height, width)")
        grid = self.grid_of(pixel_values, interpolate_pos_encoding)
        wanted = self._pattern_layers(output_attentions)
        if wanted:
            self._check_memory(len(wanted), len(pixel_values), grid)
        mask = expand_head_mask(head_mask, len(self.blocks), self.config.num_attention_heads, like=self.embed.cls_token)
        x = self.embed(pixel_values, interpolate_pos_encoding)
        hidden_states, patterns = [x], {}
        masks = [None] * len(self.blocks) if mask is None else mask.unbind()
        for layer, (block, mask) in enumerate(zip(self.blocks, masks, strict=True)):
            if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
                x, pattern = checkpoint(block, x, mask, layer in wanted, use_reentrant=False)
            else:
                x, pattern = block(x, mask, layer in wanted)
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

    def _pattern_layers(self, output_attentions: bool | Sequence[int]) -> list[int]:
        count = len(self.blocks)
        if isinstance(output_attentions, bool):
            return list(range(count)) if output_attentions else []
        layers = [int(layer) for layer in output_attentions]
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


def expand_head_mask(head_mask: Tensor | None, layers: int, heads: int, like: Tensor) -> Tensor | None:
    """Bring a head mask to (layers, batch or 1, heads, 1, 1), in the device and dtype of ``like``.

    Args:
        head_mask: (heads,) for all layers, (layers, heads), or Hugging Face's (layers, batch or 1, heads, 1, 1).
        layers: number of layers.
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
    elif len(shape) == 5 and (shape[0], shape[2:]) == (layers, (heads, 1, 1)):
        mask = head_mask
    else:
        raise InputError(
            f"head_mask must be ({heads},) or ({layers}, {heads}) - heads, or layers × heads; 1 keeps - got {shape}"
        )
    return mask.to(device=like.device, dtype=like.dtype)
