"""What may be wrong with a map or a pattern: sinks, artefact tokens, no class, no time in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vivit_lab.attribution.base import AttributionMap
from vivit_lab.attribution.reading import require_one_sequence
from vivit_lab.drawing import draw
from vivit_lab.errors import InputError
from vivit_lab.families.vivit import VivitForVideoClassification
from vivit_lab.grid import TokenGrid
from vivit_lab.html import facts_table, report_html, rows_table, tiles
from vivit_lab.numbers import checked_numbers
from vivit_lab.records.attention import AttentionRecord, record_attention
from vivit_lab.records.targets import named_classes
from vivit_lab.records.values import ValueRecord
from vivit_lab.statistics.ranks import spearman
from vivit_lab.video.clip import Clip

__all__ = [
    "ArtefactTokens",
    "AttentionSinks",
    "ClassContrast",
    "Sink",
    "SpaceTimeSeparation",
    "artefact_tokens",
    "attention_sinks",
    "class_contrast",
    "map_contrast",
    "space_time_separation",
]

_HEADER = ("layer", "heads with a sink", "attention on sinks", "attention on CLS", "strongest sink")


@dataclass(frozen=True)
class Sink:
    """A token that takes much attention in one head.

    Args:
        clip: index in the batch.
        layer: counted from 0.
        head: counted from 0.
        token: sequence index.
        position: its (t, y, x); None for CLS.
        received: its part of the head's attention, in (0, 1].
        lift: how many times more than under uniform attention.
    """

    clip: int
    layer: int
    head: int
    token: int
    position: tuple[int, int, int] | None
    received: float
    lift: float

    def __str__(self) -> str:
        name = "CLS" if self.position is None else "(t={}, y={}, x={})".format(*self.position)
        return f"{name} in layer {self.layer} head {self.head}, {self.received:.1%} = {self.lift:.3g} × uniform"


@dataclass(frozen=True, eq=False)
class AttentionSinks:
    """How much attention every token receives, and which tokens are sinks.

    Args:
        received: (batch, layer, head, token) float32, attention to each token, averaged over queries; sums to 1 over
            the tokens.
        layers: the layers, in the order of that axis.
        grid: the token grid.
        minimum_lift: a sink receives at least so many times what it would under uniform attention.
    """

    received: Tensor
    layers: list[int]
    grid: TokenGrid
    minimum_lift: float

    @property
    def lift(self) -> Tensor:
        """(batch, layer, head, token) how many times more than uniform; 1 is a fair share, the number of tokens all."""
        return self.received * self.grid.num_tokens

    @property
    def is_sink(self) -> Tensor:
        """(batch, layer, head, token) bool."""
        return self.lift >= self.minimum_lift

    @property
    def share(self) -> Tensor:
        """(batch, layer, head) the part of the attention that rests on sinks."""
        return (self.received * self.is_sink).sum(dim=-1)

    @property
    def cls_share(self) -> Tensor | None:
        """(batch, layer, head) the part of the attention that CLS receives; None without CLS."""
        return self.received.select(-1, 0) if self.grid.cls else None

    @checked_numbers(most=(1, None))
    def sinks(self, most: int | None = None) -> list[Sink]:
        """Return the sinks, strongest first.

        Args:
            most: at most so many; None for all.
        """
        lift, found = self.lift, []
        for clip, row, head, token in self.is_sink.nonzero().tolist():
            received = float(self.received[clip, row, head, token])
            place = self.grid.position(token)
            found.append(
                Sink(clip, self.layers[row], head, token, place, received, float(lift[clip, row, head, token]))
            )
        return sorted(found, key=lambda sink: -sink.lift)[:most]

    def __str__(self) -> str:
        lines = [self._title()]
        for layer, heads, share, cls, strongest in self._rows():
            on_cls = "" if cls == "-" else f", {cls} on CLS"
            lines.append(
                f"  layer {layer}: {heads} heads with a sink, {share} of attention on sinks{on_cls}; {strongest}"
            )
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return report_html(facts_table({"attention sinks": self._title()}), rows_table(_HEADER, self._rows()))

    def _title(self) -> str:
        return (
            f"tokens that receive at least {self.minimum_lift:g} × uniform attention ({1 / self.grid.num_tokens:.3g}), "
            "mean over queries; shares are means over heads"
            + (f" and {len(self.received)} clips" if len(self.received) > 1 else "")
        )

    def _rows(self) -> list[tuple[str, ...]]:
        """Return a row of text a layer, as headed by ``_HEADER``."""
        rows, sinks, share, on_cls = [], self.sinks(), self.share, self.cls_share
        heads = self.received.shape[2]
        for index, layer in enumerate(self.layers):
            here = [sink for sink in sinks if sink.layer == layer]
            count = int(self.is_sink[:, index].any(dim=-1).any(dim=0).sum())
            cls = "-" if on_cls is None else f"{float(on_cls[:, index].mean()):.1%}"
            strongest = str(here[0]) if here else "none"
            rows.append((str(layer), f"{count} of {heads}", f"{float(share[:, index].mean()):.1%}", cls, strongest))
        return rows


@checked_numbers()
def attention_sinks(
    record: AttentionRecord, *, layers: Sequence[int] | None = None, minimum_lift: float = 10.0
) -> AttentionSinks:
    """Measure how much attention every token receives in every head, and name those that receive far too much.

    Received is a column mean of the pattern, (1/N) Σ_i A_ij over the N queries i, CLS among both; lift is N times that,
    1 under uniform attention and at most N. Softmax must put its weight somewhere, and heads with nothing to say put it
    on a fixed token (Xiao et al., "Efficient Streaming Language Models with Attention Sinks", ICLR 2024,
    https://arxiv.org/abs/2309.17453; for vision see also ``artefact_tokens``). That weight says nothing about the clip.
    Patterns are before the head mask, so that each head's attention is 1.

    Args:
        record: any record.
        layers: which of the recorded layers; all by default. Negative counts from the last.
        minimum_lift: from what lift on a token is a sink; more than 1. A clip of few tokens cannot reach a high one.

    Returns:
        Memory: 4·layers·heads·tokens bytes a clip (1.8 MB for ViViT-B).

    Raises:
        InputError: no such layer, ``minimum_lift`` is not above 1, or the record is a factorised encoder's.

    Cost: one blockwise pass over each pattern.
    """
    require_one_sequence(attention_sinks, record)
    if not (math.isfinite(minimum_lift) and minimum_lift > 1):
        raise InputError(f"minimum_lift must be above 1 (uniform attention), got {minimum_lift}")
    chosen = record.layers if layers is None else [record.layer_index(layer) for layer in layers]
    if not chosen:
        raise InputError("layers is empty: name some, or leave it out for all")
    clips = []
    for clip in range(record.batch_size):
        sums = []
        for layer in chosen:
            total = torch.zeros(record.num_heads, record.grid.num_tokens, device=record.device)
            for _, block in record.pattern_blocks(layer, clip, masked=False):
                total += block.sum(dim=1)
            sums.append(total / record.grid.num_tokens)
        clips.append(torch.stack(sums))
    return AttentionSinks(torch.stack(clips), chosen, record.grid, minimum_lift)


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
        return report_html(facts_table(facts), draw(self.norm_map, "pictures"))


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


Classes = int | Sequence[int] | Tensor | None


@dataclass(frozen=True, eq=False)
class ClassContrast:
    """Two maps of the same clips about two classes, and how much they differ.

    Args:
        contrast: for each clip, 1 − Spearman's correlation of the two maps, in [0, 2]: 0 the same order of tubelets, 1
            unrelated, 2 the reverse; NaN where one map is constant and the other is not the same.
        a: the map of the first class.
        b: the map of the second; the same object for a class-agnostic method.
        names: for each clip, the two classes in words.
        class_agnostic: whether the method cannot tell classes apart, so that the contrast is 0 by construction.
    """

    contrast: list[float]
    a: AttributionMap
    b: AttributionMap
    names: list[tuple[str, str]]
    class_agnostic: bool

    def __len__(self) -> int:
        return len(self.contrast)

    def __str__(self) -> str:
        lines = [self._title()]
        for clip, ((a, b), value) in enumerate(zip(self.names, self.contrast, strict=True)):
            lines.append(f"  clip {clip}: {value:.3f} between {a} and {b}")
        return "\n".join(lines)

    def _title(self) -> str:
        why = ", 0 because the method is class-agnostic" if self.class_agnostic else ""
        return f"class contrast of {self.a.method} (1 − Spearman){why}"

    def _repr_html_(self) -> str:
        rows = [
            (str(clip), *names, f"{value:.3f}")
            for clip, (names, value) in enumerate(zip(self.names, self.contrast, strict=True))
        ]
        parts = [facts_table({"": self._title()}), rows_table(("clip", "class a", "class b", "contrast"), rows)]
        both = [("map", self.a)] if self.class_agnostic else [("class a", self.a), ("class b", self.b)]
        for name, heat in both:
            parts += [facts_table({name: heat.target}), draw(heat, "pictures")]
        return report_html(*parts)


def class_contrast(
    method: Any,
    model: VivitForVideoClassification,
    pixel_values: Tensor | Clip | Sequence[Clip],
    a: Classes = None,
    b: Classes = None,
    **options: Any,
) -> ClassContrast:
    """Explain two classes of the same clips and compare the maps.

    A method that shows nearly the same for any class shows what catches the eye, not what tells classes apart.

    Args:
        method: any method of the package; with a class-agnostic one the contrast is 0, and the map is computed once.
        model: a classifier.
        pixel_values: (batch, frames, channels, height, width) or prepared clips.
        a: a class, or one for each clip; None for the predicted one.
        b: likewise; None for the strongest other class.
        **options: further arguments of the method's call, e.g. ``head_mask``.

    Raises:
        InputError: the model has no classifier, fewer than two classes, or not these, or both classes are the same.

    Cost: one forward pass, and the method twice.
    """
    count = getattr(model, "num_labels", 0)
    if not count:
        raise InputError("class contrast wants a classifier; compare any two maps with map_contrast(one, other)")
    if count < 2:
        raise InputError("class contrast wants two classes, the model has one")
    forward = {name: options[name] for name in ("head_mask", "interpolate_pos_encoding") if name in options}
    logits = record_attention(model, pixel_values, layers=[-1], **forward).output.logits
    first, names = named_classes(a, logits, model.config)
    rest = logits.scatter(1, first.unsqueeze(1), -torch.inf)
    second, others = named_classes(b, rest, model.config, chosen="the strongest other")
    if bool((first == second).any()):
        raise InputError(f"class contrast wants two different classes, got {first.tolist()} and {second.tolist()}")
    pairs = list(zip(names, others, strict=True))
    if method.class_agnostic:
        heat = method(model, pixel_values, None, **options)
        return ClassContrast([0.0] * len(heat), heat, heat, pairs, True)
    one, other = (method(model, pixel_values, classes, **options) for classes in (first, second))
    return ClassContrast(map_contrast(one, other), one, other, pairs, False)


def map_contrast(one: AttributionMap, other: AttributionMap) -> list[float]:
    """Return, for each clip, 1 − Spearman's correlation of two maps, in [0, 2].

    Spearman's is Pearson's correlation of ranks, equal values sharing the mean of their ranks. Two equal maps have
    contrast 0 even where they are constant; a constant map and another one have no correlation, NaN.

    Raises:
        InputError: the maps have another shape.
    """
    if one.relevance.shape != other.relevance.shape:
        raise InputError(
            f"two maps of the same clips and grid are wanted, got {tuple(one.relevance.shape)} and "
            f"{tuple(other.relevance.shape)}"
        )
    first, second = (heat.relevance.detach().cpu().flatten(1) for heat in (one, other))
    equal = (first == second).all(dim=1)
    contrast = (1 - spearman(first, second)).clamp(0, 2)
    return torch.where(equal, torch.zeros_like(contrast), contrast).tolist()


@dataclass(frozen=True, eq=False)
class SpaceTimeSeparation:
    """A map's marginals, and how much of it one place pattern times one time course explains.

    Args:
        over_time: (batch, t) relevance summed over places; signed where the map is.
        over_space: (batch, h, w) relevance summed over time.
        rank1_share: for each clip, in (0, 1]: the part of the map's squared norm that the best product explains; NaN
            where the map is all zero.
        time_course: (batch, t) the time factor of that product, of unit norm.
        place_pattern: (batch, h, w) its place factor, which carries the size and whose sum is not negative.
        heat: the map.
    """

    over_time: Tensor
    over_space: Tensor
    rank1_share: list[float]
    time_course: Tensor
    place_pattern: Tensor
    heat: AttributionMap

    def __len__(self) -> int:
        return len(self.rank1_share)

    @property
    def product(self) -> Tensor:
        """(batch, t, h, w) the best product of one place pattern and one time course."""
        return torch.einsum("bt,bhw->bthw", self.time_course, self.place_pattern)

    def __str__(self) -> str:
        lines = [f"separation of {self.heat.method} into space and time"]
        lines += [f"  clip {clip}: {self._clip(clip)}" for clip in range(len(self))]
        return "\n".join(lines)

    def _clip(self, clip: int) -> str:
        time, space = self.over_time[clip].abs(), self.over_space[clip].abs()
        start, stop = self.heat.grid.frame_span(int(time.argmax()))
        y, x = divmod(int(space.argmax()), space.shape[1])
        return (
            f"rank-1 share {self.rank1_share[clip]:.3f}; most in frames {start}–{stop - 1} ({_part(time):.1%} of the "
            f"time marginal) and at (y, x) = ({y}, {x}) ({_part(space):.1%} of the space marginal)"
        )

    def _repr_html_(self) -> str:
        facts = {"rank-1 share": "the part of the squared norm that one place pattern × one time course explains"}
        facts |= {f"clip {clip}": self._clip(clip) for clip in range(len(self))}
        parts = [facts_table({"separation of": self.heat.method, **facts})]
        for clip in range(len(self)):
            name = f"clip {clip}, " if len(self) > 1 else ""
            for values, label in ((self.over_space[clip], "over space"), (self.over_time[clip, None], "over time")):
                parts.append(tiles(values[None].cpu().numpy(), [name + label], signed=self.heat.signed))
        return report_html(*parts)


def space_time_separation(heat: AttributionMap) -> SpaceTimeSeparation:
    """Split maps into space and time.

    A clip's map is read as a matrix R of t rows and h·w columns. Its singular values σ₁ ≥ σ₂ ≥ … give the rank-1 share
    σ₁² / Σ σᵢ² = 1 − min ‖R − u·vᵀ‖² / ‖R‖², over all time courses u and place patterns v (Eckart & Young, 1936). 1:
    each tubelet row is a multiple of one picture, so the map knows no motion of its evidence. At least 1/min(t, h·w).
    The map is not centred: a large constant part is itself such a product and raises the share.

    Args:
        heat: maps of one or more clips.

    Cost: one small SVD a clip, in float64 on the CPU.
    """
    matrix = heat.relevance.cpu().double().flatten(2)  # (batch, t, place)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    squares = values.square()
    total = squares.sum(dim=-1)
    share = torch.where(total > 0, squares[:, 0] / total, torch.nan)
    time, place = left[:, :, 0], right[:, 0] * values[:, :1]
    sign = torch.where(place.sum(dim=-1, keepdim=True) < 0, -1.0, 1.0)
    return SpaceTimeSeparation(
        heat.over_time.cpu(),
        heat.relevance.cpu().sum(dim=1),
        share.tolist(),
        (time * sign).float(),
        (place * sign).float().unflatten(1, heat.grid.shape[1:]),
        heat,
    )


def _part(sizes: Tensor) -> float:
    """Return the part of a marginal that its largest entry is."""
    total = float(sizes.sum())
    return float(sizes.max()) / total if total else 0.0
