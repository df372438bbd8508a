"""LeGrad: how sensitive each layer's readout is to its own attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vivit_lab.attribution.base import AttributionMap
from vivit_lab.attribution.products import layer_range
from vivit_lab.attribution.reading import map_of, require_one_sequence
from vivit_lab.errors import InputError
from vivit_lab.families.vivit import VivitForVideoClassification, VivitModel
from vivit_lab.model.attention import AttentionParts
from vivit_lab.model.outputs import Encoded
from vivit_lab.numbers import checked_numbers
from vivit_lab.records.attention import AxialRecord, evaluating
from vivit_lab.records.targets import BoundTarget, TargetLike, bind_target
from vivit_lab.records.values import ValueRecord, frozen, record_values
from vivit_lab.video.clip import Clip

__all__ = ["LeGrad"]

_ROWS = 64  # rows of gradients that exist at once


@checked_numbers()
@dataclass(frozen=True)
class LeGrad:
    """LeGrad (Bousselham et al., ICCV 2025, https://arxiv.org/abs/2404.03214, section 3).

    Each layer's output is read as if it were the last: s_l is the target computed from the final LayerNorm and head on
    that layer's tokens. The map is the mean over layers of E_h E_i[(∂s_l/∂A_l)+], mean over heads and query rows. The
    gradient is of the pattern itself, not of pattern × gradient, so that a token matters that would be attended to.
    The paper ends by min–max scaling; here the values stay comparable over clips. In a factorised model with one
    sequence of tokens, a layer's pattern is that along its axis: keys that a row does not attend to get nothing of it.

    Args:
        start_layer: the lowest layer that is averaged; negative counts from the last.

    Cost: two forward passes and the backward pass of each layer's MLP and output projection alone. Where the target
    reads CLS only one row of each layer has a gradient, so the maps themselves cost O(layers · tokens · d_model); for a
    target that reads every token they cost as a blockwise pass over each pattern. Memory: one record with values and
    states (4·tokens·d_model a layer).
    """

    class_agnostic: ClassVar[bool] = False

    start_layer: int = 0

    def __call__(
        self,
        model: VivitModel | VivitForVideoClassification,
        pixel_values: Tensor | Clip | Sequence[Clip],
        target: TargetLike = None,
        *,
        head_mask: Tensor | None = None,
        interpolate_pos_encoding: bool | None = None,
    ) -> AttributionMap:
        """Explain a batch of clips.

        Args:
            model: a ViViT (a record does not suffice: each layer is read anew).
            pixel_values: (batch, frames, channels, height, width) or prepared clips.
            target: a class, a ``Target`` or a function of the output; None for each clip's predicted class.
            head_mask: as for the model's forward.
            interpolate_pos_encoding: whether clips of another size are taken; None is yes, and says so once.

        Returns:
            A map of nonnegative sensitivity, in units of the target.

        Raises:
            InputError: the target or ``start_layer`` do not fit, or the model is a factorised encoder.
        """
        require_one_sequence(self, model.config)
        layers = layer_range(model, self.start_layer)
        forward = {"head_mask": head_mask, "interpolate_pos_encoding": interpolate_pos_encoding}
        record = record_values(model, pixel_values, layers=layers, **forward)
        bound = bind_target(target, record.output, model.config)
        total = torch.zeros(record.batch_size, record.grid.num_tokens, device=record.device)
        with evaluating(model), frozen(model):
            for layer in layers:
                total += _sensitivity(_readout_gradient(model, record, layer, bound), record, layer)
        scale = f"sensitivity of each layer's {bound.unit} to its attention"
        return map_of(record, total / len(layers), self, bound.names, scale)


def _readout_gradient(
    model: VivitModel | VivitForVideoClassification, record: ValueRecord, layer: int, bound: BoundTarget
) -> Tensor:
    """Return the gradient of a layer's own readout with respect to its context, (batch, head, token, d_head)."""
    kept: list[Tensor] = []

    def collect(parts: AttentionParts) -> None:
        kept.append(parts.context.requires_grad_())

    state = record.states[layer]
    mask = None if record.head_mask is None else record.head_mask.select(0, layer)
    with torch.inference_mode(False), torch.enable_grad():
        state = state.clone() if state.is_inference() else state
        out, _ = model.blocks[layer](state, mask, False, collect, record.grid)
        scores = bound(model.outputs_of(Encoded(model.ln_final(out), None, None, record.grid)))
        if not scores.requires_grad:
            raise InputError(f"the target, {bound.name}, does not depend on the output by a function with a gradient")
        return torch.autograd.grad(scores.float().sum(), kept)[0]


def _sensitivity(upstream: Tensor, record: ValueRecord, layer: int) -> Tensor:
    """Return E_h E_i[(dO_i·V_j)+], (batch, token), over the keys j that row i attends to."""
    values, count = record.values[layer], upstream.shape[2]
    total = torch.zeros(values.shape[0], count, device=values.device)
    with torch.no_grad(), torch.autocast(values.device.type, enabled=False):
        if isinstance(record, AxialRecord):
            for clip, row in enumerate(total):
                pairs = ({layer: upstream}, {layer: values})
                for _, keys, slopes in record.supports(layer, *pairs, clip, _positive):
                    row.index_add_(0, keys.reshape(-1), slopes.mean(dim=0).reshape(-1))
            return total / count
        # rows whose gradient is zero for every clip and head cost nothing
        keys = values.float().transpose(-1, -2)
        for some in upstream.abs().amax(dim=(0, 1, 3)).nonzero().squeeze(1).split(_ROWS):
            total += torch.matmul(upstream.index_select(2, some).float(), keys).relu_().mean(dim=1).sum(dim=1)
    return total / count


def _positive(slopes: Tensor, heads: slice, time: int) -> Tensor:
    return slopes.relu()
