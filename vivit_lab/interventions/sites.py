"""The places of a table of patches: layer × head × time slab × region."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vivit_lab.errors import GridError, InputError
from vivit_lab.grid import TokenGrid
from vivit_lab.interventions.points import HEAD_PARTS, STREAM_PARTS, Point, chosen_points, head_numbers, part_name
from vivit_lab.interventions.tokens import Region, span_of, time_slabs, token_mask

__all__ = ["Site", "SlabsLike", "fill", "sites_of"]

SlabsLike = int | Sequence[Any] | None
"""How many time slabs, or spans of tubelet rows and ``"cls"``; see ``ActivationPatching``."""


@dataclass(frozen=True, eq=False)
class Site:
    """One intervention, and the places of the table that it stands for.

    Args:
        point: the hook point and its heads.
        tokens: (token,) bool, or None for all.
        places: indices into the table's axes.
    """

    point: Point
    tokens: Tensor | None
    places: tuple[tuple[int, ...], ...]


def sites_of(
    model: Any,
    grid: TokenGrid,
    at: str,
    *,
    layers: Sequence[int] | None,
    heads: str,
    slabs: SlabsLike,
    regions: Mapping[str, Region] | None,
) -> tuple[tuple[str, ...], dict[str, list[str]], list[Site]]:
    """Return the axes of a table, their labels, and the interventions that fill it.

    Args:
        model: a ViViT.
        grid: the token grid.
        at: the part of a layer, one of ``HEAD_PARTS`` or ``STREAM_PARTS``.
        layers: which layers; None for all.
        heads: ``"each"`` for one head at a time, ``"all"`` for all of a layer together.
        slabs: see ``ActivationPatching``.
        regions: see ``ActivationPatching``.

    Raises:
        InputError: the part, a layer or ``heads`` is not known.
        GridError: a slab or region does not fit the grid.
    """
    if at not in HEAD_PARTS + STREAM_PARTS or heads not in ("each", "all"):
        raise InputError(
            f"at is one of {', '.join(HEAD_PARTS + STREAM_PARTS)}, and heads 'each' or 'all'; got {at!r}, {heads!r}"
        )
    count = len(model.attention_layers if at in HEAD_PARTS else model.blocks)
    # a factorised model may have blocks without an MLP
    present = [layer for layer in range(count) if part_name(model, layer, at) in model.hook_names]
    wanted = present if layers is None else [*layers]
    points = [chosen_points(model, points=[part_name(model, layer, at)])[0] for layer in wanted]
    if not points:
        raise InputError("layers must name at least one layer")
    tokens, slab_names, region_names = _token_sets(grid, slabs, regions)
    labels = {"layer": [str(range(count)[layer]) for layer in wanted]}
    rows: list[tuple[tuple[int, ...], Point]] = [((row,), point) for row, point in enumerate(points)]
    if at in HEAD_PARTS and heads == "each":
        layers_of = [model.get_submodule(point.name.rsplit(".", 1)[0]) for point in points]
        # heads keep the numbers they were born with; the places of those that were pruned stay NaN
        labels["head"] = [str(head) for head in range(max(attention.born_heads for attention in layers_of))]
        rows = [
            ((row, head), Point(point.name, (head,), attention.kept_heads))
            for row, (point, attention) in enumerate(zip(points, layers_of, strict=True))
            for head in head_numbers(attention)
        ]
    labels |= {"slab": slab_names, "region": region_names}
    sites = [
        Site(point, mask, tuple((*row, *place) for place in places)) for row, point in rows for mask, places in tokens
    ]
    return tuple(labels), labels, sites


def fill(table: Tensor, rows: slice, site: Site, values: Tensor) -> None:
    """Write the values (row,) of one intervention into each of its places in a table (clip, *places)."""
    for place in site.places:
        table[(rows, *place)] = values.detach().to(table)


def _token_sets(
    grid: TokenGrid, slabs: SlabsLike, regions: Mapping[str, Region] | None
) -> tuple[list[tuple[Tensor | None, list[tuple[int, int]]]], list[str], list[str]]:
    """Return each distinct set of tokens with its (slab, region) places, and the names of slabs and regions."""
    cut = _slabs(grid, slabs)
    boxes = dict(regions) if regions is not None else {"all": None}
    if not boxes:
        raise GridError("regions must name at least one region")
    found: list[tuple[Tensor | None, list[tuple[int, int]]]] = []
    for row, slab in enumerate(cut.values()):
        for column, box in enumerate(boxes.values()):
            mask = _joined(grid, slab, box)
            if mask is not None and not bool(mask.any()):
                continue
            same = [places for other, places in found if _equal(mask, other)]
            if same:
                same[0].append((row, column))
            else:
                found.append((mask, [(row, column)]))
    if not found:
        raise GridError("no region shares a tubelet with a time slab")
    return found, list(cut), list(boxes)


def _slabs(grid: TokenGrid, slabs: SlabsLike) -> dict[str, Any]:
    if slabs is None:
        return {"all": None}
    if isinstance(slabs, int):
        given: list[Any] = [*time_slabs(grid, slabs), *(["cls"] if grid.cls else [])]
    else:
        given = [entry if entry == "cls" else time_slabs(grid, [entry])[0] for entry in slabs]
    if not given:
        raise GridError("slabs must name at least one time slab")
    return {"CLS" if entry == "cls" else _times(grid, entry): entry for entry in given}


def _times(grid: TokenGrid, region: Region) -> str:
    span = span_of("t", region.t, grid.t)
    last = range(span.start, span.stop, span.step or 1)[-1]
    return f"t {span.start}" if last == span.start else f"t {span.start}–{last}"


def _joined(grid: TokenGrid, slab: Any, box: Region | None) -> Tensor | None:
    if slab == "cls":
        return token_mask("cls", grid)
    if slab is None:
        return None if box is None else box.mask(grid)
    inside = slab.mask(grid)
    return inside if box is None else inside & box.mask(grid)


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return bool(torch.equal(one, other))
