"""How a report shows itself in a notebook: one piece of HTML that needs no kernel and no other file."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING

from vivit_lab.faithfulness._cascade import HEADS
from vivit_lab.faithfulness._report_text import arrow, digits_of, heading, number, span, verdicts
from vivit_lab.faithfulness.localisation import MEASURES
from vivit_lab.statistics.bootstrap import BootstrapInterval

if TYPE_CHECKING:
    from vivit_lab.faithfulness.report import FaithfulnessReport
    from vivit_lab.faithfulness.sanity import SanityResult

__all__ = ["report_html"]

_BAR = (120, 12)  # CSS pixels

# Colours are the page's own (inherit), but for the bars: a blue and a grey that read on both light and dark.
_BLUE, _GREY = "#3b82d0", "#87919c"
_STYLE = {
    "box": "font:13px/1.4 system-ui,sans-serif;color:inherit;max-width:100%",
    "scroll": "overflow-x:auto;margin:6px 0 12px",
    "table": "border-collapse:collapse;color:inherit;margin:0;font-variant-numeric:tabular-nums",
    "head": "padding:3px 10px 3px 0;text-align:left;vertical-align:bottom;white-space:nowrap;background:none;"
    "border-bottom:1px solid rgba(128,128,128,.6)",
    "name": "padding:3px 14px 3px 0;text-align:left;font-weight:normal;white-space:nowrap;background:none",
    "cell": "padding:3px 10px 3px 0;text-align:left;white-space:nowrap;background:none",
    "small": "opacity:.7;font-size:11px",
}


def report_html(report: FaithfulnessReport) -> str:
    """Return a report as HTML: a table with intervals and bars, the sanity checks, and what may be said.

    Each column has its own scale, from the lowest to the highest end of an interval in it. The best of a column is bold
    and blue, controls are in italics at the end.

    Args:
        report: the report.
    """
    said = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in verdicts(report))
    return (
        f'<div style="{_STYLE["box"]}"><div>{html.escape(heading(report))}.</div>{_scores(report)}{_sanity(report)}'
        f'<details><summary>What may be said</summary><ul style="margin:4px 0">{said}</ul></details></div>'
    )


def _table(head: list[str], rows: list[str]) -> str:
    top = "".join(head)
    return (
        f'<div style="{_STYLE["scroll"]}"><table style="{_STYLE["table"]}"><thead>'
        f'<tr style="background:none">{top}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _row(cells: list[str], *, line: bool = False) -> str:
    edge = ";border-top:1px solid rgba(128,128,128,.6)" if line else ""
    return f'<tr style="background:none{edge}">{"".join(cells)}</tr>'


def _head(text: str, title: str = "") -> str:
    return f'<th style="{_STYLE["head"]}" title="{html.escape(title)}">{html.escape(text)}</th>'


def _name(report: FaithfulnessReport, name: str) -> str:
    text = html.escape(name)
    if name in report.controls:
        text = f'<i>{text}</i> <span style="{_STYLE["small"]}">control</span>'
    return f'<th scope="row" style="{_STYLE["name"]}">{text}</th>'


def _scores(report: FaithfulnessReport) -> str:
    head = [_head("method")]
    scales: dict[str, tuple[float, float]] = {}
    best = {}
    for metric in report.metrics:
        about = MEASURES[metric].definition if metric in MEASURES else ""
        better = "higher" if report.higher_is_better(metric) else "lower"
        head.append(_head(f"{metric} {arrow(report, metric)}", f"{about}; {better} is better".removeprefix("; ")))
        found = [report.interval(name, metric) for name in report.methods if metric in report.scores[name]]
        ends = [end for each in found for end in (each.low, each.high, each.mean) if not math.isnan(end)]
        scales[metric] = (min(ends), max(ends)) if ends else (0.0, 1.0)
        best[metric] = report.best(metric, controls=True)
    rows = []
    for name in report.methods:
        cells = [_name(report, name)]
        for metric in report.metrics:
            found = report.interval(name, metric) if metric in report.scores[name] else None
            cells.append(_cell(found, scales[metric], digits_of(report, metric), best=name == best[metric]))
        rows.append(_row(cells, line=bool(report.controls) and name == report.controls[0]))
    return _table(head, rows)


def _cell(found: BootstrapInterval | None, scale: tuple[float, float], digits: int, *, best: bool) -> str:
    if found is None:
        return f'<td style="{_STYLE["cell"]}"></td>'
    mean = number(found.mean, digits)
    mean = f"<b>{mean}</b>" if best else mean
    about = f'<span style="{_STYLE["small"]}">{span(found, digits)}</span>'
    return f'<td style="{_STYLE["cell"]}">{mean} {about}<br>{_bar(found, scale, best=best)}</td>'


def _bar(found: BootstrapInterval, scale: tuple[float, float], *, best: bool) -> str:
    """Return an interval and its mean as a small picture; nothing for a mean that does not exist."""
    width, height = _BAR
    if math.isnan(found.mean):
        return ""

    def place(value: float) -> float:
        reach = scale[1] - scale[0]
        return round(4 + (width - 8) * ((value - scale[0]) / reach if reach > 0 else 0.5), 1)

    colour, middle = _BLUE if best else _GREY, height / 2
    whisker = ""
    if not math.isnan(found.low):
        whisker = (
            f'<line x1="{place(found.low)}" x2="{place(found.high)}" y1="{middle}" y2="{middle}" stroke="{colour}" '
            'stroke-width="2"/>'
        )
    return (
        f'<svg width="{width}" height="{height}" role="img" aria-label="{number(found.mean)} {span(found)}">'
        f'<line x1="4" x2="{width - 4}" y1="{middle}" y2="{middle}" stroke="{_GREY}" stroke-opacity=".35"/>'
        f'{whisker}<circle cx="{place(found.mean)}" cy="{middle}" r="3.5" fill="{colour}"/></svg>'
    )


def _sanity(report: FaithfulnessReport) -> str:
    if not report.sanity:
        return ""
    head = [
        _head("sanity"),
        _head("head random", "Spearman's correlation with the trained model's map"),
        _head("all random", "likewise, at the last stage that was tried"),
        _head("SSIM, all random"),
        _head("another class", "Spearman's correlation of the maps of two classes"),
        _head("so it"),
    ]
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
        cells = [f'<td style="{_STYLE["cell"]}">{number(value)}</td>' for value in numbers]
        said = f'<td style="{_STYLE["cell"]}" title="{html.escape(result.verdict)}">{_in_short(result)}</td>'
        rows.append(_row([_name(report, name), *cells, said]))
    return _table(head, rows)


def _in_short(result: SanityResult) -> str:
    if not result.depends_on_model:
        return "does not depend on the model"
    if result.depends_on_classifier is False:
        return "does not depend on the classifier"
    return "reacts" if result.passes else "keeps much of its maps"
