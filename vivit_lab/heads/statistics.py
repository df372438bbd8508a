"""Where each head looks, in numbers that mean something for video: distances, times, sameness, sharpness."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float32
from safetensors.torch import save_file
from torch import Tensor

from vivit_lab.attribution.diagnostics import ArtefactTokens
from vivit_lab.errors import InputError, MissingExtraError
from vivit_lab.files import stored_fields, stored_tensors
from vivit_lab.grid import TokenGrid
from vivit_lab.heads.clips import clip_set
from vivit_lab.heads.importance import without_pruned
from vivit_lab.html import facts_table, report_html, tiles
from vivit_lab.numbers import checked_numbers
from vivit_lab.progress import progress_bar
from vivit_lab.records.attention import AttentionRecord, record_attention

if TYPE_CHECKING:
    import pandas

__all__ = [
    "STATISTICS",
    "HeadStatistics",
    "Places",
    "head_statistics",
    "uniform_profile",
    "uniform_values",
]

#: Name → what it is, and its unit.
STATISTICS = {
    "spatial_distance": "mean distance in the picture from query to key, pixels",
    "temporal_distance": "mean distance in time from query to key, frames",
    "same_frame": "mass on the query's own tubelet row in time",
    "same_place": "mass on the query's own place at all other times",
    "past_future": "(past - future) / (past + future), each mass divided by the number of pairs there are; in [-1, 1]",
    "entropy": "entropy of the row, nats",
    "effective_keys": "exp(entropy): over how many tubelets the row is spread",
    "maximal_weight": "largest weight of the row",
    "cls_mass": "mass on the CLS key, before the row is renormalised",
    "artefact_mass": "mass on high-norm artefact tokens",
    "following": "mass on where the query's content is at other times, times at which it is elsewhere",
}


@dataclass(frozen=True, eq=False)
class Places:
    """Where the tubelets of a grid are.

    Args:
        grid: the token grid.
        device: where to compute.
    """

    grid: TokenGrid
    device: torch.device

    @cached_property
    def times(self) -> Tensor:
        """(tubelet,) time index."""
        return torch.arange(self.grid.num_tubelets, device=self.device) // (self.grid.h * self.grid.w)

    @cached_property
    def spots(self) -> Tensor:
        """(tubelet,) index of the place y·w + x."""
        return torch.arange(self.grid.num_tubelets, device=self.device) % (self.grid.h * self.grid.w)

    @cached_property
    def distances(self) -> Tensor:
        """(place, place) distance of their middles in pixels."""
        h, w = self.grid.h, self.grid.w
        place = torch.arange(h * w, device=self.device)
        rows = (place // w).float() * self.grid.tubelet[1]
        columns = (place % w).float() * self.grid.tubelet[2]
        return torch.hypot(rows.unsqueeze(1) - rows, columns.unsqueeze(1) - columns)

    def reduce(self, rows: Float32[Tensor, "head query token"], queries: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return each statistic (head, query) of rows of the pattern, and the mass at each time (head, query, t).

        Args:
            rows: (head, query, token), each row's sum is 1; CLS first where the grid has one.
            queries: (query,) which tubelets the queries are, without CLS.
        """
        cls, patch = self.split(rows)
        grid, total = self.grid, patch.unflatten(-1, (self.grid.t, self.grid.h * self.grid.w))
        when, where = self.times[queries], self.spots[queries]
        over_time = total.sum(dim=-1)  # (head, query, t)
        over_place = total.sum(dim=-2)
        here = total.gather(-1, where.view(1, -1, 1, 1).expand(*total.shape[:3], 1)).squeeze(-1)  # (head, query, t)
        own = when.view(1, -1, 1).expand(len(patch), -1, 1)
        steps = torch.arange(grid.t, device=self.device) - when.unsqueeze(1)  # (query, t), key less query
        logs = torch.where(patch > 0, patch, 1).log()
        entropy = -(patch * logs).sum(dim=-1)
        found = {
            "spatial_distance": (over_place * self.distances[where]).sum(dim=-1),
            "temporal_distance": (over_time * steps.abs() * grid.tubelet[0]).sum(dim=-1),
            "same_frame": over_time.gather(-1, own).squeeze(-1),
            "same_place": here.sum(dim=-1) - here.gather(-1, own).squeeze(-1),
            "past": (over_time * (steps < 0)).sum(dim=-1),
            "future": (over_time * (steps > 0)).sum(dim=-1),
            "entropy": entropy,
            "effective_keys": entropy.exp(),
            "maximal_weight": patch.amax(dim=-1),
        }
        if cls is not None:
            found["cls_mass"] = cls
        return found, over_time

    def split(self, rows: Tensor) -> tuple[Tensor | None, Tensor]:
        """Return the mass on CLS, and the rest of each row, renormalised."""
        if not self.grid.cls:
            return None, rows
        cls, patch = rows.select(-1, 0), rows.narrow(-1, 1, rows.shape[-1] - 1)
        left = patch.sum(dim=-1, keepdim=True)
        return cls, patch / left.clamp_min(torch.finfo(patch.dtype).tiny)

    def profile(self, over_time: Tensor, queries: Tensor) -> Tensor:
        """Return the mass at each offset in time (head, 2t - 1), key less query, a mean over queries."""
        t = self.grid.t
        offsets = torch.arange(t, device=self.device) - self.times[queries].unsqueeze(1) + t - 1  # (query, t)
        profile = over_time.new_zeros(len(over_time), 2 * t - 1)
        profile.scatter_add_(1, offsets.reshape(1, -1).expand(len(over_time), -1), over_time.flatten(1))
        return profile / len(queries)


