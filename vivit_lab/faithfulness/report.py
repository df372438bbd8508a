"""The report: every method's score on every clip, and what may be concluded from it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vivit_lab.errors import InputError
from vivit_lab.faithfulness._report_data import Curve, Row, checked_scores, direction_of, merged, report_from, report_to
from vivit_lab.faithfulness.sanity import SanityResult
from vivit_lab.numbers import checked_numbers
from vivit_lab.show.text import csv_writer
from vivit_lab.statistics.bootstrap import BootstrapInterval, PairedDifference, bootstrap_interval, paired_difference

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Curve", "FaithfulnessReport", "Row"]


@checked_numbers()
@dataclass(frozen=True, eq=False)
class FaithfulnessReport:
    """Scores of several methods on the same clips, with the controls beside them.

    Args:
        scores: for each method, for each metric, one value a clip (tensor, array or list; kept as a tuple of floats);
            NaN where a clip has none. A method may lack a metric.
        clips: the clips' names, in the order of the values; all different.
        controls: which methods are controls.
        model_id: which model: its Hub id, directory or class.
        settings: how the scores were made, JSON-able.
        sanity: sanity checks of some methods.
        curves: for some methods, for each baseline, the mean perturbation curves.
        directions: ``"higher"`` or ``"lower"`` is better, for metrics that the package does not know.
        level: of all intervals, in (0, 1).
        resamples: of the bootstrap and the sign-flip test.
        seed: of both.

    Raises:
        InputError: the scores do not fit the clips, a control is no method, a metric's direction is unknown, or the
            settings are not JSON-able.

    Example:
        >>> report = FaithfulnessReport({"CheferRelevance": {"joint_ap": ap}, "RandomMap": {"joint_ap": chance}},
        ...                             clips=names, controls=("RandomMap",))
        >>> print(report); report.to_json("report.json"); report.verdicts()
    """

    scores: Mapping[str, Mapping[str, Sequence[float]]]
    clips: Sequence[str]
    controls: Sequence[str] = ()
    model_id: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    sanity: Mapping[str, SanityResult] = field(default_factory=dict)
    curves: Mapping[str, Mapping[str, Curve]] = field(default_factory=dict)
    directions: Mapping[str, str] = field(default_factory=dict)
    level: float = 0.95
    resamples: int = 4000
    seed: int = 0
    _known: dict[tuple[str, ...], Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        clips = tuple(map(str, self.clips))
        if len(set(clips)) != len(clips) or not clips:
            raise InputError(f"clips must be at least one and all different, got {len(clips)}, {len(set(clips))} names")
        object.__setattr__(self, "clips", clips)
        object.__setattr__(self, "scores", checked_scores(self.scores, len(clips)))
        object.__setattr__(self, "controls", tuple(self.controls))
        for what, names in (("control", self.controls), ("sanity", self.sanity), ("curves", self.curves)):
            strange = [name for name in names if name not in self.scores]
            if strange:
                raise InputError(f"{what} of {strange}, which have no scores; methods are {', '.join(self.scores)}")
        known = {metric: direction_of(metric, self.directions) for metric in self.metrics}
        object.__setattr__(self, "directions", known)
        try:
            settings = json.loads(json.dumps(dict(self.settings), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise InputError(f"settings must be JSON-able: {error}") from error
        object.__setattr__(self, "settings", settings)
        bootstrap_interval([], level=self.level, resamples=self.resamples)  # says what is wrong with them

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that are no controls, then the controls."""
        return (*(name for name in self.scores if name not in self.controls), *self.controls)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics, in the order in which they first appear."""
        return tuple(dict.fromkeys(metric for scores in self.scores.values() for metric in scores))

    def higher_is_better(self, metric: str) -> bool:
        """Whether more of a metric is better.

        Raises:
            InputError: the report has no such metric.
        """
        self._check(metric)
        return self.directions[metric] == "higher"

    def interval(self, method: str, metric: str) -> BootstrapInterval:
        """Return a method's mean over the clips and its interval.

        Raises:
            InputError: there is no such score.
        """
        values = self._values(method, metric)
        key = (metric, method)
        if key not in self._known:
            options = {"level": self.level, "resamples": self.resamples, "seed": self.seed}
            self._known[key] = bootstrap_interval(values, **options)
        return self._known[key]

    def table(self, metrics: Sequence[str] | None = None) -> list[Row]:
        """Return a row for each method and metric.

        Args:
            metrics: which; None for all.
        """
        return [
            Row(
                name, name in self.controls, metric, self.directions[metric], found.mean, found.low, found.high, found.n
            )
            for name in self.methods
            for metric in self.chosen(metrics)
            if metric in self.scores[name]
            for found in [self.interval(name, metric)]
        ]

    def best(self, metric: str, *, controls: bool = False) -> str | None:
        """Return the method with the best mean; None where none has a value.

        Args:
            metric: of which metric.
            controls: whether a control may be it.

        Raises:
            InputError: the report has no such metric.
        """
        sign = 1 if self.higher_is_better(metric) else -1
        names = [name for name in self.methods if metric in self.scores[name]]
        means = {name: self.interval(name, metric).mean for name in names if controls or name not in self.controls}
        means = {name: sign * mean for name, mean in means.items() if not math.isnan(mean)}
        return max(means, key=lambda name: means[name]) if means else None

    def difference(self, metric: str, a: str, b: str) -> PairedDifference:
        """Return how much better method a is than b on the same clips; positive is better, whatever the direction.

        Raises:
            InputError: there is no such score.
        """
        first, second = self._values(a, metric), self._values(b, metric)
        key = (metric, a, b)
        if key not in self._known:
            pair = (first, second) if self.higher_is_better(metric) else (second, first)
            options = {"level": self.level, "resamples": self.resamples, "seed": self.seed}
            self._known[key] = paired_difference(*pair, **options)
        return self._known[key]

    def beats_controls(self, metric: str, method: str) -> dict[str, PairedDifference]:
        """Return by how much a method is better than each control; it beats one where ``low > 0``.

        Raises:
            InputError: there is no such score.
        """
        self._values(method, metric)
        names = [name for name in self.controls if metric in self.scores[name]]
        return {name: self.difference(metric, method, name) for name in names}

    def chosen(self, metrics: Sequence[str] | None) -> tuple[str, ...]:
        """Return the metrics named, or all for None.

        Raises:
            InputError: the report has no such metric.
        """
        for metric in metrics or ():
            self._check(metric)
        return self.metrics if metrics is None else tuple(metrics)

    def only(self, metrics: Sequence[str]) -> FaithfulnessReport:
        """Return the report of some metrics alone.

        Raises:
            InputError: the report has no such metric, or none was named.
        """
        wanted = self.chosen(metrics)
        scores = {
            name: {metric: found[metric] for metric in wanted if metric in found} for name, found in self.scores.items()
        }
        return replace(self, scores=scores, directions={metric: self.directions[metric] for metric in wanted})

    def _check(self, metric: str) -> None:
        if metric not in self.metrics:
            raise InputError(f"the report has no metric {metric!r}; it has {', '.join(self.metrics)}")

    def _values(self, method: str, metric: str) -> Sequence[float]:
        if method not in self.scores:
            raise InputError(f"the report has no method {method!r}; it has {', '.join(self.methods)}")
        self._check(metric)
        if metric not in self.scores[method]:
            raise InputError(f"{method} has no {metric}; it has {', '.join(self.scores[method])}")
        return self.scores[method][metric]

    def verdicts(self) -> list[str]:
        """Return what may be said, as plain sentences drawn from the numbers.

        For each metric the best method, how far it leads each control, and which methods are not told apart from it;
        then what the sanity checks say. The intervals are of single comparisons.
        """
        from vivit_lab.faithfulness._report_text import verdicts

        return verdicts(self)

    def __str__(self) -> str:
        from vivit_lab.faithfulness._report_text import text_table

        return text_table(self)

    def markdown(self, metrics: Sequence[str] | None = None) -> str:
        """Return a Markdown table of mean and interval: the best of a column bold, controls in italics.

        Args:
            metrics: which columns; None for all.
        """
        from vivit_lab.faithfulness._report_text import markdown_table

        return markdown_table(self, self.chosen(metrics))

    def _repr_html_(self) -> str:
        """Return the report as a notebook shows it; it needs no kernel and no other file."""
        from vivit_lab.faithfulness._report_html import report_html

        return report_html(self)

    def intervals_figure(self, metrics: Sequence[str] | None = None) -> Figure:
        """Return a panel for each metric with every method's mean and interval.

        Args:
            metrics: which panels; None for all.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        from vivit_lab.faithfulness._charts import intervals_figure

        return intervals_figure(self, self.chosen(metrics))

    def curves_figure(self, methods: Sequence[str] | None = None) -> Figure:
        """Return a panel for each method with its mean MoRF and LeRF curves for each baseline.

        Args:
            methods: which panels; None for all that have curves.

        Raises:
            InputError: a method has no curves, or none has.
            MissingExtraError: matplotlib is not installed.
        """
        from vivit_lab.faithfulness._charts import curves_figure

        return curves_figure(self, methods)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the rows of ``table``: one a method and metric, with a header."""
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv_writer(file)
            writer.writerow(each.name for each in fields(Row))
            writer.writerows(astuple(row) for row in self.table())

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write everything, each clip's scores too, so that ``from_json`` gives the same report back."""
        text = json.dumps(report_to(self), indent=1, allow_nan=False, ensure_ascii=False)
        Path(path).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> FaithfulnessReport:
        """Read a report that ``to_json`` wrote.

        Raises:
            InputError: the file is not such a report.
            FileNotFoundError: there is no such file.
        """
        return cls(**report_from(path))

    @classmethod
    def merge(cls, reports: Sequence[FaithfulnessReport]) -> FaithfulnessReport:
        """Return the reports of several sets of clips as one.

        Raises:
            InputError: there are none, they share a clip, or they are not of the same model, settings, methods and
                metrics.
        """
        return replace(reports[0], **merged(reports)) if reports else cls(**merged(reports))
