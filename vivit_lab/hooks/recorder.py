"""Taking an attention record: one fused forward pass, listened to at the hook points."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from vivit_lab._version import __version__
from vivit_lab.errors import InputError
from vivit_lab.hooks.inputs import as_pixel_values
from vivit_lab.hooks.record import AttentionRecord
from vivit_lab.model.encoder import VivitPreTrainedModel, expand_head_mask
from vivit_lab.video.clip import Clip

__all__ = ["record_attention"]


def record_attention(
    model: VivitPreTrainedModel,
    pixel_values: Tensor | Clip | Sequence[Clip],
    *,
    layers: Sequence[int] | None = None,
    head_mask: Tensor | None = None,
    interpolate_pos_encoding: bool = False,
) -> AttentionRecord:
    """Run one forward pass, in evaluation mode and without gradients, and keep what attention is made of.

    The attention implementation of the model is used as it is; under SDPA no pattern is ever formed.

    Args:
        model: a ViViT.
        pixel_values: (batch, frames, channels, height, width), or prepared clips.
        layers: which layers to keep; all by default.
        head_mask: as for the model's forward.
        interpolate_pos_encoding: as for the model's forward.

    Returns:
        The record. Memory: 2·tokens·d_model a layer and clip (19 MB for ViViT-B in float32).

    Raises:
        InputError: the input, the layers or the mask do not fit the model.

    Example:
        >>> record = record_attention(model, clip)
        >>> record.rows(layer=-1, queries=0).shape  # where CLS looks
        torch.Size([1, 12, 1, 3137])
    """
    pixels, frame_indices = as_pixel_values(pixel_values)
    count = len(model.blocks)
    wanted = range(count) if layers is None else sorted({range(count)[layer] for layer in _checked(layers, count)})
    grid = model.grid_of(pixels, interpolate_pos_encoding)
    queries: dict[int, Tensor] = {}
    keys: dict[int, Tensor] = {}
    lse: dict[int, Tensor] = {}
    with _recording(model, wanted, queries, keys, lse), torch.no_grad():
        output = model(pixels.to(model.device), head_mask=head_mask, interpolate_pos_encoding=interpolate_pos_encoding)
    attention = model.attention_layers[0]
    return AttentionRecord(
        grid,
        queries,
        keys,
        scale=attention.scale,
        num_layers=count,
        lse=lse,
        head_mask=expand_head_mask(head_mask, count, attention.num_heads, like=model.embed.cls_token),
        output=output,
        model_id=getattr(model, "name_or_path", None) or type(model).__name__,
        frame_indices=frame_indices,
        provenance={
            "vivit_lab": __version__,
            "torch": torch.__version__,
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": model.device.type,
            "attn_implementation": model.attn_implementation,
        },
    )


def _checked(layers: Sequence[int], count: int) -> Sequence[int]:
    if not len(layers) or any(not -count <= layer < count for layer in layers):
        raise InputError(f"layers must name some of 0..{count - 1}, got {list(layers)}")
    return layers


@contextmanager
def _recording(
    model: VivitPreTrainedModel,
    layers: Sequence[int],
    queries: dict[int, Tensor],
    keys: dict[int, Tensor],
    lse: dict[int, Tensor],
) -> Iterator[None]:
    """Fill the dictionaries during a forward pass in evaluation mode; leave the model as it was."""

    def keep(store: dict[int, Tensor], layer: int, *, transpose: bool) -> Any:
        def hook(_module: Any, _inputs: Any, output: Tensor) -> None:
            store[layer] = output.detach().transpose(1, 2) if transpose else output.detach()

        return hook

    training = [module for module in model.modules() if module.training]
    with ExitStack() as stack:
        for module in training:
            module.training = False
            stack.callback(setattr, module, "training", True)
        for layer in layers:
            attention = model.attention_layers[layer]
            stack.callback(setattr, attention, "keep_lse", attention.keep_lse)
            attention.keep_lse = True
            for point, store in ((attention.hook_q, queries), (attention.hook_k, keys), (attention.hook_lse, lse)):
                handle = point.register_forward_hook(keep(store, layer, transpose=store is not lse))
                stack.callback(handle.remove)
        yield
