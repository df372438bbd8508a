"""Perturbation curves: what happens to the target while tubelets are taken away in the order of their relevance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from vivit_lab.attribution.base import AttributionMap
from vivit_lab.attribution.forwards import check_positive
from vivit_lab.errors import InputError
from vivit_lab.faithfulness.curves import PerturbationCurves
from vivit_lab.faithfulness.masking import CleanClips, Readings
from vivit_lab.faithfulness.measure import MaskingMeasure
from vivit_lab.faithfulness.ranking import rank_units, tubelet_relevance
from vivit_lab.grid import TokenGrid
from vivit_lab.numbers import checked_numbers
from vivit_lab.progress import progress_bar

__all__ = ["REGIONS", "Perturbation"]

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
