"""Sensitivity-n: whether sums of a map over random sets of tubelets tell how far the target falls without them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from vivit_lab.attribution.base import AttributionMap
from vivit_lab.faithfulness.subsets import SubsetFalls, SubsetMeasure
from vivit_lab.numbers import MOST, checked_numbers

__all__ = ["SensitivityN", "correlation"]

_STILL = 1e-9  # a spread below this share of the largest value is rounding


@checked_numbers(subsets=(2, MOST))
@dataclass(frozen=True, kw_only=True)
class SensitivityN(SubsetMeasure[Tensor]):
    """Sensitivity-n (Ancona, Ceolini, Öztireli & Gross, ICLR 2018, https://arxiv.org/abs/1711.06104).

    For random sets S of n tubelets, the Pearson correlation of Σ_{i∈S} R_i and y(clip) - y(clip without S), within
    each clip and for each n. 1 where the map's sums explain the falls.

    Args:
        sizes: n, as fractions of the tubelets, each in (0, 1).
        subsets: how many sets of each size, at least 2; the paper draws 100. The correlation of a map that tells
            nothing is spread by 1/√(subsets - 1) around 0.
        quantity: which value falls: ``"score"`` (the target's own value, the paper's), ``"probability"``, or
            ``"auto"``, the probability where the target has one.
        baseline: what stands in a set's place: ``"mean"``, ``"blur"`` or ``"drop"``.
        blur_sigma: of the blur, as a fraction of the image's side.
        seed: of the sets; each clip has its own.

    Raises:
        InputError: an argument is wrong.

    Returns (when called):
        (batch,) in [-1, 1], the mean over the sizes; ``each_size`` keeps them apart.

    Cost: ``len(sizes)``·``subsets`` passes through the blocks a clip, once for all maps if ``sample`` is shared.

    Example:
        >>> measure = SensitivityN()
        >>> falls = measure.sample(CleanClips.of(model, pixel_values))
        >>> [measure.compare(falls, heat).mean() for heat in maps]
    """

    quantity: str = "score"

    def compare(self, falls: SubsetFalls, relevance: AttributionMap | Tensor) -> Float[Tensor, " batch"]:
        """See ``SubsetMeasure.compare``."""
        return self.each_size(falls, relevance).mean(dim=1)

    def each_size(self, falls: SubsetFalls, relevance: AttributionMap | Tensor) -> Float[Tensor, "batch size"]:
        """Return the correlation for each size, (batch, size); the arguments are those of ``compare``."""
        return correlation(falls.sums(relevance), falls.falls(self.quantity)).float()


def correlation(first: Float64[Tensor, "*row value"], second: Float64[Tensor, "*row value"]) -> Float64[Tensor, "*row"]:
    """Return Pearson's correlation over the last axis; 0 where either side is the same everywhere.

    Args:
        first: values.
        second: values.
    """
    moved = [values - values.mean(dim=-1, keepdim=True) for values in (first, second)]
    spread = [values.square().mean(dim=-1).sqrt() for values in moved]
    still = [size <= _STILL * values.abs().amax(dim=-1) for size, values in zip(spread, (first, second), strict=True)]
    scale = spread[0] * spread[1]
    flat = still[0] | still[1]
    product = (moved[0] * moved[1]).mean(dim=-1)
    return torch.where(flat, 0, product / scale.where(~flat, 1)).clamp(-1, 1)
