"""The measures that take tubelets away: perturbation curves, SaCo, sensitivity-n, infidelity."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from vivit_lab.attribution.base import AttributionMap
from vivit_lab.attribution.forwards import check_positive
from vivit_lab.errors import InputError
from vivit_lab.faithfulness.masking import (
    CleanClips,
    MaskingMeasure,
    Readings,
    SubsetFalls,
    SubsetMeasure,
    check_quantity,
    rank_units,
    tubelet_relevance,
)
from vivit_lab.grid import TokenGrid
from vivit_lab.numbers import MOST, checked_numbers
from vivit_lab.progress import progress_bar

__all__ = [
    "REGIONS",
    "Infidelity",
    "OrderCurves",
    "Perturbation",
    "PerturbationCurves",
    "SaCo",
    "SensitivityN",
    "correlation",
    "salience_coefficient",
    "unexplained_share",
]


@dataclass(frozen=True, eq=False)
class OrderCurves:
    """One quantity, read while tubelets are taken away in either order.

    Args:
        fractions: (point,) how much was taken away, rising from 0 to 1.
        morf: (batch, point) the quantity with the most relevant taken away first.
        lerf: (batch, point) with the least relevant taken away first, which is the same order backwards.
    """

    fractions: Tensor
    morf: Tensor
    lerf: Tensor

    def __post_init__(self) -> None:
        points = len(self.fractions)
        if self.morf.ndim != 2 or self.morf.shape != self.lerf.shape or self.morf.shape[1] != points:
            raise InputError(
                f"curves must be (batch, {points} fractions), got {tuple(self.morf.shape)} and {tuple(self.lerf.shape)}"
            )

    @property
    def morf_auc(self) -> Float[Tensor, " batch"]:
        """Area under ``morf``, by the trapezoid rule; low for a good map."""
        return torch.trapezoid(self.morf, self.fractions, dim=1)

    @property
    def lerf_auc(self) -> Float[Tensor, " batch"]:
        """Area under ``lerf``, by the trapezoid rule; high for a good map."""
        return torch.trapezoid(self.lerf, self.fractions, dim=1)

    @property
    def srg(self) -> Float[Tensor, " batch"]:
        """Symmetric relevance gain, AUC(LeRF) - AUC(MoRF); 0 on average for a random order.

        It depends far less on the baseline than either area alone (Blücher, Vielhaben & Strodthoff, TMLR 2024,
        https://arxiv.org/abs/2401.06654).
        """
        return self.lerf_auc - self.morf_auc

    @property
    def deletion(self) -> Float[Tensor, " batch"]:
        """Deletion (Petsiuk et al. 2018), which is the area under ``morf``; low for a good map."""
        return self.morf_auc

    @property
    def insertion(self) -> Float[Tensor, " batch"]:
        """Insertion (Petsiuk et al. 2018): area while the most relevant are revealed first; high for a good map.

        Revealing the k most relevant on the baseline leaves the other n - k covered, which are the n - k least
        relevant: the insertion curve is ``lerf`` read backwards, and its area the same.
        """
        return self.lerf_auc

    @property
    def insertion_curve(self) -> tuple[Float[Tensor, " point"], Float[Tensor, "batch point"]]:
        """(point,) how much is revealed, rising from 0 to 1, and (batch, point) the quantity."""
        return 1 - self.fractions.flip(0), self.lerf.flip(1)


@dataclass(frozen=True, eq=False)
class PerturbationCurves:
    """MoRF and LeRF curves of some clips; float32 on the CPU.

    The areas that are asked for without naming a quantity are those of the probability, or of the score where the
    target has no probability; ``quantity`` says which.

    Args:
        fractions: (point,) share of the units taken away, exact: a count over the number of units.
        morf_score: (batch, point) the target's value with the most relevant taken away first.
        lerf_score: (batch, point) with the least relevant first.
        morf_probability: (batch, point) the probability of the target's class; None where the target is not about one.
        lerf_probability: likewise.
        target: what was explained, in words.
        unit: what a score is, e.g. ``"logit"``.
        region: what was taken away at a time; see ``Perturbation``.
        baseline: what stood in its place.

    Raises:
        InputError: the curves have different shapes, or only one of them a probability.
    """

    fractions: Tensor
    morf_score: Tensor
    lerf_score: Tensor
    morf_probability: Tensor | None
    lerf_probability: Tensor | None
    target: str
    unit: str
    region: str
    baseline: str

    def __post_init__(self) -> None:
        if (self.morf_probability is None) != (self.lerf_probability is None):
            raise InputError("give the probability of both orders or of neither")
        _ = self.score, self.probability  # checks the shapes

    def __len__(self) -> int:
        return len(self.morf_score)

    @cached_property
    def score(self) -> OrderCurves:
        """Curves of the target's value."""
        return OrderCurves(self.fractions, self.morf_score, self.lerf_score)

    @cached_property
    def probability(self) -> OrderCurves | None:
        """Curves of the probability of the target's class; None where the target is not about one."""
        if self.morf_probability is None or self.lerf_probability is None:
            return None
        return OrderCurves(self.fractions, self.morf_probability, self.lerf_probability)

    @property
    def quantity(self) -> str:
        """Which quantity the areas below are of: ``"probability"``, or ``"score"`` where there is none."""
        return "score" if self.probability is None else "probability"

    @property
    def main(self) -> OrderCurves:
        """Curves of ``quantity``."""
        return self.score if self.probability is None else self.probability

    @property
    def morf_auc(self) -> Float[Tensor, " batch"]:
        """See ``OrderCurves.morf_auc``; of ``quantity``."""
        return self.main.morf_auc

    @property
    def lerf_auc(self) -> Float[Tensor, " batch"]:
        """See ``OrderCurves.lerf_auc``; of ``quantity``."""
        return self.main.lerf_auc

    @property
    def srg(self) -> Float[Tensor, " batch"]:
        """See ``OrderCurves.srg``; of ``quantity``."""
        return self.main.srg

    @property
    def deletion(self) -> Float[Tensor, " batch"]:
        """See ``OrderCurves.deletion``; of ``quantity``."""
        return self.main.deletion

    @property
    def insertion(self) -> Float[Tensor, " batch"]:
        """See ``OrderCurves.insertion``; of ``quantity``."""
        return self.main.insertion


#: What is taken away at a time: tubelets, whole tubelet frames, or tubes through time.
REGIONS = ("space_time", "time", "space")


@checked_numbers()
@dataclass(frozen=True, kw_only=True)
class Perturbation(MaskingMeasure[PerturbationCurves]):
    """MoRF and LeRF curves (Samek et al. 2017, https://arxiv.org/abs/1509.06321) of a video's tubelets.

    Tubelets are taken away in steps, the most relevant first (MoRF) and the least relevant first (LeRF), and the target
    is read at each step. The class is the one of the clean clip. From the curves come SRG, deletion and insertion; see
    ``PerturbationCurves``.

    Tubelets are ranked on the token grid, before any upsampling, by signed value. Equal values come in a random order
    drawn from ``seed`` and the clip's number, the same for both curves; never in the order of their index, which would
    favour the early frames.

    Args:
        region: ``"space_time"`` takes single tubelets; ``"time"`` whole tubelet frames, ranked by the map's sum over
            space (does the map know *when*?); ``"space"`` tubes through all of time, ranked by its sum over time
            (*where*?).
        baseline: what stands in their place: ``"blur"``, the clip's mean frame blurred, in which nothing moves;
            ``"mean"``, its mean colour; ``"drop"``, nothing: the tokens leave the sequence.
        steps: how many; fewer where the region has fewer units. Rounded to whole units, and the fractions are exact.
        blur_sigma: of the blur, as a fraction of the image's side.
        seed: of the order among equals.

    Raises:
        InputError: an argument is wrong.

    Cost: 2·steps - 1 passes through the blocks a clip (39 by default); with ``"drop"`` about half of their work.

    Example:
        >>> curves = Perturbation(baseline="drop")(model, pixel_values, heat)
        >>> curves.srg, curves.score.deletion  # (batch,) each
    """

    region: str = "space_time"
    baseline: str = "blur"
    steps: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(steps=self.steps)
        if self.region not in REGIONS:
            raise InputError(f"region={self.region!r} is not known; choose one of {', '.join(REGIONS)}")

    def measure(
        self,
        clips: CleanClips,
        relevance: AttributionMap | Tensor,
        *,
        batch_size: int = 8,
        progress: bool | None = None,
    ) -> PerturbationCurves:
        """See ``MaskingMeasure.measure``."""
        values = _unit_values(tubelet_relevance(relevance, len(clips), clips.grid), self.region)
        ranks = rank_units(values, self.seed, clips.numbers)
        units = ranks.shape[1]
        steps = min(self.steps, units)
        counts = torch.linspace(0, units, steps + 1, dtype=torch.float64).round().long()
        keep = _spread(_kept(ranks, counts), clips.grid, self.region)
        name = f"{type(self).__name__} {self.region}, {self.baseline}"
        with progress_bar(None, progress, name, "version", keep.shape[0] * keep.shape[1]) as bar:
            read = clips.read(keep, self.baseline, blur_sigma=self.blur_sigma, batch_size=batch_size, bar=bar)
        morf, lerf = _curves(clips.clean, read)
        return PerturbationCurves(
            (counts.double() / units).float(),
            morf.score,
            lerf.score,
            morf.probability,
            lerf.probability,
            clips.target.name,
            clips.target.unit,
            self.region,
            self.baseline,
        )


def _unit_values(values: Float64[Tensor, "batch t h w"], region: str) -> Float64[Tensor, "batch unit"]:
    """Return the relevance of what is taken away at a time."""
    if region == "time":
        return values.sum(dim=(2, 3))
    return (values.sum(dim=1) if region == "space" else values).flatten(1)


def _kept(ranks: Int64[Tensor, "batch unit"], counts: Int64[Tensor, " point"]) -> Bool[Tensor, "batch version unit"]:
    """Return what is kept: MoRF's inner points, LeRF's inner points, and nothing, which both end with."""
    inner = counts[1:-1].reshape(1, -1, 1)
    ranks = ranks.unsqueeze(1)
    none = torch.zeros_like(ranks, dtype=torch.bool)
    return torch.cat((ranks >= inner, ranks < ranks.shape[2] - inner, none), dim=1)


def _spread(keep: Bool[Tensor, "batch version unit"], grid: TokenGrid, region: str) -> Bool[Tensor, "batch version n"]:
    """Return which tubelets are kept, given which units are."""
    if region == "time":
        return keep.repeat_interleave(grid.h * grid.w, dim=2)
    return keep.repeat(1, 1, grid.t) if region == "space" else keep


def _curves(clean: Readings, read: Readings) -> tuple[Readings, Readings]:
    """Return MoRF's and LeRF's readings, (batch, point), from the clean ones and those of ``_kept``'s versions."""

    def split(first: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
        inner = rest.shape[1] // 2
        first, last = first.unsqueeze(1), rest[:, -1:]
        return torch.cat((first, rest[:, :inner], last), 1), torch.cat((first, rest[:, inner:-1], last), 1)

    morf, lerf = split(clean.score, read.score)
    if clean.probability is None or read.probability is None:
        return Readings(morf, None), Readings(lerf, None)
    likely, unlikely = split(clean.probability, read.probability)
    return Readings(morf, likely), Readings(lerf, unlikely)


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
