"""Taking away what heads, MLPs and tokens carry, and what each is needed for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vivit_lab.errors import InputError
from vivit_lab.grid import TokenGrid
from vivit_lab.interventions.base import Hook, Intervention, check_batch_size, read_all, read_points, slices_of
from vivit_lab.interventions.corruptions import Corruption, FreezeFrame
from vivit_lab.interventions.effects import EffectTable
from vivit_lab.interventions.patching import Site, SlabsLike, bound_scores, fill, plain_parameters, sites_of
from vivit_lab.interventions.points import (
    HeadLike,
    Point,
    Region,
    TokensLike,
    chosen_points,
    grid_or_own,
    part_name,
    put,
    runs,
    token_mask,
    tokens_text,
)
from vivit_lab.numbers import checked_numbers
from vivit_lab.progress import progress_bar
from vivit_lab.records.attention import record_provenance
from vivit_lab.records.inputs import as_pixel_values, warn_of_differences
from vivit_lab.records.targets import TargetLike
from vivit_lab.video.clip import Clip

__all__ = [
    "MODES",
    "OVER",
    "AblationEffects",
    "CausalTemporalScore",
    "Replacements",
    "ablate",
    "partners",
    "replacements",
]

MODES = ("zero", "mean", "resample")
"""What takes the place of an activation: nothing, the mean over reference clips, or that of one reference clip."""

OVER = ("clips", "tokens")
"""What a mean is taken over: the clips, place by place; or all tokens too, one vector a head."""


@checked_numbers(batch_size=(1, None))
def ablate(
    model: Any,
    *,
    heads: Iterable[HeadLike] = (),
    mlps: Iterable[int | str] = (),
    attentions: Iterable[int | str] = (),
    points: Iterable[str | Point] = (),
    tokens: TokensLike = None,
    layer: int = 0,
    mode: str = "zero",
    reference: Tensor | Clip | Sequence[Clip] | None = None,
    over: str = "clips",
    seed: int = 0,
    batch_size: int = 8,
    grid: TokenGrid | None = None,
) -> Intervention:
    """Take away what some parts of the model carry.

    A zeroed head is exactly a head mask of 0. Zero removes a head's value bias too and so takes the layers behind to
    where they never were; the mean (Wang et al. 2022) takes away what differs between
    clips and no more; resampling keeps the activations real.

    Args:
        model: a ViViT.
        heads: (layer, head) pairs, whose context (z) is replaced.
        mlps: layers whose MLP output is.
        attentions: layers whose attention output (after the projection) is.
        points: further hook points, by name or as ``Point``.
        tokens: at which tokens only: a ``Region`` of tubelets, indices, a mask, ``"cls"``, ``"tubelets"``; None for
            all. With nothing else named, these tokens themselves: the residual stream that enters ``layer``.
        layer: see ``tokens``; 0 is right after the embeddings and their positions.
        mode: ``"zero"``, ``"mean"`` or ``"resample"``.
        reference: clips that the latter two are taken from; one forward pass of them is run now.
        over: mean place by place over ``"clips"`` (the default), or over ``"tokens"`` as well.
        seed: which reference clip stands in for which row of a batch; the same for all places, so that one whole clip
            is drawn. With as many rows as reference clips, none stands in for itself.
        batch_size: reference clips in one pass.
        grid: the token grid of the clips; by default that of the reference clips, or else of the configuration.

    Returns:
        The intervention: ``with ablate(…): model(x)``, or ``ablate(…)(x)``.

    Raises:
        InputError: nothing or something unknown was named, or the mode lacks or refuses its reference.
        GridError: the tokens do not fit the grid.

    Example:
        >>> with ablate(model, heads=[(2, 0), (2, 5)], tokens=Region(t=slice(4, 8)), mode="mean", reference=clips):
        ...     logits = model(pixel_values).logits
    """
    heads, mlps, attentions, points = [*heads], [*mlps], [*attentions], [*points]
    if not (heads or mlps or attentions or points) and tokens is not None:
        points = [part_name(model, layer, "resid_pre")]
    chosen = chosen_points(model, heads=heads, mlps=mlps, attentions=attentions, points=points)
    mask = None if tokens is None else token_mask(tokens, grid_or_own(model, grid, reference))
    made = replacements(model, chosen, mode=mode, reference=reference, over=over, seed=seed, batch_size=batch_size)
    places = ", ".join(point.name + (f" {list(point.heads)}" if point.heads is not None else "") for point in chosen)
    return Intervention(
        model, [made.hook(point, mask) for point in chosen], f"{mode} ablation of {places} at {tokens_text(tokens)}"
    )


@dataclass(frozen=True, eq=False)
class Replacements:
    """What takes the place of the activations at some hook points.

    Args:
        mode: one of ``MODES``.
        values: hook name → the mean (1, …) or the reference clips' own (clip, …); empty for zero.
        seed: see ``partners``.
    """

    mode: str
    values: dict[str, Tensor]
    seed: int = 0

    def hook(self, point: Point, tokens: Tensor | None) -> Hook:
        """Return the hook that puts them at a point's heads and at some tokens, (token,) bool."""

        def replace(tensor: Tensor, hook: Any) -> Tensor:
            return put(point, tensor, self.at(point.name, tensor), tokens)

        return point.name, replace

    def at(self, name: str, tensor: Tensor) -> Tensor | float:
        """Return what replaces a hook's tensor, broadcastable to it.

        Raises:
            InputError: the reference clips had another size.
        """
        if self.mode == "zero":
            return 0.0
        values = self.values[name].to(tensor.device)
        if self.mode == "resample":
            values = values.index_select(0, partners(len(tensor), len(values), self.seed).to(tensor.device))
        try:
            return values.expand_as(tensor)
        except RuntimeError as error:
            raise InputError(
                f"{name} is {tuple(tensor.shape)}, the reference clips gave {tuple(values.shape)}: they must have as "
                "many frames and pixels as the clips (or take the mean over='tokens')"
            ) from error


