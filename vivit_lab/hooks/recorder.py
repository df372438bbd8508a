"""Taking an attention record: one forward pass that hands over what its attention was made of."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from vivit_lab.errors import InputError
from vivit_lab.grid import TokenGrid
from vivit_lab.hooks.axial import AxialRecord
from vivit_lab.hooks.inputs import Pixels, as_pixel_values
from vivit_lab.hooks.record import AttentionRecord
from vivit_lab.hooks.switched import Switch
from vivit_lab.model.activation_cache import run_provenance
from vivit_lab.model.attention import AttentionParts
from vivit_lab.model.classifier import VivitForVideoClassification, VivitModel
from vivit_lab.model.inputs import is_index
from vivit_lab.model.variants import layer_layouts
from vivit_lab.video.clip import Clip

__all__ = ["check_layers", "evaluating", "record_attention", "record_layouts", "record_provenance"]

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
