"""A report as text: an aligned table, Markdown, and sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vivit_lab.show.text import markdown_row
from vivit_lab.statistics.bootstrap import BootstrapInterval

if TYPE_CHECKING:
    from vivit_lab.faithfulness.report import FaithfulnessReport

__all__ = ["arrow", "digits_of", "heading", "markdown_table", "number", "span", "text_table", "verdicts"]

_WIDTH = 118  # characters


def arrow(report: FaithfulnessReport, metric: str) -> str:
    """Return ↑ where higher is better, else ↓."""
    return "↑" if report.higher_is_better(metric) else "↓"


def digits_of(report: FaithfulnessReport, metric: str) -> int:
    """Return how many digits behind the point a metric wants: 3, or more where all its means are small."""
    means = [report.interval(name, metric).mean for name in report.methods if metric in report.scores[name]]
    most = max((abs(mean) for mean in means if not math.isnan(mean)), default=0.0)
    return 3 if most == 0 else min(9, max(3, 2 - math.floor(math.log10(most))))


def number(value: float, digits: int = 3) -> str:
    """Return a value with so many digits behind the point; – for NaN."""
    return "–" if math.isnan(value) else f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0: no minus before a zero


def span(found: BootstrapInterval, digits: int = 3) -> str:
    """Return an interval's ends in brackets; nothing where it has none."""
    return "" if math.isnan(found.low) else f"[{number(found.low, digits)}, {number(found.high, digits)}]"


def estimate(found: BootstrapInterval, digits: int = 3) -> str:
    """Return a mean and its interval."""
    return f"{number(found.mean, digits)} {span(found, digits)}".rstrip()


def heading(report: FaithfulnessReport) -> str:
    """Return what the report is of, in one line."""
    model = f"{report.model_id}: " if report.model_id else ""
    methods = len(report.methods) - len(report.controls)
    return (
        f"{model}{methods} {'method' if methods == 1 else 'methods'} and {len(report.controls)} "
        f"{'control' if len(report.controls) == 1 else 'controls'} on {len(report.clips)} "
        f"{'clip' if len(report.clips) == 1 else 'clips'}; mean and {100 * report.level:g} % interval over the clips"
    )


def text_table(report: FaithfulnessReport) -> str:
    """Return an aligned table, in as many blocks of columns as the width wants; * marks the best, (c) a control."""
    names = [f"{name} (c)" if name in report.controls else name for name in report.methods]
    columns = [names]
    for metric in report.metrics:
        best, digits = report.best(metric, controls=True), digits_of(report, metric)
        cells = []
        for name in report.methods:
            found = report.interval(name, metric) if metric in report.scores[name] else None
            mark = "*" if name == best else " "
            cells.append("" if found is None else f"{number(found.mean, digits)}{mark} {span(found, digits)}".rstrip())
        columns.append([f"{metric} {arrow(report, metric)}", *cells])
    columns[0] = ["", *names]
    widths = [max(map(len, column)) for column in columns]
    blocks: list[list[int]] = []
    block, used = [], widths[0]
    for index in range(1, len(columns)):
        if block and used + 2 + widths[index] > _WIDTH:
            blocks.append(block)
            block, used = [], widths[0]
        block.append(index)
        used += 2 + widths[index]
    lines = [heading(report)]
    for shown in [*blocks, block]:
        lines.append("")
        for row in range(len(names) + 1):
            cells = (columns[index][row].ljust(widths[index]) for index in (0, *shown))
            lines.append("  ".join(cells).rstrip())
    return "\n".join([*lines, "", "* best  (c) control  ↑ higher is better  ↓ lower is better"])


def markdown_table(report: FaithfulnessReport, metrics: Sequence[str]) -> str:
    """Return a Markdown table; the best of a column is bold, a control in italics."""
    head = ["method", *(f"{metric} {arrow(report, metric)}" for metric in metrics)]
    lines = [head, ["---", *["---:"] * len(metrics)]]
    best = {metric: report.best(metric, controls=True) for metric in metrics}
    digits = {metric: digits_of(report, metric) for metric in metrics}
    for name in report.methods:
        cells = [f"*{name}* (control)" if name in report.controls else name]
        for metric in metrics:
            if metric not in report.scores[name]:
                cells.append("")
                continue
            found = report.interval(name, metric)
            mean = number(found.mean, digits[metric])
            mean = f"**{mean}**" if best[metric] == name else mean
            cells.append(f"{mean} {span(found, digits[metric])}".rstrip())
        lines.append(cells)
    return "\n".join(map(markdown_row, lines)) + "\n"


def verdicts(report: FaithfulnessReport) -> list[str]:
    """Return the sentences of ``FaithfulnessReport.verdicts``."""
    said = [sentence for metric in report.metrics for sentence in [_of_metric(report, metric)] if sentence]
    said += _of_controls(report)
    return said + [result.verdict for name, result in report.sanity.items() if name not in report.controls]


def _of_metric(report: FaithfulnessReport, metric: str) -> str | None:
    """Return which method is best, whether it leads the controls, and who is not told apart from it."""
    best = report.best(metric)
    if best is None:
        return None
    found, digits = report.interval(best, metric), digits_of(report, metric)
    sentence = f"{metric} {arrow(report, metric)}: best is {best}, {estimate(found, digits)}"
    leads = {name: lead for name, lead in report.beats_controls(metric, best).items() if not math.isnan(lead.low)}
    if leads:
        name = min(leads, key=lambda name: leads[name].mean)
        lead = f"{estimate(leads[name], digits)} better than {name}"
        if all(each.low > 0 for each in leads.values()):
            sentence += f"; it beats every control, by the least margin {lead}"
        else:
            weak = ", ".join(name for name, each in leads.items() if each.low <= 0)
            sentence += f"; it does not clearly beat {weak} ({lead})"
    others = [name for name in report.methods if name not in (best, *report.controls) and metric in report.scores[name]]
    near = [name for name in others if report.difference(metric, best, name).low <= 0]
    return sentence + (f"; not told apart from it: {', '.join(near)}." if near else ".")


def _of_controls(report: FaithfulnessReport) -> list[str]:
    """Return which methods beat every control in every metric, and which in none."""
    beaten: dict[str, list[bool]] = {}
    for name in report.methods:
        if name in report.controls:
            continue
        tried = [report.beats_controls(metric, name) for metric in report.scores[name]]
        beaten[name] = [all(lead.low > 0 for lead in leads.values()) for leads in tried if leads]
    kinds = (
        ("Beats every control in every metric", [name for name, won in beaten.items() if won and all(won)]),
        ("Beats every control in no metric", [name for name, won in beaten.items() if won and not any(won)]),
    )
    return [f"{what}: {', '.join(names)}." for what, names in kinds if names]
