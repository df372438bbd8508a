"""SaCo: whether more relevant groups of tubelets really have more influence, pair by pair."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from vivit_lab.attribution.base import AttributionMap
from vivit_lab.attribution.forwards import check_positive
from vivit_lab.errors import InputError
from vivit_lab.faithfulness.masking import CleanClips, check_quantity
from vivit_lab.faithfulness.measure import MaskingMeasure
from vivit_lab.faithfulness.ranking import rank_units, tubelet_relevance
from vivit_lab.numbers import checked_numbers
from vivit_lab.progress import progress_bar

__all__ = ["SaCo", "salience_coefficient"]

_EVEN = 1e-9  # relative differences of group means below this are rounding


@checked_numbers()
@dataclass(frozen=True, kw_only=True)
class SaCo(MaskingMeasure[Tensor]):
    """Salience-guided faithfulness coefficient (Wu, Kang, Tang, Hong & Yan, CVPR 2024, https://arxiv.org/abs/2404.01415).

    The tubelets are cut by rank into K groups of equal size. s_i is a group's relevance and d_i how far the target
    falls when that group alone is taken away. Over all pairs with s_i ≥ s_j:
    F = Σ ±(s_i - s_j) / Σ (s_i - s_j), with + where d_i ≥ d_j and - where not. 1: influence follows relevance
    everywhere; -1: it is reversed; 0: no relation.

    s_i is the group's mean, not its sum: the same F for equal groups, and right where K does not divide the number of
    tubelets and some groups have one more.

    Args:
        groups: K, from 2 to the number of tubelets.
        quantity: which value falls: ``"probability"`` (the paper's), ``"score"`` (the target's own value), or
            ``"auto"``, the probability where the target has one.
        baseline: what stands in the group's place: ``"mean"`` (the paper's), ``"blur"`` or ``"drop"``.
        blur_sigma: of the blur, as a fraction of the image's side.
        seed: of the order among equals.

    Raises:
        InputError: an argument is wrong.

    Returns (when called):
        (batch,) in [-1, 1]; 0 for a map that is the same everywhere, which claims nothing.

    Cost: ``groups`` passes through the blocks a clip.
    """

    groups: int = 10
    quantity: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_quantity(self.quantity)
        check_positive(groups=self.groups)
        if self.groups < 2:
            raise InputError("groups must be at least 2: groups are compared in pairs")

    def measure(
        self,
        clips: CleanClips,
        relevance: AttributionMap | Tensor,
        *,
        batch_size: int = 8,
        progress: bool | None = None,
    ) -> Float[Tensor, " batch"]:
        """See ``MaskingMeasure.measure``."""
        values = tubelet_relevance(relevance, len(clips), clips.grid).flatten(1)
        if self.groups > values.shape[1]:
            raise InputError(f"groups={self.groups} is more than the {values.shape[1]} tubelets")
        clean = clips.clean.of(self.quantity).unsqueeze(1)
        inside = _groups(rank_units(values, self.seed, clips.numbers), self.groups)
        with progress_bar(None, progress, type(self).__name__, "version", inside.shape[0] * self.groups) as bar:
            read = clips.read(~inside, self.baseline, blur_sigma=self.blur_sigma, batch_size=batch_size, bar=bar)
        falls = (clean - read.of(self.quantity)).double()
        shares = inside.double()
        means = torch.einsum("bgn,bn->bg", shares, values) / shares.sum(dim=2)
        return salience_coefficient(means, falls).float()


def salience_coefficient(
    relevance: Float64[Tensor, "batch group"], falls: Float64[Tensor, "batch group"]
) -> Float64[Tensor, " batch"]:
    """Return F of groups, whatever their order; see ``SaCo``.

    Args:
        relevance: (batch, group).
        falls: (batch, group) how far the target falls without each group.
    """
    weights = relevance.unsqueeze(2) - relevance.unsqueeze(1)  # (batch, i, j)
    agree = falls.unsqueeze(2) >= falls.unsqueeze(1)
    largest = relevance.abs().amax(dim=1).reshape(-1, 1, 1)
    weights = torch.where(weights > _EVEN * largest, weights, 0)  # each pair once, from its more relevant group
    total = weights.sum(dim=(1, 2))
    signed = torch.where(agree, weights, -weights).sum(dim=(1, 2))
    return torch.where(total > 0, signed / total.where(total > 0, 1), 0)


def _groups(ranks: Int64[Tensor, "batch unit"], groups: int) -> Bool[Tensor, "batch group unit"]:
    """Return which tubelets each group holds, the most relevant first; sizes differ by one at most."""
    units = ranks.shape[1]
    return ((ranks * groups) // units).unsqueeze(1) == torch.arange(groups).reshape(1, -1, 1)
