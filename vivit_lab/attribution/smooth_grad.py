"""SmoothGrad."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vivit_lab.attribution.base import AttributionMap
from vivit_lab.attribution.forwards import Problem, check_positive, tubelet_sum
from vivit_lab.errors import InputError
from vivit_lab.families.vivit import VivitForVideoClassification, VivitModel
from vivit_lab.numbers import MOST, checked_numbers
from vivit_lab.progress import progress_bar
from vivit_lab.records.targets import TargetLike
from vivit_lab.video.clip import Clip

__all__ = ["SmoothGrad"]


@checked_numbers(samples=(1, MOST))
@dataclass(frozen=True)
class SmoothGrad:
    """Mean gradient over noisy copies of the clip (Smilkov et al. 2017, https://arxiv.org/abs/1706.03825).

    A tubelet's relevance is the sum of pixel × mean gradient over its pixels: signed, and in units of the target, as
    with ``InputXGradient``, which it is without noise. The paper also multiplies by the pixels, and shows absolute
    values of the gradient; those are not the default, since much of such a map stays when all weights of the bundled
    classifier are replaced by random ones (README, "Which map to trust"): it shows the clip more than the model.

    Args:
        samples: noisy copies.
        noise: standard deviation of the noise, as a fraction of the clip's range (largest less smallest pixel).
        times_input: multiply the mean gradient by the pixels; ``False`` takes its absolute values instead: how
            sensitive the target is to the tubelet's pixels, whatever the direction.
        seed: of the noise. Each clip of a batch gets the same draws, so its map does not depend on the others.

    Raises:
        InputError: an argument is wrong.

    Cost: ``samples`` forward and backward passes a clip; memory as the graphs of ``batch_size`` clips.
    """

    class_agnostic: ClassVar[bool] = False

    samples: int = 25
    noise: float = 0.15
    times_input: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_positive(samples=self.samples)
        if not (math.isfinite(self.noise) and self.noise >= 0):
            raise InputError(f"noise must be a fraction of the clip's range, 0 or more; got {self.noise}")

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
        """Explain a batch of clips; the arguments are those of ``IntegratedGradients``.

        Returns:
            A map in units of the target, or of the target for each unit of pixel value without ``times_input``.

        Raises:
            InputError: the clips, the target or the batch size do not fit.
        """
        check_positive(batch_size=batch_size)
        forward = {"head_mask": head_mask, "interpolate_pos_encoding": interpolate_pos_encoding}
        problem = Problem.of(model, pixel_values, target, **forward)
        bar = progress_bar(None, progress, type(self).__name__, "sample", self.samples * len(problem.pixels))

        def explain(clip: Tensor, index: int) -> Tensor:
            generator = torch.Generator().manual_seed(self.seed)
            deviation = self.noise * (clip.max() - clip.min())
            total = torch.zeros_like(clip, dtype=torch.float32)
            for first in range(0, self.samples, batch_size):
                count = min(batch_size, self.samples - first)
                # drawn on the CPU and one by one: the same noise on any device and for any batch size
                draws = torch.stack([torch.randn(clip.shape, generator=generator) for _ in range(count)])
                versions = clip + deviation * draws.to(clip.device, clip.dtype)
                total += problem.gradients(versions, [index] * count).sum(dim=0)
                bar.update(count)
            mean = total / self.samples
            return tubelet_sum(clip.float() * mean if self.times_input else mean.abs(), problem.grid)

        with bar:
            relevance = problem.over_clips(explain)
        what = "pixel × smoothed gradient" if self.times_input else "absolute smoothed gradient"
        return problem.map(relevance, self, f"{what} of the {problem.target.unit}", signed=self.times_input)
