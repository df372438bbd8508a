"""A table of interventions as heat: two of its axes at a time; a click jumps to the clip at that place."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import traitlets

from vivit_lab.widgets.base import LabWidget, float_bytes

if TYPE_CHECKING:
    from vivit_lab.grid import TokenGrid
    from vivit_lab.interventions.effects import EffectTable

__all__ = ["PatchingHeatmap"]


class PatchingHeatmap(LabWidget):
    """Show what patching, ablation or another table of interventions did, place by place.

    Two axes as heat, the others by choice; a dot marks places with a q-value up to ``alpha``. A click chooses a place:
    ``place`` names it, and ``layer``, ``head`` and ``frame`` follow where it has them, which ``link_views`` shares with
    other views.

    Args:
        result: such as a ``PatchingResult``.
        grid: the token grid of the clips, by which a time slab leads to a frame; None leaves ``frame`` alone.
        **traits: first values of the traits below.

    Raises:
        InputError: a trait's value does not fit.

    Example:
        >>> result = ActivationPatching(slabs=4)(model, clip, ReverseFrames()(clip))
        >>> heat = PatchingHeatmap(result, model.config.grid)
        >>> link_views(heat, ClipExplorer(model, clip), traits=("frame", "layer", "head"))
    """

    parts: ClassVar[tuple[str, ...]] = ("grid.js", "patching_heatmap.js")
    styles: ClassVar[tuple[str, ...]] = ("grid.css",)

    rows = traitlets.Unicode("").tag(sync=True)
    """The axis that runs down; starts with the first."""
    columns = traitlets.Unicode("").tag(sync=True)
    """The axis that runs across; starts with the second, or is ``""`` where there is one axis alone."""
    place = traitlets.Dict().tag(sync=True)
    """The chosen place: axis → its label. On the axes that are not drawn it says which part is shown."""
    alpha = traitlets.Float(0.05, min=0.0, max=1.0).tag(sync=True)
    """Places with a q-value up to it bear a dot."""
    layer: Any = traitlets.Any(0).tag(sync=True)
    """The layer of the chosen place, where it has one."""
    head: Any = traitlets.Any(0).tag(sync=True)
    """The head of the chosen place, where it has one."""
    frame = traitlets.Int(0).tag(sync=True)
    """The first frame of the chosen time slab, where there is one and the grid is known."""

    _group = traitlets.Unicode("").tag(sync=True)
    _heat = traitlets.Bytes(b"").tag(sync=True)
    _columns = traitlets.Dict().tag(sync=True)
    _facts = traitlets.Dict().tag(sync=True)

    def __init__(self, result: EffectTable, grid: TokenGrid | None = None, **traits: Any) -> None:
        self._check_names(traits)
        self.result, self.grid = result, grid
        heat, what = result.heat
        names = ("effect", "low", "high", "q")
        numbers = result.columns()
        facts = {
            "dims": list(result.dims),
            "labels": {name: list(result.labels[name]) for name in result.dims},
            "what": what,
            "unit": result.what,
            "title": result.method or type(result).__name__,
            "clips": len(result),
            "target": result.target or "",
        }
        first = {name: result.labels[name][0] for name in result.dims}
        dims = [*result.dims, ""]
        super().__init__(
            None,
            **{"rows": dims[0], "columns": dims[1], "place": first, **traits},
            _heat=float_bytes(heat),
            _columns={name: _listed(numbers[name]) for name in names},
            _facts=facts,
        )
        self._jump()
        self.observe(self._jump, names="place")

    def at(self) -> dict[str, float]:
        """Return the statistics of the chosen place, name → number."""
        index = tuple(self.result.labels[dim].index(self.place[dim]) for dim in self.result.dims)
        return {name: float(values[index]) for name, values in self.result.columns().items()}

    def _jump(self, _: Any = None) -> None:
        """Let layer, head and frame follow the chosen place."""
        for name in ("layer", "head"):
            found = re.search(r"\d+", str(self.place.get(name, "")))
            if found:
                setattr(self, name, int(found.group()))
        time = re.match(r"t (\d+)", str(self.place.get("slab", "")))
        if time and self.grid is not None:
            self.frame = self.grid.frame_span(int(time.group(1)))[0]

    def offline_title(self) -> str:
        """Return the title of the offline page."""
        return f"{self._facts['title']} · {self._facts['what']}"

    def _repr_html_(self) -> str:
        """Return the result's own picture, for where no widget can run."""
        return self.result._repr_html_()

    @traitlets.validate("rows", "columns")
    def _check_axis(self, proposal: Any) -> str:
        if proposal.value not in self.result.dims and not (proposal.value == "" and len(self.result.dims) == 1):
            raise traitlets.TraitError(f"there is no axis {proposal.value!r}; there are {', '.join(self.result.dims)}")
        return proposal.value

    @traitlets.validate("place")
    def _check_place(self, proposal: Any) -> dict[str, str]:
        labels = self.result.labels
        wrong = [name for name, label in proposal.value.items() if label not in labels.get(name, ())]
        if wrong or set(proposal.value) != set(labels):
            raise traitlets.TraitError(f"a place has a label of each of {', '.join(labels)}, got {proposal.value}")
        return proposal.value


def _listed(values: Any) -> list[float | None]:
    """Return numbers in row-major order, None where there is none (JSON knows no NaN)."""
    flat = np.asarray(values, dtype=np.float64).ravel()
    return [float(value) if np.isfinite(value) else None for value in flat]
