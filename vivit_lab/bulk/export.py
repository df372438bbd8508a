"""A run's rows in other forms: Zarr, one Parquet or CSV file, npz; rows of a retry in place of those that failed."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from vivit_lab.bulk.aggregate import matrix_of
from vivit_lab.bulk.store import pc, pq
from vivit_lab.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from vivit_lab.bulk.results import BulkResults

__all__ = ["FORMATS", "export", "export_csv", "export_npz", "export_parquet", "export_zarr"]


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
    for place, field in enumerate(table.schema):
        if pa.types.is_list(field.type):
            texts = table[field.name].cast(pa.list_(pa.string()))
            table = table.set_column(place, field.name, pc.binary_join(texts, "|"))
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
