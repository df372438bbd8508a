"""High-norm artefact tokens: tubelets that the model uses as scratch space, and what a map makes of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vivit_lab.attribution._html import pictures
from vivit_lab.attribution.base import AttributionMap
from vivit_lab.attribution.reading import require_one_sequence
from vivit_lab.errors import InputError
from vivit_lab.grid import TokenGrid
from vivit_lab.hooks.record import AttentionRecord
from vivit_lab.hooks.values import ValueRecord
from vivit_lab.numbers import checked_numbers
from vivit_lab.show.html import facts_table, report_html

__all__ = ["ArtefactTokens", "artefact_tokens"]

_SIGMA = 1.4826  # the median absolute deviation of a normal distribution, times this, is its standard deviation
_ROUNDING = 1e-4  # of the median: smaller deviations than this are no deviation
_MOST_PLACES = 6


@dataclass(frozen=True, eq=False)
class ArtefactTokens:
    """Tubelet tokens whose norm stands out, clip by clip.

    Args:
        norms: (batch, t, h, w) float32, Euclidean norm of each tubelet token.
        outliers: (batch, t, h, w) bool, which of them stand out.
        thresholds: for each clip, the norm above which a token stands out.
        rule: how the thresholds came about, in words.
        where: which state the norms are of, in words.
        grid: the token grid.
        cls_norms: for each clip, the norm of the CLS token, which the rule does not look at; None without CLS.
        relevance_mass: for each clip, the part of a map's absolute relevance that lies on the outliers; NaN where the
            map is all zero, None without a map.
        method: whose map that is.
    """

    norms: Tensor
    outliers: Tensor
    thresholds: list[float]
    rule: str
    where: str
    grid: TokenGrid
    cls_norms: list[float] | None = None
    relevance_mass: list[float] | None = None
    method: str | None = None

    def __len__(self) -> int:
        return len(self.norms)

    @property
    def share(self) -> list[float]:
        """For each clip, the part of its tubelets that stand out."""
        return self.outliers.float().mean(dim=(1, 2, 3)).tolist()

    @property
    def lift(self) -> list[float] | None:
        """For each clip, how many times its fair share of relevance an outlier gets; NaN without outliers."""
        if self.relevance_mass is None:
            return None
        return [mass / part if part else math.nan for mass, part in zip(self.relevance_mass, self.share, strict=True)]

    @property
    def places(self) -> list[list[tuple[int, int, int]]]:
        """For each clip, where its outliers are, (t, y, x), the largest norm first."""
        found = []
        for norms, chosen in zip(self.norms, self.outliers, strict=True):
            places = chosen.nonzero().tolist()
            found.append(sorted(((t, y, x) for t, y, x in places), key=lambda place: -float(norms[place])))
        return found

    @property
    def norm_map(self) -> AttributionMap:
        """The norms as a map, to be drawn like any other."""
        return AttributionMap(self.norms, self.grid, "token norm", scale=f"norm of the {self.where}")

    def __str__(self) -> str:
        lines = [f"artefact tokens: {self.rule}; norms of the {self.where}"]
        for clip in range(len(self)):
            lines.append(f"  clip {clip}: {self._clip(clip)}")
        return "\n".join(lines)

    def _clip(self, clip: int) -> str:
        count, places = int(self.outliers[clip].sum()), self.places[clip]
        text = (
            f"{count} of {self.grid.num_tubelets} tubelets ({self.share[clip]:.2%}) above {self.thresholds[clip]:.4g}"
        )
        if places:
            some = ", ".join(map(str, places[:_MOST_PLACES]))
            more = f" and {len(places) - _MOST_PLACES} more" if len(places) > _MOST_PLACES else ""
            text += f", at (t, y, x) = {some}{more}"
        if self.relevance_mass is not None and self.lift is not None:
            text += f"; {self.relevance_mass[clip]:.2%} of the relevance of {self.method} lies on them"
            text += "" if math.isnan(self.lift[clip]) else f", {self.lift[clip]:.3g} times their share"
        return text

    def _repr_html_(self) -> str:
        facts: dict[str, str | None] = {"artefact tokens": self.rule, "norms of": self.where}
        facts |= {f"clip {clip}": self._clip(clip) for clip in range(len(self))}
        return report_html(facts_table(facts), pictures(self.norm_map))


@checked_numbers()
def artefact_tokens(
    record: AttentionRecord,
    heat: AttributionMap | None = None,
    *,
    layer: int | None = None,
    deviations: float = 6.0,
    threshold: float | None = None,
) -> ArtefactTokens:
    """Find tubelet tokens of unusually large norm, and the relevance that a map puts on them.

    Large transformers turn some tokens of uninformative places into registers: their norm is far above that of the
    others, and they carry global information instead of their own (Darcet, Oquab, Mairal & Bojanowski, "Vision
    Transformers Need Registers", ICLR 2024, https://arxiv.org/abs/2309.16588). Raw attention and rollout light up
    there. The paper cuts at a fixed norm that it reads off a histogram; without one, this rule takes its place: a token
    stands out if its norm is above median + ``deviations`` · 1.4826 · MAD of the clip's tubelets, MAD being their
    median absolute deviation (1.4826 · MAD is taken as 1e-4 of the median at least, so that rounding is no outlier).
    Median and MAD are hardly moved by the outliers themselves.

    Args:
        record: one with the residual stream: ``record_values(model, clips, final_state=True)``, or ``record_gradients``
            with ``states=True``.
        heat: a map of the same clips, whose relevance on the outliers is measured.
        layer: look at the residual stream that enters this layer; negative counts from the last. None is what leaves
            the last layer (before the final LayerNorm, which evens norms out) where the record has it, else what enters
            the last recorded layer.
        deviations: how many robust standard deviations above the median; positive.
        threshold: a fixed norm instead of that rule; positive.

    Raises:
        InputError: the record has no such state or is a factorised encoder's, a number is not positive, or the map is
            of other clips or another grid.

    Cost: one norm a token.
    """
    require_one_sequence(artefact_tokens, record)
    for name, value in (("deviations", deviations), ("threshold", threshold)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise InputError(f"{name} must be a positive number, got {value}")
    state, where = _state(record, layer)
    norms = state.float().norm(dim=-1)  # (batch, token)
    cls = norms.select(1, 0).tolist() if record.grid.cls else None
    tubelets = record.grid.unflatten(norms)
    flat = tubelets.flatten(1)
    if threshold is None:
        middle = flat.quantile(0.5, dim=1, keepdim=True)
        spread = _SIGMA * (flat - middle).abs().quantile(0.5, dim=1, keepdim=True)
        limits = (middle + deviations * torch.maximum(spread, _ROUNDING * middle)).squeeze(1)
        rule = f"norm above median + {deviations:g} × 1.4826 × MAD of the clip's tubelets"
    else:
        limits, rule = flat.new_full((len(flat),), threshold), f"norm above {threshold:g}"
    outliers = tubelets > limits.view(-1, 1, 1, 1)
    mass = None if heat is None else _mass(heat, outliers, record.grid)
    method = None if heat is None else heat.method
    return ArtefactTokens(tubelets, outliers, limits.tolist(), rule, where, record.grid, cls, mass, method)


def _state(record: AttentionRecord, layer: int | None) -> tuple[Tensor, str]:
    """Return a residual stream (batch, token, d_model), and what it is called."""
    if not isinstance(record, ValueRecord) or (not record.states and record.final_state is None):
        raise InputError(
            "the record has no residual stream: take it with record_values(model, clips, final_state=True), or with "
            "record_gradients(…, states=True)"
        )
    if layer is None:
        if record.final_state is not None:
            return record.final_state, "residual stream after the last layer"
        layer = max(record.states)
    index = layer + record.num_layers if layer < 0 else layer
    if index not in record.states:
        raise InputError(f"layer {layer} is not among the layers whose state was recorded, {sorted(record.states)}")
    return record.states[index], f"residual stream that enters layer {index}"


def _mass(heat: AttributionMap, outliers: Tensor, grid: TokenGrid) -> list[float]:
    if heat.grid != grid or len(heat) != len(outliers):
        raise InputError(
            f"the map has {len(heat)} clips on a grid {heat.grid.shape}, the record {len(outliers)} on {grid.shape}: "
            "give a map of the recorded clips"
        )
    sizes = heat.relevance.cpu().abs().double()
    inside, total = (sizes * outliers.cpu()).sum(dim=(1, 2, 3)), sizes.sum(dim=(1, 2, 3))
    return (inside / total).tolist()  # 0/0 is NaN
