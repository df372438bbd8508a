"""Pruning curves to look at: what is left as heads go; a click takes that point's head mask."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import traitlets

from vivit_lab.errors import InputError
from vivit_lab.heads.pruning import COSTS, METRICS
from vivit_lab.widgets.base import LabWidget

if TYPE_CHECKING:
    from vivit_lab.heads.mask import HeadMask
    from vivit_lab.heads.pruning import PruningCurves

__all__ = ["PruningCurvesView"]


class PruningCurvesView(LabWidget):
    """Show the curves of a ``PruningExperiment``; a click on a point takes its mask.

    Link ``mask`` with a ``HeadExplorer``'s, and the heads that this point removed are switched off there.

    Args:
        curves: the experiment's result.
        **traits: first values of the traits below.

    Raises:
        InputError: there is no point, or a trait's value does not fit.

    Example:
        >>> view = PruningCurvesView(PruningExperiment(model, clips).run())
        >>> traitlets.dlink((view, "mask"), (head_explorer, "mask"))
    """

    parts: ClassVar[tuple[str, ...]] = ("grid.js", "pruning_curves.js")
    styles: ClassVar[tuple[str, ...]] = ("grid.css", "pruning_curves.css")

    metric = traitlets.Unicode("").tag(sync=True)
    """What runs upwards: a name of ``METRICS`` or ``COSTS``; starts with the first there is."""
    series = traitlets.Unicode("").tag(sync=True)
    """The series of the chosen point; starts with the first."""
    share = traitlets.Float(0.0, min=0.0, max=1.0).tag(sync=True)
    """The share of the heads that the chosen point removes; the series' nearest one is taken."""
    mask: Any = traitlets.Any(None, allow_none=True)
    """The ``HeadMask`` of the chosen point (of the first run, where the series has several). Set by the widget."""

    _curves = traitlets.Dict().tag(sync=True)
    _facts = traitlets.Dict().tag(sync=True)

    def __init__(self, curves: PruningCurves, **traits: Any) -> None:
        self._check_names(traits)
        self.curves = curves
        if not curves.points:
            raise InputError("these curves have no point yet")
        known = {name: found for name in (*METRICS, *COSTS) if (found := self._of(name))}
        about = {name: text for name, (text, _) in METRICS.items()} | COSTS
        facts = {
            "series": curves.series,
            "about": {name: about[name] for name in known},
            "heads": curves.settings["layers"] * curves.settings["heads"],
        }
        first = {"metric": next(iter(known)), "series": curves.series[0]}
        super().__init__(None, **{**first, **traits}, _curves=known, _facts=facts)
        self._choose()
        self.observe(self._choose, names=["series", "share"])

    def _of(self, name: str) -> dict[str, Any]:
        """Return series → its points, of those that have the metric."""
        found = {}
        for series in self.curves.series:
            try:
                curve = self.curves.curve(series, name)
            except (InputError, KeyError):  # a cost that was not measured, a metric that wants labels
                continue
            ends = {end: [_number(value) for value in getattr(curve, end)] for end in ("mean", "low", "high")}
            if any(value is not None for value in ends["mean"]):
                found[series] = {"shares": list(curve.shares), **ends}
        return found

    def _choose(self, _: Any = None) -> None:
        self.mask = self.curves.mask(self.series, self.share)
        self.share = float(self.curves.at(self.series, self.share)["share"])
        kept = len(self.mask.kept)
        self.status = f"{self.series}: {kept} of {self._facts['heads']} heads left ({self.share:.0%} removed)."

    def chosen(self) -> HeadMask:
        """Return the mask of the chosen point."""
        return self.curves.mask(self.series, self.share)

    def offline_title(self) -> str:
        """Return the title of the offline page."""
        return "Pruning curves"

    def _repr_html_(self) -> str:
        """Return the result's own table, for where no widget can run."""
        return self.curves._repr_html_()

    @traitlets.validate("metric")
    def _check_metric(self, proposal: Any) -> str:
        if proposal.value not in (*METRICS, *COSTS):
            raise traitlets.TraitError(f"there is no {proposal.value!r}; there are {', '.join((*METRICS, *COSTS))}")
        return proposal.value

    @traitlets.validate("series")
    def _check_series(self, proposal: Any) -> str:
        if proposal.value not in self.curves.series:
            raise traitlets.TraitError(f"no series {proposal.value!r}; there are {', '.join(self.curves.series)}")
        return proposal.value


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
