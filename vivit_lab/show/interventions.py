"""How tables of effects show themselves in a notebook."""

from __future__ import annotations

import math
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from vivit_lab.drawing import drawer
from vivit_lab.figures import new_figure
from vivit_lab.html import facts_table, report_html, rows_table, text_line, tiles
from vivit_lab.interventions.effects import EffectTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["effects_html", "heat_figure", "matrices"]

_MOST_TILES = 24
_TOP = 8


@drawer(EffectTable)
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


_MOST_COLUMNS = 6


@drawer(EffectTable, "figure")
def heat_figure(table: EffectTable, alpha: float) -> Figure:
    """Return the heat of each matrix of a table on one scale around zero, a dot where q ≤ alpha; see ``plot``."""
    values, what = table.heat
    rows, columns, pictures = matrices(table, values.numpy())
    kept = matrices(table, (table.q <= alpha).numpy())[2]
    height, width = pictures[0][1].shape
    across = min(len(pictures), _MOST_COLUMNS)
    down = math.ceil(len(pictures) / across)
    size = (max(4.6, 1.8 + across * max(1.3, 0.26 * width)), 1.1 + down * max(1.6, 0.26 * height + 0.45))
    figure, axes = new_figure(down, across, size, sharex=True, sharey=True)
    reach = float(np.nanmax(np.abs(values.numpy()), initial=0)) or 1.0
    image = None
    for axis, (label, matrix), (_, dots) in zip(axes.flat, pictures, kept, strict=False):
        image = axis.imshow(matrix, cmap="RdBu_r", vmin=-reach, vmax=reach, aspect="auto")
        places = np.argwhere(dots)
        axis.plot(places[:, 1], places[:, 0], ".", color="black", markersize=3)
        axis.set_title(label if len(pictures) > 1 else "", fontsize=9)
        axis.set_xticks(*_ticks(table, columns, width), fontsize=7, rotation=90 if width > 8 else 0)
        axis.set_yticks(*_ticks(table, rows, height), fontsize=7)
        axis.tick_params(length=0)
    for axis in axes.flat[len(pictures) :]:
        axis.set_visible(False)
    figure.supxlabel(columns if columns != "one" else "", fontsize=9)
    figure.supylabel(rows if rows != "one" else "", fontsize=9)
    assert image is not None, "a table has at least one place"
    figure.colorbar(image, ax=axes, shrink=0.9, aspect=30).ax.tick_params(labelsize=7)
    places = f"a dot: q ≤ {alpha:g} over {int((~table.mean.isnan()).sum())} places"
    title = fill(f"{table.method}, {len(table)} clips: {what}; {places}", int(13 * size[0]))
    figure.suptitle(title, fontsize=9)
    return figure


def _ticks(table: EffectTable, dim: str, count: int) -> tuple[list[int], list[str]]:
    names = table.labels.get(dim, [""] * count)
    step = math.ceil(count / 24)
    return list(range(0, count, step)), names[::step]
