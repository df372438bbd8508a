"""Taking away what heads, MLPs and tokens carry: by zero, by a mean, or by another clip's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vivit_lab.errors import InputError
from vivit_lab.grid import TokenGrid
from vivit_lab.hooks.inputs import as_pixel_values
from vivit_lab.interventions.base import Hook, Intervention, check_batch_size, read_all, read_points
from vivit_lab.interventions.points import HeadLike, Point, chosen_points, grid_or_own, part_name, put
from vivit_lab.interventions.tokens import TokensLike, token_mask, tokens_text
from vivit_lab.numbers import checked_numbers
from vivit_lab.video.clip import Clip

__all__ = ["MODES", "OVER", "Replacements", "ablate", "partners", "replacements"]

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
