"""Whether two runs say the same, as far as arithmetic on floating-point numbers promises it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from vivit_lab.bulk.reading import values_of
from vivit_lab.bulk.schema import TIMES
from vivit_lab.errors import InputError

if TYPE_CHECKING:
    from vivit_lab.bulk.results import BulkResults

__all__ = ["RunComparison", "compare_runs", "exact_columns"]

_HALF_STEP = 2.0**-10  # between two neighbouring halves, relative to them
_TOLERANCE = {"float32": 1e-5, "float16": 2e-2, "bfloat16": 1e-1}
_ROUNDED = ("topk_probability",)
_CHOSEN = ("prediction", "correct", "topk_index", "topk_label")  # follow from logits; a tie may fall either way
_NOT_COMPARED = ("error", "hidden_file", "video_modified", "video_etag", *TIMES)
_NAMED = 5


@dataclass(frozen=True)
class RunComparison:
    """What two runs differ in.

    Args:
        tolerance: how far numbers may lie apart, as a share of the largest magnitude of their row.
        clips: how many clips both have.
        differences: what is not equal, a line each, the first few of each kind.
        worst: column → the largest distance of two numbers, as a share of the largest magnitude of their row.
    """

    tolerance: float
    clips: int
    differences: tuple[str, ...] = ()
    worst: dict[str, float] = field(default_factory=dict)

    @property
    def is_equal(self) -> bool:
        """Whether they are equal up to rounding."""
        return not self.differences

    def __str__(self) -> str:
        worst = ", ".join(f"{name} {value:.2g}" for name, value in self.worst.items())
        verdict = "equal up to rounding" if self.is_equal else "; ".join(self.differences)
        return f"{self.clips} clips, {verdict} (largest distances: {worst or 'none'})"


def exact_columns(results: BulkResults) -> list[str]:
    """Return the columns that two runs of one job have in common to the bit: all that is not computed in floats."""
    maps = [f"{name}_{part}" for name in results.methods for part in ("scale", "cls", "target")]
    inexact = {*results.run.layout.wide, *maps, *_ROUNDED, *_CHOSEN, *_NOT_COMPARED}
    return [name for name in results.columns if name not in inexact]


def compare_runs(ours: BulkResults, theirs: BulkResults, tolerance: float | None = None) -> RunComparison:
    """Compare the rows of two runs; see ``BulkResults.compare``."""
    if ours.columns != theirs.columns:
        other = sorted(set(ours.columns) ^ set(theirs.columns))
        return RunComparison(0.0, 0, (f"columns {', '.join(other) or 'in another order'}",))
    job = ours.run.job
    if tolerance is None:
        tolerance = max(_TOLERANCE.get(kind or "float32", 1e-1) for kind in (job.dtype, job.autocast))
    if not tolerance >= 0:
        raise InputError(f"tolerance must be at least 0, got {tolerance}")
    comparison = _Comparison(ours, theirs, tolerance)
    seen: set[str] = set()
    for table in ours.tables(comparison.columns):
        names = table["clip_id"].to_pylist()
        columns = {name: values_of(table[name]) for name in comparison.columns}
        there = comparison.rows_there(names)
        for number, name in enumerate(names):
            seen.add(name)
            if name not in there:
                comparison.note("clips that only one run has", name)
                continue
            comparison.row({column: values[number] for column, values in columns.items()}, there[name])
    for table in theirs.tables(["clip_id"]):
        for name in table["clip_id"].to_pylist():
            if name not in seen:
                comparison.note("clips that only one run has", name)
    return comparison.result()


class _Comparison:
    """Sums up differences, row by row."""

    def __init__(self, ours: BulkResults, theirs: BulkResults, tolerance: float) -> None:
        self.theirs, self.tolerance = theirs, tolerance
        self.columns = [name for name in ours.columns if name not in _NOT_COMPARED]
        self.exact = exact_columns(ours)
        self.maps = list(ours.methods)
        self.halves = [name for name in ("head_entropy", "head_distance") if name in ours.columns]
        self.done = {name for table in theirs.tables(["clip_id"]) for name in table["clip_id"].to_pylist()}
        self.clips, self.worst = 0, {}
        self.found: dict[str, list[str]] = {}

    def rows_there(self, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        wanted = [name for name in names if name in self.done]
        rows = self.theirs.reader.rows(wanted, self.columns) if wanted else []
        return dict(zip(wanted, rows, strict=True))

    def note(self, what: str, clip: str) -> None:
        self.found.setdefault(what, []).append(clip)

    def row(self, a: dict[str, Any], b: dict[str, Any]) -> None:
        self.clips += 1
        clip = a["clip_id"]
        for name in self.exact:
            if a[name] != b[name]:
                self.note(name, clip)
        if a["status"] != "ok" or b["status"] != "ok":
            return
        for name in self.maps:
            self.numbers(name, clip, a[name] * np.float32(a[f"{name}_scale"]), b[name] * np.float32(b[f"{name}_scale"]),
                         step=_HALF_STEP)  # fmt: skip
            self.numbers(f"{name}_cls", clip, a[f"{name}_cls"], b[f"{name}_cls"])
        for name in self.halves:
            self.numbers(name, clip, a[name], b[name], step=_HALF_STEP)
        for name in ("logits", *_ROUNDED):
            if name in a:
                self.numbers(name, clip, a[name], b[name])
        self.classes(clip, a, b)

    def numbers(self, name: str, clip: str, a: Any, b: Any, step: float = 0.0) -> None:
        """Compare numbers; ``step`` is how far apart those may be that were rounded to either side."""
        if a is None or b is None:
            if a is not b:
                self.note(name, clip)
            return
        x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
        if x.shape != y.shape:
            self.note(name, clip)
            return
        sizes = np.maximum(np.abs(x), np.abs(y))
        largest = float(sizes.max(initial=0.0)) or 1.0
        apart = np.abs(x - y)
        self.worst[name] = max(self.worst.get(name, 0.0), float(apart.max(initial=0.0)) / largest)
        if not bool((apart <= self.tolerance * largest + step * sizes).all()):
            self.note(name, clip)

    def classes(self, clip: str, a: dict[str, Any], b: dict[str, Any]) -> None:
        """Compare which classes are the best: others only where their logits tie."""
        if "logits" not in a or a["logits"] is None:
            return
        logits = np.asarray(a["logits"], np.float64)
        near = 2 * self.tolerance * float(np.abs(logits).max(initial=0.0))
        pairs = [(a["prediction"], b["prediction"]), *zip(a["topk_index"], b["topk_index"], strict=True)]
        if any(abs(logits[mine] - logits[other]) > near for mine, other in pairs):
            self.note("prediction", clip)
        if a["prediction"] == b["prediction"] and a["correct"] != b["correct"]:
            self.note("correct", clip)

    def result(self) -> RunComparison:
        lines = []
        for what, clips in self.found.items():
            more = f" and {len(clips) - _NAMED} more" if len(clips) > _NAMED else ""
            lines.append(f"{what}: {', '.join(clips[:_NAMED])}{more}")
        return RunComparison(self.tolerance, self.clips, tuple(lines), self.worst)
