"""Patching: which parts carry what a corruption takes away; exact, to first order, and along single paths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from vivit_lab.errors import GridError, InputError
from vivit_lab.grid import TokenGrid
from vivit_lab.interventions.base import Hook, Intervention, check_batch_size, read_all, slices_of
from vivit_lab.interventions.effects import EffectTable
from vivit_lab.interventions.points import (
    HEAD_PARTS,
    STREAM_PARTS,
    HeadLike,
    Point,
    Region,
    TokensLike,
    cached,
    chosen_points,
    grid_or_own,
    head_numbers,
    part_name,
    put,
    quiet,
    runs,
    span_of,
    stream_before,
    time_slabs,
    token_mask,
    tokens_text,
)
from vivit_lab.model.hooks import layer_of, leaf_of
from vivit_lab.numbers import checked_numbers
from vivit_lab.progress import progress_bar
from vivit_lab.records.attention import evaluating, record_provenance
from vivit_lab.records.inputs import as_pixel_values, warn_of_differences
from vivit_lab.records.targets import BoundTarget, TargetLike, bind_target
from vivit_lab.records.values import frozen, without_graph
from vivit_lab.statistics.intervals import bootstrap_ratio
from vivit_lab.video.clip import Clip

__all__ = [
    "DIRECTIONS",
    "ActivationPatching",
    "AttributionPatching",
    "Pairs",
    "PatchingResult",
    "PathPatching",
    "Site",
    "SlabsLike",
    "bound_scores",
    "fill",
    "patch",
    "patch_hook",
    "plain_parameters",
    "sites_of",
]


@checked_numbers(batch_size=(1, None))
def patch(
    model: Any,
    source: Tensor | Clip | Sequence[Clip] | Mapping[str, Tensor],
    *,
    heads: Iterable[HeadLike] = (),
    part: str = "z",
    mlps: Iterable[int | str] = (),
    attentions: Iterable[int | str] = (),
    points: Iterable[str | Point] = (),
    tokens: TokensLike = None,
    batch_size: int = 8,
    grid: TokenGrid | None = None,
) -> Intervention:
    """Put the activations of source clips in place of the clips' own (Vig et al. 2020; Meng et al. 2022).

    Args:
        model: a ViViT.
        source: one clip for all rows of a batch or one for each, as pixel values or prepared clips, run once now; or a
            mapping hook name → tensor, such as an ``ActivationCache`` of them.
        heads: (layer, head) pairs.
        part: what of the heads: ``"z"``, ``"q"``, ``"k"``, ``"v"``, ``"pattern"``, ``"attn_scores"``, ``"result"``.
        mlps: layers whose MLP output is patched.
        attentions: layers whose attention output is patched.
        points: further hook points, by name or as ``Point``.
        tokens: at which tokens only, see ``ablate``; of scores and patterns, which queries.
        batch_size: source clips in one pass.
        grid: see ``ablate``.

    Returns:
        The intervention: ``with patch(…): model(x)``, or ``patch(…)(x)``.

    Raises:
        InputError: nothing or something unknown was named, or the source lacks a hook's activations.
        GridError: the tokens do not fit the grid.

    Example:
        >>> with patch(model, clean, heads=[(4, 2)], tokens=Region(t=slice(2, 5))):
        ...     logits = model(corrupt).logits
    """
    chosen = chosen_points(model, heads=heads, mlps=mlps, attentions=attentions, points=points, part=part)
    check_batch_size(batch_size)
    names = [point.name for point in chosen]
    if isinstance(source, Mapping):
        missing = [name for name in names if name not in source]
        if missing:
            raise InputError(f"the source has no activations of {', '.join(missing)}: cache these hooks too")
        values = {name: source[name] for name in names}
    else:
        pixels = as_pixel_values(source).values
        values = read_all(model, pixels, names, batch_size=batch_size, interpolate_pos_encoding=None)
    clips = None if isinstance(source, Mapping) else source
    mask = None if tokens is None else token_mask(tokens, grid_or_own(model, grid, clips))
    hooks = [patch_hook(point, values[point.name], mask) for point in chosen]
    return Intervention(model, hooks, f"patching of {', '.join(names)} at {tokens_text(tokens)}")


def patch_hook(point: Point, value: Tensor, tokens: Tensor | None) -> Hook:
    """Return the hook that puts a tensor, (row or 1, …), at a point's heads and at some tokens, (token,) bool."""

    def replace(tensor: Tensor, hook: Any) -> Tensor:
        if value.shape[1:] != tensor.shape[1:] or len(value) not in (1, len(tensor)):
            raise InputError(
                f"{point.name} is {tuple(tensor.shape)}, the source gave {tuple(value.shape)}: wanted clips of one "
                "size, one for all rows or one for each"
            )
        return put(point, tensor, value, tokens)

    return point.name, replace


