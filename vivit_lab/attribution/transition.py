"""Transition attention maps: a Markov chain over the layers, weighed with integrated gradients of the last pattern."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vivit_lab.attribution.base import AttributionMap
from vivit_lab.attribution.products import layer_range
from vivit_lab.attribution.reading import map_of, require_joint_attention
from vivit_lab.errors import InputError
from vivit_lab.families.vivit import VivitForVideoClassification, VivitModel
from vivit_lab.model.inputs import is_index
from vivit_lab.numbers import MOST, checked_numbers
from vivit_lab.progress import progress_bar
from vivit_lab.records.attention import record_attention
from vivit_lab.records.gradients import record_gradients
from vivit_lab.records.inputs import as_pixel_values
from vivit_lab.records.targets import TargetLike, bind_target
from vivit_lab.video.clip import Clip

__all__ = ["TransitionAttentionMaps"]


@checked_numbers(steps=(1, MOST))
@dataclass(frozen=True)
class TransitionAttentionMaps:
    """Transition attention maps (Yuan, Li, Xiong, Cao & Dou, XAI workshop at NeurIPS 2021).

    Their paper is "Explaining Information Flow Inside Vision Transformers Using Markov Chain". A state over tokens
    starts as the CLS row of the last pattern, heads averaged, and walks down the layers, s ← s + s·E_h[A_l]. It is then
    multiplied by W = E_h[(mean over α of ∂y/∂A_last at α·clip)+][CLS, :], the integrated gradient of the last pattern,
    α going evenly from 0 to 1 with both ends.

    Args:
        start_layer: the lowest layer of the walk; negative counts from the last. The authors' code begins at 4 of 12.
        steps: how many α. One step takes the gradient at the clip itself.

    Raises:
        InputError: ``steps`` is not positive.

    Cost: ``steps`` forward passes with the backward pass of the last layer's output projection, MLP and head alone, and
    one blockwise pass over each pattern as for ``AttentionRollout``.
    """

    class_agnostic: ClassVar[bool] = False

    start_layer: int = 0
    steps: int = 20

    def __post_init__(self) -> None:
        if not is_index(self.steps) or self.steps < 1:
            raise InputError(f"steps must be positive, got {self.steps}")

    def __call__(
        self,
        model: VivitModel | VivitForVideoClassification,
        pixel_values: Tensor | Clip | Sequence[Clip],
        target: TargetLike = None,
        *,
        head_mask: Tensor | None = None,
        interpolate_pos_encoding: bool | None = None,
        progress: bool | None = None,
    ) -> AttributionMap:
        """Explain a batch of clips.

        Args:
            model: a ViViT.
            pixel_values: (batch, frames, channels, height, width) or prepared clips.
            target: a class, a ``Target`` or a function of the output; None for each clip's predicted class.
            head_mask: as for the model's forward.
            interpolate_pos_encoding: whether clips of another size are taken; None is yes, and says so once.
            progress: whether to show a progress bar; None shows one on a terminal.

        Returns:
            A map of nonnegative relevance, in units of the target.

        Raises:
            InputError: the target or ``start_layer`` do not fit, or the model is factorised or has no CLS.
        """
        require_joint_attention(self, model)
        layers = layer_range(model, self.start_layer)
        forward = {"head_mask": head_mask, "interpolate_pos_encoding": interpolate_pos_encoding}
        record = record_attention(model, pixel_values, layers=layers, **forward)
        bound = bind_target(target, record.output, model.config)
        state = record.rows(-1, 0).mean(dim=1).select(1, 0)
        for layer in reversed(layers[:-1]):
            state = state + record.propagate(layer, state)
        given = as_pixel_values(pixel_values)
        alphas = torch.linspace(0, 1, self.steps).tolist() if self.steps > 1 else [1.0]
        gradient = torch.zeros(record.batch_size, record.num_heads, record.grid.num_tokens, device=record.device)
        for alpha in progress_bar(alphas, progress, type(self).__name__, "step"):
            step = given._replace(values=given.values * alpha)
            scaled = record_gradients(model, step, bound, layers=[-1], **forward)
            gradient += scaled.gradient_rows(-1, 0).select(2, 0)
        weight = (gradient / len(alphas)).relu_().mean(dim=1)
        return map_of(record, state * weight, self, bound.names, f"relevance to the {bound.unit}")
