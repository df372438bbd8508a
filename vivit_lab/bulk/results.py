"""The results of a run: rows, aggregates, other forms, and whether two runs say the same."""

from __future__ import annotations

import hashlib
import heapq
import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import torch

from vivit_lab.attribution.base import AttributionMap
from vivit_lab.bulk.clips import MAP_PARTS, TIMES, ClipRow
from vivit_lab.bulk.decode import local_copy, read_row
from vivit_lab.bulk.run import BulkRun, PartReader, RunStatus, open_run, read_status, values_of
from vivit_lab.bulk.store import pc, pq
from vivit_lab.drawing import draw
from vivit_lab.errors import DamagedFileError, InputError, MissingExtraError
from vivit_lab.files import inside
from vivit_lab.grid import TokenGrid
from vivit_lab.numbers import checked_numbers
from vivit_lab.video.clip import Clip

__all__ = [
    "FORMATS",
    "SCORES",
    "BulkResults",
    "RunComparison",
    "compare_runs",
    "exact_columns",
    "export",
    "export_csv",
    "export_npz",
    "export_parquet",
    "export_zarr",
    "extremes",
    "group_means",
    "matrix_of",
    "nearest",
    "scores",
]

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


Ranked = list[tuple[str, float]]


@dataclass(eq=False)
class _Sum:
    """A running sum of maps."""

    total: Any = 0.0
    count: int = 0


def matrix_of(column: Any) -> np.ndarray:
    """Return a column of fixed-size lists as (rows, width) float32; a row that is null is NaN."""
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    full = np.full((len(column), column.type.list_size), np.nan, np.float32)
    flat = column.flatten().to_numpy(zero_copy_only=False)
    full[column.is_valid().to_numpy(zero_copy_only=False)] = flat.reshape(-1, column.type.list_size)
    return full


def group_means(
    reader: PartReader, column: str, *, by: str | None = None, normalize: bool = False
) -> dict[str, AttributionMap]:
    """Return the mean map of all clips, or of each group.

    Args:
        reader: of the run.
        column: of maps.
        by: ``"label"``, ``"prediction"`` or another narrow column, whose values make the groups; None makes one,
            ``"all"``. Clips without a value are left out.
        normalize: divide each map by the sum of its magnitudes first, so that every clip weighs the same.

    Raises:
        InputError: no clip has a map yet, or there is no such column.
    """
    sums: dict[str, _Sum] = {}
    columns = ["status", column, f"{column}_scale", *([by] if by else [])]
    for table in reader.tables(columns):
        maps = _relevance(table, column)
        if normalize:
            maps = maps / np.maximum(np.abs(maps).sum(-1, keepdims=True), np.finfo(np.float32).tiny)
        groups = table[by].to_pylist() if by else ["all"] * len(table)
        for group in dict.fromkeys(groups):
            rows = [number for number, name in enumerate(groups) if name == group and np.isfinite(maps[number, 0])]
            if group is None or not rows:
                continue
            found = sums.setdefault(_name(reader, by, group), _Sum())
            found.total = found.total + maps[rows].sum(0, dtype=np.float64)
            found.count += len(rows)
    if not sums:
        raise InputError(f"no clip of {reader.run.store.root} has a map and a {by or 'row'} yet")
    about = _about(reader, column)
    about["scale"] = f"mean over clips of: {'share of ' if normalize else ''}{about['scale']}"
    return {name: _as_map(reader, sums[name], name if by else None, about) for name in sorted(sums)}


def nearest(reader: PartReader, clip: str | int, count: int, *, by: str) -> Ranked:
    """Return the clips most like one: id and cosine similarity in [-1, 1], the most alike first, itself left out.

    Args:
        reader: of the run.
        clip: its id, or its place in the manifest.
        count: how many.
        by: a column of maps, logits or head statistics.

    Raises:
        InputError: there is no such clip or column, or the clip failed.
    """
    if by not in reader.run.layout.wide:
        raise InputError(f"nearest compares one of {', '.join(reader.run.layout.wide)}, got by={by!r}")
    row = reader.rows([clip], ["clip_id", by])[0]
    if row[by] is None:
        raise InputError(f"clip {clip!r} failed, so nothing is like it")
    own = np.asarray(row[by], np.float32)
    found: list[tuple[float, str]] = []
    for table in reader.tables(["clip_id", by]):
        values = matrix_of(table[by])
        with np.errstate(invalid="ignore"):
            alike = values @ own / (np.linalg.norm(values, axis=1) * np.linalg.norm(own))
        found = _best(found, alike, table["clip_id"].to_pylist(), count + 1)
    return [(name, score) for score, name in found if name != row["clip_id"]][:count]


