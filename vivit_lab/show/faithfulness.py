"""How a faithfulness report shows itself: figures, and one piece of HTML that needs no kernel and no other file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vivit_lab.drawing import drawer
from vivit_lab.errors import InputError
from vivit_lab.faithfulness.localisation import MEASURES
from vivit_lab.faithfulness.report import FaithfulnessReport, arrow, digits_of, heading, number, span, verdicts
from vivit_lab.faithfulness.sanity import HEADS, SanityResult
from vivit_lab.figures import new_figure
from vivit_lab.html import render
from vivit_lab.statistics.intervals import BootstrapInterval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["curves_figure", "intervals_figure", "report_html"]

_PLAIN, _BEST, _CONTROL = "#5b7083", "#0b62b8", "#a0a0a0"
_BASELINES = ("#0b62b8", "#d1701c", "#2b8a57", "#9b4fb0", "#7a6a2f")


@drawer(FaithfulnessReport, "intervals")
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


@drawer(FaithfulnessReport, "curves")
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


_BAR = (120, 12)  # CSS pixels
_BLUE, _GREY = "#3b82d0", "#87919c"


@drawer(FaithfulnessReport)
def report_html(report: FaithfulnessReport) -> str:
    """Return a report as HTML: a table with intervals and bars, the sanity checks, and what may be said.

    Each column has its own scale, from the lowest to the highest end of an interval in it. The best of a column is bold
    and blue, controls are in italics at the end.

    Args:
        report: the report.
    """
    columns, rows = _scores(report)
    return render(
        "report.html",
        heading=heading(report),
        score_columns=columns,
        score_rows=rows,
        sanity_columns=[
            ("sanity", ""),
            ("head random", "Spearman's correlation with the trained model's map"),
            ("all random", "likewise, at the last stage that was tried"),
            ("SSIM, all random", ""),
            ("another class", "Spearman's correlation of the maps of two classes"),
            ("so it", ""),
        ],
        sanity_rows=_sanity(report),
        verdicts=verdicts(report),
        bar_size=_BAR,
    )


def _row(report: FaithfulnessReport, name: str, cells: list[Any], **more: Any) -> dict[str, Any]:
    first = bool(report.controls) and name == report.controls[0]
    return {"name": name, "control": name in report.controls, "first_control": first, "cells": cells, **more}


def _scores(report: FaithfulnessReport) -> tuple[list[tuple[str, str]], list[dict[str, Any]]]:
    """Return (heading, explanation) of each column, and the rows."""
    columns = [("method", "")]
    scales: dict[str, tuple[float, float]] = {}
    best = {}
    for metric in report.metrics:
        about = MEASURES[metric].definition if metric in MEASURES else ""
        better = "higher" if report.higher_is_better(metric) else "lower"
        columns.append((f"{metric} {arrow(report, metric)}", f"{about}; {better} is better".removeprefix("; ")))
        intervals = [report.interval(name, metric) for name in report.methods if metric in report.scores[name]]
        ends = [end for each in intervals for end in (each.low, each.high, each.mean) if not math.isnan(end)]
        scales[metric] = (min(ends), max(ends)) if ends else (0.0, 1.0)
        best[metric] = report.best(metric, controls=True)
    rows = []
    for name in report.methods:
        cells = [
            _cell(report.interval(name, metric), scales[metric], digits_of(report, metric), best=name == best[metric])
            if metric in report.scores[name]
            else None
            for metric in report.metrics
        ]
        rows.append(_row(report, name, cells))
    return columns, rows


def _cell(interval: BootstrapInterval, scale: tuple[float, float], digits: int, *, best: bool) -> dict[str, Any]:
    return {
        "text": number(interval.mean, digits),
        "span": span(interval, digits),
        "best": best,
        "bar": _bar(interval, scale, best=best),
    }


def _bar(interval: BootstrapInterval, scale: tuple[float, float], *, best: bool) -> dict[str, Any] | None:
    """Return where an interval and its mean stand in a small picture; None for a mean that does not exist."""
    if math.isnan(interval.mean):
        return None

    def place(value: float) -> float:
        reach = scale[1] - scale[0]
        return round(4 + (_BAR[0] - 8) * ((value - scale[0]) / reach if reach > 0 else 0.5), 1)

    unknown = math.isnan(interval.low)
    return {
        "label": f"{number(interval.mean)} {span(interval)}",
        "colour": _BLUE if best else _GREY,
        "low": None if unknown else place(interval.low),
        "high": None if unknown else place(interval.high),
        "mean": place(interval.mean),
    }


def _sanity(report: FaithfulnessReport) -> list[dict[str, Any]]:
    rows = []
    for name in report.methods:
        if name not in report.sanity:
            continue
        result = report.sanity[name]
        last = [value for value in result.ssim[-1] if value == value]
        numbers = [
            next((result.mean_spearman[stage] for stage in result.stages if stage in HEADS), math.nan),
            result.mean_spearman[result.stages[-1]],
            sum(last) / len(last) if last else math.nan,
            math.nan if result.mean_swap is None else result.mean_swap,
        ]
        texts = [number(value) for value in numbers]
        rows.append(_row(report, name, texts, verdict=result.verdict, said=_in_short(result)))
    return rows


def _in_short(result: SanityResult) -> str:
    if not result.depends_on_model:
        return "does not depend on the model"
    if result.depends_on_classifier is False:
        return "does not depend on the classifier"
    return "reacts" if result.passes else "keeps much of its maps"
