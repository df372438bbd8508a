"""What a report is made of: its rows and curves, and how it is checked, merged, written and read."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vivit_lab.errors import InputError
from vivit_lab.faithfulness.localisation import MEASURES
from vivit_lab.faithfulness.sanity import SanityResult
from vivit_lab.files import read_json

if TYPE_CHECKING:
    from vivit_lab.faithfulness.curves import OrderCurves
    from vivit_lab.faithfulness.report import FaithfulnessReport

__all__ = ["DIRECTIONS", "Curve", "Row", "checked_scores", "direction_of", "merged", "report_from", "report_to"]

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