def uniform_profile(grid: TokenGrid) -> Tensor:
    """Return the mass at each offset in time under uniform attention, (2t - 1,): (t - |Δt|)/t²."""
    offsets = torch.arange(1 - grid.t, grid.t)
    return (grid.t - offsets.abs()) / grid.t**2


def uniform_values(grid: TokenGrid) -> dict[str, float]:
    """Return what each statistic is under uniform attention, the mean over all tubelets as queries.

    Example:
        >>> uniform_values(TokenGrid(16, 14, 14))["spatial_distance"]
        116.5...
    """
    places = Places(grid, torch.device("cpu"))
    count, t = grid.num_tubelets, grid.t
    steps = (torch.arange(t).unsqueeze(1) - torch.arange(t)).abs().double()
    return {
        "spatial_distance": float(places.distances.double().mean()),
        "temporal_distance": float(steps.mean()) * grid.tubelet[0],
        "same_frame": 1 / t,
        "same_place": (t - 1) / count,
        "past_future": 0.0,
        "entropy": math.log(count),
        "effective_keys": float(count),
        "maximal_weight": 1 / count,
        "cls_mass": 1 / grid.num_tokens,
    }


_FORMAT = "vivit_lab head statistics 1"
_SHOWN = ("temporal_distance", "same_frame", "same_place", "following", "cls_mass", "effective_keys")


