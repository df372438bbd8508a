"""A record that also keeps the values, and the residual stream that enters each layer."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vivit_lab.families.vivit import VivitForVideoClassification, VivitModel
from vivit_lab.model.attention import AttentionParts
from vivit_lab.model.outputs import Encoded
from vivit_lab.records.attention import (
    AttentionRecord,
    AxialRecord,
    Switch,
    check_layers,
    evaluating,
    record_layouts,
    record_provenance,
)
from vivit_lab.records.inputs import Pixels, as_pixel_values
from vivit_lab.video.clip import Clip

__all__ = [
    "AxialValueRecord",
    "Pass",
    "ValueRecord",
    "frozen",
    "record_values",
    "run_pass",
    "without_graph",
]

_LEARNING = Switch("requires_grad")


@dataclass(frozen=True, eq=False, repr=False)
class ValueRecord(AttentionRecord):
    """An ``AttentionRecord`` with what the attention carries, beside where it looks.

    Args:
        values: layer → (batch, head, token, d_head).
        states: layer → (batch, token, d_model), the residual stream that enters the layer, where it was kept.
        final_state: (batch, token, d_model), the residual stream that leaves the last layer, before the final
            LayerNorm, where it was kept.
    """

    values: dict[int, Tensor] = field(default_factory=dict)
    states: dict[int, Tensor] = field(default_factory=dict)
    final_state: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that the record holds."""
        parts = [*self.values.values(), *self.states.values()]
        parts += [] if self.final_state is None else [self.final_state]
        return super().nbytes + sum(part.numel() * part.element_size() for part in parts)


@dataclass(frozen=True, eq=False, repr=False)
class AxialValueRecord(AxialRecord, ValueRecord):
    """A ``ValueRecord`` of a factorised model."""


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


def frozen(model: torch.nn.Module) -> AbstractContextManager[None]:
    """Let no parameter ask for a gradient, so that a graph neither keeps nor computes what only they would need.

    Each parameter is put back as it was. Threads may do so at once: the last one to leave does that.
    """
    return _LEARNING.off(model.parameters())


def run_pass(
    model: VivitModel | VivitForVideoClassification,
    given: Pixels,
    *,
    layers: Sequence[int],
    head_mask: Tensor | None,
    interpolate_pos_encoding: bool | None,
    states: bool = False,
    graph_from: int | None = None,
) -> Pass:
    """Run the model once, in the surrounding gradient mode, and keep what some layers were made of.

    Args:
        model: a ViViT in evaluation mode.
        given: the clips.
        layers: which layers to keep, counted from 0.
        head_mask: as for the model's forward.
        interpolate_pos_encoding: whether clips of another size are taken; None is yes, and says so once.
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
    attention, count, grid = model.attention_layers[0], len(model.blocks), encoded.grid
    assert grid is not None, "the backbone tells the grid of what it encoded"
    mask = model.head_mask_of(head_mask, len(pixels))
    fields = {
        "grid": grid,
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
        **record_layouts(model, grid),
    }
    return Pass(parts, encoded, model.outputs_of(encoded), fields)


def record_values(
    model: VivitModel | VivitForVideoClassification,
    pixel_values: Tensor | Clip | Sequence[Clip] | Pixels,
    *,
    layers: Sequence[int] | None = None,
    head_mask: Tensor | None = None,
    interpolate_pos_encoding: bool | None = None,
    final_state: bool = False,
) -> ValueRecord:
    """Run one forward pass without gradients, and keep queries, keys, values and the residual stream.

    Args:
        model: a ViViT.
        pixel_values: (batch, frames, channels, height, width), or prepared clips.
        layers: which layers to keep; all by default.
        head_mask: as for the model's forward.
        interpolate_pos_encoding: whether clips of another size are taken; None is yes, and says so once.
        final_state: also keep the residual stream that leaves the last layer, before the final LayerNorm evens its
            norms out. Costs the last layer once more.

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
        hidden = done.encoded.hidden_states
        assert hidden is not None, "states were asked for"
        last = None
        if final_state:  # what the model gives is after the final LayerNorm
            mask = done.fields["head_mask"]
            share = None if mask is None else mask.select(0, -1)
            last, _ = model.blocks[-1](hidden[-2], share, False, None, done.encoded.grid)
    states = {layer: hidden[layer] for layer in wanted}
    kind = AxialValueRecord if "layouts" in done.fields else ValueRecord
    return kind(**done.fields, output=without_graph(done.output), states=states, final_state=last)


def without_graph(output: Any) -> Any:
    """Return a model's output without its graph, and without the tuples of layers, which a record keeps itself."""
    return output.like({name: value.detach() for name, value in output.items() if isinstance(value, Tensor)})