def extremes(reader: PartReader, count: int, *, by: str, largest: bool, column: str) -> Ranked:
    """Return the clips with the largest or smallest score: id and score, the most extreme first.

    Args:
        reader: of the run.
        count: how many.
        by: one of ``SCORES``.
        largest: which end.
        column: of maps, where the score is of a map.

    Raises:
        InputError: there is no such score, or the run has not what it is made of.
    """
    sign, found = 1 if largest else -1, []
    for ids, values in scores(reader, by, column):
        found = _best(found, sign * values, ids, count)
    return [(name, sign * score) for score, name in found]


def scores(reader: PartReader, by: str, column: str) -> Iterator[tuple[list[str], np.ndarray]]:
    """Go through the parts: ids, and the score of each clip, NaN where it has none; see ``extremes``."""
    if by not in SCORES:
        raise InputError(f"by={by!r} is not known; choose one of {', '.join(SCORES)}")
    needs, score = SCORES[by]
    wanted = [column, f"{column}_scale"] if needs == "map" else [needs, "label_index"]
    if needs not in ("map", *reader.columns):
        raise InputError(f"by={by!r} needs {needs}, which this run has not (its model has no classifier)")
    for table in reader.tables(["clip_id", *wanted]):
        with np.errstate(all="ignore"):
            values = score(table, column, reader.run.grid)
        yield table["clip_id"].to_pylist(), values


def _best(found: list[tuple[float, str]], values: np.ndarray, ids: list[str], count: int) -> list[tuple[float, str]]:
    new = [(float(value), name) for value, name in zip(values, ids, strict=True) if np.isfinite(value)]
    return heapq.nlargest(count, [*found, *new], key=lambda one: one[0])


def _relevance(table: pa.Table, column: str) -> np.ndarray:
    scale = table[f"{column}_scale"].to_numpy().astype(np.float32)
    return matrix_of(table[column]) * scale[:, None]


def _share(table: pa.Table, column: str) -> np.ndarray:
    values = np.abs(matrix_of(table[column]))
    return values / values.sum(-1, keepdims=True)


def _entropy(table: pa.Table, column: str, _: Any) -> np.ndarray:
    share = _share(table, column)
    return -(share * np.log(np.maximum(share, np.finfo(np.float32).tiny))).sum(-1) / np.log(share.shape[-1])


def _peak(table: pa.Table, column: str, _: Any) -> np.ndarray:
    return _share(table, column).max(-1)


def _centre(table: pa.Table, column: str, grid: Any) -> np.ndarray:
    over_time = _share(table, column).reshape(len(table), grid.t, -1).sum(-1)
    return over_time @ ((np.arange(grid.t) + 0.5) / grid.t)


def _log_probabilities(table: pa.Table) -> np.ndarray:
    logits = matrix_of(table["logits"]).astype(np.float64)
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def _confidence(table: pa.Table, column: str, _: Any) -> np.ndarray:
    return np.exp(_log_probabilities(table).max(-1))


def _margin(table: pa.Table, column: str, _: Any) -> np.ndarray:
    ordered = np.sort(matrix_of(table["logits"]), -1)
    return ordered[:, -1] - ordered[:, -2] if ordered.shape[1] > 1 else np.full(len(ordered), np.nan)


def _loss(table: pa.Table, column: str, _: Any) -> np.ndarray:
    known = table["label_index"].combine_chunks()
    labels = known.fill_null(0).to_numpy(zero_copy_only=False)
    loss = -_log_probabilities(table)[np.arange(len(table)), labels]
    return np.where(known.is_valid().to_numpy(zero_copy_only=False), loss, np.nan)


SCORES: dict[str, tuple[str, Callable[[pa.Table, str, Any], np.ndarray]]] = {
    "entropy": ("map", _entropy),
    "peak": ("map", _peak),
    "time": ("map", _centre),
    "confidence": ("logits", _confidence),
    "margin": ("logits", _margin),
    "loss": ("logits", _loss),
}
"""Scores of a clip, by name: ``entropy`` of its map's shares (0 one tubelet, 1 all alike), ``peak`` (largest share),
``time`` (where the map's centre lies in the window, 0 … 1), ``confidence`` (largest probability), ``margin`` (of the
two largest logits), ``loss`` (cross-entropy, nats, where there is a label)."""