@dataclass(frozen=True, eq=False)
class HeadStatistics:
    """Where each head looks; see ``head_statistics`` for what the numbers mean.

    Patches ask and patches answer: rows are renormalised without the CLS key, whose mass is kept apart.

    Args:
        values: name → (clips, layers, heads); NaN for heads that were pruned, and for clips where there is nothing to
            measure.
        errors: name → (clips, layers, heads), the standard error of the sampled queries' mean; 0 where all were taken.
        uniform: name → (clips,), what the same queries would give under uniform attention.
        profile: (clips, layers, heads, 2t - 1), the mass at each offset in time, from key t - 1 tubelets before the
            query to as many after.
        profile_uniform: (clips, 2t - 1), what the same queries would give under uniform attention: the share of pairs
            that there are.
        grid: the token grid.
        queries: sampled queries a clip; None for all.
        seed: of the sample.
        model_id: which model.
    """

    values: dict[str, Tensor]
    errors: dict[str, Tensor]
    uniform: dict[str, Tensor]
    profile: Tensor
    profile_uniform: Tensor
    grid: TokenGrid
    queries: int | None = 256
    seed: int = 0
    model_id: str | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        """(layers, heads)."""
        return int(self.profile.shape[1]), int(self.profile.shape[2])

    @property
    def names(self) -> list[str]:
        """The statistics that were measured."""
        return list(self.values)

    def value(self, name: str) -> Tensor:
        """Return a statistic, (layers, heads), the mean over the clips that have it.

        Raises:
            InputError: it was not measured.
        """
        return self._found(name).nanmean(dim=0)

    def error(self, name: str) -> Tensor:
        """Return the standard error of that mean that comes from sampling queries, (layers, heads).

        The spread over clips is not in it: for that, see the bootstrap of ``values``.
        """
        self._found(name)
        known = ~self.errors[name].isnan()
        return (self.errors[name].nan_to_num(0).square().sum(dim=0)).sqrt() / known.sum(dim=0)

    def lift(self, name: str) -> Tensor:
        """Return a statistic divided by that of uniform attention for the same queries, (layers, heads); 1 is chance.

        Raises:
            InputError: it was not measured, or is 0 under uniform attention (``past_future``, a difference already).
        """
        found = self._found(name)
        if name == "past_future":
            raise InputError("past_future is 0 under uniform attention: read its value, which is a difference")
        base = self.uniform[name].view(-1, 1, 1).expand_as(found).masked_fill(found.isnan(), torch.nan)
        return found.nanmean(dim=0) / base.nanmean(dim=0)

    @property
    def offset_profile(self) -> Tensor:
        """(layers, heads, 2t - 1) p(Δt) divided by the share of available pairs: 1 everywhere for uniform attention."""
        return self.profile.mean(dim=0) / self.profile_uniform.mean(dim=0)

    @property
    def offsets(self) -> list[int]:
        """Δt in frames of each entry of a profile, key less query."""
        return [step * self.grid.tubelet[0] for step in range(1 - self.grid.t, self.grid.t)]

    def _found(self, name: str) -> Tensor:
        if name not in self.values:
            raise InputError(f"{name!r} was not measured; there are {', '.join(self.values)}")
        return self.values[name]

    def to_pandas(self) -> pandas.DataFrame:
        """Return a row a head: layer, head, and of each statistic its value, its lift and its standard error.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise MissingExtraError("to_pandas needs pandas: pip install 'vivit-lab[lab]'") from error
        layers, heads = self.shape
        columns: dict[str, Any] = {
            "layer": [layer for layer in range(layers) for _ in range(heads)],
            "head": list(range(heads)) * layers,
        }
        for name in self.values:
            columns[name] = self.value(name).flatten().tolist()
            if name != "past_future":
                columns[f"{name}_lift"] = self.lift(name).flatten().tolist()
            columns[f"{name}_error"] = self.error(name).flatten().tolist()
        return pandas.DataFrame(columns)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one safetensors file: the tensors, all else as JSON in its metadata."""
        groups = {"values": self.values, "errors": self.errors, "uniform": self.uniform}
        tensors = {
            f"{group}.{name}": tensor.contiguous() for group, store in groups.items() for name, tensor in store.items()
        }
        tensors |= {"profile": self.profile.contiguous(), "profile_uniform": self.profile_uniform.contiguous()}
        about = {"grid": self.grid.to_dict(), "queries": self.queries, "seed": self.seed, "model_id": self.model_id}
        about |= {"notes": self.notes, "names": self.names}
        save_file(tensors, os.fspath(path), metadata={"format": _FORMAT, "statistics": json.dumps(about)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> HeadStatistics:
        """Read what ``save`` wrote.

        Raises:
            InputError: the file holds no head statistics.
            FileNotFoundError: there is no such file.
        """
        kind = f"a file of head statistics ({_FORMAT})"
        about, tensors = stored_tensors(path, kind, "statistics", format=_FORMAT)
        with stored_fields(path, kind):
            names, grid = about.pop("names"), TokenGrid(**about.pop("grid"))
            groups = {
                group: {name: tensors[f"{group}.{name}"] for name in names} for group in ("values", "errors", "uniform")
            }
            profiles = {name: tensors[name] for name in ("profile", "profile_uniform")}
            return cls(**groups, **profiles, grid=grid, **about)

    def __repr__(self) -> str:
        layers, heads = self.shape
        sampled = "all queries" if self.queries is None else f"{self.queries} queries a clip"
        return (
            f"HeadStatistics({layers} layers × {heads} heads, {len(self.profile)} clips, {sampled}; "
            f"{', '.join(self.names)})"
        )

    def _repr_html_(self) -> str:
        shown = [name for name in _SHOWN if name in self.values]
        sampled = "all" if self.queries is None else f"{self.queries} sampled, seed {self.seed}"
        facts: dict[str, str | None] = {
            "head statistics": f"lift over uniform attention, mean of {len(self.profile)} clips; rows are layers, "
            "columns heads",
            "queries": sampled,
            "model": self.model_id,
        }
        parts = [facts_table(facts)]
        for name in shown:
            error = float(self.error(name).nan_to_num(0).max())
            parts.append(facts_table({name: f"{STATISTICS[name]}; largest sampling error {error:.2g}"}))
            parts.append(tiles(self.lift(name).nan_to_num(0).numpy()[None], ["× uniform"], signed=False))
        return report_html(*parts)


_ROWS_BYTES = 32_000_000  # of rows of the pattern that exist at once


@checked_numbers()
def head_statistics(
    model: Any,
    clips: Any = None,
    *,
    queries: int | None = 256,
    seed: int = 0,
    artefacts: ArtefactTokens | None = None,
    motion: Tensor | None = None,
    progress: bool | None = None,
) -> HeadStatistics:
    """Measure where each head looks: patches ask and patches answer, CLS apart.

    For each head and clip, means over queries of the row without its CLS entry, renormalised:

    - ``spatial_distance`` in pixels of the model's input, ``temporal_distance`` in frames, between the middles of query
      and key (uniform attention: 116.5 and 10.6 on ViViT-B's 16×14×14 tubelets of 2×16×16);
    - ``same_frame``, the mass on the query's own row in time (1/16), and ``same_place``, on its own place at other
      times (15/3136);
    - the offset profile p(Δt), which is to be divided by the number of pairs that there are at each Δt
      (``offset_profile``), and ``past_future``, its asymmetry in [-1, 1];
    - ``entropy`` in nats, ``effective_keys`` = exp(entropy), ``maximal_weight``;
    - ``cls_mass``, what the row gave to CLS before; ``artefact_mass``, on high-norm tokens, where they are given;
    - ``following``, with ``motion``: of queries whose content is elsewhere at another time, the mass on where it then
      is.

    Each is a value and, by ``HeadStatistics.lift``, a multiple of uniform attention of the same queries. A sample of
    queries stands for all; ``errors`` is its standard error (with the correction for a finite population).
    Rows are before a head mask. Heads that were pruned are NaN.

    Args:
        model: a ViViT, or an ``AttentionRecord`` of one.
        clips: clips, see ``clip_set``; not with a record.
        queries: tubelets that are sampled as queries in each clip; None takes all, which is exact.
        seed: of the samples; each clip has its own.
        artefacts: of the same clips in the same order, from ``artefact_tokens``.
        motion: (clips, tubelets, t), the place y·w + x at which each tubelet's content is at each time, -1 where that
            is not known; from ``planted_motion`` or ``estimate_motion``.
        progress: whether to show a bar; None shows it on a terminal.

    Raises:
        InputError: the clips do not fit, ``queries`` is not positive, or artefacts or motion are of other clips.

    Cost: a pass a clip, and queries/tokens of a blockwise pass over each pattern; memory 32 MB of rows.
    """
    if queries is not None and (isinstance(queries, bool) or not isinstance(queries, int) or queries < 1):
        raise InputError(f"queries must be a positive integer, or None for all, got {queries!r}")
    records, count = _records(model, clips)
    found: list[dict[str, Any]] = []
    for number, record in progress_bar(enumerate(records), progress, "head statistics", "clip", total=count):
        _check_extras(record.grid, count, artefacts, motion)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
        exact = queries is None or queries >= record.grid.num_tubelets
        sample = torch.arange(record.grid.num_tubelets)
        if not exact:
            sample = torch.randperm(record.grid.num_tubelets, generator=generator)[:queries]
        outliers = None if artefacts is None else artefacts.outliers[number].flatten().to(record.device)
        places = None if motion is None else motion[number].to(record.device)
        found.append(_of_clip(record, sample.to(record.device), outliers, places, queries, generator))
    grid, name = found[0]["grid"], found[0]["model_id"]
    blanked = _blanked_in(model) if isinstance(model, AttentionRecord) else lambda rows: without_pruned(rows, model)

    def stacked(key: str, item: str) -> Tensor:
        rows = torch.stack([each[key][item] for each in found]).float().cpu()
        return rows if key == "uniform" else blanked(rows)

    names = list(found[0]["values"])
    profile = torch.stack([each["profile"] for each in found]).float().cpu()
    profile = blanked(profile.movedim(-1, 0)).movedim(0, -1)
    return HeadStatistics(
        {item: stacked("values", item) for item in names},
        {item: stacked("errors", item) for item in names},
        {item: stacked("uniform", item) for item in names},
        profile,
        torch.stack([each["profile_uniform"] for each in found]).float().cpu(),
        grid,
        queries=None if queries is None or queries >= grid.num_tubelets else queries,
        seed=seed,
        model_id=name,
    )


def _records(model: Any, clips: Any) -> tuple[Iterator[AttentionRecord], int]:
    """Return a record of each clip alone, and how many there are."""
    if isinstance(model, AttentionRecord):
        if clips is not None:
            raise InputError("give a record, or a model and clips; got a record and clips")
        return (_clip_of(model, clip) for clip in range(model.batch_size)), model.batch_size
    if clips is None:
        raise InputError("head_statistics wants clips beside a model, or a record alone")
    found = clip_set(clips)
    return (record_attention(model, batch.pixel_values) for batch in found.batches(1)), len(found)


def _blanked_in(record: AttentionRecord) -> Callable[[Tensor], Tensor]:
    """Return what puts NaN into (…, layers, heads) for heads that were pruned: a record has zeros in their place."""
    parts = [torch.stack((record.queries[layer], record.keys[layer])) for layer in record.layers]
    gone = torch.stack([~part.ne(0).movedim(2, 0).flatten(1).any(dim=1) for part in parts]).cpu()
    return lambda rows: rows.masked_fill(gone, torch.nan)


def _clip_of(record: AttentionRecord, clip: int) -> AttentionRecord:
    parts = {
        name: {layer: part.narrow(0, clip, 1) for layer, part in getattr(record, name).items()}
        for name in ("queries", "keys", "lse")
    }
    return replace(record, **parts, head_mask=None, output=None)


def _check_extras(grid: TokenGrid, count: int, artefacts: ArtefactTokens | None, motion: Tensor | None) -> None:
    if artefacts is not None and (artefacts.grid.shape != grid.shape or len(artefacts) != count):
        raise InputError(
            f"artefacts are of {len(artefacts)} clips on {artefacts.grid.shape}, not {count} on {grid.shape}"
        )
    if motion is not None and tuple(motion.shape) != (count, grid.num_tubelets, grid.t):
        wanted = (count, grid.num_tubelets, grid.t)
        raise InputError(f"motion must be (clips, tubelets, t) {wanted}, got {tuple(motion.shape)}")


def _of_clip(
    record: AttentionRecord,
    sample: Tensor,
    outliers: Tensor | None,
    motion: Tensor | None,
    most: int | None,
    generator: torch.Generator,
) -> dict[str, Any]:
    """Return each statistic of one clip, (layers, heads), its error, and the uniform values of the same queries."""
    places = Places(record.grid, record.device)
    flat = torch.full((1, 1, record.grid.num_tokens), 1 / record.grid.num_tokens, device=record.device)
    base, base_time = places.reduce(flat.expand(1, len(sample), -1), sample)
    share = 1 - len(sample) / record.grid.num_tubelets  # of the queries that were not asked
    uniform = {name: value.mean() for name, value in base.items()}
    layers: list[dict[str, tuple[Tensor, Tensor]]] = []
    profiles = []
    movers = None if motion is None else _movers(motion, places, most, generator)
    for layer in record.layers:
        rows, profile = _reduced(record, layer, sample, places, outliers)
        numbers = {name: _mean_and_error(row, share) for name, row in rows.items() if name not in ("past", "future")}
        numbers["past_future"] = _asymmetry(rows, base, share)
        if movers is not None:
            numbers["following"] = _following(record, layer, movers)
        layers.append(numbers)
        profiles.append(profile)
    del uniform["past"], uniform["future"]
    uniform["past_future"] = torch.tensor(0.0)
    if outliers is not None:
        uniform["artefact_mass"] = outliers.float().mean() if bool(outliers.any()) else torch.tensor(torch.nan)
    if movers is not None:
        uniform["following"] = movers.chance
    names = list(layers[0])
    return {
        "values": {name: torch.stack([layer[name][0] for layer in layers]) for name in names},
        "errors": {name: torch.stack([layer[name][1] for layer in layers]) for name in names},
        "uniform": {name: uniform[name] for name in names},
        "profile": torch.stack(profiles),
        "profile_uniform": places.profile(base_time, sample)[0],
        "grid": record.grid,
        "model_id": record.model_id,
    }


class _Movers(NamedTuple):
    """Queries whose content moves.

    Args:
        queries: (query,) tubelets.
        mask: (query, tubelet) bool, where each one's content is at other times, if not at its own place.
        chance: mean share of all tubelets that are so marked; NaN without a query.
        missed: share of the moving tubelets that were not asked.
    """

    queries: Tensor
    mask: Tensor
    chance: Tensor
    missed: float


def _movers(motion: Tensor, places: Places, most: int | None, generator: torch.Generator) -> _Movers:
    grid = places.grid
    other_place = (motion >= 0) & (motion != places.spots.unsqueeze(1))
    other_time = torch.arange(grid.t, device=motion.device) != places.times.unsqueeze(1)
    elsewhere = other_place & other_time  # (tubelet, t)
    moving = elsewhere.any(dim=1).nonzero().squeeze(1)
    chosen = moving
    if most is not None and len(moving) > most:
        chosen = moving[torch.randperm(len(moving), generator=generator)[:most].to(moving.device)]
    mask = torch.zeros(len(chosen), grid.t, grid.h * grid.w, dtype=torch.bool, device=motion.device)
    where = elsewhere[chosen]
    mask.scatter_(2, motion[chosen].clamp_min(0).unsqueeze(-1), where.unsqueeze(-1))
    mask = mask.flatten(1)
    chance = mask.float().mean(dim=1).mean() if len(chosen) else torch.tensor(torch.nan)
    return _Movers(chosen, mask, chance, 1 - len(chosen) / max(1, len(moving)))


def _following(record: AttentionRecord, layer: int, movers: _Movers) -> tuple[Tensor, Tensor]:
    if not len(movers.queries):
        nothing = torch.full((record.num_heads,), torch.nan, device=record.device)
        return nothing, nothing
    places, found = Places(record.grid, record.device), []
    for part, mask in zip(_parts(record, movers.queries), _parts(record, movers.mask), strict=True):
        rows = record.rows(layer, part + record.grid.offset, masked=False)[0]
        found.append((places.split(rows)[1] * mask).sum(dim=-1))
    return _mean_and_error(torch.cat(found, dim=1), movers.missed)


def _parts(record: AttentionRecord, queries: Tensor) -> tuple[Tensor, ...]:
    return queries.split(max(1, _ROWS_BYTES // (4 * record.num_heads * record.grid.num_tokens)))


def _reduced(
    record: AttentionRecord, layer: int, sample: Tensor, places: Places, outliers: Tensor | None
) -> tuple[dict[str, Tensor], Tensor]:
    """Return each statistic (head, query) of a layer of a record of one clip, and the profile (head, 2t - 1)."""
    parts: list[dict[str, Tensor]] = []
    times = []
    for queries in _parts(record, sample):
        rows = record.rows(layer, queries + record.grid.offset, masked=False)[0]
        found, over_time = places.reduce(rows, queries)
        if outliers is not None:
            found["artefact_mass"] = (places.split(rows)[1] * outliers).sum(dim=-1)
        parts.append(found)
        times.append(over_time)
    joined = {name: torch.cat([part[name] for part in parts], dim=1) for name in parts[0]}
    return joined, places.profile(torch.cat(times, dim=1), sample)


def _mean_and_error(rows: Tensor, missed: float) -> tuple[Tensor, Tensor]:
    """Return the mean over queries of (head, query), and its standard error; ``missed`` is the share not asked."""
    if rows.shape[1] < 2:
        error = torch.full((len(rows),), torch.nan if missed else 0.0, device=rows.device)
    else:
        error = rows.std(dim=1) * (missed / rows.shape[1]) ** 0.5
    return rows.mean(dim=1), error


def _asymmetry(rows: dict[str, Tensor], base: dict[str, Tensor], missed: float) -> tuple[Tensor, Tensor]:
    """Return (P - F)/(P + F) of masses divided by the share of pairs, and its error to first order.

    Args:
        rows: ``past`` and ``future`` of each head and query.
        base: the same under uniform attention (1, query): the share of pairs.
        missed: share of the queries that were not asked.
    """
    (p, past), (f, future) = (_ratio(rows[name], base[name]) for name in ("past", "future"))
    if not bool(base["past"].any()) or not bool(base["future"].any()):  # one moment, or all queries at one end
        nothing = torch.full((len(p),), torch.nan, device=p.device)
        return nothing, nothing
    total = (p + f).clamp_min(torch.finfo(p.dtype).tiny)
    _, error = _mean_and_error(2 * (f * past - p * future) / total.square(), missed)
    return ((p - f) / total).squeeze(1), error


def _ratio(rows: Tensor, base: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ratio of two means over queries (head, 1), and what each query moves it by."""
    below = base.mean()
    ratio = rows.mean(dim=1, keepdim=True) / below
    return ratio, (rows - ratio * base) / below
