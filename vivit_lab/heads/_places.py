"""Reductions of attention rows over the token grid: the arithmetic behind ``head_statistics``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float32
from torch import Tensor

from vivit_lab.grid import TokenGrid

__all__ = ["STATISTICS", "Places", "uniform_profile", "uniform_values"]

#: Name → what it is, and its unit.
STATISTICS = {
    "spatial_distance": "mean distance in the picture from query to key, pixels",
    "temporal_distance": "mean distance in time from query to key, frames",
    "same_frame": "mass on the query's own tubelet row in time",
    "same_place": "mass on the query's own place at all other times",
    "past_future": "(past - future) / (past + future), each mass divided by the number of pairs there are; in [-1, 1]",
    "entropy": "entropy of the row, nats",
    "effective_keys": "exp(entropy): over how many tubelets the row is spread",
    "maximal_weight": "largest weight of the row",
    "cls_mass": "mass on the CLS key, before the row is renormalised",
    "artefact_mass": "mass on high-norm artefact tokens",
    "following": "mass on where the query's content is at other times, times at which it is elsewhere",
}


@dataclass(frozen=True, eq=False)
class Places:
    """Where the tubelets of a grid are.

    Args:
        grid: the token grid.
        device: where to compute.
    """

    grid: TokenGrid
    device: torch.device

    @cached_property
    def times(self) -> Tensor:
        """(tubelet,) time index."""
        return torch.arange(self.grid.num_tubelets, device=self.device) // (self.grid.h * self.grid.w)

    @cached_property
    def spots(self) -> Tensor:
        """(tubelet,) index of the place y·w + x."""
        return torch.arange(self.grid.num_tubelets, device=self.device) % (self.grid.h * self.grid.w)

    @cached_property
    def distances(self) -> Tensor:
        """(place, place) distance of their middles in pixels."""
        h, w = self.grid.h, self.grid.w
        place = torch.arange(h * w, device=self.device)
        rows = (place // w).float() * self.grid.tubelet[1]
        columns = (place % w).float() * self.grid.tubelet[2]
        return torch.hypot(rows.unsqueeze(1) - rows, columns.unsqueeze(1) - columns)

    def reduce(self, rows: Float32[Tensor, "head query token"], queries: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return each statistic (head, query) of rows of the pattern, and the mass at each time (head, query, t).

        Args:
            rows: (head, query, token), each row's sum is 1; CLS first where the grid has one.
            queries: (query,) which tubelets the queries are, without CLS.
        """
        cls, patch = self.split(rows)
        grid, total = self.grid, patch.unflatten(-1, (self.grid.t, self.grid.h * self.grid.w))
        when, where = self.times[queries], self.spots[queries]
        over_time = total.sum(dim=-1)  # (head, query, t)
        over_place = total.sum(dim=-2)
        here = total.gather(-1, where.view(1, -1, 1, 1).expand(*total.shape[:3], 1)).squeeze(-1)  # (head, query, t)
        own = when.view(1, -1, 1).expand(len(patch), -1, 1)
        steps = torch.arange(grid.t, device=self.device) - when.unsqueeze(1)  # (query, t), key less query
        logs = torch.where(patch > 0, patch, 1).log()
        entropy = -(patch * logs).sum(dim=-1)
        found = {
            "spatial_distance": (over_place * self.distances[where]).sum(dim=-1),
            "temporal_distance": (over_time * steps.abs() * grid.tubelet[0]).sum(dim=-1),
            "same_frame": over_time.gather(-1, own).squeeze(-1),
            "same_place": here.sum(dim=-1) - here.gather(-1, own).squeeze(-1),
            "past": (over_time * (steps < 0)).sum(dim=-1),
            "future": (over_time * (steps > 0)).sum(dim=-1),
            "entropy": entropy,
            "effective_keys": entropy.exp(),
            "maximal_weight": patch.amax(dim=-1),
        }
        if cls is not None:
            found["cls_mass"] = cls
        return found, over_time

    def split(self, rows: Tensor) -> tuple[Tensor | None, Tensor]:
        """Return the mass on CLS, and the rest of each row, renormalised."""
        if not self.grid.cls:
            return None, rows
        cls, patch = rows.select(-1, 0), rows.narrow(-1, 1, rows.shape[-1] - 1)
        left = patch.sum(dim=-1, keepdim=True)
        return cls, patch / left.clamp_min(torch.finfo(patch.dtype).tiny)

    def profile(self, over_time: Tensor, queries: Tensor) -> Tensor:
        """Return the mass at each offset in time (head, 2t - 1), key less query, a mean over queries."""
        t = self.grid.t
        offsets = torch.arange(t, device=self.device) - self.times[queries].unsqueeze(1) + t - 1  # (query, t)
        profile = over_time.new_zeros(len(over_time), 2 * t - 1)
        profile.scatter_add_(1, offsets.reshape(1, -1).expand(len(over_time), -1), over_time.flatten(1))
        return profile / len(queries)


def uniform_profile(grid: TokenGrid) -> Tensor:
    """Return the mass at each offset in time under uniform attention, (2t - 1,): (t - |Δt|)/t²."""
    offsets = torch.arange(1 - grid.t, grid.t)
    return (grid.t - offsets.abs()) / grid.t**2


def uniform_values(grid: TokenGrid) -> dict[str, float]:
    """Return what each statistic is under uniform attention, the mean over all tubelets as queries.

    Example:
        >>> uniform_values(TokenGrid(16, 14, 14))["spatial_distance"]
        116.5...
    """
    places = Places(grid, torch.device("cpu"))
    count, t = grid.num_tubelets, grid.t
    steps = (torch.arange(t).unsqueeze(1) - torch.arange(t)).abs().double()
    return {
        "spatial_distance": float(places.distances.double().mean()),
        "temporal_distance": float(steps.mean()) * grid.tubelet[0],
        "same_frame": 1 / t,
        "same_place": (t - 1) / count,
        "past_future": 0.0,
        "entropy": math.log(count),
        "effective_keys": float(count),
        "maximal_weight": 1 / count,
        "cls_mass": 1 / grid.num_tokens,
    }
