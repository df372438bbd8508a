"""The report: every method's score on every clip, what may be concluded from it, and its text."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vivit_lab.drawing import draw
from vivit_lab.errors import InputError
from vivit_lab.faithfulness.localisation import MEASURES
from vivit_lab.faithfulness.sanity import SanityResult
from vivit_lab.files import read_json
from vivit_lab.numbers import checked_numbers
from vivit_lab.statistics.intervals import BootstrapInterval, PairedDifference, bootstrap_interval, paired_difference
from vivit_lab.text import csv_writer, markdown_row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vivit_lab.faithfulness.measures import OrderCurves

__all__ = [
    "DIRECTIONS",
    "Curve",
    "FaithfulnessReport",
    "Row",
    "arrow",
    "checked_scores",
    "digits_of",
    "direction_of",
    "heading",
    "markdown_table",
    "merged",
    "number",
    "report_from",
    "report_to",
    "span",
    "text_table",
    "verdicts",
]

_FORMAT = "vivit_lab.FaithfulnessReport/1"
_SAME = ("model_id", "settings", "controls", "directions", "level", "resamples", "seed")

DIRECTIONS: dict[str, str] = {
    **{name: "higher" if measure.higher_is_better else "lower" for name, measure in MEASURES.items()},
    "srg": "higher",
    "lerf": "higher",
    "morf": "lower",
    "insertion": "higher",
    "deletion": "lower",
    "saco": "higher",
    "sensitivity": "higher",
    "sensitivity_n": "higher",
    "infidelity": "lower",
}
"""Whether higher or lower is better; a metric ``srg_blur`` or ``srg_time`` has the direction of ``srg``."""


@dataclass(frozen=True)
class Row:
    """One line of a report's table.

    Args:
        method: name of the method.
        control: whether it is a control.
        metric: name of the metric.
        better: ``"higher"`` or ``"lower"``.
        mean: over the clips that have a value.
        low: lower end of the interval.
        high: upper end.
        n: how many clips have a value.
    """

    method: str
    control: bool
    metric: str
    better: str
    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Curve:
    """Mean perturbation curves of one method and baseline.

    Args:
        fractions: share of the tokens that was taken away, ascending in [0, 1].
        morf: the target's mean value with the most relevant ones gone first.
        lerf: likewise with the least relevant ones gone first.
        n: over how many clips.

    Raises:
        InputError: the three have different lengths, or hold what is no finite number, or ``n`` is not positive.
    """

    fractions: tuple[float, ...]
    morf: tuple[float, ...]
    lerf: tuple[float, ...]
    n: int

    def __post_init__(self) -> None:
        for name in ("fractions", "morf", "lerf"):
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        if not len(self.fractions) == len(self.morf) == len(self.lerf) or self.n < 1:
            sizes = [len(self.fractions), len(self.morf), len(self.lerf)]
            raise InputError(f"a curve wants as many values as fractions and n >= 1, got {sizes} and n={self.n}")
        if not all(math.isfinite(value) for value in (*self.fractions, *self.morf, *self.lerf)):
            raise InputError("a curve must hold finite numbers")

    @classmethod
    def mean_of(cls, curves: OrderCurves) -> Curve:
        """Return the mean over the clips of the curves of one quantity, e.g. ``perturbation_curves.main``."""
        fractions, morf, lerf = curves.fractions, curves.morf.double().mean(dim=0), curves.lerf.double().mean(dim=0)
        return cls(tuple(fractions.tolist()), tuple(morf.tolist()), tuple(lerf.tolist()), len(curves.morf))


def direction_of(metric: str, given: Mapping[str, str]) -> str:
    """Return whether ``"higher"`` or ``"lower"`` is better: as given, as known, or as that of the longest known start.

    Raises:
        InputError: nothing says so, or what was given is neither.
    """
    if metric in given:
        if given[metric] not in ("higher", "lower"):
            raise InputError(f"the direction of {metric} must be 'higher' or 'lower', got {given[metric]!r}")
        return given[metric]
    starts = [name for name in DIRECTIONS if metric == name or metric.startswith(f"{name}_")]
    if not starts:
        raise InputError(f"is a higher or a lower {metric} better? Say so: directions={{{metric!r}: 'higher'}}")
    return DIRECTIONS[max(starts, key=len)]


def checked_scores(scores: Mapping[str, Mapping[str, Any]], clips: int) -> dict[str, dict[str, tuple[float, ...]]]:
    """Return the scores as tuples of floats.

    Raises:
        InputError: there are none, a score does not have one value a clip, or one is infinite.
    """
    if not any(scores.values()):
        raise InputError("a report wants at least one method with one metric")
    found: dict[str, dict[str, tuple[float, ...]]] = {}
    for method, metrics in scores.items():
        found[method] = {}
        for metric, values in metrics.items():
            listed = values.tolist() if hasattr(values, "tolist") else list(values)
            if np.shape(listed) != (clips,):
                raise InputError(
                    f"{method}'s {metric} must be one value for each of {clips} clips, got {np.shape(listed)}"
                )
            if any(math.isinf(value) for value in listed):
                raise InputError(f"{method}'s {metric} holds an infinity; NaN marks a clip without a value")
            found[method][metric] = tuple(map(float, listed))
    return found


def report_to(report: FaithfulnessReport) -> dict[str, Any]:
    """Return a report as JSON-able values; NaN becomes None."""
    plain = {name: getattr(report, name) for name in ("clips", "scores", *_SAME)}
    sanity = {name: asdict(result) for name, result in report.sanity.items()}
    curves = {name: {base: asdict(curve) for base, curve in each.items()} for name, each in report.curves.items()}
    return _without_nan({"format": _FORMAT, **plain, "sanity": sanity, "curves": curves})


def report_from(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the fields of a report that was written as JSON.

    Raises:
        InputError: the file is not such a report.
        FileNotFoundError: there is no such file.
    """
    try:
        found = read_json(path)
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict) or found.pop("format", None) != _FORMAT:
        raise InputError(f"{path} is JSON, but not a faithfulness report ({_FORMAT})")
    nan = math.nan
    found["scores"] = {
        method: {metric: [nan if value is None else value for value in values] for metric, values in metrics.items()}
        for method, metrics in found["scores"].items()
    }
    found["sanity"] = {name: _sanity_from(fields) for name, fields in found["sanity"].items()}
    found["curves"] = {
        name: {base: Curve(**fields) for base, fields in each.items()} for name, each in found["curves"].items()
    }
    return found