SlabsLike = int | Sequence[Any] | None
"""How many time slabs, or spans of tubelet rows and ``"cls"``; see ``ActivationPatching``."""


@dataclass(frozen=True, eq=False)
class Site:
    """One intervention, and the places of the table that it stands for.

    Args:
        point: the hook point and its heads.
        tokens: (token,) bool, or None for all.
        places: indices into the table's axes.
    """

    point: Point
    tokens: Tensor | None
    places: tuple[tuple[int, ...], ...]


def sites_of(
    model: Any,
    grid: TokenGrid,
    at: str,
    *,
    layers: Sequence[int] | None,
    heads: str,
    slabs: SlabsLike,
    regions: Mapping[str, Region] | None,
) -> tuple[tuple[str, ...], dict[str, list[str]], list[Site]]:
    """Return the axes of a table, their labels, and the interventions that fill it.

    Args:
        model: a ViViT.
        grid: the token grid.
        at: the part of a layer, one of ``HEAD_PARTS`` or ``STREAM_PARTS``.
        layers: which layers; None for all.
        heads: ``"each"`` for one head at a time, ``"all"`` for all of a layer together.
        slabs: see ``ActivationPatching``.
        regions: see ``ActivationPatching``.

    Raises:
        InputError: the part, a layer or ``heads`` is not known.
        GridError: a slab or region does not fit the grid.
    """
    if at not in HEAD_PARTS + STREAM_PARTS or heads not in ("each", "all"):
        raise InputError(
            f"at is one of {', '.join(HEAD_PARTS + STREAM_PARTS)}, and heads 'each' or 'all'; got {at!r}, {heads!r}"
        )
    count = len(model.attention_layers if at in HEAD_PARTS else model.blocks)
    # a factorised model may have blocks without an MLP
    present = [layer for layer in range(count) if part_name(model, layer, at) in model.hook_names]
    wanted = present if layers is None else [*layers]
    points = [chosen_points(model, points=[part_name(model, layer, at)])[0] for layer in wanted]
    if not points:
        raise InputError("layers must name at least one layer")
    tokens, slab_names, region_names = _token_sets(grid, slabs, regions)
    labels = {"layer": [str(range(count)[layer]) for layer in wanted]}
    rows: list[tuple[tuple[int, ...], Point]] = [((row,), point) for row, point in enumerate(points)]
    if at in HEAD_PARTS and heads == "each":
        layers_of = [model.get_submodule(point.name.rsplit(".", 1)[0]) for point in points]
        # heads keep the numbers they were born with; the places of those that were pruned stay NaN
        labels["head"] = [str(head) for head in range(max(attention.born_heads for attention in layers_of))]
        rows = [
            ((row, head), Point(point.name, (head,), attention.kept_heads))
            for row, (point, attention) in enumerate(zip(points, layers_of, strict=True))
            for head in head_numbers(attention)
        ]
    labels |= {"slab": slab_names, "region": region_names}
    sites = [
        Site(point, mask, tuple((*row, *place) for place in places)) for row, point in rows for mask, places in tokens
    ]
    return tuple(labels), labels, sites


def fill(table: Tensor, rows: slice, site: Site, values: Tensor) -> None:
    """Write the values (row,) of one intervention into each of its places in a table (clip, *places)."""
    for place in site.places:
        table[(rows, *place)] = values.detach().to(table)


def _token_sets(
    grid: TokenGrid, slabs: SlabsLike, regions: Mapping[str, Region] | None
) -> tuple[list[tuple[Tensor | None, list[tuple[int, int]]]], list[str], list[str]]:
    """Return each distinct set of tokens with its (slab, region) places, and the names of slabs and regions."""
    cut = _slabs(grid, slabs)
    boxes = dict(regions) if regions is not None else {"all": None}
    if not boxes:
        raise GridError("regions must name at least one region")
    found: list[tuple[Tensor | None, list[tuple[int, int]]]] = []
    for row, slab in enumerate(cut.values()):
        for column, box in enumerate(boxes.values()):
            mask = _joined(grid, slab, box)
            if mask is not None and not bool(mask.any()):
                continue
            same = [places for other, places in found if _equal(mask, other)]
            if same:
                same[0].append((row, column))
            else:
                found.append((mask, [(row, column)]))
    if not found:
        raise GridError("no region shares a tubelet with a time slab")
    return found, list(cut), list(boxes)


