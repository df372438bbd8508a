"""The columns of a part, and how rows become a Parquet table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from vivit_lab.bulk.marks import MARKS
from vivit_lab.bulk.rows import ClipRow, Failure

__all__ = ["MAP_PARTS", "TIMES", "PartLayout", "row_of"]

MAP_PARTS = ("scale", "cls", "target")
"""What stands beside each map: ``map_scale``, ``map_cls`` and ``map_target``, or ``map_<method>_scale`` and so on."""

TIMES = ("seconds_fetch", "seconds_decode", "seconds_prepare", "seconds_model")
"""Columns that differ from run to run: how long each stage of a clip took."""

_SIMPLE: dict[str, pa.DataType] = {
    "clip_id": pa.string(),
    "path": pa.string(),
    "status": pa.string(),
    "error": pa.string(),
    "error_stage": pa.string(),
    "error_type": pa.string(),
    "label": pa.string(),
    "label_index": pa.int32(),
    "prediction": pa.int32(),
    "correct": pa.bool_(),
}
_AFTER: dict[str, pa.DataType] = {
    "topk_index": pa.list_(pa.int32()),
    "topk_label": pa.list_(pa.string()),
    "topk_probability": pa.list_(pa.float32()),
    "start_seconds": pa.float64(),
    "end_seconds": pa.float64(),
    "frame_indices": pa.list_(pa.int32()),
    "frame_seconds": pa.list_(pa.float64()),
    "height": pa.int32(),
    "width": pa.int32(),
    "decode_warnings": pa.int32(),
    "notes": pa.list_(pa.string()),
    "hidden_file": pa.string(),
    **dict.fromkeys(TIMES, pa.float32()),
}


@dataclass(frozen=True)
class PartLayout:
    """How wide the numeric columns of a run are.

    Args:
        tubelets: numbers of a map, t·h·w.
        classes: logits of a clip; 0 without a classifier.
        heads: layers × heads.
        maps: names of the map columns.
        head_statistics: whether there are statistics of the heads.
        marks: whether rows say which file they were computed from; runs of earlier versions do not.
    """

    tubelets: int
    classes: int
    heads: int
    maps: tuple[str, ...]
    head_statistics: bool
    marks: bool = False

    @property
    def wide(self) -> list[str]:
        """The columns of fixed-size lists: logits, maps and statistics of the heads."""
        return list(self._wide())

    @property
    def split(self) -> list[str]:
        """The columns that are stored byte-stream-split: those of float32, since DuckDB cannot read halves so."""
        return [name for name, (kind, _) in self._wide().items() if kind == pa.float32()]

    @property
    def schema(self) -> pa.Schema:
        """The columns of a part, in order."""
        fields: dict[str, pa.DataType] = dict(_SIMPLE)
        for name, (kind, width) in self._wide().items():
            fields[name] = pa.list_(pa.field("element", kind, nullable=False), width)
        beside = {"scale": pa.float32(), "cls": pa.float32(), "target": pa.string()}
        fields |= {f"{name}_{part}": beside[part] for name in self.maps for part in MAP_PARTS}
        return pa.schema(list((fields | _AFTER | (MARKS if self.marks else {})).items()))

    def _wide(self) -> dict[str, tuple[pa.DataType, int]]:
        found = {"logits": (pa.float32(), self.classes)} if self.classes else {}
        found |= {name: (pa.float16(), self.tubelets) for name in self.maps}
        if self.head_statistics:
            found |= {name: (pa.float16(), self.heads) for name in ("head_entropy", "head_distance")}
        return found

    def table(self, rows: Sequence[dict[str, Any]]) -> pa.Table:
        """Return rows as a table; what a row does not have is null."""
        columns, wide = [], self._wide()
        for field in self.schema:
            values = [row.get(field.name) for row in rows]
            columns.append(_fixed(values, field.type) if field.name in wide else pa.array(values, field.type))
        return pa.Table.from_arrays(columns, schema=self.schema)


def _fixed(values: list[Any], kind: Any) -> pa.Array:
    """Return arrays of one length, or None, as a column of fixed-size lists."""
    missing = np.array([value is None for value in values])
    dtype = kind.value_type.to_pandas_dtype()
    flat = np.zeros((len(values), kind.list_size), dtype)
    for number, value in enumerate(values):
        if value is not None:
            flat[number] = value
    inner = pa.array(flat.reshape(-1), kind.value_type)
    return pa.FixedSizeListArray.from_arrays(inner, type=kind, mask=pa.array(missing))


def row_of(clip: ClipRow, label_index: int | None, result: dict[str, Any] | Failure) -> dict[str, Any]:
    """Return the row of a clip: what came of it, or why nothing did."""
    row: dict[str, Any] = {
        "clip_id": clip.clip_id,
        "path": clip.path,
        "label": clip.label,
        "label_index": label_index,
    }
    if isinstance(result, Failure):
        failed = {"status": "error", "error": result.message, "error_stage": result.stage, "error_type": result.kind}
        return {**row, **failed, "start_seconds": clip.start, "end_seconds": clip.end}
    guess = result.get("prediction")
    correct = None if label_index is None or guess is None else guess == label_index
    return {**row, "status": "ok", "correct": correct, **result}