def _name(reader: PartReader, by: str | None, group: Any) -> str:
    if by == "label":
        group = reader.run.class_of(group) if reader.run.class_of(group) is not None else group
    return reader.run.labels.get(group, str(group)) if by in ("label", "prediction", "label_index") else str(group)


def _about(reader: PartReader, column: str) -> dict[str, Any]:
    for shard in reader.parts:
        found = reader.about(shard).get(column)
        if found:
            return dict(found)
    raise AssertionError("a map was read, so a part says what it is")


def _as_map(reader: PartReader, found: _Sum, group: str | None, about: dict[str, Any]) -> AttributionMap:
    grid = reader.run.grid
    values = torch.from_numpy((found.total / found.count).astype(np.float32))
    what = f"mean of {found.count} clips" + (f", {group}" if group else "")
    provenance = {**about["provenance"], "mean_of": found.count}
    return AttributionMap(grid.unflatten(values[None]), grid, **{**about, "provenance": provenance}, target=what)


def export(results: BulkResults, path: str | os.PathLike[str], kind: str | None = None) -> str:
    """Write a run's rows in another form.

    Args:
        results: the run.
        path: what to write; nothing must be there yet.
        kind: one of ``FORMATS``; None takes it from the name's ending.

    Returns:
        The path.

    Raises:
        InputError: there is no such form, or something is there already.
        MissingExtraError: Zarr is wanted and not installed.
    """
    kind = kind or Path(path).suffix.removeprefix(".").lower()
    if kind not in FORMATS:
        raise InputError(f"format {kind!r} is not known; choose one of {', '.join(FORMATS)}")
    return FORMATS[kind](results, path)


def export_parquet(results: BulkResults, path: str | os.PathLike[str]) -> str:
    """Write all columns of all rows as one Parquet file; see ``export``."""
    target = _free(path)
    draft = target.with_name(target.name + ".part")
    with pq.ParquetWriter(draft, results.run.layout.schema, compression="zstd") as writer:
        for table in results.tables():
            writer.write_table(table)
    draft.replace(target)
    return str(target)


def export_csv(results: BulkResults, path: str | os.PathLike[str]) -> str:
    """Write the narrow columns of all rows (no maps, logits or heads) as CSV; lists are joined by ``|``."""
    target = _free(path)
    table = results.table()
    for place, column in enumerate(table.schema):
        if pa.types.is_list(column.type):
            texts = table[column.name].cast(pa.list_(pa.string()))
            table = table.set_column(place, column.name, pc.binary_join(texts, "|"))
    draft = target.with_name(target.name + ".part")
    pyarrow.csv.write_csv(table, draft)
    draft.replace(target)
    return str(target)


def export_npz(results: BulkResults, path: str | os.PathLike[str]) -> str:
    """Write the wide columns of clips that have them as arrays: maps (clip, t, h, w) float32, logits, heads, clip_id.

    All of it passes through memory: 4 bytes a tubelet and clip.
    """
    target = _free(path)
    found: dict[str, list[Any]] = {"clip_id": []}
    columns = _wide(results)
    for table in results.tables(["clip_id", "status", *columns, *(f"{name}_scale" for name in results.methods)]):
        good = table.filter(pc.equal(table["status"], "ok"))
        found["clip_id"].append(np.array(good["clip_id"].to_pylist(), dtype="U16"))
        for name, values in _arrays(results, good).items():
            found.setdefault(name, []).append(values)
    arrays = {name: np.concatenate(parts) for name, parts in found.items() if parts}
    draft = target.with_name(target.name + ".part")
    with draft.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    draft.replace(target)
    return str(target)