def _slabs(grid: TokenGrid, slabs: SlabsLike) -> dict[str, Any]:
    if slabs is None:
        return {"all": None}
    if isinstance(slabs, int):
        given: list[Any] = [*time_slabs(grid, slabs), *(["cls"] if grid.cls else [])]
    else:
        given = [entry if entry == "cls" else time_slabs(grid, [entry])[0] for entry in slabs]
    if not given:
        raise GridError("slabs must name at least one time slab")
    return {"CLS" if entry == "cls" else _times(grid, entry): entry for entry in given}


def _times(grid: TokenGrid, region: Region) -> str:
    span = span_of("t", region.t, grid.t)
    last = range(span.start, span.stop, span.step or 1)[-1]
    return f"t {span.start}" if last == span.start else f"t {span.start}–{last}"


def _joined(grid: TokenGrid, slab: Any, box: Region | None) -> Tensor | None:
    if slab == "cls":
        return token_mask("cls", grid)
    if slab is None:
        return None if box is None else box.mask(grid)
    inside = slab.mask(grid)
    return inside if box is None else inside & box.mask(grid)


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return bool(torch.equal(one, other))


DIRECTIONS = ("denoising", "noising")
"""Denoising puts the clean clip's activations into the corrupt run: what suffices to restore the target. Noising puts
the corrupt clip's into the clean run: what is necessary for it."""


@dataclass(frozen=True, eq=False, repr=False)
class PatchingResult(EffectTable):
    """What patching at each place did to the target, for each pair of a clean and a corrupt clip.

    ``effect`` is patched − the run that was patched: corrupt when denoising, clean when noising.

    Args:
        clean: (pair,) the target of the clean runs.
        corrupt: (pair,) that of the corrupt runs.
        direction: ``"denoising"`` or ``"noising"``.
        min_gap: pairs whose |clean − corrupt| is below this share of the mean over pairs have no normalised value of
            their own: nothing was lost that could be restored.

    Raises:
        InputError: a field does not fit the others; see also ``EffectTable``.
    """

    clean: Tensor = field(default_factory=lambda: torch.zeros(0))
    corrupt: Tensor = field(default_factory=lambda: torch.zeros(0))
    direction: str = "denoising"
    min_gap: float = 0.1

    _PER_CLIP: ClassVar[tuple[str, ...]] = ("effect", "clean", "corrupt")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("clean", "corrupt"):
            scores = getattr(self, name).detach().cpu().to(torch.float64)
            if scores.shape != (len(self),):
                raise InputError(f"{name} must have one score a pair, ({len(self)},), got {tuple(scores.shape)}")
            object.__setattr__(self, name, scores)
        if self.direction not in DIRECTIONS or not 0 <= self.min_gap < 1:
            raise InputError(
                f"direction is one of {', '.join(DIRECTIONS)} and min_gap in [0, 1), got {self.direction!r} and "
                f"{self.min_gap}"
            )

    @property
    def gap(self) -> Tensor:
        """(pair,) clean − corrupt: what the corruption took from the target."""
        return self.clean - self.corrupt

    @property
    def patched(self) -> Tensor:
        """(pair, *dims) the target of the patched runs."""
        base = self.corrupt if self.direction == "denoising" else self.clean
        return self.effect + self._over_places(base)

    @property
    def usable(self) -> Tensor:
        """(pair,) bool: whether a pair's gap is large enough for a normalised value of its own; see ``min_gap``."""
        size = self.gap.abs()
        return (size > 0) & (size >= self.min_gap * size.mean())

    @property
    def normalized_per_pair(self) -> Tensor:
        """(pair, *dims) (patched − corrupt) / (clean − corrupt); NaN for pairs that are not ``usable``."""
        gap = torch.where(self.usable, self.gap, torch.nan)
        return (self.patched - self._over_places(self.corrupt)) / self._over_places(gap)

    @cached_property
    def normalized(self) -> Tensor:
        """(*dims) Σ (patched − corrupt) / Σ (clean − corrupt) over all pairs: 0 as corrupt, 1 as clean.

        A ratio of means, in which pairs weigh as much as the corruption cost them; NaN where the gaps sum to nothing.
        """
        return self._ratios[0]

    @cached_property
    def normalized_interval(self) -> tuple[Tensor, Tensor]:
        """The ends (*dims) of the interval of ``normalized``; NaN where that of the gap reaches zero."""
        return self._ratios[1], self._ratios[2]

    @cached_property
    def share(self) -> Tensor:
        """(*dims) how far patching took the target from its run to the other: ``normalized``, or 1 less it if noising.

        So in both directions 0 is no effect and 1 the whole one.
        """
        return self.normalized if self.direction == "denoising" else 1 - self.normalized

    @cached_property
    def _ratios(self) -> list[Tensor]:
        options: dict[str, Any] = {"level": self.level, "resamples": self.resamples, "seed": self.seed}
        won = (self.patched - self._over_places(self.corrupt)).reshape(len(self), -1).numpy().T
        gap = self.gap.numpy()
        return self._ends([bootstrap_ratio(column, gap, **options) for column in won])

    def _over_places(self, scores: Tensor) -> Tensor:
        return scores.reshape(-1, *[1] * len(self.dims))

    def columns(self) -> dict[str, Tensor]:
        """Return the statistics of each place, name → (*dims)."""
        low, high = self.normalized_interval
        more = {"normalized": self.normalized, "normalized_low": low, "normalized_high": high}
        return super().columns() | more

    @property
    def heat(self) -> tuple[Tensor, str]:
        """See ``EffectTable``: the share, where there is a gap to share."""
        if bool(torch.isfinite(self.share).any()):
            restored = "restored" if self.direction == "denoising" else "lost"
            return self.share, f"share of the gap {restored} (0 nothing, 1 all)"
        return super().heat


