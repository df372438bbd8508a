"""How a table of effects shows itself in a notebook, without a kernel or another file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vivit_lab.show.html import facts_table, report_html, rows_table, text_line, tiles

if TYPE_CHECKING:
    from vivit_lab.interventions.effects import EffectTable

__all__ = ["effects_html", "matrices"]

_MOST_TILES = 24
_TOP = 8


def effects_html(table: EffectTable) -> str:
    """Return a table as HTML: what it is, heat on one colour scale, and the largest effects with their intervals."""
    values, what = table.heat
    rows, columns, pictures = matrices(table, values.numpy())
    settings = ", ".join(f"{name}={value!r}" for name, value in table.parameters.items())
    facts = {
        "method": f"{table.method}({settings})",
        "target": table.target,
        "model": table.model_id,
        "clips": str(len(table)),
        "colour": f"{what}; rows are {rows}, columns {columns}",
        "places": f"{int((table.q <= 0.05).sum())} of {int((~table.mean.isnan()).sum())} at q ≤ 0.05",
    }
    shown = [(label, np.nan_to_num(matrix)) for label, matrix in pictures[:_MOST_TILES]]
    parts = [facts_table(facts), tiles(np.stack([m for _, m in shown]), [label for label, _ in shown], signed=True)]
    if len(pictures) > _MOST_TILES:
        parts.append(text_line(f"{len(pictures) - _MOST_TILES} more pictures are not shown."))
    dims = [dim for dim in table.dims if len(table.labels[dim]) > 1]
    header = [*dims, "mean effect", f"{table.level:.0%} interval", "q"]
    body = [
        [
            *(row[dim] for dim in dims),
            f"{row['effect']:.3g}",
            f"{row['low']:.3g} … {row['high']:.3g}",
            f"{row['q']:.2g}",
        ]
        for row in table.top(_TOP)
    ]
    return report_html(*parts, text_line(f"The largest effects ({table.what}):"), rows_table(header, body))


def matrices(table: EffectTable, values: np.ndarray) -> tuple[str, str, list[tuple[str, np.ndarray]]]:
    """Return what rows and columns are, and (label, matrix) for each place of the other axes.

    Axes with a single place are left out. Rows are the first axis left, columns the second.
    """
    kept = [axis for axis, size in enumerate(table.shape) if size > 1]
    dims, values = [table.dims[axis] for axis in kept], values.squeeze()
    while len(dims) < 2:
        dims.insert(0, "") if dims else dims.append("")
        values = values[None]
    rest = dims[2:]
    found = []
    for index in np.ndindex(*values.shape[2:]):
        label = ", ".join(f"{dim} {table.labels[dim][at]}" for dim, at in zip(rest, index, strict=True))
        found.append((label or table.method, values[(slice(None), slice(None), *index)]))
    return dims[0] or "one", dims[1] or "one", found
