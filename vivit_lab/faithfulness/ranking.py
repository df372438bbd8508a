"""The relevance of tubelets as numbers that can be ranked, and randomness that belongs to a clip."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from vivit_lab.attribution.base import AttributionMap
from vivit_lab.errors import GridError, InputError
from vivit_lab.grid import TokenGrid

__all__ = ["check_seed", "clip_generator", "rank_units", "tubelet_relevance"]


def check_seed(seed: int) -> None:
    """Refuse a seed that is not a whole number from 0.

    Raises:
        InputError: it is not.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InputError(f"seed must be an integer from 0, got {seed!r}")


def clip_generator(seed: int, number: int) -> np.random.Generator:
    """Return a clip's own generator: the same in whatever batch the clip is, another for every other clip.

    Args:
        seed: of the whole evaluation.
        number: of the clip in its data set.
    """
    return np.random.default_rng([seed, number])


def tubelet_relevance(
    relevance: AttributionMap | Tensor, batch: int, grid: TokenGrid
) -> Float64[Tensor, "batch t h w"]:
    """Return a map's values in double precision on the CPU, where sums and ties are exact enough to rank.

    Args:
        relevance: a map, or its values (batch, t, h, w); before any upsampling.
        batch: how many clips there are.
        grid: the clips' token grid.

    Raises:
        GridError: the map lies on another grid.
        InputError: it has another number of clips, or a value is not finite.
    """
    values = relevance.relevance if isinstance(relevance, AttributionMap) else relevance
    if values.ndim != 4 or tuple(values.shape[1:]) != grid.shape:
        raise GridError(
            f"relevance must be (batch, {', '.join(map(str, grid.shape))}), one number a tubelet before any "
            f"upsampling; got {tuple(values.shape)}"
        )
    if len(values) != batch:
        raise InputError(f"relevance has {len(values)} maps for {batch} clips")
    values = values.detach().cpu().double()
    if not bool(torch.isfinite(values).all()):
        raise InputError("relevance holds a NaN or infinity, which has no rank")
    return values


def rank_units(values: Float64[Tensor, "batch unit"], seed: int, numbers: Sequence[int]) -> Int64[Tensor, "batch unit"]:
    """Return each unit's rank, 0 for the most relevant.

    Equal values are put into a random order, which belongs to the clip. In the order of their index the early frames
    would come first, and a map of zeros would score like one that points at them.

    Args:
        values: (batch, unit), signed.
        seed: of the order among equals.
        numbers: the clips' numbers in their data set; see ``clip_generator``.
    """
    ranks = []
    for row, number in zip(values.unbind(), numbers, strict=True):
        shuffled = torch.from_numpy(clip_generator(seed, number).permutation(len(row)))
        order = shuffled[row[shuffled].argsort(descending=True, stable=True)]
        ranks.append(torch.empty_like(order).scatter_(0, order, torch.arange(len(row))))
    return torch.stack(ranks)
