"""How a report shows itself in a notebook: one piece of HTML that needs no kernel and no other file."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from vivit_lab.faithfulness._cascade import HEADS
from vivit_lab.faithfulness._report_text import arrow, digits_of, heading, number, span, verdicts
from vivit_lab.faithfulness.localisation import MEASURES
from vivit_lab.show.html import render
from vivit_lab.statistics.bootstrap import BootstrapInterval

if TYPE_CHECKING:
    from vivit_lab.faithfulness.report import FaithfulnessReport
    from vivit_lab.faithfulness.sanity import SanityResult

__all__ = ["report_html"]

_BAR = (120, 12)  # CSS pixels
_BLUE, _GREY = "#3b82d0", "#87919c"


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
