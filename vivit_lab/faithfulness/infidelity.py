"""Infidelity: the squared error of a map that is taken as a prediction of how far the target falls."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from vivit_lab.attribution.base import AttributionMap
from vivit_lab.faithfulness.subsets import SubsetFalls, SubsetMeasure
from vivit_lab.numbers import MOST, checked_numbers

__all__ = ["Infidelity", "unexplained_share"]


@checked_numbers(subsets=(2, MOST))
@dataclass(frozen=True, kw_only=True)
class Infidelity(SubsetMeasure[Tensor]):
    """Infidelity (Yeh, Hsieh, Suggala, Inouye & Ravikumar, NeurIPS 2019, https://arxiv.org/abs/1901.09392).

    The perturbation I takes a random set S of tubelets away, and the map predicts the fall:
    E_S[(Σ_{i∈S} R_i - (y(clip) - y(clip without S)))²], the paper's equation 1 with a map of contributions, so that
    I is the indicator of S.

    Maps of different methods differ in unit, so the map is first scaled by the factor that suits it best,
    β = max(0, Σ s·d / Σ s²) with s the sums and d the falls of the clip, and the error is divided by the mean of d².
    That is the share of the falls that the map does not explain: 0 explains all, 1 nothing. A map that points the wrong
    way would need a negative β and explains nothing. A map that is the same everywhere explains what the number of
    tubelets alone tells, so read the figure beside the controls'.

    Args:
        sizes: how many tubelets a set holds, as fractions of all, each in (0, 1); sets of all sizes count alike.
        subsets: how many sets of each size, at least 2.
        normalised: whether to scale and divide; otherwise the paper's own number, in the target's unit squared, which
            only suits maps in the target's unit (e.g. integrated gradients, occlusion).
        quantity: which value falls: ``"score"`` (the target's own value, the paper's), ``"probability"``, or
            ``"auto"``, the probability where the target has one.
        baseline: what stands in a set's place: ``"mean"``, ``"blur"`` or ``"drop"``.
        blur_sigma: of the blur, as a fraction of the image's side.
        seed: of the sets; each clip has its own.

    Raises:
        InputError: an argument is wrong.

    Returns (when called):
        (batch,); in [0, 1] where normalised. Low for a good map.

    Cost: ``len(sizes)``·``subsets`` passes through the blocks a clip, once for all maps if ``sample`` is shared.
    """

    quantity: str = "score"
    normalised: bool = True

    def compare(self, falls: SubsetFalls, relevance: AttributionMap | Tensor) -> Float[Tensor, " batch"]:
        """See ``SubsetMeasure.compare``."""
        sums, fallen = falls.sums(relevance).flatten(1), falls.falls(self.quantity).flatten(1)
        if self.normalised:
            return unexplained_share(sums, fallen).float()
        return (sums - fallen).square().mean(dim=1).float()


def unexplained_share(
    sums: Float64[Tensor, "batch subset"], falls: Float64[Tensor, "batch subset"]
) -> Float64[Tensor, " batch"]:
    """Return min over β ≥ 0 of mean((β·sums - falls)²) / mean(falls²), in [0, 1]; 1 where either is 0 everywhere.

    Args:
        sums: (batch, subset) what the map predicts, up to a factor.
        falls: (batch, subset) what happened.
    """
    together = (sums * falls).mean(dim=1).clamp_min(0)
    power = sums.square().mean(dim=1) * falls.square().mean(dim=1)
    explained = together.square() / power.where(power > 0, 1)
    return torch.where(power > 0, 1 - explained, 1).clamp(0, 1)