def export_zarr(results: BulkResults, path: str | os.PathLike[str]) -> str:
    """Write all rows as a Zarr group with named dimensions, which ``xarray.open_zarr`` opens.

    Args:
        results: the run.
        path: a directory that is not there yet.

    Returns:
        The path. The group has maps (clip, t, h, w), logits (clip, class), head statistics (clip, layer, head), all
        float32 and NaN for a clip that failed or is not done, and as coordinates along ``clip`` the id, path, label,
        prediction and first second; a chunk is a part.

    Raises:
        InputError: something is there already.
        MissingExtraError: Zarr is not installed.
    """
    try:
        import zarr
    except ImportError as error:
        raise MissingExtraError("to_zarr() needs zarr 3: pip install 'zarr>=3'") from error
    target, size = _free(path), results.run.info["shard_size"]
    group: Any = zarr.open_group(str(target), mode="w-")
    group.attrs.update({"model": results.run.info["model_id"], "methods": results.run.job.to_dict()["methods"]})
    made: dict[str, Any] = {}
    for name, (shape, dimensions) in _shapes(results).items():
        made[name] = group.create_array(
            name, shape=(len(results), *shape), chunks=(size, *shape), dtype="float32", fill_value=np.nan,
            dimension_names=["clip", *dimensions],
        )  # fmt: skip
    columns = [
        "clip_id",
        "prediction",
        "start_seconds",
        *_wide(results),
        *(f"{name}_scale" for name in results.methods),
    ]
    narrow = {"prediction": np.full(len(results), -1, np.int32), "start_seconds": np.full(len(results), np.nan)}
    for shard, table in results.reader.numbered_tables(columns):
        rows = slice(shard * size, shard * size + len(table))
        for name, values in _arrays(results, table).items():
            made[name][rows] = values
        narrow["prediction"][rows] = table["prediction"].fill_null(-1).to_numpy()
        narrow["start_seconds"][rows] = table["start_seconds"].to_numpy()
    manifest = results.run.manifest(["clip_id", "path", "label"])
    texts = {name: np.array(manifest[name].fill_null("").to_pylist(), dtype=str) for name in manifest.column_names}
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*Zarr V3 specification.*"
        )  # of text; zarr-python and xarray read it
        for name, values in {**narrow, **texts}.items():
            array = group.create_array(name, shape=values.shape, dtype=values.dtype, dimension_names=["clip"])
            array[:] = values
    return str(target)


FORMATS = {"parquet": export_parquet, "csv": export_csv, "npz": export_npz, "zarr": export_zarr}
"""Forms of ``export``, by name."""


def _free(path: str | os.PathLike[str]) -> Path:
    target = Path(path)
    if target.exists():
        raise InputError(f"{target} is there already; remove it, or choose another name")
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _wide(results: BulkResults) -> list[str]:
    return results.run.layout.wide


def _shapes(results: BulkResults) -> dict[str, tuple[tuple[int, ...], list[str]]]:
    info, layout = results.run.info, results.run.layout
    heads = ((info["layers"], info["heads"]), ["layer", "head"])
    known = {"logits": ((layout.classes,), ["class"]), "head_entropy": heads, "head_distance": heads}
    maps = {name: (results.grid.shape, ["t", "h", "w"]) for name in results.methods}
    return {name: {**known, **maps}[name] for name in _wide(results)}


def _arrays(results: BulkResults, table: pa.Table) -> dict[str, np.ndarray]:
    """Return the wide columns in their own shapes, maps in their own units."""
    found = {}
    for name, (shape, _) in _shapes(results).items():
        values = matrix_of(table[name])
        if name in results.methods:
            values = values * table[f"{name}_scale"].to_numpy().astype(np.float32)[:, None]
        found[name] = values.reshape(len(values), *shape)
    return found


_ROW = ("frame_indices", "path", "height", "width", "status", "error")