_PLAIN_FORWARD = {"output_attentions": False, "output_hidden_states": False}


@dataclass(frozen=True, eq=False)
class Pairs:
    """Clean and corrupt clips, and what the target says of both.

    Args:
        model: a ViViT.
        clean: (pair, frames, channels, height, width).
        corrupt: the same.
        grid: their token grid.
        target: bound to the clean clips.
        clean_scores: (pair,) float32.
        corrupt_scores: (pair,) float32.
        forward: further arguments of the model's forward.
    """

    model: Any
    clean: Tensor
    corrupt: Tensor
    grid: TokenGrid
    target: BoundTarget
    clean_scores: Tensor
    corrupt_scores: Tensor
    forward: dict[str, Any]

    @classmethod
    def of(
        cls,
        model: Any,
        clean: Tensor | Clip | Sequence[Clip],
        corrupt: Tensor | Clip | Sequence[Clip],
        target: TargetLike,
        *,
        batch_size: int,
        interpolate_pos_encoding: bool | None,
    ) -> Pairs:
        """Run both sides once.

        Raises:
            InputError: the two are not as many clips of one size, the target does not fit the model, or it is the same
                for every clean clip and its corrupt one, so that there is nothing to restore or to lose.
        """
        one, other = (as_pixel_values(clips).values for clips in (clean, corrupt))
        if one.shape != other.shape:
            raise InputError(
                f"wanted a corrupt clip for each clean one, of its size; got {tuple(one.shape)} and "
                f"{tuple(other.shape)}"
            )
        forward = {**_PLAIN_FORWARD, "interpolate_pos_encoding": interpolate_pos_encoding}
        grid = model.grid_of(one, interpolate_pos_encoding)
        bound, clean_scores = bound_scores(model, one, target, batch_size=batch_size, forward=forward)
        corrupt_scores = bound_scores(model, other, bound, batch_size=batch_size, forward=forward)[1]
        gap, size = (clean_scores - corrupt_scores).abs(), clean_scores.abs() + corrupt_scores.abs()
        if bool((gap <= 1e-6 * size).all()):
            raise InputError(
                f"the target ({bound.name}) is the same for every clean clip and its corrupt one: there is nothing to "
                "patch between them"
            )
        return cls(model, one, other, grid, bound, clean_scores, corrupt_scores, forward)

    def __len__(self) -> int:
        return len(self.clean)

    def sides(self, direction: str) -> tuple[Tensor, Tensor, Tensor]:
        """Return the pixels that are patched into, those that are patched from, and the scores of the former."""
        if direction == "denoising":
            return self.corrupt, self.clean, self.corrupt_scores
        return self.clean, self.corrupt, self.clean_scores

    def score(self, output: Any, rows: slice) -> Tensor:
        """Return the target's scores of some clips, float32."""
        return self.target(output, range(rows.start, rows.stop)).float()

    def result(
        self, method: Any, effect: Tensor, dims: tuple[str, ...], labels: dict[str, list[str]], direction: str
    ) -> PatchingResult:
        """Return effects (pair, *dims) as a result."""
        scores = self.clean_scores.abs().maximum(self.corrupt_scores.abs())
        warn_of_differences(self.model, type(method).__name__, effect, scores)
        base = "corrupt" if direction == "denoising" else "clean"
        return PatchingResult(
            effect,
            dims,
            labels,
            what=f"patched − {base}, {self.target.unit}",
            method=type(method).__name__,
            parameters=plain_parameters(method),
            targets=self.target.names,
            model_id=self.model.name_or_path or type(self.model).__name__,
            provenance=record_provenance(self.model, self.model.dtype),
            clean=self.clean_scores,
            corrupt=self.corrupt_scores,
            direction=direction,
            seed=getattr(method, "seed", 0),
        )


