"""AttCAT: class activation tokens of every layer, weighed with the attention they receive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vivit_lab.attribution.base import AttributionMap
from vivit_lab.attribution.products import gradient_map, gradient_record_of, layer_range
from vivit_lab.attribution.reading import require_one_sequence
from vivit_lab.errors import InputError
from vivit_lab.families.vivit import VivitForVideoClassification, VivitModel
from vivit_lab.model.inputs import has_values
from vivit_lab.numbers import checked_numbers
from vivit_lab.records.gradients import GradientRecord
from vivit_lab.records.inputs import warn_of_error
from vivit_lab.records.targets import TargetLike
from vivit_lab.video.clip import Clip

__all__ = ["AttCAT"]


# rounding errors of a state and its gradient together, in units of eps: those of all layers add up in the gradient
_ROUNDINGS = 4.0


@checked_numbers()
@dataclass(frozen=True)
class AttCAT:
    """Attentive class activation tokens (Qiang et al., NeurIPS 2022, https://openreview.net/forum?id=cA8Zor8wFr5).

    A token's class activation in layer l is its state times the state's gradient, CAT_l,j = Σ_d h_l,j,d · ∂y/∂h_l,j,d,
    with h_l the residual stream that enters the layer. It is weighed with the attention that the token receives there,
    averaged over heads and queries, and summed over layers: Σ_l E_h E_i[A_l,ij] · CAT_l,j. Nothing is scaled to [0, 1],
    so that the sign is kept.

    Args:
        start_layer: the lowest layer that is summed; negative counts from the last.

    Cost: one forward and one backward pass, and one blockwise pass over each pattern. Memory: 6·tokens·d_model a layer.
    """

    class_agnostic: ClassVar[bool] = False

    start_layer: int = 0

    def __call__(
        self,
        model: VivitModel | VivitForVideoClassification | GradientRecord,
        pixel_values: Tensor | Clip | Sequence[Clip] | None = None,
        target: TargetLike = None,
        *,
        head_mask: Tensor | None = None,
        interpolate_pos_encoding: bool | None = None,
    ) -> AttributionMap:
        """Explain a batch of clips.

        Args:
            model: a ViViT, or a record of its gradients taken with ``states=True``.
            pixel_values: (batch, frames, channels, height, width) or prepared clips; not with a record.
            target: a class, a ``Target`` or a function of the output; None for each clip's predicted class; not with a
                record, which has its own.
            head_mask: as for the model's forward; not with a record.
            interpolate_pos_encoding: whether clips of another size are taken; None says so once. Not with a record.

        Returns:
            A signed map, in units of the target.

        Raises:
            InputError: the target or ``start_layer`` do not fit, the record has no states, or it is that of a
                factorised encoder.
        """
        require_one_sequence(self, getattr(model, "config", model))
        layers = layer_range(model, self.start_layer)
        forward = {"head_mask": head_mask, "interpolate_pos_encoding": interpolate_pos_encoding}
        record = gradient_record_of(model, pixel_values, target, layers, states=True, **forward)
        count = record.grid.num_tokens
        total = torch.zeros(record.batch_size, count, device=record.device)
        rounding = torch.zeros_like(total)
        for layer in layers:
            if record.layer_index(layer) not in record.state_gradients:
                raise InputError("the record has no states: take it with record_gradients(…, states=True)")
            received = record.propagate(layer, torch.full_like(total, 1 / count))
            products = record.states[layer].float() * record.state_gradients[layer].float()
            total += received * products.sum(dim=-1)
            rounding += (received * products.norm(dim=-1)).square()
        self._warn(record.states[layers[0]].dtype, total, rounding)
        scale = f"attention received × class activation, of the {record.unit}"
        return gradient_map(record, total, self, None, scale, signed=True)

    def _warn(self, dtype: torch.dtype, total: Tensor, rounding: Tensor) -> None:
        """Warn where the products of states and gradients cancel down to their own rounding."""
        if dtype not in (torch.float16, torch.bfloat16) or not has_values(total):
            return
        # of each product's rounding errors, eps·|h·∂f/∂h|, independent of each other, and as large again in each factor
        error = _ROUNDINGS * torch.finfo(dtype).eps * rounding.mean(dim=1).sqrt()
        warn_of_error(dtype, type(self).__name__, error, total.square().mean(dim=1).sqrt())
