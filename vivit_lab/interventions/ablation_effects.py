"""What each head, MLP or region is needed for: the effect of taking it away, and how much of that is motion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vivit_lab.errors import InputError
from vivit_lab.hooks.inputs import as_pixel_values
from vivit_lab.hooks.precision import warn_of_differences
from vivit_lab.hooks.recorder import record_provenance
from vivit_lab.hooks.targets import TargetLike
from vivit_lab.interventions.ablation import MODES, OVER, Replacements, partners, replacements
from vivit_lab.interventions.base import check_batch_size, slices_of
from vivit_lab.interventions.corruptions import Corruption, FreezeFrame
from vivit_lab.interventions.effects import EffectTable
from vivit_lab.interventions.pairs import bound_scores, plain_parameters
from vivit_lab.interventions.runs import runs
from vivit_lab.interventions.sites import Site, SlabsLike, fill, sites_of
from vivit_lab.interventions.tokens import Region
from vivit_lab.numbers import checked_numbers
from vivit_lab.progress import progress_bar
from vivit_lab.video.clip import Clip

__all__ = ["AblationEffects", "CausalTemporalScore"]

Inputs = Tensor | Clip | Sequence[Clip]
_FORWARD = {"output_attentions": False, "output_hidden_states": False, "interpolate_pos_encoding": None}


@checked_numbers()
@dataclass(frozen=True)
class AblationEffects:
    """Take away one place after the other, and measure the target: effect = ablated − intact, negative where needed.

    Args:
        at: what is ablated, see ``ActivationPatching``; ``"z"`` is a head's context, ``"mlp_out"`` an MLP.
        mode: ``"zero"``, ``"mean"`` or ``"resample"``; see ``ablate``.
        over: see ``ablate``.
        heads: see ``ActivationPatching``.
        layers: see ``ActivationPatching``.
        slabs: see ``ActivationPatching``.
        regions: see ``ActivationPatching``.
        batch_size: clips in one forward pass.
        seed: of the resampling, the intervals and p-values.
        progress: whether to show a bar; None shows it in a terminal.

    Raises:
        InputError: a field has a value that is not known.

    Cost: a forward pass from the ablated layer on, for each place and batch of clips.

    Example:
        >>> AblationEffects(mode="mean")(model, clips, labels).top(5)  # the five heads that are needed most
    """

    at: str = "z"
    mode: str = "mean"
    over: str = "clips"
    heads: str = "each"
    layers: Sequence[int] | None = None
    slabs: SlabsLike = None
    regions: Mapping[str, Region] | None = None
    batch_size: int = 8
    seed: int = 0
    progress: bool | None = None

    def __post_init__(self) -> None:
        check_batch_size(self.batch_size)
        if self.mode not in MODES or self.over not in OVER:
            raise InputError(
                f"mode is one of {', '.join(MODES)} and over one of {', '.join(OVER)}; got {self.mode!r}, {self.over!r}"
            )

    def __call__(
        self, model: Any, clips: Inputs, target: TargetLike = None, *, reference: Inputs | None = None
    ) -> EffectTable:
        """Ablate each place.

        Args:
            model: a ViViT.
            clips: as pixel values or prepared clips.
            target: what is measured, fixed on the clips; see ``bind_target``.
            reference: clips that means and resampled activations are taken from; the clips themselves by default.

        Raises:
            InputError: the clips, target, part or layers do not fit the model, zero ablation was given a reference, or
                one clip alone would be its own reference.
            GridError: a slab or region does not fit the grid.
        """
        pixels = as_pixel_values(clips).values
        grid = model.grid_of(pixels, None)
        dims, labels, sites = sites_of(
            model, grid, self.at, layers=self.layers, heads=self.heads, slabs=self.slabs, regions=self.regions
        )
        if self.mode != "zero" and reference is None:
            reference = _own_reference(self, pixels)
        points = list({site.point.name: site.point for site in sites}.values())
        made = replacements(
            model, points, mode=self.mode, reference=reference, over=self.over, batch_size=self.batch_size
        )
        bound, scores = bound_scores(model, pixels, target, batch_size=self.batch_size, forward=_FORWARD)
        effect = torch.full((len(pixels), *(len(labels[dim]) for dim in dims)), torch.nan, dtype=torch.float64)
        batches = list(slices_of(len(pixels), self.batch_size))
        with progress_bar(None, self.progress, "ablating", "run", total=len(batches) * len(sites)) as bar:
            for rows in batches:
                there = self._for_rows(made, rows, len(pixels))
                hooks: list[tuple[Site, Any]] = [(site, there.hook(site.point, site.tokens)) for site in sites]
                for site, output in runs(model, pixels[rows], hooks, _FORWARD):
                    change = bound(output, range(rows.start, rows.stop)).float() - scores[rows]
                    fill(effect, rows, site, change)
                    bar.update()
        warn_of_differences(model, type(self).__name__, effect, scores)
        return EffectTable(
            effect,
            dims,
            labels,
            what=f"ablated − intact, {bound.unit}",
            method=type(self).__name__,
            parameters=plain_parameters(self),
            targets=bound.names,
            model_id=model.name_or_path or type(model).__name__,
            provenance=record_provenance(model, model.dtype),
            seed=self.seed,
        )

    def _for_rows(self, made: Replacements, rows: slice, count: int) -> Replacements:
        """Return what replaces the activations of some clips; partners are drawn once for all of them."""
        if self.mode != "resample":
            return made
        values = {}
        for name, tensor in made.values.items():
            chosen = partners(count, len(tensor), self.seed)[rows].to(tensor.device)
            values[name] = tensor.index_select(0, chosen)
        return Replacements("mean", values)  # a row for each clip already


@dataclass(frozen=True)
class CausalTemporalScore:
    """How much more a place is needed for a clip than for the clip standing still.

    (intact − ablated) on the clip, less the same on its frozen-frame version: what the place contributes that needs
    time. Positive: it carries motion. About zero: it carries what one frame shows as well, or nothing.

    Args:
        ablation: how and where to ablate.
        still: makes the clip without motion.

    Cost: twice that of the ablation.

    Example:
        >>> score = CausalTemporalScore()(model, clips, labels)
        >>> score.plot()
    """

    ablation: AblationEffects = field(default_factory=AblationEffects)
    still: Corruption = field(default_factory=FreezeFrame)

    def __call__(
        self, model: Any, clips: Inputs, target: TargetLike = None, *, reference: Inputs | None = None
    ) -> EffectTable:
        """Score each place.

        Args:
            model: a ViViT.
            clips: as pixel values or prepared clips.
            target: what is measured, fixed on the moving clips; see ``bind_target``.
            reference: clips that means and resampled activations are taken from, which stand still for the clips that
                do; the clips themselves by default.

        Raises:
            InputError: see ``AblationEffects``.
        """
        pixels = as_pixel_values(clips).values
        given = _own_reference(self.ablation, pixels) if reference is None else as_pixel_values(reference).values
        bound, _ = bound_scores(model, pixels, target, batch_size=self.ablation.batch_size, forward=_FORWARD)
        zero = self.ablation.mode == "zero"
        moving, frozen = (
            self.ablation(model, some, bound, reference=None if zero else source)
            for some, source in ((pixels, given), (self.still(pixels), self.still(given)))
        )
        return EffectTable(
            frozen.effect - moving.effect,
            moving.dims,
            moving.labels,
            what=f"causal temporal score: loss when ablated, moving less still, {bound.unit}",
            method=type(self).__name__,
            parameters=plain_parameters(self),
            targets=moving.targets,
            model_id=moving.model_id,
            provenance=moving.provenance,
            seed=self.ablation.seed,
        )


def _own_reference(by: AblationEffects, pixels: Tensor) -> Tensor:
    """Return clips as their own reference; refuse one that would stand in for itself, where every effect is 0."""
    if len(pixels) == 1 and (by.mode == "resample" or (by.mode == "mean" and by.over == "clips")):
        raise InputError(
            f"mode={by.mode!r} replaces what a single clip carries by its own, which changes nothing: pass other clips "
            "as reference=, or more clips (or take the mean over='tokens')"
        )
    return pixels