def bound_scores(
    model: Any, pixels: Tensor, target: TargetLike, *, batch_size: int, forward: dict[str, Any]
) -> tuple[BoundTarget, Tensor]:
    """Run clips in batches; return the target bound to them (or as it was bound), and their scores (clip,) float32.

    Raises:
        InputError: the target does not fit the model.
    """
    with quiet(model):
        outputs = [
            without_graph(model(pixels[rows].to(model.device), **forward))
            for rows in slices_of(len(pixels), batch_size)
        ]
    first = outputs[0]
    whole = first.like({name: torch.cat([output[name] for output in outputs]) for name in first})
    bound = bind_target(target, whole, model.config)
    return bound, bound(whole).detach().float()


def plain_parameters(method: Any) -> dict[str, Any]:
    """Return the fields of a method as JSON-able values; what has no such form is written as text."""
    return {entry.name: _plain(getattr(method, entry.name)) for entry in fields(method)}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, dict):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return repr(value)


@checked_numbers()
@dataclass(frozen=True)
class ActivationPatching:
    """Put activations of one clip into the run of another, place by place (Vig et al. 2020; Meng et al. 2022).

    For each pair of a clean and a corrupt clip and each place of layer × head × time slab × region: run one clip with
    the other's activation there, and see how far the target moves. Heimersheim & Nanda 2024 tell how to read it.

    Args:
        direction: ``"denoising"`` puts clean activations into the corrupt run: which places suffice to restore the
            target. ``"noising"`` puts corrupt ones into the clean run: which are needed for it.
        at: what is patched: ``"z"`` (a head's context), ``"q"``, ``"k"``, ``"v"``, ``"pattern"``, ``"attn_scores"``,
            ``"result"``; or, without a head axis, ``"resid_pre"``, ``"resid_mid"``, ``"resid_post"``, ``"attn_out"``,
            ``"mlp_out"``.
        heads: ``"each"`` head by itself, or ``"all"`` of a layer together, without a head axis.
        layers: which layers; None for all.
        slabs: time slabs: how many of as equal lengths as can be, and the CLS token (which has no time) after them; or
            a list of spans of tubelet rows (slices or ints) and ``"cls"``. None is all tokens at once, CLS included. Of
            patterns and scores, these are the queries.
        regions: name → ``Region``, in which places of each slab; None for all. The CLS token is in each.
        batch_size: pairs in one forward pass.
        seed: of the intervals and p-values.
        progress: whether to show a bar; None shows it in a terminal.

    Raises:
        InputError: a field has a value that is not known.

    Cost: a forward pass from the patched layer on, for each place and batch of pairs. The cached side keeps
    tokens·d_model numbers for each layer and pair of one batch.

    Example:
        >>> method = ActivationPatching(at="z", slabs=4)
        >>> result = method(model, clean, corrupt, LogitDifference(labels, reversed_labels))
        >>> result.select(slab="CLS").plot()
    """

    direction: str = "denoising"
    at: str = "z"
    heads: str = "each"
    layers: Sequence[int] | None = None
    slabs: SlabsLike = None
    regions: Mapping[str, Region] | None = None
    batch_size: int = 8
    seed: int = 0
    progress: bool | None = None

    def __post_init__(self) -> None:
        check_batch_size(self.batch_size)
        if self.direction not in DIRECTIONS:
            raise InputError(f"direction must be one of {', '.join(DIRECTIONS)}, got {self.direction!r}")

    def __call__(
        self,
        model: Any,
        clean: Tensor | Clip | Sequence[Clip],
        corrupt: Tensor | Clip | Sequence[Clip],
        target: TargetLike = None,
        *,
        interpolate_pos_encoding: bool | None = None,
    ) -> PatchingResult:
        """Patch.

        Args:
            model: a ViViT.
            clean: clips, as pixel values or prepared clips.
            corrupt: for each of them its corrupt one, such as ``ReverseFrames()(clean)``.
            target: what is measured, fixed on the clean clips; see ``bind_target``. A ``LogitDifference`` of the two
                clips' classes tells best what went from one to the other.
            interpolate_pos_encoding: whether clips of another size are taken; None is yes, and says so once.

        Raises:
            InputError: the clips, target, part or layers do not fit the model; or the target is the same for all clean
                and corrupt clips.
            GridError: a slab or region does not fit the grid.
        """
        pairs = Pairs.of(
            model,
            clean,
            corrupt,
            target,
            batch_size=self.batch_size,
            interpolate_pos_encoding=interpolate_pos_encoding,
        )
        dims, labels, sites = sites_of(
            model, pairs.grid, self.at, layers=self.layers, heads=self.heads, slabs=self.slabs, regions=self.regions
        )
        effect = torch.full((len(pairs), *(len(labels[dim]) for dim in dims)), torch.nan, dtype=torch.float64)
        batches = list(slices_of(len(pairs), self.batch_size))
        base, source, scores = pairs.sides(self.direction)
        names = list(dict.fromkeys(site.point.name for site in sites))
        with progress_bar(None, self.progress, "patching", "run", total=len(batches) * len(sites)) as bar:
            for rows in batches:
                values = cached(model, source[rows], names, pairs.forward)
                hooks = [(site, patch_hook(site.point, values[site.point.name], site.tokens)) for site in sites]
                for site, output in runs(model, base[rows], hooks, pairs.forward):
                    change = pairs.score(output, rows) - scores[rows].to(model.device)
                    fill(effect, rows, site, change)
                    bar.update()
        return pairs.result(self, effect, dims, labels, self.direction)


