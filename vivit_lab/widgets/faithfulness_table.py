"""A faithfulness report to look into: sort it, see the clips behind a number, jump to one of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import traitlets

from vivit_lab.widgets.base import LabWidget

if TYPE_CHECKING:
    from vivit_lab.faithfulness.report import FaithfulnessReport

__all__ = ["FaithfulnessTable"]


class FaithfulnessTable(LabWidget):
    """Show a ``FaithfulnessReport``: a row a method, a column a metric, each clip's score behind every number.

    A click on a number shows the scores of its clips as dots; a click on a dot chooses that clip: ``clip`` names it.
    With ``open_clip``, what that returns is kept in ``opened``, such as a ``ClipExplorer`` of the clip.

    Args:
        report: the report.
        open_clip: is called as ``open_clip(clip, method)`` with both names when a clip is chosen; its errors are shown.
        **traits: first values of the traits below.

    Raises:
        InputError: a trait's value does not fit.

    Example:
        >>> table = FaithfulnessTable(stored_report())
        >>> table.observe(lambda change: print(change.new), "clip")
    """

    parts: ClassVar[tuple[str, ...]] = ("faithfulness_table.js",)
    styles: ClassVar[tuple[str, ...]] = ("grid.css", "faithfulness_table.css")

    method = traitlets.Unicode("").tag(sync=True)
    """The method whose clips are shown; starts with the best one of the metric that is no control."""
    metric = traitlets.Unicode("").tag(sync=True)
    """The metric whose clips are shown, by which the rows are sorted; starts with the first."""
    clip = traitlets.Unicode("").tag(sync=True)
    """The name of the chosen clip; ``""`` while none is."""
    opened: Any = traitlets.Any(None, allow_none=True)
    """What ``open_clip`` returned for the chosen clip; None before."""

    _report = traitlets.Dict().tag(sync=True)
    _scores = traitlets.List().tag(sync=True)

    def __init__(
        self, report: FaithfulnessReport, *, open_clip: Callable[[str, str], Any] | None = None, **traits: Any
    ) -> None:
        self._check_names(traits)
        self.report, self.open_clip = report, open_clip
        metric = traits.get("metric", report.metrics[0])
        best = report.best(metric) if metric in report.metrics else None
        first = {"metric": metric, "method": best or report.methods[0]}
        super().__init__(None, **{**first, **traits}, _report=self._facts(), _scores=self._of_clips(**first))
        self.observe(self._show, names=["method", "metric"])
        self.observe(self._open, names="clip")
        if self.clip:
            self._open()

    def _facts(self) -> dict[str, Any]:
        report = self.report
        cells = {
            f"{row.method} / {row.metric}": [_number(row.mean), _number(row.low), _number(row.high), row.n]
            for row in report.table()
        }
        return {
            "methods": [{"name": name, "control": name in report.controls} for name in report.methods],
            "metrics": [{"name": name, "higher": report.higher_is_better(name)} for name in report.metrics],
            "best": {name: report.best(name) for name in report.metrics},
            "cells": cells,
            "clips": len(report.clips),
            "names": list(report.clips),
            "level": report.level,
            "model": report.model_id or "",
        }

    def _of_clips(self, method: str, metric: str) -> list[float | None]:
        values = self.report.scores.get(method, {}).get(metric, ())
        return [_number(value) for value in values]

    def _show(self, _: Any) -> None:
        self._scores = self._of_clips(self.method, self.metric)

    def _open(self, _: Any = None) -> None:
        if self.clip and self.open_clip is not None:
            with self.showing_errors():
                self.opened = self.open_clip(self.clip, self.method)

    def offline_title(self) -> str:
        """Return the title of the offline page."""
        return f"Faithfulness · {self._report['model']}"

    def offline_state(self) -> dict[str, Any]:
        """Return the traits that an offline page starts from, with each clip's score of every method and metric."""
        every = {
            f"{method} / {metric}": self._of_clips(method, metric)
            for method, scores in self.report.scores.items()
            for metric in scores
        }
        return {**super().offline_state(), "_every": every}

    def _repr_html_(self) -> str:
        """Return the report's own table, for where no widget can run."""
        return self.report._repr_html_()

    @traitlets.validate("method")
    def _check_method(self, proposal: Any) -> str:
        return self._known(proposal.value, self.report.methods)

    @traitlets.validate("metric")
    def _check_metric(self, proposal: Any) -> str:
        return self._known(proposal.value, self.report.metrics)

    @traitlets.validate("clip")
    def _check_clip(self, proposal: Any) -> str:
        return self._known(proposal.value, ("", *self.report.clips))

    def _known(self, name: str, names: tuple[str, ...]) -> str:
        if name not in names:
            raise traitlets.TraitError(f"the report has no {name!r}; it has {', '.join(filter(None, names[:20]))}")
        return name


def _number(value: float) -> float | None:
    """Return a number as JSON knows it: None for NaN."""
    return float(value) if math.isfinite(value) else None
