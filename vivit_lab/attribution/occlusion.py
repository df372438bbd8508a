"""Occlusion by tubelets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vivit_lab.attribution.base import AttributionMap
from vivit_lab.attribution.forwards import Problem, baseline_pixels, check_baseline, check_positive
from vivit_lab.errors import InputError
from vivit_lab.families.vivit import VivitForVideoClassification, VivitModel
from vivit_lab.grid import TokenGrid
from vivit_lab.numbers import checked_numbers
from vivit_lab.progress import progress_bar
from vivit_lab.records.inputs import warn_of_differences
from vivit_lab.records.targets import TargetLike
from vivit_lab.video.clip import Clip

__all__ = ["Occlusion"]


@checked_numbers()
@dataclass(frozen=True)
class Occlusion:
    """How far the target falls when a box of tubelets is covered (Zeiler & Fergus 2014, https://arxiv.org/abs/1311.2901).

    A box slides over the grid; a tubelet's relevance is y(clip) - y(clip with the box covered), averaged over the boxes
    that cover the tubelet.

    Args:
        window: size of the box in tubelets, (t, h, w).
        stride: its steps in tubelets, at most the window; None for the window itself, boxes side by side. The last box
            of each axis is shorter where it would leave the grid.
        baseline: what covers it, one pixel value (0 is mid-grey for most processors) or ``"mean"``, the clip's mean
            colour.

    Raises:
        InputError: an argument is wrong.

    Cost: one forward pass a box and clip: 3136 for ViViT-B with boxes of one tubelet, 392 with (2, 2, 2).
    """

    class_agnostic: ClassVar[bool] = False

    window: tuple[int, int, int] = (1, 1, 1)
    stride: tuple[int, int, int] | None = None
    baseline: float | str = 0.0

    def __post_init__(self) -> None:
        for name in ("window", "stride"):
            sizes = getattr(self, name)
            if sizes is None and name == "stride":
                continue
            if not isinstance(sizes, (tuple, list)) or len(sizes) != 3:
                raise InputError(f"{name} must be three sizes in tubelets (t, h, w), got {sizes!r}")
            check_positive(**{f"{name}[{axis}]": size for axis, size in enumerate(sizes)})
            object.__setattr__(self, name, tuple(sizes))
        if any(step > size for step, size in zip(self.stride or self.window, self.window, strict=True)):
            raise InputError(f"stride {self.stride} is larger than window {self.window}: tubelets would be left out")
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

        Returns:
            A signed map, in units of the target: negative where the target rises without the tubelet.

        Raises:
            InputError: the clips, the target or the batch size do not fit, or the window is larger than the grid.
        """
        check_positive(batch_size=batch_size)
        forward = {"head_mask": head_mask, "interpolate_pos_encoding": interpolate_pos_encoding}
        problem = Problem.of(model, pixel_values, target, **forward)
        boxes = self._boxes(problem.grid)
        bar = progress_bar(None, progress, type(self).__name__, "box", len(boxes) * len(problem.pixels))

        def explain(clip: Tensor, index: int) -> Tensor:
            cover = baseline_pixels(clip, self.baseline)
            total = torch.zeros(problem.grid.shape, device=clip.device)
            times = torch.zeros_like(total)
            clean = problem.scores.select(0, index)
            for first in range(0, len(boxes), batch_size):
                some = boxes[first : first + batch_size]
                versions = torch.stack([_covered(clip, cover, box, problem.grid) for box in some])
                drops = clean - problem.values(versions, index)
                for box, drop in zip(some, drops.unbind(), strict=True):
                    _part(total, box).add_(drop)
                    _part(times, box).add_(1)
                bar.update(len(some))
            return total / times

        with bar:
            relevance = problem.over_clips(explain)
        warn_of_differences(model, type(self).__name__, relevance, problem.scores)
        scale = f"fall of the {problem.target.unit} when covered"
        return problem.map(relevance, self, scale, signed=True)

    def _boxes(self, grid: TokenGrid) -> list[tuple[range, range, range]]:
        """Return the boxes, in tubelets, that cover the grid."""
        if any(size > whole for size, whole in zip(self.window, grid.shape, strict=True)):
            raise InputError(f"window {self.window} is larger than the grid {grid.shape}")
        axes = []
        for size, step, whole in zip(self.window, self.stride or self.window, grid.shape, strict=True):
            starts = range(0, whole - size + step, step)  # the last one reaches the edge
            axes.append([range(start, min(start + size, whole)) for start in starts])
        return [(t, h, w) for t in axes[0] for h in axes[1] for w in axes[2]]


def _part(values: Tensor, box: tuple[range, range, range]) -> Tensor:
    """Return the view of a (t, h, w) tensor inside a box."""
    for axis, span in enumerate(box):
        values = values.narrow(axis, span.start, len(span))
    return values


def _covered(clip: Tensor, cover: Tensor, box: tuple[range, range, range], grid: TokenGrid) -> Tensor:
    """Return the pixels (frame, channel, height, width) with a box of tubelets covered."""
    covered = clip.clone()
    inside, outside = covered, cover
    for axis, span, unit in zip((0, 2, 3), box, grid.tubelet, strict=True):
        inside = inside.narrow(axis, span.start * unit, len(span) * unit)
        outside = outside.narrow(axis, span.start * unit, len(span) * unit)
    inside.copy_(outside)
    return covered
