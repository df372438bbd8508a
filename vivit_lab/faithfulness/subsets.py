"""Random sets of tubelets taken away, and how far the target falls: drawn once, shared by all maps of the clips."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from vivit_lab.attribution.base import AttributionMap
from vivit_lab.errors import InputError
from vivit_lab.faithfulness.masking import CleanClips, Readings, check_quantity
from vivit_lab.faithfulness.measure import MaskingMeasure, Result
from vivit_lab.faithfulness.ranking import clip_generator, tubelet_relevance
from vivit_lab.grid import TokenGrid
from vivit_lab.numbers import check_whole
from vivit_lab.progress import progress_bar

__all__ = ["SubsetFalls", "SubsetMeasure", "random_subsets"]


@dataclass(frozen=True, eq=False)
class SubsetFalls:
    """How far the target falls without random sets of tubelets. Knows no map, so one serves every map of its clips.

    Args:
        removed: (batch, size, subset, t·h·w) boolean, True where a tubelet was taken away.
        sizes: how many tubelets the sets of each size hold.
        clean: what was read off the clean clips, (batch,).
        read: what was read without the sets, (batch, size · subset).
        grid: the clips' token grid.
    """

    removed: Tensor
    sizes: tuple[int, ...]
    clean: Readings
    read: Readings
    grid: TokenGrid

    def __len__(self) -> int:
        return len(self.removed)

    def falls(self, quantity: str) -> Float64[Tensor, "batch size subset"]:
        """Return clean less read; the arguments and errors are those of ``Readings.of``."""
        falls = self.clean.of(quantity).unsqueeze(1) - self.read.of(quantity)
        return falls.double().reshape(self.removed.shape[:3])

    def sums(self, relevance: AttributionMap | Tensor) -> Float64[Tensor, "batch size subset"]:
        """Return the sum of a map over each set.

        Raises:
            InputError: the map has another number of clips, or values that are not finite.
            GridError: it lies on another grid.
        """
        values = tubelet_relevance(relevance, len(self), self.grid).flatten(1)
        return torch.einsum("bksn,bn->bks", self.removed.double(), values)


@dataclass(frozen=True, kw_only=True)
class SubsetMeasure(MaskingMeasure[Result]):
    """Base of the measures that compare a map's sums over random sets with the falls of the target.

    Args:
        sizes: how many tubelets a set holds, as fractions of all, each in (0, 1); rounded to whole tubelets, at least
            one and not all.
        subsets: how many sets of each size; at least 2.
        quantity: which value falls; see ``Readings.of``.
        baseline: see ``MaskingMeasure``; likewise blur_sigma and seed.
    """

    sizes: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4)
    subsets: int = 50
    quantity: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_quantity(self.quantity)
        check_whole("subsets", self.subsets, 2)  # there is nothing to compare with one
        if not isinstance(self.sizes, Sequence) or not self.sizes or not all(0 < size < 1 for size in self.sizes):
            raise InputError(f"sizes must be fractions of the tubelets, each in (0, 1); got {self.sizes!r}")
        object.__setattr__(self, "sizes", tuple(self.sizes))

    def sample(self, clips: CleanClips, *, batch_size: int = 8, progress: bool | None = None) -> SubsetFalls:
        """Take the random sets away and read the target: all that costs forward passes, and for all maps alike.

        Args:
            clips: clips that were run clean.
            batch_size: versions a forward pass.
            progress: whether to show a bar; None shows it where standard error is a terminal.
        """
        units = clips.grid.num_tubelets
        counts = tuple(min(max(round(size * units), 1), max(units - 1, 1)) for size in self.sizes)
        removed = random_subsets(counts, self.subsets, units, self.seed, clips.numbers)
        keep = ~removed.flatten(1, 2)
        with progress_bar(None, progress, type(self).__name__, "version", keep.shape[0] * keep.shape[1]) as bar:
            read = clips.read(keep, self.baseline, blur_sigma=self.blur_sigma, batch_size=batch_size, bar=bar)
        return SubsetFalls(removed, counts, clips.clean, read, clips.grid)

    def measure(
        self,
        clips: CleanClips,
        relevance: AttributionMap | Tensor,
        *,
        batch_size: int = 8,
        progress: bool | None = None,
    ) -> Result:
        """See ``MaskingMeasure.measure``. For several maps call ``sample`` once and ``compare`` for each."""
        return self.compare(self.sample(clips, batch_size=batch_size, progress=progress), relevance)

    @abstractmethod
    def compare(self, falls: SubsetFalls, relevance: AttributionMap | Tensor) -> Result:
        """Return what the measure says of a map, given the falls.

        Args:
            falls: from ``sample``, of this measure or another.
            relevance: the map of the same clips, or its values (batch, t, h, w).
        """


def random_subsets(counts: Sequence[int], subsets: int, units: int, seed: int, numbers: Sequence[int]) -> Tensor:
    """Return random sets, boolean (clip, size, subset, unit), drawn from the seed and each clip's number.

    Args:
        counts: how many units the sets of each size hold.
        subsets: how many sets of each size.
        units: how many units there are.
        seed: of the draws.
        numbers: of the clips; see ``clip_generator``.
    """
    drawn = []
    for number in numbers:
        generator = clip_generator(seed, number)
        places = [generator.random((subsets, units)).argsort(axis=1).argsort(axis=1) < count for count in counts]
        drawn.append(torch.from_numpy(np.stack(places)))
    return torch.stack(drawn)
