"""Putting what flowed for one clip into the run of another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from vivit_lab.errors import InputError
from vivit_lab.grid import TokenGrid
from vivit_lab.hooks.inputs import as_pixel_values
from vivit_lab.interventions.base import Hook, Intervention, check_batch_size, read_all
from vivit_lab.interventions.points import HeadLike, Point, chosen_points, grid_or_own, put
from vivit_lab.interventions.tokens import TokensLike, token_mask, tokens_text
from vivit_lab.numbers import checked_numbers
from vivit_lab.video.clip import Clip

__all__ = ["patch", "patch_hook"]


@checked_numbers(batch_size=(1, None))
def patch(
    model: Any,
    source: Tensor | Clip | Sequence[Clip] | Mapping[str, Tensor],
    *,
    heads: Iterable[HeadLike] = (),
    part: str = "z",
    mlps: Iterable[int | str] = (),
    attentions: Iterable[int | str] = (),
    points: Iterable[str | Point] = (),
    tokens: TokensLike = None,
    batch_size: int = 8,
    grid: TokenGrid | None = None,
) -> Intervention:
    """Put the activations of source clips in place of the clips' own (Vig et al. 2020; Meng et al. 2022).

    Args:
        model: a ViViT.
        source: one clip for all rows of a batch or one for each, as pixel values or prepared clips, run once now; or a
            mapping hook name → tensor, such as an ``ActivationCache`` of them.
        heads: (layer, head) pairs.
        part: what of the heads: ``"z"``, ``"q"``, ``"k"``, ``"v"``, ``"pattern"``, ``"attn_scores"``, ``"result"``.
        mlps: layers whose MLP output is patched.
        attentions: layers whose attention output is patched.
        points: further hook points, by name or as ``Point``.
        tokens: at which tokens only, see ``ablate``; of scores and patterns, which queries.
        batch_size: source clips in one pass.
        grid: see ``ablate``.

    Returns:
        The intervention: ``with patch(…): model(x)``, or ``patch(…)(x)``.

    Raises:
        InputError: nothing or something unknown was named, or the source lacks a hook's activations.
        GridError: the tokens do not fit the grid.

    Example:
        >>> with patch(model, clean, heads=[(4, 2)], tokens=Region(t=slice(2, 5))):
        ...     logits = model(corrupt).logits
    """
    chosen = chosen_points(model, heads=heads, mlps=mlps, attentions=attentions, points=points, part=part)
    check_batch_size(batch_size)
    names = [point.name for point in chosen]
    if isinstance(source, Mapping):
        missing = [name for name in names if name not in source]
        if missing:
            raise InputError(f"the source has no activations of {', '.join(missing)}: cache these hooks too")
        values = {name: source[name] for name in names}
    else:
        pixels = as_pixel_values(source).values
        values = read_all(model, pixels, names, batch_size=batch_size, interpolate_pos_encoding=None)
    clips = None if isinstance(source, Mapping) else source
    mask = None if tokens is None else token_mask(tokens, grid_or_own(model, grid, clips))
    hooks = [patch_hook(point, values[point.name], mask) for point in chosen]
    return Intervention(model, hooks, f"patching of {', '.join(names)} at {tokens_text(tokens)}")


def patch_hook(point: Point, value: Tensor, tokens: Tensor | None) -> Hook:
    """Return the hook that puts a tensor, (row or 1, …), at a point's heads and at some tokens, (token,) bool."""

    def replace(tensor: Tensor, hook: Any) -> Tensor:
        if value.shape[1:] != tensor.shape[1:] or len(value) not in (1, len(tensor)):
            raise InputError(
                f"{point.name} is {tuple(tensor.shape)}, the source gave {tuple(value.shape)}: wanted clips of one "
                "size, one for all rows or one for each"
            )
        return put(point, tensor, value, tokens)

    return point.name, replace
