"""Pruning curves: what is left of a model as heads go."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vivit_lab.errors import InputError, MissingExtraError
from vivit_lab.files import read_json
from vivit_lab.heads._measuring import METRICS
from vivit_lab.heads.mask import HeadMask
from vivit_lab.numbers import checked_numbers
from vivit_lab.show.html import facts_table, report_html, rows_table
from vivit_lab.statistics.bootstrap import BootstrapInterval, bootstrap_interval

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

__all__ = ["COSTS", "Curve", "PruningCurves"]

_FORMAT = "vivit_lab pruning curves 1"

#: Name → what it is. Relative to the full model, measured in the same run.
COSTS = {
    "speed": "forward passes in the time of one of the full model",
    "attention_memory": "bytes of queries, keys, values and contexts, as a share of the full model's",
    "parameters": "share of the full model's parameters",
}


@dataclass(frozen=True)
class Curve:
    """One series of points.

    Args:
        shares: shares of the heads that were removed, rising.
        mean: of the metric over clips (over clips and runs, for random orders).
        low: lower end of the bootstrap interval over clips; NaN for costs.
        high: its upper end.
        runs: for random orders, the mean of each run at each share (run, share); None otherwise.
    """

    shares: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    runs: tuple[tuple[float, ...], ...] | None = None


@dataclass(frozen=True, eq=False)
class PruningCurves:
    """The result of a ``PruningExperiment``.

    Args:
        settings: what was run, JSON-able.
        points: for each point its ``series``, ``run``, ``share``, ``removed`` (layer → heads), ``metrics`` (name → a
            number for each evaluation clip) and costs.
        importance: (layers, heads) scores by which heads were ordered at first, None for heads that were not there.
    """

    settings: dict[str, Any]
    points: list[dict[str, Any]]
    importance: list[list[float | None]] = field(default_factory=list)

    @property
    def series(self) -> list[str]:
        """The orders in which heads were removed."""
        return list(dict.fromkeys(point["series"] for point in self.points))

    @checked_numbers()
    def at(self, series: str, share: float, run: int = 0) -> dict[str, Any]:
        """Return the point of a series that is nearest to a share.

        Raises:
            InputError: there is no such series or run.
        """
        found = [point for point in self._of(series) if point["run"] == run]
        if not found:
            raise InputError(f"series {series!r} has no run {run}")
        return min(found, key=lambda point: abs(point["share"] - share))

    @checked_numbers()
    def mask(self, series: str, share: float, run: int = 0) -> HeadMask:
        """Return the mask of that point."""
        point = self.at(series, share, run)
        layers, heads = self.settings["layers"], self.settings["heads"]
        return HeadMask.without({int(layer): row for layer, row in point["removed"].items()}, layers, heads)

    @checked_numbers()
    def curve(self, series: str, name: str, *, level: float = 0.95, seed: int = 0) -> Curve:
        """Return a metric or cost along a series.

        Args:
            series: one of ``series``.
            name: one of ``METRICS`` or ``COSTS``.
            level: of the bootstrap interval over evaluation clips.
            seed: of its draws.

        Raises:
            InputError: there is no such series, metric or cost.
        """
        if name not in METRICS and name not in COSTS:
            raise InputError(f"{name!r} is not known; there are {', '.join([*METRICS, *COSTS])}")
        points = self._of(series)
        shares = tuple(sorted({point["share"] for point in points}))
        runs = sorted({point["run"] for point in points})
        table = {(point["run"], point["share"]): point for point in points}
        rows = [[_values(table[run, share], name) for share in shares] for run in runs]
        found: list[BootstrapInterval] = []
        for place in range(len(shares)):
            values = np.mean([row[place] for row in rows], axis=0)
            if name in METRICS:
                found.append(bootstrap_interval(values, level=level, seed=seed))
            else:
                found.append(BootstrapInterval(float(values[0]), math.nan, math.nan, 1))
        means = tuple(tuple(float(np.mean(values)) for values in row) for row in rows)
        ends = (tuple(getattr(each, end) for each in found) for end in ("mean", "low", "high"))
        return Curve(shares, *ends, runs=means if len(runs) > 1 else None)

    def _of(self, series: str) -> list[dict[str, Any]]:
        found = [point for point in self.points if point["series"] == series]
        if not found:
            raise InputError(f"there is no series {series!r}; there are {', '.join(self.series)}")
        return found

    def to_pandas(self) -> pandas.DataFrame:
        """Return a row for each series and share: each metric with its interval, and the costs.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise MissingExtraError("to_pandas needs pandas: pip install 'vivit-lab[lab]'") from error
        return pandas.DataFrame(self.rows())

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of ``to_pandas`` as dicts."""
        found = []
        for series in self.series:
            curves = {name: self.curve(series, name) for name in (*METRICS, *COSTS)}
            for place, share in enumerate(next(iter(curves.values())).shares):
                row: dict[str, Any] = {"series": series, "share": share}
                for name, curve in curves.items():
                    row[name] = curve.mean[place]
                    if name in METRICS:
                        row |= {f"{name}_low": curve.low[place], f"{name}_high": curve.high[place]}
                found.append(row)
        return found

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything as one JSON file, whole or not at all."""
        path = Path(path)
        contents = {"format": _FORMAT, "settings": self.settings, "importance": self.importance, "points": self.points}
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        part.write_text(json.dumps(contents, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(part, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PruningCurves:
        """Read what ``save`` wrote.

        Raises:
            InputError: the file holds no pruning curves.
            FileNotFoundError: there is no such file.
        """
        try:
            contents = read_json(path)
            if contents["format"] == _FORMAT:
                return cls(contents["settings"], contents["points"], contents["importance"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} holds no pruning curves: {error}") from error
        raise InputError(f"{path} holds {contents['format']!r}, wanted {_FORMAT!r}")

    def plot(self) -> Figure:
        """Return a matplotlib figure: a panel for each metric, speed and memory, with intervals.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        from vivit_lab.heads._curve_charts import curves_figure

        return curves_figure(self)

    def plotly(self) -> Any:
        """Return the same as a plotly figure.

        Raises:
            MissingExtraError: plotly is not installed.
        """
        from vivit_lab.heads._curve_charts import curves_plotly

        return curves_plotly(self)

    def __repr__(self) -> str:
        clips = self.settings.get("evaluation_clips")
        return f"PruningCurves({', '.join(self.series)}; {len(self.points)} points, {clips} evaluation clips)"

    def _repr_html_(self) -> str:
        settings = self.settings
        facts: dict[str, str | None] = {
            "pruning curves": f"{settings.get('importance')}, {settings.get('schedule')}, {settings.get('fold')}",
            "model": settings.get("model"),
            "clips": f"{settings.get('scoring_clips')} to score heads, {settings.get('evaluation_clips')} others to "
            "judge; mean and 95 % bootstrap interval",
        }
        header = ["order", "heads removed", *METRICS, "speed", "attention memory"]
        lines = []
        for row in self.rows():
            cells = [f"{row[name]:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]" for name in METRICS]
            costs = [f"{row['speed']:.2f} ×", f"{row['attention_memory']:.0%}"]
            lines.append([row["series"], f"{row['share']:.0%}", *cells, *costs])
        return report_html(facts_table(facts), rows_table(header, lines))


def _values(point: dict[str, Any], name: str) -> np.ndarray:
    given = point["metrics"][name] if name in METRICS else [point[name]]
    return np.array([math.nan if value is None else value for value in given], dtype=np.float64)
