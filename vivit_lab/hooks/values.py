"""A record that also keeps the values, and the residual stream that enters each layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import RLock
from typing import Any

import torch
from torch import Tensor

from vivit_lab.hooks.inputs import Pixels, as_pixel_values
from vivit_lab.hooks.record import AttentionRecord
from vivit_lab.hooks.recorder import check_layers, evaluating, record_provenance
from vivit_lab.model.attention import AttentionParts
from vivit_lab.model.classifier import VivitForVideoClassification, VivitModel
from vivit_lab.model.encoder import Encoded, expand_head_mask
from vivit_lab.video.clip import Clip

__all__ = ["Pass", "ValueRecord", "frozen", "record_values", "run_pass", "without_graph"]

_FREEZING = RLock()


@dataclass(frozen=True, eq=False)
class ValueRecord(AttentionRecord):
    """An ``AttentionRecord`` with what the attention carries, beside where it looks.

    Args:
        values: layer → (batch, head, token, d_head).
        states: layer → (batch, token, d_model), the residual stream that enters the layer, where it was kept.
    """

    values: dict[int, Tensor] = field(default_factory=dict)
    states: dict[int, Tensor] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes that the record holds."""
        parts = [*self.values.values(), *self.states.values()]
        return super().nbytes + sum(part.numel() * part.element_size() for part in parts)


@dataclass(frozen=True, eq=False)
class Pass:
    """One forward pass, with what its attention layers were made of.

    Args:
        parts: layer → what the layer was made of.
        encoded: the backbone's result.
        output: the model's output.
        fields: the arguments of an ``AttentionRecord``, detached from the graph.
    """

    parts: dict[int, AttentionParts]
    encoded: Encoded
    output: Any
    fields: dict[str, Any]


@contextmanager
def frozen(model: torch.nn.Module) -> Iterator[None]:
    """Let no parameter ask for a gradient, so that a graph neither keeps nor computes what only they would need.

    Each parameter is put back as it was; one thread at a time where something has to change.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        yield
        return
    with _FREEZING:
        learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        try:
            for parameter in learning:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in learning:
                parameter.requires_grad_(True)


def run_pass(
    model: VivitModel | VivitForVideoClassification,
    given: Pixels,
    *,
    layers: Sequence[int],
    head_mask: Tensor | None,
    interpolate_pos_encoding: bool,
    states: bool = False,
    graph_from: int | None = None,
) -> Pass:
    """Run the model once, in the surrounding gradient mode, and keep what some layers were made of.

    Args:
        model: a ViViT in evaluation mode.
        given: the clips.
        layers: which layers to keep, counted from 0.
        head_mask: as for the model's forward.
        interpolate_pos_encoding: as for the model's forward.
        states: whether ``encoded`` keeps the residual stream.
        graph_from: the layer at whose context the gradient graph begins; all below stays out of it.

    Raises:
        InputError: the input or the mask do not fit the model.
    """
    pixels = given.values.to(model.device)
    parts: dict[int, AttentionParts] = {}

    def collect(layer: int, made_of: AttentionParts) -> None:
        if layer in layers:
            parts[layer] = made_of
        if layer == graph_from:
            made_of.context.requires_grad_()

    encoded = model.encode(pixels, head_mask, False, states, interpolate_pos_encoding, collect=collect)
    attention, count = model.attention_layers[0], len(model.blocks)
    mask = expand_head_mask(head_mask, count, len(pixels), attention.num_heads, like=model.embed.cls_token)
    fields = {
        "grid": model.grid_of(pixels, interpolate_pos_encoding),
        "queries": {layer: part.query.detach() for layer, part in parts.items()},
        "keys": {layer: part.key.detach() for layer, part in parts.items()},
        "values": {layer: part.value.detach() for layer, part in parts.items()},
        "lse": {layer: part.lse.detach() for layer, part in parts.items() if part.lse is not None},
        "scale": attention.scale,
        "num_layers": count,
        "head_mask": mask,
        "model_id": model.name_or_path or type(model).__name__,
        "frame_indices": given.frame_indices,
        "sources": given.sources,
        "provenance": record_provenance(model, parts[layers[0]].query.dtype),
    }
    return Pass(parts, encoded, model.outputs_of(encoded), fields)


def record_values(
    model: VivitModel | VivitForVideoClassification,
    pixel_values: Tensor | Clip | Sequence[Clip],
    *,
    layers: Sequence[int] | None = None,
    head_mask: Tensor | None = None,
    interpolate_pos_encoding: bool = False,
) -> ValueRecord:
    """Run one forward pass without gradients, and keep queries, keys, values and the residual stream.

    Args:
        model: a ViViT.
        pixel_values: (batch, frames, channels, height, width), or prepared clips.
        layers: which layers to keep; all by default.
        head_mask: as for the model's forward.
        interpolate_pos_encoding: as for the model's forward.

    Returns:
        The record. Memory: 4·tokens·d_model a layer and clip (39 MB for ViViT-B in float32).

    Raises:
        InputError: the input, the layers or the mask do not fit the model.
    """
    given = as_pixel_values(pixel_values)
    wanted = check_layers(layers, len(model.blocks))
    forward = {"head_mask": head_mask, "interpolate_pos_encoding": interpolate_pos_encoding}
    with evaluating(model), torch.no_grad():
        done = run_pass(model, given, layers=wanted, states=True, **forward)
    hidden = done.encoded.hidden_states or ()
    return ValueRecord(
        **done.fields, output=without_graph(done.output), states={layer: hidden[layer] for layer in wanted}
    )


def without_graph(output: Any) -> Any:
    """Return a model's output without its graph, and without the tuples of layers, which a record keeps itself."""
    return type(output)(**{name: value.detach() for name, value in output.items() if isinstance(value, Tensor)})
