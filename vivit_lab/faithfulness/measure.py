"""The form of a measure that takes tubelets away."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import Tensor

from vivit_lab.attribution.base import AttributionMap
from vivit_lab.faithfulness.baselines import check_removal
from vivit_lab.faithfulness.masking import CleanClips
from vivit_lab.faithfulness.ranking import check_seed
from vivit_lab.hooks.targets import TargetLike
from vivit_lab.model.classifier import VivitForVideoClassification, VivitModel
from vivit_lab.video.clip import Clip

__all__ = ["MaskingMeasure", "Result"]

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class MaskingMeasure(ABC, Generic[Result]):
    """Base of the measures that take tubelets away. A subclass says what it measures by ``measure``.

    Args:
        baseline: how tubelets are taken away: ``"blur"``, ``"mean"`` or ``"drop"``; see ``CleanClips.read``.
        blur_sigma: of the blur, as a fraction of the image's side.
        seed: of what is random.
    """

    baseline: str = "mean"
    blur_sigma: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        check_removal(self.baseline, self.blur_sigma)
        check_seed(self.seed)

    def __call__(
        self,
        model: VivitModel | VivitForVideoClassification,
        pixel_values: Tensor | Clip | Sequence[Clip],
        relevance: AttributionMap | Tensor,
        target: TargetLike = None,
        *,
        batch_size: int = 8,
        interpolate_pos_encoding: bool | None = None,
        progress: bool | None = None,
    ) -> Result:
        """Measure a map of some clips. For several maps of the same clips, share ``CleanClips`` and call ``measure``.

        Args:
            model: a ViViT.
            pixel_values: (batch, frames, channels, height, width), or prepared clips.
            relevance: the map, or its values (batch, t, h, w); signed values are ranked as they are.
            target: see ``bind_target``; None for the class predicted on the clean clip.
            batch_size: versions a forward pass.
            interpolate_pos_encoding: whether clips of another size are taken; None is yes, and says so once.
            progress: whether to show a bar; None shows it where standard error is a terminal.

        Raises:
            InputError: the clips, the target or the batch size do not fit.
            GridError: the map lies on another grid.
        """
        clips = CleanClips.of(model, pixel_values, target, interpolate_pos_encoding=interpolate_pos_encoding)
        return self.measure(clips, relevance, batch_size=batch_size, progress=progress)

    @abstractmethod
    def measure(
        self,
        clips: CleanClips,
        relevance: AttributionMap | Tensor,
        *,
        batch_size: int = 8,
        progress: bool | None = None,
    ) -> Result:
        """Measure a map of clips that were run clean; the arguments are those of a call."""