def _sanity_from(fields: dict[str, Any]) -> SanityResult:
    def row(values: list[float | None]) -> tuple[float, ...]:
        return tuple(math.nan if value is None else value for value in values)

    correlation, magnitude, structure = (tuple(map(row, fields[name])) for name in ("spearman", "magnitude", "ssim"))
    swaps = (None if fields[name] is None else row(fields[name]) for name in ("swap_spearman", "swap_ssim"))
    return SanityResult(fields["method"], tuple(fields["stages"]), correlation, magnitude, structure, *swaps)


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def merged(reports: Sequence[FaithfulnessReport]) -> dict[str, Any]:
    """Return the fields that differ from the first report's when several are put together.

    Raises:
        InputError: see ``FaithfulnessReport.merge``.
    """
    if not reports:
        raise InputError("nothing to merge: give at least one report")
    first = reports[0]
    for other in reports[1:]:
        for name in _SAME:
            if getattr(other, name) != getattr(first, name):
                raise InputError(f"the reports' {name} differ: {getattr(first, name)!r}, {getattr(other, name)!r}")
        if _names(other) != _names(first):
            raise InputError("the reports do not have the same methods, each with the same metrics")
    clips = [clip for report in reports for clip in report.clips]
    twice = sorted({clip for clip in clips if clips.count(clip) > 1})
    if twice:
        raise InputError(f"the reports share clips, which would count twice: {', '.join(twice[:5])}")
    scores = {
        method: {metric: [value for report in reports for value in report.scores[method][metric]] for metric in metrics}
        for method, metrics in first.scores.items()
    }
    return {"clips": clips, "scores": scores, "sanity": _merged_sanity(reports), "curves": _merged_curves(reports)}


def _names(report: FaithfulnessReport) -> dict[str, set[str]]:
    return {method: set(metrics) for method, metrics in report.scores.items()}


def _merged_sanity(reports: Sequence[FaithfulnessReport]) -> dict[str, SanityResult]:
    names = dict.fromkeys(name for report in reports for name in report.sanity)
    return {name: SanityResult.merge([r.sanity[name] for r in reports if name in r.sanity]) for name in names}


def _merged_curves(reports: Sequence[FaithfulnessReport]) -> dict[str, dict[str, Curve]]:
    found: dict[str, dict[str, Curve]] = {}
    for name, baseline in dict.fromkeys((n, base) for r in reports for n, each in r.curves.items() for base in each):
        parts = [report.curves[name][baseline] for report in reports if baseline in report.curves.get(name, {})]
        if len({part.fractions for part in parts}) > 1:
            raise InputError(f"the curves of {name}, {baseline}, are not over the same fractions")
        weights = [part.n for part in parts]
        morf, lerf = (
            tuple(np.average([getattr(part, kind) for part in parts], axis=0, weights=weights))
            for kind in ("morf", "lerf")
        )
        found.setdefault(name, {})[baseline] = Curve(parts[0].fractions, morf, lerf, sum(weights))
    return found


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
        return verdicts(self)

    def __str__(self) -> str:

        return text_table(self)

    def markdown(self, metrics: Sequence[str] | None = None) -> str:
        """Return a Markdown table of mean and interval: the best of a column bold, controls in italics.

        Args:
            metrics: which columns; None for all.
        """
        return markdown_table(self, self.chosen(metrics))

    def _repr_html_(self) -> str:
        """Return the report as a notebook shows it; it needs no kernel and no other file."""
        return draw(self)

    def intervals_figure(self, metrics: Sequence[str] | None = None) -> Figure:
        """Return a panel for each metric with every method's mean and interval.

        Args:
            metrics: which panels; None for all.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        return draw(self, "intervals", self.chosen(metrics))

    def curves_figure(self, methods: Sequence[str] | None = None) -> Figure:
        """Return a panel for each method with its mean MoRF and LeRF curves for each baseline.

        Args:
            methods: which panels; None for all that have curves.

        Raises:
            InputError: a method has no curves, or none has.
            MissingExtraError: matplotlib is not installed.
        """
        return draw(self, "curves", methods)

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