@checked_numbers()
@dataclass(frozen=True)
class AttributionPatching:
    """Estimate every patch of ``ActivationPatching`` by (source − base)·∂target/∂activation (Nanda 2023).

    The gradient is that of the run that is patched: the corrupt one when denoising, the clean one when noising. A
    screen: it is exact where the model is linear between the two activations, and wrong where the softmax or an MLP
    saturates. Verify what it finds by ``ActivationPatching``.

    Args:
        direction: see ``ActivationPatching``.
        at: see ``ActivationPatching``.
        heads: see ``ActivationPatching``.
        layers: see ``ActivationPatching``.
        slabs: see ``ActivationPatching``.
        regions: see ``ActivationPatching``.
        batch_size: pairs in one pass.
        seed: of the intervals and p-values.
        progress: whether to show a bar; None shows it in a terminal.

    Raises:
        InputError: a field has a value that is not known.

    Cost: for each batch of pairs a forward pass of one side and a forward and backward pass of the other, whatever the
    number of places.
    """

    direction: str = "denoising"
    at: str = "z"
    heads: str = "each"
    layers: Sequence[int] | None = None
    slabs: SlabsLike = None
    regions: Mapping[str, Region] | None = None
    batch_size: int = 8
    seed: int = 0
    progress: bool | None = None

    def __post_init__(self) -> None:
        check_batch_size(self.batch_size)
        if self.direction not in DIRECTIONS:
            raise InputError(f"direction must be one of {', '.join(DIRECTIONS)}, got {self.direction!r}")

    def __call__(
        self,
        model: Any,
        clean: Tensor | Clip | Sequence[Clip],
        corrupt: Tensor | Clip | Sequence[Clip],
        target: TargetLike = None,
        *,
        interpolate_pos_encoding: bool | None = None,
    ) -> PatchingResult:
        """Estimate; the arguments and errors are those of ``ActivationPatching``."""
        pairs = Pairs.of(
            model,
            clean,
            corrupt,
            target,
            batch_size=self.batch_size,
            interpolate_pos_encoding=interpolate_pos_encoding,
        )
        dims, labels, sites = sites_of(
            model, pairs.grid, self.at, layers=self.layers, heads=self.heads, slabs=self.slabs, regions=self.regions
        )
        effect = torch.full((len(pairs), *(len(labels[dim]) for dim in dims)), torch.nan, dtype=torch.float64)
        names = list(dict.fromkeys(site.point.name for site in sites))
        batches = list(slices_of(len(pairs), self.batch_size))
        for rows in progress_bar(batches, self.progress, "attribution patching", "batch"):
            found = _contributions(pairs, names, self.direction, rows)
            for site in sites:
                part, tokens = found[site.point.name]
                site.point.check_tokens(tokens, site.tokens)
                part = part if site.point.places is None else part[..., list(site.point.places)]
                part = part if site.tokens is None else part[:, site.tokens.to(part.device)]
                fill(effect, rows, site, part.sum(dim=(1, 2)))
        return pairs.result(self, effect, dims, labels, self.direction)


