"""Gradients of the attention pattern on demand: one fused forward and backward, and no pattern in memory.

With O = A·V the context of a head, ∂y/∂A = dO·Vᵀ, where dO is the gradient of the context before the output projection.
So a layer's dO (9.6 MB for ViViT-B) stands for 472 MB of gradients of its patterns, and rows of pattern and gradient
are computed together, in the same blocks. Scores are y of each clip alone: clips of a batch do not touch each other.

Head masks: a mask multiplies the pattern P, so A = mask·P. Everything here is about P: its gradient ∂y/∂P = mask·∂y/∂A
is 0 for a head that is masked out, and P ⊙ ∂y/∂P = A ⊙ ∂y/∂A.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float32
from torch import Tensor

from vivit_lab.errors import InputError
from vivit_lab.families.vivit import VivitForVideoClassification, VivitModel
from vivit_lab.numbers import check_whole
from vivit_lab.records.attention import AxialRecord, RowBlock, check_layers, evaluating, full_precision
from vivit_lab.records.inputs import Pixels, as_pixel_values
from vivit_lab.records.targets import BoundTarget, TargetLike, all_names, bind_target
from vivit_lab.records.values import Pass, ValueRecord, frozen, run_pass, without_graph
from vivit_lab.video.clip import Clip

__all__ = ["AxialGradientRecord", "GradientRecord", "record_gradients"]


@dataclass(frozen=True, eq=False, repr=False)
class GradientRecord(ValueRecord):
    """A record with the gradients of a target, from which rows of the pattern's gradient are computed on demand.

    Args:
        context_gradients: layer → (batch, head, token, d_head), gradient of the target with respect to the context
            pattern·value, before the output projection.
        centres: layer → (batch, head, token) float32, context·gradient of the context: each row's pattern-weighted
            mean of the pattern's gradient.
        state_gradients: layer → (batch, token, d_model), gradient with respect to ``states``, where they were kept.
        targets: for each clip, what was explained, in words.
        unit: what the target is: ``"logit"``, ``"probability"``, …
        scores: (batch,) float32, the target's value for each clip.
    """

    context_gradients: dict[int, Tensor] = field(default_factory=dict)
    centres: dict[int, Tensor] = field(default_factory=dict)
    state_gradients: dict[int, Tensor] = field(default_factory=dict)
    targets: list[str] = field(default_factory=list)
    unit: str = "target"
    scores: Tensor | None = None

    @property
    def target(self) -> str:
        """What was explained in all clips, in words."""
        return all_names(self.targets)

    @property
    def nbytes(self) -> int:
        """Bytes that the record holds."""
        stores = (self.context_gradients, self.centres, self.state_gradients)
        parts = [part for store in stores for part in store.values()]
        return super().nbytes + sum(part.numel() * part.element_size() for part in parts)

    def gradient_rows(
        self, layer: int, queries: int | Sequence[int] | Tensor, *, centred: bool = False
    ) -> Float32[Tensor, "batch head query key"]:
        """Return the gradient of the target with respect to some rows of the pattern before the head mask.

        Args:
            layer: recorded layer.
            queries: sequence indices.
            centred: subtract each row's pattern-weighted mean, which a shift of the value bias would move.

        Returns:
            (batch, head, query, key) float32. Cost: O(queries · tokens · d_model).

        Raises:
            InputError: no such layer or token.
            OutOfMemoryBudgetError: so many rows do not fit into the memory that is free.
        """
        layer, index = self.layer_index(layer), self._index(queries)
        self._require(2 * self.num_heads * len(index), f"{len(index)} rows of gradients")
        with full_precision(self.device):
            upstream = self.context_gradients[layer].index_select(2, index).float()
            rows = torch.matmul(upstream, self.values[layer].float().transpose(-1, -2))
            if centred:
                rows -= self.centres[layer].index_select(2, index).unsqueeze(-1)
        return rows

    def gradient_blocks(
        self, layer: int, clip: int, *, centred: bool = False
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Go through one clip's pattern and its gradient in blocks of rows.

        Args:
            layer: recorded layer.
            clip: index in the batch.
            centred: as for ``gradient_rows``.

        Yields:
            The rows, their pattern before the head mask and its gradient, both (head, row, key) in float32. The next
            block overwrites both, and the caller may.
        """
        layer = self.layer_index(layer)
        check_whole("clip", clip, -len(self.values[layer]), len(self.values[layer]) - 1)
        upstream = self.context_gradients[layer].select(0, clip).float()
        value = self.values[layer].select(0, clip).float()
        centre = self.centres[layer].select(0, clip).unsqueeze(-1)
        folded = centred and self.device.type == "cpu"  # as in pattern_blocks: one product instead of a pass
        if folded:
            upstream = torch.cat((upstream, -centre), dim=-1)
            value = torch.cat((value, torch.ones_like(centre)), dim=-1)
        value = value.transpose(-1, -2).clone(memory_format=torch.contiguous_format)
        buffer: Tensor | None = None
        for rows, pattern in self.pattern_blocks(layer, clip, masked=False):
            if buffer is None:
                buffer = torch.empty_like(pattern).view(-1, pattern.shape[-1])
            gradient = buffer.narrow(0, 0, pattern.shape[0] * pattern.shape[1]).view(pattern.shape)
            with full_precision(self.device):
                torch.bmm(upstream.narrow(1, rows.start, rows.stop - rows.start), value, out=gradient)
            if centred and not folded:
                gradient.sub_(centre.narrow(1, rows.start, rows.stop - rows.start))
            yield rows, pattern, gradient

    def gradient_row_blocks(self, layer: int, clip: int, *, centred: bool = False) -> Iterator[RowBlock]:
        """Go through the same in blocks that name the keys of their rows, where these are not all; see ``RowBlock``."""
        for rows, pattern, gradient in self.gradient_blocks(layer, clip, centred=centred):
            yield RowBlock(rows, None, pattern, gradient)


