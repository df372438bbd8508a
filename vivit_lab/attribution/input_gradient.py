"""Input × gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vivit_lab.attribution.base import AttributionMap
from vivit_lab.attribution.forwards import Problem, tubelet_sum
from vivit_lab.families.vivit import VivitForVideoClassification, VivitModel
from vivit_lab.records.targets import TargetLike
from vivit_lab.video.clip import Clip

__all__ = ["InputXGradient"]


@dataclass(frozen=True)
class InputXGradient:
    """Pixels times their gradient, summed over each tubelet (Shrikumar et al. 2016, https://arxiv.org/abs/1605.01713).

    The first-order change of the target on the way from a clip of zeros (mid-grey for most processors) to this one.
    Noisy in deep networks; a baseline to compare with.

    Cost: two forward passes (the first fixes the class) and one backward pass to the pixels.
    """

    class_agnostic: ClassVar[bool] = False

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
            model: a ViViT.
            pixel_values: (batch, frames, channels, height, width) or prepared clips.
            target: a class, a ``Target`` or a function of the output; None for each clip's predicted class.
            head_mask: as for the model's forward.
            interpolate_pos_encoding: whether clips of another size are taken; None is yes, and says so once.

        Returns:
            A signed map, in units of the target.

        Raises:
            InputError: the clips or the target do not fit the model.
        """
        forward = {"head_mask": head_mask, "interpolate_pos_encoding": interpolate_pos_encoding}
        problem = Problem.of(model, pixel_values, target, **forward)
        gradient = problem.gradients(problem.pixels, range(len(problem.pixels)))
        relevance = tubelet_sum(problem.pixels.float() * gradient, problem.grid)
        return problem.map(relevance, self, f"pixel × gradient of the {problem.target.unit}", signed=True)