def _contributions(pairs: Pairs, names: Sequence[str], direction: str, rows: slice) -> dict[str, tuple[Tensor, int]]:
    """Return Δactivation·gradient for each hook, (pair, token, head or 1), and how many tokens its token axis has."""
    model = pairs.model
    base, source, _ = pairs.sides(direction)
    there = cached(model, source[rows], names, pairs.forward)
    with evaluating(model), frozen(model):
        _, here = model.run_with_cache(
            base[rows].to(model.device),
            names_filter=list(names),
            incl_bwd=True,
            target=lambda output: pairs.score(output, rows),
            **pairs.forward,
        )
    found: dict[str, tuple[Tensor, int]] = {}
    for name in names:
        product = (there[name].float() - here[name].float()) * here[f"{name}_grad"].float()
        summed = product.sum(dim=-1)
        point = Point(name)
        if point.token_axis == 2:  # patterns; along one axis of a factorised model they come in groups
            summed = summed.flatten(2).transpose(1, 2)
        tokens = there[name].shape[point.token_axis]
        found[name] = (summed if point.has_heads else summed.unsqueeze(-1), tokens)
    return found


_INPUTS = ("q", "k", "v")


@checked_numbers()
@dataclass(frozen=True)
class PathPatching:
    """Patch the paths from a sender head to a receiver alone (Wang et al. 2022; Goldowsky-Dill et al. 2023).

    One run of the base clip with the sender's context (z) from the other clip, and every other head held at its base
    value, gives what the receiver then reads (its q, k or v). A second run of the base clip, nothing held, with that
    one input of the receiver replaced, gives the effect. For the receiver ``"logits"`` the first run does.

    Args:
        senders: (layer, head) pairs.
        receivers: ``"logits"``, or (layer, head, ``"q"`` | ``"k"`` | ``"v"``) triples, or a list of both.
        direction: see ``ActivationPatching``; the sender's context comes from the side that is patched from.
        hold_mlps: whether MLPs are held at their base values too, so that only the direct path through the residual
            stream is left. False lets them answer to the sender, as Wang et al. did.
        batch_size: pairs in one forward pass.
        seed: of the intervals and p-values.
        progress: whether to show a bar; None shows it in a terminal.

    Raises:
        InputError: a field has a value that is not known.

    In a factorised encoder, what leads from the spatial layers to the temporal ones (CLS of each time, LayerNorm)
    answers to the sender, as all LayerNorms do.

    Cost: for each batch and sender one pass from its layer on (in factorised variants: a whole one), and one for each
    receiver. Meant for few late heads.

    Example:
        >>> method = PathPatching(senders=[(3, 0), (3, 4)], receivers=[(5, 2, "v"), "logits"])
        >>> method(model, clean, corrupt, LogitDifference(labels, reversed_labels)).plot()
    """

    senders: Sequence[tuple[int | str, int]]
    receivers: str | Sequence[Any] = "logits"
    direction: str = "denoising"
    hold_mlps: bool = True
    batch_size: int = 8
    seed: int = 0
    progress: bool | None = None

    def __post_init__(self) -> None:
        check_batch_size(self.batch_size)
        if self.direction not in DIRECTIONS:
            raise InputError(f"direction must be one of {', '.join(DIRECTIONS)}, got {self.direction!r}")
        if not self.senders or not self.receivers:
            raise InputError("name at least one sender (layer, head) and one receiver")
        for receiver in self._receivers:
            triple = isinstance(receiver, (tuple, list)) and len(receiver) == 3 and receiver[2] in _INPUTS
            if receiver != "logits" and not triple:
                raise InputError(f"a receiver is 'logits' or (layer, head, 'q' | 'k' | 'v'), got {receiver!r}")

    @property
    def _receivers(self) -> list[Any]:
        return [self.receivers] if isinstance(self.receivers, str) else list(self.receivers)

    def __call__(
        self,
        model: Any,
        clean: Tensor | Clip | Sequence[Clip],
        corrupt: Tensor | Clip | Sequence[Clip],
        target: TargetLike = None,
    ) -> PatchingResult:
        """Patch the paths; the arguments are those of ``ActivationPatching``.

        Returns:
            A result with the axes sender and receiver; NaN where the receiver does not come after the sender.

        Raises:
            InputError: the clips, target or heads do not fit the model.
        """
        pairs = Pairs.of(model, clean, corrupt, target, batch_size=self.batch_size, interpolate_pos_encoding=None)
        senders = [chosen_points(model, heads=[pair])[0] for pair in self.senders]
        receivers = [self._point(model, receiver) for receiver in self._receivers]
        effect = torch.full((len(pairs), len(senders), len(receivers)), torch.nan, dtype=torch.float64)
        batches = list(slices_of(len(pairs), self.batch_size))
        with progress_bar(None, self.progress, "path patching", "sender", total=len(batches) * len(senders)) as bar:
            for rows in batches:
                batch = _Batch(pairs, rows, self.direction, senders, receivers, self.hold_mlps)
                for row, sender in enumerate(senders):
                    for column, change in batch.effects(sender):
                        effect[rows, row, column] = change.to(effect)
                    bar.update()
        labels = {
            "sender": [_label(sender) for sender in senders],
            "receiver": ["logits" if point is None else _label(point) for point in receivers],
        }
        return pairs.result(self, effect, ("sender", "receiver"), labels, self.direction)

    @staticmethod
    def _point(model: Any, receiver: Any) -> Point | None:
        if receiver == "logits":
            return None
        layer, head, part = receiver
        return chosen_points(model, heads=[(layer, head)], part=part)[0]


