"""Attribution patching: activation patching to first order, all places from one forward and backward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vivit_lab.errors import InputError
from vivit_lab.hooks.recorder import evaluating
from vivit_lab.hooks.targets import TargetLike
from vivit_lab.hooks.values import frozen
from vivit_lab.interventions.base import check_batch_size, slices_of
from vivit_lab.interventions.pairs import Pairs
from vivit_lab.interventions.patching_result import DIRECTIONS, PatchingResult
from vivit_lab.interventions.points import Point
from vivit_lab.interventions.runs import cached
from vivit_lab.interventions.sites import SlabsLike, fill, sites_of
from vivit_lab.interventions.tokens import Region
from vivit_lab.numbers import checked_numbers
from vivit_lab.progress import progress_bar
from vivit_lab.video.clip import Clip

__all__ = ["AttributionPatching"]


@checked_numbers()
@dataclass(frozen=True)
class AttributionPatching:
    """Estimate every patch of ``ActivationPatching`` by (source − base)·∂target/∂activation (Nanda 2023).

    The gradient is that of the run that is patched: the corrupt one when denoising, the clean one when noising. A
    screen: it is exact where the model is linear between the two activations, and wrong where the softmax or an MLP
    saturates. Verify what it finds by ``ActivationPatching``.

    Args:
        direction: see ``ActivationPatching``.
        at: see ``ActivationPatching``.
        heads: see ``ActivationPatching``.
        layers: see ``ActivationPatching``.
        slabs: see ``ActivationPatching``.
        regions: see ``ActivationPatching``.
        batch_size: pairs in one pass.
        seed: of the intervals and p-values.
        progress: whether to show a bar; None shows it in a terminal.

    Raises:
        InputError: a field has a value that is not known.

    Cost: for each batch of pairs a forward pass of one side and a forward and backward pass of the other, whatever the
    number of places.
    """

    direction: str = "denoising"
    at: str = "z"
    heads: str = "each"
    layers: Sequence[int] | None = None
    slabs: SlabsLike = None
    regions: Mapping[str, Region] | None = None
    batch_size: int = 8
    seed: int = 0
    progress: bool | None = None

    def __post_init__(self) -> None:
        check_batch_size(self.batch_size)
        if self.direction not in DIRECTIONS:
            raise InputError(f"direction must be one of {', '.join(DIRECTIONS)}, got {self.direction!r}")

    def __call__(
        self,
        model: Any,
        clean: Tensor | Clip | Sequence[Clip],
        corrupt: Tensor | Clip | Sequence[Clip],
        target: TargetLike = None,
        *,
        interpolate_pos_encoding: bool | None = None,
    ) -> PatchingResult:
        """Estimate; the arguments and errors are those of ``ActivationPatching``."""
        pairs = Pairs.of(
            model,
            clean,
            corrupt,
            target,
            batch_size=self.batch_size,
            interpolate_pos_encoding=interpolate_pos_encoding,
        )
        dims, labels, sites = sites_of(
            model, pairs.grid, self.at, layers=self.layers, heads=self.heads, slabs=self.slabs, regions=self.regions
        )
        effect = torch.full((len(pairs), *(len(labels[dim]) for dim in dims)), torch.nan, dtype=torch.float64)
        names = list(dict.fromkeys(site.point.name for site in sites))
        batches = list(slices_of(len(pairs), self.batch_size))
        for rows in progress_bar(batches, self.progress, "attribution patching", "batch"):
            found = _contributions(pairs, names, self.direction, rows)
            for site in sites:
                part, tokens = found[site.point.name]
                site.point.check_tokens(tokens, site.tokens)
                part = part if site.point.places is None else part[..., list(site.point.places)]
                part = part if site.tokens is None else part[:, site.tokens.to(part.device)]
                fill(effect, rows, site, part.sum(dim=(1, 2)))
        return pairs.result(self, effect, dims, labels, self.direction)


def _contributions(pairs: Pairs, names: Sequence[str], direction: str, rows: slice) -> dict[str, tuple[Tensor, int]]:
    """Return Δactivation·gradient for each hook, (pair, token, head or 1), and how many tokens its token axis has."""
    model = pairs.model
    base, source, _ = pairs.sides(direction)
    there = cached(model, source[rows], names, pairs.forward)
    with evaluating(model), frozen(model):
        _, here = model.run_with_cache(
            base[rows].to(model.device),
            names_filter=list(names),
            incl_bwd=True,
            target=lambda output: pairs.score(output, rows),
            **pairs.forward,
        )
    found: dict[str, tuple[Tensor, int]] = {}
    for name in names:
        product = (there[name].float() - here[name].float()) * here[f"{name}_grad"].float()
        summed = product.sum(dim=-1)
        point = Point(name)
        if point.token_axis == 2:  # patterns; along one axis of a factorised model they come in groups
            summed = summed.flatten(2).transpose(1, 2)
        tokens = there[name].shape[point.token_axis]
        found[name] = (summed if point.has_heads else summed.unsqueeze(-1), tokens)
    return found
