"""Attention knock-out: these queries may not look at those keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vivit_lab.errors import GridError, InputError
from vivit_lab.grid import TokenGrid
from vivit_lab.interventions.base import Hook, Intervention
from vivit_lab.interventions.points import (
    Point,
    TokensLike,
    chosen_points,
    grid_or_own,
    head_numbers,
    token_mask,
    tokens_text,
)

__all__ = ["PAIRS", "blocked_pairs", "knock_out"]

PAIRS = {
    "later_to_earlier": "no tubelet looks at earlier frames",
    "earlier_to_later": "no tubelet looks at later frames",
    "other_frames": "no tubelet looks at other frames than its own",
    "own_frame": "no tubelet looks at its own frame",
    "other_places": "no tubelet looks at another place, in any frame",
    "cls_to_tubelets": "the CLS token looks at itself alone",
    "tubelets_to_cls": "no tubelet looks at the CLS token",
}
"""Groups of (query, key) pairs that have a name, and what blocking them means."""


def knock_out(
    model: Any,
    pairs: str | Tensor | None = None,
    *,
    queries: TokensLike = None,
    keys: TokensLike = None,
    layers: Sequence[int] | None = None,
    heads: Sequence[tuple[int | str, int]] | None = None,
    keep_cls: bool = False,
    grid: TokenGrid | None = None,
) -> Intervention:
    """Block attention from some queries to some keys (Geva et al. 2023).

    The scores of blocked pairs become −∞ before the softmax, so the rest of each row is renormalised. Only the layers
    named are computed eagerly; all others stay as they are.

    Args:
        model: a ViViT.
        pairs: a name of ``PAIRS``, or (query, key) bool, True where blocked; None blocks ``queries`` × ``keys``.
        queries: who may not look, see ``ablate``; with ``pairs``, blocks these queries' pairs only.
        keys: what they may not look at; with ``pairs``, likewise.
        layers: in which attention layers; all by default.
        heads: in which (layer, head) pairs only, instead of whole layers.
        keep_cls: whether a query whose keys are all blocked keeps the CLS key (and so all its attention on it); by
            default such a query is an error, because nothing is left to attend to.
        grid: see ``ablate``.

    Returns:
        The intervention: ``with knock_out(…): model(x)``, or ``knock_out(…)(x)``.

    Raises:
        InputError: nothing or something unknown was named, no pair is blocked, or a query would have no key left.
        GridError: the tokens or the mask do not fit the grid.

    Cost: a bool mask of token² bytes (10 MB for ViT-B), and the scores of one eager layer at a time.

    Example:
        >>> with knock_out(model, "later_to_earlier", layers=[3, 4, 5]):
        ...     logits = model(pixel_values).logits
        >>> knock_out(model, queries="cls", keys=Region(t=0), layers=[5])(pixel_values).logits
    """
    own = grid_or_own(model, grid)
    blocked = blocked_pairs(own, pairs, queries=queries, keys=keys, keep_cls=keep_cls)
    if heads is None:
        wanted = range(len(model.attention_layers)) if layers is None else layers
        every = [(layer, head) for layer in wanted for head in _heads_of(model, layer)]
        chosen = chosen_points(model, heads=every, part="attn_scores")
    elif layers is None:
        chosen = chosen_points(model, heads=heads, part="attn_scores")
    else:
        raise InputError("give layers=[…] or heads=[(layer, head)], not both")
    text = PAIRS[pairs] if isinstance(pairs, str) else f"{int(blocked.sum())} pairs of a query and a key blocked"
    if pairs is None:
        text = f"{tokens_text(queries)} may not look at {tokens_text(keys)}"
    where = ", ".join(point.name.removesuffix(".hook_attn_scores") for point in chosen)
    return Intervention(model, [_block(point, blocked) for point in chosen], f"knock-out in {where}: {text}")


def blocked_pairs(
    grid: TokenGrid,
    pairs: str | Tensor | None = None,
    *,
    queries: TokensLike = None,
    keys: TokensLike = None,
    keep_cls: bool = False,
) -> Tensor:
    """Return (query, key) bool, True where attention is blocked; see ``knock_out``.

    Raises:
        InputError: ``pairs`` is not known, nothing is blocked, or a query would have no key left.
        GridError: the tokens or the mask do not fit the grid.
    """
    if pairs is None and queries is None and keys is None:
        raise InputError(f"say what to block: pairs= one of {', '.join(PAIRS)}, or queries= and keys=")
    count = grid.num_tokens
    if isinstance(pairs, Tensor):
        if pairs.dtype != torch.bool or tuple(pairs.shape) != (count, count):
            raise GridError(f"pairs must be a bool mask ({count}, {count}), got {pairs.dtype} {tuple(pairs.shape)}")
        blocked = pairs.detach().cpu().clone()
    else:
        blocked = torch.ones(count, count, dtype=torch.bool) if pairs is None else _named_pairs(grid, pairs)
    blocked &= token_mask(queries, grid).unsqueeze(1) & token_mask(keys, grid).unsqueeze(0)
    if not bool(blocked.any()):
        raise InputError("no pair of a query and a key is blocked by this")
    empty = blocked.all(dim=1)
    if bool(empty.any()):
        if not (keep_cls and grid.cls):
            token = int(empty.nonzero()[0, 0])
            raise InputError(
                f"{int(empty.sum())} queries would have no key left (token {token} at {grid.position(token)}): block "
                "fewer keys, or pass keep_cls=True, which leaves them the CLS token"
            )
        blocked[empty, 0] = False
    return blocked


def _named_pairs(grid: TokenGrid, name: str) -> Tensor:
    if name not in PAIRS:
        raise InputError(f"pairs={name!r} is not known; choose one of {', '.join(PAIRS)}, or pass a bool mask")
    if "cls" in name:
        if not grid.cls:
            raise GridError(f"pairs={name!r} names a CLS token, the grid {grid.shape} has none")
        cls, tubelets = token_mask("cls", grid), token_mask("tubelets", grid)
        one, other = (cls, tubelets) if name == "cls_to_tubelets" else (tubelets, cls)
        return one.unsqueeze(1) & other.unsqueeze(0)
    index = torch.arange(grid.num_tubelets)
    time, place = index // (grid.h * grid.w), index % (grid.h * grid.w)
    query, key = time.unsqueeze(1), time.unsqueeze(0)
    between = {
        "later_to_earlier": lambda: query > key,
        "earlier_to_later": lambda: query < key,
        "other_frames": lambda: query != key,
        "own_frame": lambda: query == key,
        "other_places": lambda: place.unsqueeze(1) != place.unsqueeze(0),
    }[name]()
    return torch.nn.functional.pad(between, (grid.offset, 0, grid.offset, 0), value=False)


def _heads_of(model: Any, layer: Any) -> tuple[int, ...]:
    found = model.attention_layers
    if isinstance(layer, bool) or not isinstance(layer, int) or not -len(found) <= layer < len(found):
        raise InputError(f"layer {layer!r} does not exist: wanted 0..{len(found) - 1}")
    return head_numbers(found[layer])


def _block(point: Point, blocked: Tensor) -> Hook:
    def block(scores: Tensor, hook: Any) -> Tensor:
        count = len(blocked)
        if tuple(scores.shape[-2:]) != (count, count):
            raise GridError(
                f"{point.name} is {tuple(scores.shape[-2:])} queries × keys, the token grid has {count} tokens: pass "
                "grid=model.grid_of(pixel_values, True) where positions are interpolated; a factorised model's layer "
                "sees a part of the tokens only"
            )
        inside = point.where(scores, None) & blocked.to(scores.device)
        return scores.masked_fill(inside, -torch.inf)

    return point.name, block