class _Batch:
    """The runs of one batch of pairs."""

    def __init__(
        self,
        pairs: Pairs,
        rows: slice,
        direction: str,
        senders: Sequence[Point],
        receivers: Sequence[Point | None],
        hold_mlps: bool,
    ) -> None:
        self.pairs, self.rows, self.receivers = pairs, rows, receivers
        model = pairs.model
        base, source, scores = pairs.sides(direction)
        self.scores = scores[rows].to(model.device)
        self.pixels = base[rows].to(model.device)
        parts = ("z", "mlp_out") if hold_mlps else ("z",)
        self.held = [name for name in model.hook_names if leaf_of(name) in parts]
        points = [*senders, *(point for point in receivers if point is not None)]
        streams = sorted({stream for point in points if (stream := stream_before(model, point.name)) is not None})
        self.base = cached(model, self.pixels, [*self.held, *streams], pairs.forward)
        names = list(dict.fromkeys(sender.name for sender in senders))
        self.source = cached(model, source[rows], names, pairs.forward)

    def effects(self, sender: Point) -> list[tuple[int, Tensor]]:
        """Return (receiver, effect (pair,)) for each receiver behind a sender."""
        first = int(layer_of(sender.name) or 0)
        behind = {
            column: point
            for column, point in enumerate(self.receivers)
            if point is None or int(layer_of(point.name) or 0) > first
        }
        read: dict[str, Tensor] = {}

        def keep(tensor: Tensor, hook: Any) -> None:
            read[hook.name] = tensor

        names = list(dict.fromkeys(point.name for point in behind.values() if point is not None))
        output = self._run(sender, [*self._hold(sender, first), *((name, keep) for name in names)])
        found = []
        for column, point in behind.items():
            if point is not None:
                output_there = self._run(point, [patch_hook(point, read[point.name], None)])
            else:
                output_there = output
            found.append((column, self.pairs.score(output_there, self.rows) - self.scores))
        return found

    def _hold(self, sender: Point, first: int) -> list[Hook]:
        """Return hooks that hold every head (and MLP) from the sender's layer on at its base value, but the sender."""
        hooks = []
        for name in self.held:
            if int(layer_of(name) or 0) >= first:
                value = self.base[name]
                if name == sender.name:
                    value = put(sender, value, self.source[name], None)
                hooks.append(patch_hook(Point(name), value, None))
        return hooks

    def _run(self, point: Point, hooks: list[Hook]) -> Any:
        """Return the output under hooks at a point and behind it, from its layer on where a pass can start there."""
        stream = stream_before(self.pairs.model, point.name)
        with quiet(self.pairs.model):
            if stream is None:
                return self.pairs.model.run_with_hooks(self.pixels, fwd_hooks=hooks, **self.pairs.forward)
            return self.pairs.model.run_with_hooks(self.base[stream], fwd_hooks=hooks, start_at_layer=layer_of(stream))


def _label(point: Point) -> str:
    assert point.heads is not None, "senders and receivers are heads"
    part = "" if point.part == "z" else f" {point.part}"
    return f"{layer_of(point.name)}.{point.heads[0]}{part}"