def replacements(
    model: Any,
    points: Sequence[Point],
    *,
    mode: str,
    reference: Tensor | Clip | Sequence[Clip] | None,
    over: str = "clips",
    seed: int = 0,
    batch_size: int = 8,
) -> Replacements:
    """Run the reference clips once and return what takes the place of the activations; see ``ablate``.

    Raises:
        InputError: the mode or ``over`` is not known, or the mode lacks or refuses its reference.
    """
    if mode not in MODES or over not in OVER:
        raise InputError(f"mode is one of {', '.join(MODES)} and over one of {', '.join(OVER)}; got {mode!r}, {over!r}")
    check_batch_size(batch_size)
    if (mode == "zero") != (reference is None):
        wanted = "takes no reference clips" if mode == "zero" else "wants reference clips, reference=pixel_values"
        raise InputError(f"mode={mode!r} {wanted}")
    if reference is None:
        return Replacements(mode, {})
    pixels = as_pixel_values(reference).values
    names = [point.name for point in points]
    options = {"batch_size": batch_size, "interpolate_pos_encoding": None}
    if mode == "resample":
        return Replacements(mode, read_all(model, pixels, names, **options), seed)
    sums: dict[str, Tensor] = {}
    for _, kept, _ in read_points(model, pixels, names, **options):
        for point in points:
            part = kept[point.name].float().sum(dim=0, keepdim=True)
            if over == "tokens":
                part = part.mean(dim=point.token_axis, keepdim=True)
            sums[point.name] = sums[point.name] + part if point.name in sums else part
    return Replacements(mode, {name: total / len(pixels) for name, total in sums.items()})


def partners(rows: int, count: int, seed: int) -> Tensor:
    """Return (row,) which of ``count`` reference clips stands in for each row of a batch.

    Drawn with replacement; with as many rows as clips, a random cycle through all of them (Sattolo 1986), so that a
    clip never stands in for itself where both are the same clips.
    """
    generator = torch.Generator().manual_seed(seed)
    if rows != count:
        return torch.randint(count, (rows,), generator=generator)
    order = torch.randperm(count, generator=generator)
    found = torch.empty_like(order)
    found[order] = order.roll(1)
    return found


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