@dataclass(frozen=True, eq=False, repr=False)
class AxialGradientRecord(AxialRecord, GradientRecord):
    """A ``GradientRecord`` of a factorised model: gradients are those of the pattern along each layer's axis."""

    def gradient_rows(
        self, layer: int, queries: int | Sequence[int] | Tensor, *, centred: bool = False
    ) -> Float32[Tensor, "batch head query key"]:
        """Refused: outside its axis a layer has no pattern, and so no gradient of one.

        Raises:
            InputError: always; ``gradient_row_blocks`` gives what there is.
        """
        raise InputError(
            "a factorised model has gradients of its patterns along time or space alone: read them with "
            "gradient_row_blocks(layer, clip), which names the keys of each row"
        )

    def gradient_row_blocks(self, layer: int, clip: int, *, centred: bool = False) -> Iterator[RowBlock]:
        """Go through one clip's pattern and gradient, one time after the other, on the support of each row."""
        layer = self.layer_index(layer)
        if self.layouts[layer].axis == "joint":
            yield from super().gradient_row_blocks(layer, clip, centred=centred)
            return
        centres, places = self.centres[layer].select(0, clip).unsqueeze(-1), self.layouts[layer].places

        def finish(products: Tensor, heads: slice, time: int) -> Tensor:
            if not centred:
                return products
            mine = centres.narrow(0, heads.start, heads.stop - heads.start)
            return products - mine.narrow(1, time * places, places)

        gradients = self.supports(layer, self.context_gradients, self.values, clip, finish)
        patterns = self.row_blocks(layer, clip, masked=False)
        for block, (_, _, gradient) in zip(patterns, gradients, strict=True):
            yield block._replace(gradient=gradient)


def record_gradients(
    model: VivitModel | VivitForVideoClassification,
    pixel_values: Tensor | Clip | Sequence[Clip] | Pixels,
    target: TargetLike = None,
    *,
    layers: Sequence[int] | None = None,
    head_mask: Tensor | None = None,
    interpolate_pos_encoding: bool | None = None,
    states: bool = False,
) -> GradientRecord:
    """Run one forward pass and one backward pass to the lowest layer wanted, and keep what relevance is made of.

    In evaluation mode, with the model's own attention implementation; under SDPA no pattern is ever formed. The
    parameters take no part in it: their ``.grad`` is untouched, and so is the model.

    Args:
        model: a ViViT.
        pixel_values: (batch, frames, channels, height, width), or prepared clips.
        target: what is explained: a class, one class for each clip, a ``Target``, a function of the output, or None for
            each clip's predicted class; see ``bind_target``.
        layers: which layers to keep; all by default. The backward pass ends at the lowest.
        head_mask: as for the model's forward.
        interpolate_pos_encoding: whether clips of another size are taken; None is yes, and says so once.
        states: also keep the residual stream that enters each layer, and its gradient.

    Returns:
        The record. Memory beside the pass itself: 4·tokens·d_model a layer and clip (39 MB for ViViT-B in float32), 6
        with ``states``.

    Raises:
        InputError: the input, target, layers or mask do not fit the model, or the target does not depend on it.

    Example:
        >>> record = record_gradients(model, clip, target=3)
        >>> record.gradient_rows(layer=-1, queries=0).shape
        torch.Size([1, 12, 1, 3137])
    """
    given = as_pixel_values(pixel_values)
    wanted = check_layers(layers, len(model.blocks))
    forward = {"head_mask": head_mask, "interpolate_pos_encoding": interpolate_pos_encoding}
    with evaluating(model), frozen(model), torch.inference_mode(False), torch.enable_grad():
        pixels = given.values.clone() if given.values.is_inference() else given.values.detach()
        if states:  # the residual stream below the lowest context has a gradient too
            pixels.requires_grad_()
        start = None if states else wanted[0]
        given = given._replace(values=pixels)
        done = run_pass(model, given, layers=wanted, states=states, graph_from=start, **forward)
        bound = bind_target(target, done.output, model.config)
        return _backward(done, bound, wanted)


def _backward(done: Pass, bound: BoundTarget, layers: list[int]) -> GradientRecord:
    scores = bound(done.output)
    contexts = [done.parts[layer].context for layer in layers]
    hidden = done.encoded.hidden_states
    states = [hidden[layer] for layer in layers] if hidden is not None else []
    if not scores.requires_grad:
        raise InputError(
            f"the target, {bound.name}, does not depend on the model's output by a function with a gradient"
        )
    gradients = torch.autograd.grad(scores.float().sum(), contexts + states, materialize_grads=True)
    upstream = dict(zip(layers, gradients[: len(layers)], strict=True))
    centres = {
        layer: (context.detach().float() * upstream[layer].float()).sum(dim=-1)
        for layer, context in zip(layers, contexts, strict=True)
    }
    kind = AxialGradientRecord if "layouts" in done.fields else GradientRecord
    return kind(
        **done.fields,
        output=without_graph(done.output),
        states={layer: state.detach() for layer, state in zip(layers, states, strict=False)},
        context_gradients=upstream,
        centres=centres,
        state_gradients=dict(zip(layers, gradients[len(layers) :], strict=False)),
        targets=bound.names,
        unit=bound.unit,
        scores=scores.detach().float(),
    )
