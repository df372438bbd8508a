"""What a whole run says: mean maps, class means, nearest and most extreme clips. Each is one pass over the parts."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from vivit_lab.attribution.base import AttributionMap
from vivit_lab.bulk.reading import PartReader
from vivit_lab.errors import InputError

__all__ = ["SCORES", "extremes", "group_means", "matrix_of", "nearest", "scores"]

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
