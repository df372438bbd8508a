"""A report's figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from vivit_lab.errors import InputError
from vivit_lab.faithfulness._report_text import arrow, heading
from vivit_lab.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vivit_lab.faithfulness.report import FaithfulnessReport

__all__ = ["curves_figure", "intervals_figure"]

_PLAIN, _BEST, _CONTROL = "#5b7083", "#0b62b8", "#a0a0a0"
_BASELINES = ("#0b62b8", "#d1701c", "#2b8a57", "#9b4fb0", "#7a6a2f")


def intervals_figure(report: FaithfulnessReport, metrics: Sequence[str]) -> Figure:
    """Return a panel for each metric with every method's mean and interval; see ``FaithfulnessReport``."""
    columns = min(4, len(metrics))
    rows = math.ceil(len(metrics) / columns)
    count = len(report.methods)
    size = (2.0 + 2.6 * columns, rows * (0.75 + 0.2 * count) + 0.5)
    figure, axes = new_figure(rows, columns, size, sharey=True)
    for axis, metric in zip(axes.flat, metrics, strict=False):
        best = report.best(metric, controls=True)
        for place, name in enumerate(report.methods):
            if metric not in report.scores[name]:
                continue
            found = report.interval(name, metric)
            colour = _BEST if name == best else _CONTROL if name in report.controls else _PLAIN
            if not math.isnan(found.low):
                axis.plot([found.low, found.high], [place, place], color=colour, linewidth=2, solid_capstyle="butt")
            axis.plot([found.mean], [place], "D" if name in report.controls else "o", color=colour, markersize=4.5)
        axis.set_title(f"{metric} {arrow(report, metric)}", fontsize=10)
        axis.set_ylim(count - 0.4, -0.6)
        names = [f"{name} (control)" if name in report.controls else name for name in report.methods]
        axis.set_yticks(range(count), names, fontsize=8)
        axis.tick_params(axis="x", labelsize=8)
        axis.tick_params(axis="y", length=0)
        axis.grid(axis="x", color="0.9")
        axis.set_axisbelow(True)
        axis.spines[["top", "right", "left"]].set_visible(False)
    for axis in axes.flat[len(metrics) :]:
        axis.set_visible(False)
    figure.suptitle(f"{heading(report)}. Blue: best of the panel; diamonds: controls", fontsize=9)
    return figure


def curves_figure(report: FaithfulnessReport, methods: Sequence[str] | None) -> Figure:
    """Return a panel for each method with its perturbation curves; see ``FaithfulnessReport``."""
    wanted = [name for name in report.methods if name in report.curves] if methods is None else list(methods)
    missing = [name for name in wanted if name not in report.curves]
    if missing or not wanted:
        raise InputError(
            f"no curves of {missing or 'any method'}; there are some of {', '.join(report.curves) or 'none'}"
        )
    baselines = list(dict.fromkeys(base for name in wanted for base in report.curves[name]))
    columns = min(5, len(wanted))
    rows = math.ceil(len(wanted) / columns)
    figure, axes = new_figure(rows, columns, (2.3 * columns + 0.6, 1.9 * rows + 0.9), sharex=True, sharey=True)
    for panel, (axis, name) in enumerate(zip(axes.flat, wanted, strict=False)):
        for place, baseline in enumerate(baselines):
            if baseline not in report.curves[name]:
                continue
            curve, colour = report.curves[name][baseline], _BASELINES[place % len(_BASELINES)]
            share = 100 * np.array(curve.fractions)
            axis.plot(share, curve.lerf, color=colour, linewidth=1.3, linestyle="--")
            axis.plot(share, curve.morf, color=colour, linewidth=1.3)
            axis.fill_between(share, curve.morf, curve.lerf, color=colour, alpha=0.1, linewidth=0)
        axis.set_title(f"{name} (control)" if name in report.controls else name, fontsize=9)
        axis.tick_params(labelsize=8)
        if panel + columns >= len(wanted):  # nothing is drawn below it
            axis.tick_params(labelbottom=True)
        axis.grid(color="0.92")
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes.flat[len(wanted) :]:
        axis.set_visible(False)
    _legend(figure, baselines)
    figure.supxlabel("tokens taken away, %", fontsize=9)
    figure.supylabel("target, mean over the clips", fontsize=9)
    return figure


def _legend(figure: Figure, baselines: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=_BASELINES[i % len(_BASELINES)]) for i in range(len(baselines))]
    kinds = [Line2D([], [], color="0.3"), Line2D([], [], color="0.3", linestyle="--")]
    names = [*baselines, "most relevant first (MoRF)", "least relevant first (LeRF)"]
    figure.legend(
        [*lines, *kinds], names, loc="outside upper center", ncols=min(len(names), 5), fontsize=8, frameon=False
    )
