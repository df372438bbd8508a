"""Pruning curves as a table, and as pictures in matplotlib and in plotly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vivit_lab.drawing import drawer
from vivit_lab.errors import MissingExtraError
from vivit_lab.figures import new_figure
from vivit_lab.heads.pruning import METRICS, Curve, PruningCurves
from vivit_lab.html import facts_table, report_html, rows_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["curves_figure", "curves_html", "curves_plotly"]

_COLOURS = {
    "least important first": "#0b62b8",
    "most important first": "#d1701c",
    "random": "#808080",
    "recovered": "#2b8a57",
}
_PANELS = {
    "top1": "top-1",
    "target_logit": "logit of the label",
    "kl": "KL from the full model, nats",
    "agreement": "agreement with the full model",
    "speed": "speed, × full model",
    "attention_memory": "attention memory, share",
}


@drawer(PruningCurves, "figure")
def curves_figure(curves: PruningCurves) -> Figure:
    """Return the curves as six panels; see ``PruningCurves.plot``."""
    figure, axes = new_figure(2, 3, (11, 6.2), sharex=True)
    for axis, (name, title) in zip(axes.flat, _PANELS.items(), strict=True):
        for series in curves.series:
            curve, colour = curves.curve(series, name), _COLOURS.get(series, "#7a6a2f")
            share = 100 * np.array(curve.shares)
            for run in curve.runs or ():
                axis.plot(share, run, color=colour, linewidth=0.6, alpha=0.5)
            axis.plot(share, curve.mean, color=colour, linewidth=1.8, marker="o", markersize=3, label=series)
            if name in METRICS:
                axis.fill_between(share, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0)
        axis.set_title(title, fontsize=10)
        axis.grid(color="0.92")
        axis.tick_params(labelsize=8)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, fontsize=9, frameon=False)
    figure.supxlabel(f"heads removed, %; {_caption(curves)}", fontsize=9)
    return figure


@drawer(PruningCurves, "plotly")
def curves_plotly(curves: PruningCurves) -> Any:
    """Return the curves as a plotly figure; see ``PruningCurves.plotly``."""
    try:
        from plotly.graph_objects import Scatter
        from plotly.subplots import make_subplots
    except ImportError as error:
        raise MissingExtraError("interactive figures need plotly: pip install 'vivit-lab[lab]'") from error
    figure = make_subplots(rows=2, cols=3, subplot_titles=list(_PANELS.values()))
    for place, name in enumerate(_PANELS):
        spot: dict[str, Any] = {"row": place // 3 + 1, "col": place % 3 + 1}
        for series in curves.series:
            curve, colour = curves.curve(series, name), _COLOURS.get(series, "#7a6a2f")
            share = [100 * value for value in curve.shares]
            if name in METRICS:
                figure.add_trace(Scatter(**_band(curve, share, colour, series)), **spot)
            line = {"x": share, "y": list(curve.mean), "mode": "lines+markers", "line": {"color": colour}}
            figure.add_trace(Scatter(**line, name=series, legendgroup=series, showlegend=place == 0), **spot)
    figure.update_xaxes(title_text="heads removed, %", row=2)
    figure.update_layout(template="plotly_white", title=_caption(curves), height=620)
    return figure


@drawer(PruningCurves)
def curves_html(curves: PruningCurves) -> str:
    """Return the curves as a table: a line a point, each metric with its interval."""
    settings = curves.settings
    facts: dict[str, str | None] = {
        "pruning curves": f"{settings.get('importance')}, {settings.get('schedule')}, {settings.get('fold')}",
        "model": settings.get("model"),
        "clips": f"{settings.get('scoring_clips')} to score heads, {settings.get('evaluation_clips')} others to "
        "judge; mean and 95 % bootstrap interval",
    }
    header = ["order", "heads removed", *METRICS, "speed", "attention memory"]
    lines = []
    for row in curves.rows():
        cells = [f"{row[name]:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]" for name in METRICS]
        costs = [f"{row['speed']:.2f} ×", f"{row['attention_memory']:.0%}"]
        lines.append([row["series"], f"{row['share']:.0%}", *cells, *costs])
    return report_html(facts_table(facts), rows_table(header, lines))


def _band(curve: Curve, share: list[float], colour: str, series: str) -> dict[str, Any]:
    return {
        "x": share + share[::-1],
        "y": [*curve.high, *curve.low[::-1]],
        "fill": "toself",
        "fillcolor": colour,
        "opacity": 0.15,
        "line": {"width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
        "legendgroup": series,
    }


def _caption(curves: PruningCurves) -> str:
    settings = curves.settings
    return (
        f"{settings.get('importance')}, {settings.get('schedule')}, {settings.get('evaluation_clips')} clips; bands: "
        "95 % bootstrap over clips"
    )
