"""Answers for an offline page: the attention of many queries, small enough to ship.

For each query the map is stored as one float32, its largest value m, and a byte q for each tubelet: the value is
m·(q/255)². Square roots keep small attention apart: the error is at most 0.4 % of the largest value, and 4 % of a value
that is a hundredth of it. The whole is deflated.
"""

from __future__ import annotations

import gzip
from typing import Any

import numpy as np
import torch

from vivit_lab.grid import TokenGrid
from vivit_lab.widgets.attention import HeadChoice, RowCache, fuse_choice
from vivit_lab.widgets.tensors import float_bytes, root_bytes

__all__ = ["layer_maps", "make_table"]

_ROWS = 128  # queries of all heads that exist at once


def make_table(
    rows: RowCache, layer: int, choice: HeadChoice, direction: str, most_bytes: int
) -> tuple[bytes, dict[str, Any]] | None:
    """Return the stored answers of as many queries and layers as fit.

    First the queries of the shown layer: every patch, or every second (third, …) row and column of each tubelet row, so
    that the nearest stored patch answers. What is left takes the other layers, nearest first.

    Args:
        rows: of the clip's record.
        layer: the layer shown.
        choice: of heads.
        direction: see ``AttentionView``.
        most_bytes: of the result.

    Returns:
        The gzip file, and where what is in it (JSON-able): ``step`` and ``layers``, each with ``layer``, ``start``
        (byte), ``count`` (queries), ``cls``, ``ys``, ``xs``. None where not even a few queries fit.
    """
    grid = rows.record.grid
    shown = layer_maps(rows, layer, choice, direction)
    for step in range(1, max(grid.h, grid.w) + 1):
        kept = _Kept(grid, step)
        packed = kept.pack(shown)
        file = gzip.compress(packed, 6)
        if len(file) <= most_bytes:
            break
    else:
        return None
    parts, layers = [packed], [layer]
    for other in sorted(set(rows.record.layers) - {layer}, key=lambda one: (abs(one - layer), one)):
        more = kept.pack(layer_maps(rows, other, choice, direction))
        if len(file) + len(gzip.compress(more, 6)) > most_bytes:
            break
        parts.append(more)
        layers.append(other)
        file = gzip.compress(b"".join(parts), 6)
    starts = np.cumsum([0, *map(len, parts[:-1])]).tolist()
    entries = [{"layer": one, "start": start, **kept.facts} for one, start in zip(layers, starts, strict=True)]
    return file, {"step": step, "layers": entries}


def layer_maps(rows: RowCache, layer: int, choice: HeadChoice, direction: str) -> torch.Tensor:
    """Return the maps of all tokens in a layer, (query, tubelet) float32 on the CPU.

    Cost: one pass in blocks over the layer's pattern, and tokens² numbers (39 MB for ViT-B).
    """
    record, parts = rows.record, []
    layer = record.layer_index(layer)
    for start in range(0, record.grid.num_tokens, _ROWS):
        tokens = list(range(start, min(start + _ROWS, record.grid.num_tokens)))
        parts.append(fuse_choice(record.rows(layer, tokens)[0], choice, dim=0).cpu())
    pattern = torch.cat(parts)
    if direction == "attended_by":
        pattern = pattern.T
    return pattern[:, record.grid.offset :]


class _Kept:
    """The queries that are kept of a grid: CLS, and every ``step``-th row and column."""

    def __init__(self, grid: TokenGrid, step: int) -> None:
        first = (step - 1) // 2  # in the middle of what it stands for
        self.ys = list(range(min(first, grid.h - 1), grid.h, step))
        self.xs = list(range(min(first, grid.w - 1), grid.w, step))
        self.tokens = [0] if grid.cls else []
        self.tokens += [grid.token(t, y, x) for t in range(grid.t) for y in self.ys for x in self.xs]
        self.facts = {"count": len(self.tokens), "cls": grid.cls, "ys": self.ys, "xs": self.xs}

    def pack(self, maps: torch.Tensor) -> bytes:
        roots, largest = root_bytes(maps[self.tokens])
        return float_bytes(largest) + roots