@dataclass(frozen=True, eq=False)
class BulkResults:
    """A run's results. Opening reads ``run.json`` and lists the parts; rows and maps are read when asked for.

    The parts are plain Parquet: ``duckdb.sql("from 'run/clips/*.parquet'")`` and ``polars.scan_parquet`` read them too
    (without the overlays of a retry, which ``export`` merges). A map is stored as halves relative to a power of two:
    relevance = ``map`` · ``map_scale``.

    Args:
        run: the folder.

    Example:
        >>> results = BulkResults.open("run")
        >>> results.to_pandas().groupby("label").correct.mean()
    """

    run: BulkRun

    def __post_init__(self) -> None:
        if not isinstance(self.run, BulkRun):
            raise InputError(f"wanted an opened run, got {self.run!r}: open its folder with BulkResults.open(folder)")

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> BulkResults:
        """Open the folder of a run, finished or not.

        Raises:
            InputError: it holds no run.
            ConfigError: it was written in another format.
        """
        return cls(open_run(path))

    def __len__(self) -> int:
        """How many clips the run has, done or not."""
        return self.run.clips

    @property
    def grid(self) -> TokenGrid:
        """The grid that maps lie on."""
        return self.run.grid

    @property
    def methods(self) -> list[str]:
        """The columns of maps; the first is ``"map"``."""
        return list(self.run.layout.maps)

    @property
    def columns(self) -> list[str]:
        """All columns of a part."""
        return list(self.run.layout.schema.names)

    @property
    def ids(self) -> pa.Array:
        """The ids of all clips, in the order of the manifest."""
        return self.reader.ids

    @cached_property
    def reader(self) -> PartReader:
        """What reads the parts that were done when it was first used."""
        return PartReader(self.run)

    def status(self) -> RunStatus:
        """Return how far the run is, from the listing of its folder as it is now."""
        return read_status(self.run)

    @checked_numbers(count=(1, None))
    def failures(self, count: int | None = None) -> list[dict[str, str]]:
        """Return clips that failed, in the order of the manifest: clip_id, path, stage, type and error.

        Args:
            count: at most so many; all where None.
        """
        found: list[dict[str, str]] = []
        columns = ["clip_id", "path", "error_stage", "error_type", "error"]
        for table in self.tables([*columns, "status"]):
            wrong = table.filter(pc.equal(table["status"], "error")).select(columns)
            found += wrong.rename_columns(["clip_id", "path", "stage", "type", "error"]).to_pylist()
            if count is not None and len(found) >= count:
                return found[:count]
        return found

    def summary(self, status: RunStatus | None = None) -> dict[str, str]:
        """Return how far the run is and what it is of, in words.

        Args:
            status: of the run, where it was read already.
        """
        status, info = status or self.status(), self.run.info
        left = "not known yet" if status.seconds_left is None else str(timedelta(seconds=round(status.seconds_left)))
        rate = "not known yet" if status.clips_per_second is None else f"{status.clips_per_second:.3g}"
        words = {
            "model": str(info["model_id"]),
            "methods": ", ".join(self.run.job.methods),
            "frames": f"{self.run.grid.num_frames}, "
            + ("evenly spread" if self.run.job.sampling == "uniform" else f"stride {self.run.job.stride}"),
            "clips": f"{status.clips_done} of {status.clips}",
            "parts": f"{status.parts_done} of {status.parts}",
            "errors": f"{status.errors}" + (f" ({status.retried} tried again)" if status.retried else ""),
            "clips a second": rate,
            "time left": "none, it is done" if status.is_complete else left,
        }
        if status.damaged:
            names = ", ".join(status.damaged[:3]) + (", …" if len(status.damaged) > 3 else "")
            words["damaged"] = f"{len(status.damaged)} ({names}): resume the run, and they are computed again"
        if status.accuracy is not None:
            words["accuracy"] = f"{status.accuracy:.4f}"
        return words

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Go through the parts that are done, one table each, with rows of a retry in place of those that failed.

        Args:
            columns: which; all by default.

        Raises:
            InputError: there is no such column.
        """
        return self.reader.tables(columns)

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return rows of all parts as one Arrow table; by default without the wide columns (maps, logits, heads)."""
        names = self._narrow() if columns is None else list(columns)
        found = list(self.tables(names))
        return pa.concat_tables(found) if found else self.run.layout.schema.empty_table().select(names)

    def to_pandas(self, columns: Sequence[str] | None = None) -> Any:
        """Return rows as a data frame, indexed by clip_id.

        Args:
            columns: which; by default all but the wide ones (maps, logits, heads).

        Raises:
            InputError: there is no such column.
            MissingExtraError: pandas is not installed.
        """
        try:
            import pandas  # noqa: F401
        except ImportError as error:
            raise MissingExtraError("to_pandas() needs pandas: pip install 'vivit-lab[lab]'") from error
        names = None if columns is None else list(dict.fromkeys(["clip_id", *columns]))
        return self.table(names).to_pandas().set_index("clip_id")

    def row(self, clip: str | int, columns: Sequence[str] | None = None) -> dict[str, Any]:
        """Return the row of a clip.

        Args:
            clip: its id, or its place in the manifest.
            columns: which; all by default.

        Raises:
            InputError: there is no such clip, or it is not done yet.
            DamagedFileError: its part is damaged.
        """
        row = self.reader.rows([clip], columns)[0]
        return {name: value for name, value in row.items() if name != "about"}

    def map(self, clip: str | int, method: str | None = None) -> AttributionMap:
        """Return the map of one clip; see ``maps``."""
        return self.maps([clip], method)

    def maps(self, clips: Sequence[str | int], method: str | None = None) -> AttributionMap:
        """Return the maps of clips, as a batch that says what it is and where it came from.

        Args:
            clips: ids, or places in the manifest.
            method: which column of ``methods``, or the name after ``map_``; the first by default.

        Raises:
            InputError: there is no such clip or method, or a clip has no map because it failed.
        """
        name = self.column_of(method)
        wanted = [name, *(f"{name}_{part}" for part in MAP_PARTS), *_ROW]
        rows = self.reader.rows(clips, wanted)
        failed = [row for row in rows if row["status"] != "ok"]
        if failed:
            raise InputError(f"{len(failed)} of these clips have no map, the first because: {failed[0]['error']}")
        values = np.stack([np.asarray(row[name], np.float32) * row[f"{name}_scale"] for row in rows])
        shares = [row[f"{name}_cls"] for row in rows]
        targets = [row[f"{name}_target"] for row in rows]
        return AttributionMap(
            self.grid.unflatten(torch.from_numpy(values)),
            self.grid,
            **rows[0]["about"].get(name, {"method": name, "signed": True}),
            frame_indices=[row["frame_indices"] for row in rows],
            sources=[self._source(row) for row in rows],
            cls_share=None if None in shares else shares,
            targets=None if None in targets else targets,
        )

    def mean_map(self, method: str | None = None, *, normalize: bool = False) -> AttributionMap:
        """Return the mean map of all clips; see ``class_means``."""
        return group_means(self.reader, self.column_of(method), normalize=normalize)["all"]

    def class_means(
        self, method: str | None = None, *, by: str = "label", normalize: bool = False
    ) -> dict[str, AttributionMap]:
        """Return the mean map of each class, by its name.

        Args:
            method: which maps; the first by default.
            by: ``"label"`` or ``"prediction"``, or another column whose values make groups (``"correct"``).
            normalize: divide each map by the sum of its magnitudes first, so that every clip weighs the same.

        Raises:
            InputError: no clip has a map and a class yet.
        """
        return group_means(self.reader, self.column_of(method), by=by, normalize=normalize)

    @checked_numbers(count=(1, None))
    def nearest(self, clip: str | int, count: int = 8, *, by: str = "map") -> list[tuple[str, float]]:
        """Return the clips most like one, the most alike first: id and cosine similarity.

        Args:
            clip: its id, or its place in the manifest.
            count: how many.
            by: what is compared: ``"map"`` or another column of maps, ``"logits"``, ``"head_entropy"``, ….

        Raises:
            InputError: there is no such clip or column, or the clip failed.
        """
        return nearest(self.reader, clip, count, by=by)

    @checked_numbers(count=(1, None))
    def extremes(
        self, by: str = "entropy", count: int = 8, *, largest: bool = True, method: str | None = None
    ) -> list[tuple[str, float]]:
        """Return the clips with the most extreme score, that one first: id and score.

        Args:
            by: ``"entropy"`` of the map's shares (0 … 1), ``"peak"`` (largest share), ``"time"`` (the map's centre in
                the window, 0 … 1), ``"confidence"``, ``"margin"`` or ``"loss"`` (nats).
            count: how many.
            largest: which end.
            method: whose maps.

        Raises:
            InputError: there is no such score, or the model has no classifier to make it.
        """
        return extremes(self.reader, count, by=by, largest=largest, column=self.column_of(method))

    def clip(self, clip: str | int) -> Clip:
        """Read the frames of a clip again, prepared as the model was given them.

        Raises:
            InputError: there is no such clip, or it is not in the manifest.
            VideoError: the video is gone or cannot be read.
        """
        place = self.reader.place(clip)
        row = self.run.rows(place // self.run.info["shard_size"])[place % self.run.info["shard_size"]]
        return self.read(row)

    def read(self, row: ClipRow) -> Clip:
        """Read the frames of a row of the manifest, prepared as the model was given them."""
        with local_copy(row.path) as path:
            clip = read_row(path, row, self.run.decode, threads="auto")
        return self.run.processor.prepare(replace(clip, path=row.path))

    def hidden_states(self, clip: str | int) -> torch.Tensor:
        """Return the hidden states of a clip, where the job kept them: (layer + 1, d_model) or (token, d_model), fp16.

        Raises:
            InputError: the run kept none, or the clip failed.
            DamagedFileError: their file is damaged or gone.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        row = self.row(clip, ["clip_id", "hidden_file"])
        if row["hidden_file"] is None:
            raise InputError("there are no hidden states of this clip; run a job with hidden_states='cls' or 'tokens'")
        root = self.run.store.root
        inside(root, row["hidden_file"], f"a row of {root}")  # it is data: it must not lead elsewhere
        try:
            return load(self.run.store.read(row["hidden_file"]))[row["clip_id"]]
        except (SafetensorError, KeyError, InputError) as error:
            place = self.run.store.place(row["hidden_file"])
            raise DamagedFileError(
                f"{place} is damaged or gone ({error}); resume the run, and its part is computed again"
            ) from error

    def digest(self) -> str:
        """Return the sha256 of what two runs of one job have in common to the bit.

        That is: settings, weights and versions (the fingerprint), the columns, and of every row that is done the clip,
        its label, whether and where it failed, the frames that were read and the video's size and digest. Logits, maps
        and what follows from them are floats, which are promised up to rounding: ``compare`` and ``equals`` judge them.

        Two runs of one job over the same videos have one digest, however often each was cut off.
        """
        names, rows = exact_columns(self), {}
        for table in self.tables(names):
            for row in table.to_pylist():
                rows[row["clip_id"]] = [row[name] for name in names]
        about = [self.run.info["fingerprint"], self.columns, [rows[clip] for clip in sorted(rows)]]
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()

    @checked_numbers()
    def compare(self, other: BulkResults, tolerance: float | None = None) -> RunComparison:
        """Return what two runs differ in, clip by clip.

        What is no float must be equal (see ``digest``). Numbers may lie apart by ``tolerance`` times the largest
        magnitude of their row; those that are stored as halves (maps, statistics of heads) by one step of a half more,
        since two numbers that are all but equal may be rounded to either side. Another class may be named where the
        logits of the two lie within that distance.

        Args:
            other: the other run; it may be cut into other parts.
            tolerance: None takes 1e-5 for float32, 0.02 for float16 and 0.1 for bfloat16.

        Raises:
            InputError: the tolerance is negative.

        Example:
            >>> print(BulkResults.open("run").compare(BulkResults.open("again")))
        """
        return compare_runs(self, other, tolerance)

    @checked_numbers()
    def equals(self, other: BulkResults, tolerance: float | None = None) -> bool:
        """Return whether two runs are equal up to rounding; see ``compare``."""
        return self.compare(other, tolerance).is_equal

    def _source(self, row: dict[str, Any]) -> dict[str, Any]:
        geometry = self.run.processor.geometry(row["height"], row["width"])
        return {"path": row["path"], "geometry": geometry.to_dict()}

    def column_of(self, method: str | None) -> str:
        """Return the column of a method's maps: its name, the name after ``map_``, or None for the first.

        Raises:
            InputError: there is no such method.
        """
        for name in (method or "map", f"map_{method}"):
            if name in self.methods:
                return name
        first = self.run.job.methods[0]
        if method in (first, first.partition(":")[0]):
            return "map"
        raise InputError(f"there are no maps {method!r}; the run has {', '.join(self.methods)} (map is {first})")

    def _narrow(self) -> list[str]:
        wide = set(self.run.layout.wide)
        return [name for name in self.columns if name not in wide]

    def to_zarr(self, path: str | os.PathLike[str]) -> str:
        """Write all rows as a Zarr group that xarray opens; see ``export_zarr``."""
        return export_zarr(self, path)

    def _repr_html_(self) -> str:
        return draw(self)

    def __repr__(self) -> str:
        done = f"{len(self.reader.parts)} of {self.run.shards} parts"
        methods = ", ".join(self.run.job.methods)
        return f"BulkResults({self.run.store.root}: {len(self)} clips, {done}, {self.run.info['model_id']}, {methods})"
