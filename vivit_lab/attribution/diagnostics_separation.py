"""Does a map say where *and* when, or only where and, apart from that, when?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vivit_lab.attribution.base import AttributionMap
from vivit_lab.show.html import facts_table, report_html, tiles

__all__ = ["SpaceTimeSeparation", "space_time_separation"]


@dataclass(frozen=True, eq=False)
class SpaceTimeSeparation:
    """A map's marginals, and how much of it one place pattern times one time course explains.

    Args:
        over_time: (batch, t) relevance summed over places; signed where the map is.
        over_space: (batch, h, w) relevance summed over time.
        rank1_share: for each clip, in (0, 1]: the part of the map's squared norm that the best product explains; NaN
            where the map is all zero.
        time_course: (batch, t) the time factor of that product, of unit norm.
        place_pattern: (batch, h, w) its place factor, which carries the size and whose sum is not negative.
        heat: the map.
    """

    over_time: Tensor
    over_space: Tensor
    rank1_share: list[float]
    time_course: Tensor
    place_pattern: Tensor
    heat: AttributionMap

    def __len__(self) -> int:
        return len(self.rank1_share)

    @property
    def product(self) -> Tensor:
        """(batch, t, h, w) the best product of one place pattern and one time course."""
        return torch.einsum("bt,bhw->bthw", self.time_course, self.place_pattern)

    def __str__(self) -> str:
        lines = [f"separation of {self.heat.method} into space and time"]
        lines += [f"  clip {clip}: {self._clip(clip)}" for clip in range(len(self))]
        return "\n".join(lines)

    def _clip(self, clip: int) -> str:
        time, space = self.over_time[clip].abs(), self.over_space[clip].abs()
        start, stop = self.heat.grid.frame_span(int(time.argmax()))
        y, x = divmod(int(space.argmax()), space.shape[1])
        return (
            f"rank-1 share {self.rank1_share[clip]:.3f}; most in frames {start}–{stop - 1} ({_part(time):.1%} of the "
            f"time marginal) and at (y, x) = ({y}, {x}) ({_part(space):.1%} of the space marginal)"
        )

    def _repr_html_(self) -> str:
        facts = {"rank-1 share": "the part of the squared norm that one place pattern × one time course explains"}
        facts |= {f"clip {clip}": self._clip(clip) for clip in range(len(self))}
        parts = [facts_table({"separation of": self.heat.method, **facts})]
        for clip in range(len(self)):
            name = f"clip {clip}, " if len(self) > 1 else ""
            for values, label in ((self.over_space[clip], "over space"), (self.over_time[clip, None], "over time")):
                parts.append(tiles(values[None].cpu().numpy(), [name + label], signed=self.heat.signed))
        return report_html(*parts)


def space_time_separation(heat: AttributionMap) -> SpaceTimeSeparation:
    """Split maps into space and time.

    A clip's map is read as a matrix R of t rows and h·w columns. Its singular values σ₁ ≥ σ₂ ≥ … give the rank-1 share
    σ₁² / Σ σᵢ² = 1 − min ‖R − u·vᵀ‖² / ‖R‖², over all time courses u and place patterns v (Eckart & Young, 1936). 1:
    each tubelet row is a multiple of one picture, so the map knows no motion of its evidence. At least 1/min(t, h·w).
    The map is not centred: a large constant part is itself such a product and raises the share.

    Args:
        heat: maps of one or more clips.

    Cost: one small SVD a clip, in float64 on the CPU.
    """
    matrix = heat.relevance.cpu().double().flatten(2)  # (batch, t, place)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    squares = values.square()
    total = squares.sum(dim=-1)
    share = torch.where(total > 0, squares[:, 0] / total, torch.nan)
    time, place = left[:, :, 0], right[:, 0] * values[:, :1]
    sign = torch.where(place.sum(dim=-1, keepdim=True) < 0, -1.0, 1.0)
    return SpaceTimeSeparation(
        heat.over_time.cpu(),
        heat.relevance.cpu().sum(dim=1),
        share.tolist(),
        (time * sign).float(),
        (place * sign).float().unflatten(1, heat.grid.shape[1:]),
        heat,
    )


def _part(sizes: Tensor) -> float:
    """Return the part of a marginal that its largest entry is."""
    total = float(sizes.sum())
    return float(sizes.max()) / total if total else 0.0
