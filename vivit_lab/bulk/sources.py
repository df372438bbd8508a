"""Which clips a run is about: a folder, a pattern, a table with labels and segments, or URLs of any of these."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.csv

from vivit_lab.bulk.rows import clip_id
from vivit_lab.bulk.store import file_system_of, pc, pq
from vivit_lab.errors import InputError
from vivit_lab.video.suffixes import VIDEO_SUFFIXES, is_video_name

__all__ = ["MANIFEST_SCHEMA", "list_clips"]

MANIFEST_SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("path", pa.string()),
        ("start", pa.float64()),
        ("end", pa.float64()),
        ("label", pa.string()),
    ]
)
"""The columns of a run's manifest."""

_TABLES = (".csv", ".parquet")
_EXPORTED = {"start_seconds": "start", "end_seconds": "end"}  # as a run's own tables call them
_TEXT = pyarrow.csv.ConvertOptions(column_types={"path": pa.string(), "label": pa.string()})  # 007 is not 7


def list_clips(videos: str | os.PathLike[str] | list[str | os.PathLike[str]]) -> pa.Table:
    """Return the clips that a name stands for, in the order of the table or of their paths.

    Args:
        videos: a folder, which is searched (its ``manifest.csv`` or ``manifest.parquet`` is read instead where there is
            one); a pattern (``"clips/**/*.mp4"``); a CSV or Parquet file with the column ``path`` and, if wanted,
            ``label``, ``start`` and ``end`` (seconds; ``start_seconds`` and ``end_seconds`` as a run exports them are
            read too), paths being relative to the file; one video; a list of videos;
            or any of these as a URL that fsspec knows (``s3://…``, ``memory://…``).

    Returns:
        A table of ``MANIFEST_SCHEMA``.

    Raises:
        InputError: there is no such thing or no video in it, a table lacks its column, a segment is empty, or a clip is
            there twice.
    """
    if isinstance(videos, (list, tuple)):
        paths = [_absolute(os.fspath(video)) for video in videos]
        return _checked(_paths(paths, "the list"), "the list")
    name = os.fspath(videos)
    fs, place = file_system_of(name)
    if _has_pattern(name) and not fs.exists(place):
        found = [item for item in fs.glob(place) if is_video_name(item)]
        return _checked(_paths(_urls(fs, found), name), name)
    if fs.isdir(place):
        for suffix in _TABLES:
            table = f"{place.rstrip('/')}/manifest{suffix}"
            if fs.isfile(table):
                return _checked(_read(fs, table), table)
        found = [item for item in fs.find(place) if is_video_name(item)]
        return _checked(_paths(_urls(fs, found), name), name)
    if not fs.isfile(place):
        raise InputError(
            f"there is no {name}: wanted a folder of videos, a pattern such as 'clips/**/*.mp4', a CSV or Parquet file "
            "with a column path, a video, or a URL of one of these"
        )
    if _suffix(place) in _TABLES:
        return _checked(_read(fs, place), name)
    return _checked(_paths(_urls(fs, [place]), name), name)


def _has_pattern(name: str) -> bool:
    return any(letter in name for letter in "*?[")


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _urls(fs: Any, places: list[str]) -> list[str]:
    """Return paths for a local file system, URLs for others."""
    if _is_local(fs):
        return sorted(places)
    return sorted(str(fs.unstrip_protocol(place)) for place in places)


def _is_local(fs: Any) -> bool:
    kinds = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
    return "file" in kinds


def _absolute(name: str, folder: str = "") -> str:
    if "://" in name:
        return name
    if folder and "://" in folder:
        return name if name.startswith("/") else f"{folder}/{name}"
    return os.path.abspath(os.path.join(folder, os.path.expanduser(name)))


def _read(fs: Any, place: str) -> pa.Table:
    """Read a CSV or Parquet table of clips; its paths become absolute."""
    with fs.open(place, "rb") as file:
        table = pyarrow.csv.read_csv(file, convert_options=_TEXT) if _suffix(place) == ".csv" else pq.read_table(file)
    if "path" not in table.column_names or not len(table):
        raise InputError(
            f"{place} wants a header with the column path (and label, start and end in seconds, where known) and a row"
        )
    folder = place.rpartition("/")[0]
    folder = folder if _is_local(fs) else str(fs.unstrip_protocol(folder))
    paths = [_absolute(str(path), folder) for path in table["path"].to_pylist()]
    kept = {_EXPORTED.get(name, name): table[name] for name in (*_EXPORTED, "start", "end", "label")
            if name in table.column_names}  # fmt: skip
    return pa.table({"path": paths, **kept})


def _paths(paths: list[str], name: str) -> pa.Table:
    """Return a table of paths.

    Raises:
        InputError: a file's name is not UTF-8, which no table of paths can hold.
    """
    for path in paths:
        try:
            path.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"{name} has a file whose name is not UTF-8: {os.fsencode(path)!r}; rename it, or leave it out by a "
                "pattern or a table of clips"
            ) from error
    return pa.table({"path": pa.array(paths, pa.string())})


def _checked(table: pa.Table, name: str) -> pa.Table:
    """Return the clips with all columns, or raise what is wrong with them."""
    if not len(table):
        raise InputError(f"{name} holds no video ({', '.join(sorted(VIDEO_SUFFIXES))})")
    columns = {"path": table["path"].combine_chunks()}
    for field in ("start", "end"):
        columns[field] = _seconds(table, field, name)
    label = table["label"].combine_chunks() if "label" in table.column_names else pa.nulls(len(table))
    text = label.cast(pa.string())
    columns["label"] = pc.if_else(pc.equal(text, ""), None, text)
    empty = pc.sum(pc.less_equal(columns["end"], pc.coalesce(columns["start"], pa.scalar(0.0)))).as_py()
    if empty:
        raise InputError(f"{name} has {empty} segments that end before they begin; wanted start < end, in seconds")
    segments = zip(*(columns[field].to_pylist() for field in ("path", "start", "end")), strict=True)
    ids = [clip_id(*segment) for segment in segments]
    if len(set(ids)) < len(ids):
        worst, count = Counter(ids).most_common(1)[0]
        path = columns["path"][ids.index(worst)].as_py()
        raise InputError(f"{name} has {path} (the same segment of it) {count} times; a clip can be in a run once")
    return pa.table({"clip_id": ids, **columns}).cast(MANIFEST_SCHEMA)


def _seconds(table: pa.Table, field: str, name: str) -> Any:
    if field not in table.column_names:
        return pa.nulls(len(table), pa.float64())
    try:
        return table[field].combine_chunks().cast(pa.float64())
    except pa.ArrowInvalid as error:
        raise InputError(f"{name}: the column {field} wants seconds (numbers), {error}") from error
