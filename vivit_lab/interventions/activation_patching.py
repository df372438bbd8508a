"""Activation patching: which parts carry what a corruption takes away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vivit_lab.errors import InputError
from vivit_lab.hooks.targets import TargetLike
from vivit_lab.interventions.base import check_batch_size, slices_of
from vivit_lab.interventions.pairs import Pairs
from vivit_lab.interventions.patch import patch_hook
from vivit_lab.interventions.patching_result import DIRECTIONS, PatchingResult
from vivit_lab.interventions.runs import cached, runs
from vivit_lab.interventions.sites import SlabsLike, fill, sites_of
from vivit_lab.interventions.tokens import Region
from vivit_lab.numbers import checked_numbers
from vivit_lab.progress import progress_bar
from vivit_lab.video.clip import Clip

__all__ = ["ActivationPatching"]


@checked_numbers()
@dataclass(frozen=True)
class ActivationPatching:
    """Put activations of one clip into the run of another, place by place (Vig et al. 2020; Meng et al. 2022).

    For each pair of a clean and a corrupt clip and each place of layer × head × time slab × region: run one clip with
    the other's activation there, and see how far the target moves. Heimersheim & Nanda 2024 tell how to read it.

    Args:
        direction: ``"denoising"`` puts clean activations into the corrupt run: which places suffice to restore the
            target. ``"noising"`` puts corrupt ones into the clean run: which are needed for it.
        at: what is patched: ``"z"`` (a head's context), ``"q"``, ``"k"``, ``"v"``, ``"pattern"``, ``"attn_scores"``,
            ``"result"``; or, without a head axis, ``"resid_pre"``, ``"resid_mid"``, ``"resid_post"``, ``"attn_out"``,
            ``"mlp_out"``.
        heads: ``"each"`` head by itself, or ``"all"`` of a layer together, without a head axis.
        layers: which layers; None for all.
        slabs: time slabs: how many of as equal lengths as can be, and the CLS token (which has no time) after them; or
            a list of spans of tubelet rows (slices or ints) and ``"cls"``. None is all tokens at once, CLS included. Of
            patterns and scores, these are the queries.
        regions: name → ``Region``, in which places of each slab; None for all. The CLS token is in each.
        batch_size: pairs in one forward pass.
        seed: of the intervals and p-values.
        progress: whether to show a bar; None shows it in a terminal.

    Raises:
        InputError: a field has a value that is not known.

    Cost: a forward pass from the patched layer on, for each place and batch of pairs. The cached side keeps
    tokens·d_model numbers for each layer and pair of one batch.

    Example:
        >>> method = ActivationPatching(at="z", slabs=4)
        >>> result = method(model, clean, corrupt, LogitDifference(labels, reversed_labels))
        >>> result.select(slab="CLS").plot()
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
        """Patch.

        Args:
            model: a ViViT.
            clean: clips, as pixel values or prepared clips.
            corrupt: for each of them its corrupt one, such as ``ReverseFrames()(clean)``.
            target: what is measured, fixed on the clean clips; see ``bind_target``. A ``LogitDifference`` of the two
                clips' classes tells best what went from one to the other.
            interpolate_pos_encoding: whether clips of another size are taken; None is yes, and says so once.

        Raises:
            InputError: the clips, target, part or layers do not fit the model; or the target is the same for all clean
                and corrupt clips.
            GridError: a slab or region does not fit the grid.
        """
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
        batches = list(slices_of(len(pairs), self.batch_size))
        base, source, scores = pairs.sides(self.direction)
        names = list(dict.fromkeys(site.point.name for site in sites))
        with progress_bar(None, self.progress, "patching", "run", total=len(batches) * len(sites)) as bar:
            for rows in batches:
                values = cached(model, source[rows], names, pairs.forward)
                hooks = [(site, patch_hook(site.point, values[site.point.name], site.tokens)) for site in sites]
                for site, output in runs(model, base[rows], hooks, pairs.forward):
                    change = pairs.score(output, rows) - scores[rows].to(model.device)
                    fill(effect, rows, site, change)
                    bar.update()
        return pairs.result(self, effect, dims, labels, self.direction)
