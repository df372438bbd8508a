"""Figures of a table of effects."""

from __future__ import annotations

import math
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from vivit_lab.figures import new_figure
from vivit_lab.interventions._effects_html import matrices

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vivit_lab.interventions.effects import EffectTable

__all__ = ["heat_figure"]

_MOST_COLUMNS = 6


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
