"""Integrated gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from vivit_lab.attribution.base import AttributionMap
from vivit_lab.attribution.forwards import Problem, baseline_pixels, check_baseline, check_positive, tubelet_sum
from vivit_lab.errors import InputError
from vivit_lab.families.vivit import VivitForVideoClassification, VivitModel
from vivit_lab.numbers import checked_numbers
from vivit_lab.progress import progress_bar
from vivit_lab.records.targets import TargetLike
from vivit_lab.video.clip import Clip

__all__ = ["IntegratedGradients", "quadrature"]

_RULES = ("gausslegendre", "riemann_trapezoid")


@checked_numbers(steps=(1, 10_000))
@dataclass(frozen=True)
class IntegratedGradients:
    """Gradients along the straight way from a baseline to the clip (Sundararajan, Taly & Yan, ICML 2017).

    (x - x0) · ∫ ∂y/∂x at x0 + α(x - x0) dα, summed over each tubelet (https://arxiv.org/abs/1703.01365, eq. 1). The map
    is complete: it sums to y(x) - y(x0), up to the error of the quadrature, which falls with ``steps``.

    Args:
        steps: points of the quadrature.
        baseline: x0, one pixel value everywhere (0 is mid-grey for most processors) or ``"mean"``, the clip's mean
            colour.
        rule: ``"gausslegendre"`` or ``"riemann_trapezoid"``, as Captum names them. (Captum's trapezoid weights sum to
            1 - 1/steps; here they sum to 1.)

    Raises:
        InputError: an argument is wrong.

    Cost: ``steps`` forward and backward passes a clip; memory as the graphs of ``batch_size`` clips.
    """

    class_agnostic: ClassVar[bool] = False

    steps: int = 50
    baseline: float | str = 0.0
    rule: str = "gausslegendre"

    def __post_init__(self) -> None:
        check_positive(steps=self.steps)
        check_baseline(self.baseline)
        quadrature(self.rule, self.steps)

    def __call__(
        self,
        model: VivitModel | VivitForVideoClassification,
        pixel_values: Tensor | Clip | Sequence[Clip],
        target: TargetLike = None,
        *,
        batch_size: int = 4,
        head_mask: Tensor | None = None,
        interpolate_pos_encoding: bool | None = None,
        progress: bool | None = None,
    ) -> AttributionMap:
        """Explain a batch of clips.

        Args:
            model: a ViViT.
            pixel_values: (batch, frames, channels, height, width) or prepared clips.
            target: a class, a ``Target`` or a function of the output; None for each clip's predicted class.
            batch_size: how many points go through the model at once; does not change the map.
            head_mask: as for the model's forward.
            interpolate_pos_encoding: whether clips of another size are taken; None is yes, and says so once.
            progress: whether to show a progress bar; None shows one on a terminal.

        Returns:
            A signed map, in units of the target.

        Raises:
            InputError: the clips, the target or the batch size do not fit.
        """
        check_positive(batch_size=batch_size)
        forward = {"head_mask": head_mask, "interpolate_pos_encoding": interpolate_pos_encoding}
        problem = Problem.of(model, pixel_values, target, **forward)
        points, shares = quadrature(self.rule, self.steps)
        bar = progress_bar(None, progress, type(self).__name__, "step", self.steps * len(problem.pixels))

        def explain(clip: Tensor, index: int) -> Tensor:
            start = baseline_pixels(clip, self.baseline)
            total = torch.zeros_like(clip, dtype=torch.float32)
            for first in range(0, self.steps, batch_size):
                some = points[first : first + batch_size]
                versions = torch.stack([start + point * (clip - start) for point in some])
                gradients = problem.gradients(versions, [index] * len(some))
                for share, gradient in zip(shares[first : first + batch_size], gradients.unbind(), strict=True):
                    total += share * gradient
                bar.update(len(some))
            return tubelet_sum((clip - start).float() * total, problem.grid)

        with bar:
            relevance = problem.over_clips(explain)
        return problem.map(
            relevance, self, f"share of the {problem.target.unit}'s change from the baseline", signed=True
        )


def quadrature(rule: str, steps: int) -> tuple[list[float], list[float]]:
    """Return points in [0, 1] and their weights, which sum to 1.

    Raises:
        InputError: the rule is not known, or needs more steps.
    """
    if rule == "gausslegendre":
        points, weights = np.polynomial.legendre.leggauss(steps)
        return ((points + 1) / 2).tolist(), (weights / 2).tolist()
    if rule != "riemann_trapezoid":
        raise InputError(f"rule={rule!r} is not known; choose one of {', '.join(_RULES)}")
    if steps < 2:
        raise InputError(f"the trapezoid rule wants at least 2 steps, got {steps}")
    weights = np.full(steps, 1 / (steps - 1))
    weights[[0, -1]] /= 2
    return np.linspace(0, 1, steps).tolist(), weights.tolist()
