"""RISE with masks in space and time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float32
from torch import Tensor
from torch.nn import functional

from vivit_lab.attribution.base import AttributionMap
from vivit_lab.attribution.forwards import Problem, baseline_pixels, check_baseline, check_positive, tubelet_sum
from vivit_lab.errors import InputError
from vivit_lab.families.vivit import VivitForVideoClassification, VivitModel
from vivit_lab.numbers import MOST, checked_numbers
from vivit_lab.progress import progress_bar
from vivit_lab.records.targets import Probability, TargetLike
from vivit_lab.video.clip import Clip

__all__ = ["Rise", "random_masks"]


@checked_numbers(masks=(1, MOST), cells=(1, 1000))
@dataclass(frozen=True)
class Rise:
    """Randomised input sampling (Petsiuk, Das & Saenko, BMVC 2018, https://arxiv.org/abs/1806.07421), for video.

    A tubelet's relevance is the mean of the target over randomly masked clips in which it was kept:
    1/(p·n) Σ_k y(clip ⊙ M_k) · M_k, with p the chance that a cell is kept and M_k averaged over the tubelet's pixels.
    A mask is a coarse random grid of cells in space *and* time, enlarged linearly and shifted at random.

    Args:
        masks: how many; a few hundred at least. The paper uses 4000–8000 for one image.
        cells: cells of the coarse grid along (time, height, width).
        keep: chance that a cell is kept, in (0, 1).
        baseline: what stands where a mask is 0, one pixel value (0 is mid-grey for most processors) or ``"mean"``, the
            clip's mean colour.
        seed: of the masks. Each clip of a batch gets the same masks, so its map does not depend on the others.

    Raises:
        InputError: an argument is wrong.

    Cost: ``masks`` forward passes a clip. Memory: ``batch_size`` clips and their masks.
    """

    class_agnostic: ClassVar[bool] = False

    masks: int = 1000
    cells: tuple[int, int, int] = (4, 7, 7)
    keep: float = 0.5
    baseline: float | str = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_positive(masks=self.masks)
        if not isinstance(self.cells, (tuple, list)) or len(self.cells) != 3:
            raise InputError(f"cells must be three counts (time, height, width), got {self.cells!r}")
        check_positive(**{f"cells[{axis}]": count for axis, count in enumerate(self.cells)})
        object.__setattr__(self, "cells", tuple(self.cells))
        if not 0 < self.keep < 1:
            raise InputError(f"keep must lie in (0, 1), got {self.keep}")
        check_baseline(self.baseline)

    def __call__(
        self,
        model: VivitModel | VivitForVideoClassification,
        pixel_values: Tensor | Clip | Sequence[Clip],
        target: TargetLike = None,
        *,
        batch_size: int = 8,
        head_mask: Tensor | None = None,
        interpolate_pos_encoding: bool | None = None,
        progress: bool | None = None,
    ) -> AttributionMap:
        """Explain a batch of clips; the arguments are those of ``IntegratedGradients``.

        A class, or None for the predicted one, means its *probability* here, as in the paper, because only a value
        that is never negative reads as a weight of the masks; any ``Target`` is taken as it is.

        Returns:
            A map whose values are means of the target; signed unless the target is a probability.

        Raises:
            InputError: the clips, the target or the batch size do not fit.
        """
        check_positive(batch_size=batch_size)
        forward = {"head_mask": head_mask, "interpolate_pos_encoding": interpolate_pos_encoding}
        problem = Problem.of(model, pixel_values, target, default=Probability, **forward)
        bar = progress_bar(None, progress, type(self).__name__, "mask", self.masks * len(problem.pixels))

        def explain(clip: Tensor, index: int) -> Tensor:
            generator = torch.Generator().manual_seed(self.seed)
            blank = baseline_pixels(clip, self.baseline)
            total = torch.zeros(problem.grid.shape, device=clip.device)
            frames, _, height, width = clip.shape
            for first in range(0, self.masks, batch_size):
                count = min(batch_size, self.masks - first)
                drawn = random_masks(count, self.cells, (frames, height, width), self.keep, generator)
                masks = drawn.to(clip.device).unsqueeze(2)  # (row, frame, 1, height, width)
                versions = blank + masks.to(clip.dtype) * (clip - blank)
                values = problem.values(versions, index)
                shares = tubelet_sum(masks, problem.grid) / math.prod(problem.grid.tubelet)
                total += torch.einsum("n,nthw->thw", values, shares)
                bar.update(count)
            return total / (self.masks * self.keep)

        with bar:
            relevance = problem.over_clips(explain)
        unit = problem.target.unit
        return problem.map(relevance, self, f"mean {unit} where kept", signed=unit != "probability")


def random_masks(
    count: int,
    cells: tuple[int, int, int],
    size: tuple[int, int, int],
    keep: float,
    generator: torch.Generator,
) -> Float32[Tensor, "{count} frame height width"]:
    """Return smooth random masks with values in [0, 1], drawn one by one.

    Args:
        count: how many.
        cells: cells of the coarse grid along (time, height, width).
        size: (frames, height, width) of a mask.
        keep: chance that a cell is kept, and so the mean of a mask.
        generator: of the draws, on the CPU.
    """
    steps = [-(-whole // parts) for whole, parts in zip(size, cells, strict=True)]  # pixels of a cell, rounded up
    grown = [(parts + 1) * step for parts, step in zip(cells, steps, strict=True)]
    masks = []
    for _ in range(count):
        coarse = (torch.rand([parts + 1 for parts in cells], generator=generator) < keep).float()
        shift = [int(torch.randint(step, (), generator=generator)) for step in steps]
        mask = functional.interpolate(coarse[None, None], size=grown, mode="trilinear", align_corners=False)[0, 0]
        for axis, (start, whole) in enumerate(zip(shift, size, strict=True)):
            mask = mask.narrow(axis, start, whole)
        masks.append(mask)
    return torch.stack(masks)
