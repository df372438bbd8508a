"""The clips of a data set: folders, patterns, tables with labels and segments, lists, or URLs of any of these."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet

from vivit_lab.errors import InputError, StorageError, VivitLabError
from vivit_lab.video.source import VIDEO_SUFFIXES, is_video_name

__all__ = ["CLIP_SCHEMA", "ClipList", "file_system_of", "list_clips"]

# they make their functions when they are imported, which type checkers do not see
pc: Any = pyarrow.compute
pq: Any = pyarrow.parquet

CLIP_SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("start", pa.float64()),
        ("end", pa.float64()),
        ("label", pa.string()),
        ("split", pa.string()),
        ("mask", pa.string()),
    ]
)
"""The columns of a list of clips: path or URL, seconds of the segment, class, split, and path of a mask."""

_CLIP = ("path", "start", "end")  # what tells clips apart
_TABLES = (".csv", ".tsv", ".parquet")
_LISTS = (".txt", ".list")
_EXPORTED = {"start_seconds": "start", "end_seconds": "end"}  # as a run's own tables call them
_COLUMNS = (*CLIP_SCHEMA.names, "label_name", *_EXPORTED)
_KINETICS = {"label", "youtube_id", "time_start", "time_end"}
_SPLITS = {"train": "train", "training": "train", "val": "validation", "valid": "validation"} | {
    "validation": "validation",
    "test": "test",
}


@dataclass(frozen=True, eq=False)
class ClipList:
    """The clips of a data set, in order.

    Args:
        table: a row a clip, of ``CLIP_SCHEMA``; an entry that is not known is null.
        name: what was read.
        labels_from: ``"folders"``, ``"table"``, ``"list"``, or None where there are no labels.
        notes: what else there is to say, a sentence each.

    Example:
        >>> print(list_clips("videos"))
        24 clips, 3 classes from folders
    """

    table: pa.Table
    name: str
    labels_from: str | None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.table)

    def __str__(self) -> str:
        told = [f"{len(self)} clip{'s' if len(self) != 1 else ''}"]
        if self.labels_from:
            labels = self.table["label"]
            count = len(set(labels.to_pylist()) - {None})
            told.append(f"{count} class{'es' if count != 1 else ''} from {self.labels_from}")
            if labels.null_count:
                told.append(f"{labels.null_count} without a label")
        else:
            told.append("no labels")
        splits = Counter(split for split in self.table["split"].to_pylist() if split)
        if splits:
            told.append(" and ".join(f"{count} {split}" for split, count in splits.items()))
        if masks := len(self) - self.table["mask"].null_count:
            told.append(f"masks of {masks} clip{'s' if masks != 1 else ''}, which no command uses")
        if missing := self.missing():
            told.append(f"{_count(missing, 'file')} missing, such as {missing[0]}")
        return "; ".join([", ".join(told), *self.notes])

    def missing(self) -> list[str]:
        """Return the local files that are not there; URLs are not looked up."""
        paths = dict.fromkeys(path for path in self.table["path"].to_pylist() if "://" not in path)
        return [path for path in paths if not os.path.exists(path)]

    def once(self) -> ClipList:
        """Return the list with each segment of a file once, the first time that it is there; a note says so.

        Raises:
            InputError: one is there with different labels.
        """
        places: dict[Any, list[int]] = {}
        for place, clip in enumerate(zip(*(self.table[name].to_pylist() for name in _CLIP), strict=True)):
            places.setdefault(clip, []).append(place)
        twice = {clip[0]: found for clip, found in places.items() if len(found) > 1}
        if not twice:
            return self
        labels = self.table["label"].to_pylist()
        for path, found in twice.items():
            if len(names := {labels[place] for place in found}) > 1:
                raise InputError(
                    f"{self.name} has {path} with different labels ({_few(sorted(map(str, names)))}); keep one of them"
                )
        note = f"{_count(list(twice), 'clip')} there more than once, such as {next(iter(twice))}, and used once"
        return replace(self, table=self.table.take([found[0] for found in places.values()]), notes=(*self.notes, note))

    def for_classes(self, classes: Mapping[int, str]) -> ClipList:
        """Return the list with the labels that a model's classes give a meaning.

        Names of folders are labels only where they are names or numbers of the model's classes: of folders none of
        which is a class the names are dropped, with a note. Labels of a table are meant as such.

        Args:
            classes: index → name, of the model; empty where it has no classifier.

        Raises:
            InputError: some labels, but not all names of folders, are no classes of the model.
        """
        if not self.labels_from or not classes:
            return self
        names = sorted({label for label in self.table["label"].to_pylist() if label is not None})
        known = {name.casefold() for name in classes.values()}
        unknown = [
            name for name in names if name.strip().casefold() not in known and not _is_number(name, len(classes))
        ]
        if not unknown:
            return self
        if self.labels_from == "folders" and len(unknown) == len(names):
            table = _with(self.table, "label", pa.nulls(len(self), pa.string()))
            note = f"the folders ({_few(names)}) are no classes of the model, so their names are taken for no labels"
            return replace(self, table=table, labels_from=None, notes=(*self.notes, note))
        raise InputError(
            f"{self.name}: labels {_few(unknown)} are no classes of the model, which has {_few(list(classes.values()))}"
        )


def _is_number(name: str, count: int) -> bool:
    return name.strip().isdecimal() and int(name) < count


def _count(things: list[str], what: str) -> str:
    return f"1 {what} is" if len(things) == 1 else f"{len(things)} {what}s are"


def _few(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _with(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.column_names.index(name), CLIP_SCHEMA.field(name), values)


def file_system_of(name: str) -> tuple[Any, str]:
    """Return the file system of a path or URL, as fsspec has it, and the place in it.

    Raises:
        InputError: fsspec does not know the protocol, or lacks the package for it.
    """
    try:
        fs, place = fsspec.core.url_to_fs(name)
    except (ValueError, ImportError) as error:
        raise InputError(f"{name} is a URL that fsspec cannot open here: {error}") from error
    return fs, str(place)


def list_clips(source: str | os.PathLike[str] | list[str | os.PathLike[str]]) -> ClipList:
    """Return the clips that a name stands for, in the order of the table or of their paths.

    Args:
        source: one of these, as a path or a URL that fsspec knows (``s3://…``, ``memory://…``):

            - a folder, which is searched. Where all videos lie in folders of it, those are the classes
              (``FOLDER/CLASS/…``); they may lie in folders of splits (``FOLDER/train/CLASS/…``, val, test), which are
              never classes. Hidden files and folders are left out. A ``manifest.csv``, ``.tsv`` or ``.parquet`` in it
              is read instead.
            - a table, CSV, TSV or Parquet, with the column ``path`` (relative to the table) and, if wanted, ``label``
              (or ``label_name``, which goes first), ``start`` and ``end`` in seconds (or ``start_seconds`` and
              ``end_seconds``, as a run exports them), ``split`` (train, val or validation, test) and ``mask``;
            - Kinetics' own CSV (``label``, ``youtube_id``, ``time_start``, ``time_end``, ``split``), with the trimmed
              videos ``ID_000010_000020.mp4`` beside it or in folders of classes or splits beside it;
            - a list of lines ``path label``, ``.txt`` or ``.list``; the label is what stands after the last space;
            - a pattern (``"clips/**/*.mp4"``), one video, or a Python list of videos.

    Raises:
        InputError: there is no such thing or no video in it, a table lacks its column, a segment is empty, a split is
            none, or a clip is there with different labels.
        StorageError: the place cannot be read.
    """
    try:
        return _list_clips(source).once()
    except (VivitLabError, FileNotFoundError):
        raise
    except OSError as error:
        raise StorageError(f"{source} cannot be read: {error}") from error


def _list_clips(source: str | os.PathLike[str] | list[str | os.PathLike[str]]) -> ClipList:
    if isinstance(source, (list, tuple)):
        return _named(_paths([_absolute(os.fspath(video)) for video in source], "the list"), "the list", None)
    name = os.fspath(source)
    fs, place = file_system_of(name)
    if _has_pattern(name) and not fs.exists(place):
        found = [item for item in fs.glob(place) if is_video_name(item)]
        return _named(_paths(_urls(fs, found), name), name, None)
    if fs.isdir(place):
        for suffix in _TABLES:
            table = f"{place.rstrip('/')}/manifest{suffix}"
            if fs.isfile(table):
                return _read(fs, table, table)
        return _search(fs, place, name)
    if not fs.isfile(place):
        raise InputError(
            f"there is no {name}: wanted a folder of videos or of class folders, a pattern such as 'clips/**/*.mp4', a "
            "CSV, TSV or Parquet file with a column path, a list of lines 'path label', a video, or a URL of one of "
            "these"
        )
    if _suffix(place) in (*_TABLES, *_LISTS):
        return _read(fs, place, name)
    return _named(_paths(_urls(fs, [place]), name), name, None)


def _search(fs: Any, place: str, name: str) -> ClipList:
    """Return the videos of a folder; hidden files and folders are left out."""
    root = place.rstrip("/")
    found = sorted(item for item in fs.find(place) if is_video_name(item))
    within = [(item, item[len(root) :].strip("/").split("/")) for item in found]
    within = [(item, parts) for item, parts in within if not any(part.startswith(".") for part in parts)]
    table = _paths(_urls(fs, [item for item, _ in within]), name)
    places = [parts for _, parts in within]
    splits = [_SPLITS.get(parts[0].lower()) if len(parts) > 1 else None for parts in places]
    if not all(splits) and len({*splits} - {None}) < 2:
        splits = [None] * len(places)  # one folder of that name among others is a class
    table = table.append_column("split", pa.array(splits, pa.string()))
    if not all(splits) and any(splits):
        beside = next(item for (item, _), split in zip(within, splits, strict=True) if not split)
        note = f"{beside} lies in no folder of a split, as others do, so names of folders are taken for no labels"
        return replace(_named(table, name, None), notes=(note,))
    depth = int(any(splits))
    if not places or not all(len(parts) > depth + 1 for parts in places):
        return _named(table, name, None)
    labels = [parts[depth] for parts in places]
    return _named(table.append_column("label", pa.array(labels)), name, "folders")


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


def _read(fs: Any, place: str, name: str) -> ClipList:
    """Read a table or a list of clips; its paths become absolute."""
    folder = place.rpartition("/")[0]
    where = folder if _is_local(fs) else str(fs.unstrip_protocol(folder))
    with fs.open(place, "rb") as file, _as_table(name):
        table = _lines(file.read(), name) if _suffix(place) in _LISTS else _columns(file, _suffix(place), name)
    origin = "list" if _suffix(place) in _LISTS else "table"
    if twice := [column for column, count in Counter(table.column_names).items() if count > 1]:
        raise InputError(f"{name} has the column {twice[0]} more than once")
    if set(table.column_names) >= _KINETICS and "path" not in table.column_names:
        table = _kinetics(table, fs, folder, name)
    if "path" not in table.column_names or not len(table):
        raise InputError(
            f"{name} wants a header with the column path (and label, start and end in seconds, split and mask, where "
            "known) and a row"
        )
    if not pa.types.is_string(table["path"].type) and not pa.types.is_large_string(table["path"].type):
        raise InputError(f"{name}: the column path wants text, got {table['path'].type}")
    blank = [number for number, path in enumerate(table["path"].to_pylist()) if not str(path or "").strip()]
    if blank:
        raise InputError(f"{name}: row {blank[0] + 1} of the clips has no path")
    kept = {column: table[column] for column in _COLUMNS if column in table.column_names}
    kept["path"] = [_absolute(str(path), where) for path in table["path"].to_pylist()]
    if "mask" in kept:
        kept["mask"] = [None if not mask else _absolute(str(mask), where) for mask in kept["mask"].to_pylist()]
    names = kept.pop("label_name", None)
    if names is not None:
        kept["label"] = names
    for exported, column in _EXPORTED.items():
        if exported in kept:
            kept[column] = kept.pop(exported)
    return _named(pa.table(kept), name, origin)


def _columns(file: Any, suffix: str, name: str) -> pa.Table:
    if suffix == ".parquet":
        return pq.read_table(file)
    text = dict.fromkeys(("path", "label", "label_name", "split", "mask", "youtube_id"), pa.string())  # 007 is not 7
    return pyarrow.csv.read_csv(
        file,
        parse_options=pyarrow.csv.ParseOptions(delimiter="\t" if suffix == ".tsv" else ","),
        convert_options=pyarrow.csv.ConvertOptions(column_types=text),
    )


@contextmanager
def _as_table(name: str) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not UTF-8 ({error.reason} at byte {error.start}); save it so") from error
    except pa.ArrowInvalid as error:
        raise InputError(f"{name} wants a header with the column path and a row: {error}") from error


def _lines(content: bytes, name: str) -> pa.Table:
    rows = [line.strip().rsplit(None, 1) for line in content.decode("utf-8-sig").splitlines() if line.strip()]
    if wrong := [number for number, row in enumerate(rows, start=1) if len(row) != 2]:
        raise InputError(f"{name}: line {wrong[0]} wants a path and a label with a space between them")
    return pa.table({"path": [row[0] for row in rows], "label": [row[1] for row in rows]})


def _kinetics(table: pa.Table, fs: Any, folder: str, name: str) -> pa.Table:
    """Return paths of Kinetics' trimmed videos, which are called by id and seconds, wherever they lie in the folder."""
    held = {item.rpartition("/")[2]: item[len(folder) :].lstrip("/") for item in fs.find(folder) if is_video_name(item)}
    rows = zip(*(table[name].to_pylist() for name in ("youtube_id", "time_start", "time_end")), strict=True)
    try:
        files = [f"{video}_{int(start):06d}_{int(end):06d}.mp4" for video, start, end in rows]
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: the columns time_start and time_end want whole seconds: {error}") from error
    kept = {name: table[name] for name in ("label", "split") if name in table.column_names}
    return pa.table({"path": [held.get(file, file) for file in files], **kept})


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


def _named(table: pa.Table, name: str, origin: str | None) -> ClipList:
    """Return the clips with all columns, or raise what is wrong with them."""
    if not len(table):
        raise InputError(f"{name} holds no video ({', '.join(sorted(VIDEO_SUFFIXES))})")
    columns = {"path": table["path"].combine_chunks()}
    for field in ("start", "end"):
        columns[field] = _seconds(table, field, name)
    for field in ("label", "split", "mask"):
        known = table[field].combine_chunks() if field in table.column_names else pa.nulls(len(table))
        try:
            text = pc.utf8_trim_whitespace(known.cast(pa.string()))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InputError(f"{name}: the column {field} wants text or numbers, got {known.type}") from error
        columns[field] = pc.if_else(pc.equal(text, ""), None, text)
    splits = [None if split is None else _SPLITS.get(split.lower(), "") for split in columns["split"].to_pylist()]
    if "" in splits:
        wrong = columns["split"][splits.index("")].as_py()
        raise InputError(f"{name}: split must be train, validation or test, got {wrong!r}")
    columns["split"] = pa.array(splits, pa.string())
    early = pc.sum(pc.less(columns["start"], 0)).as_py()
    if early:
        raise InputError(f"{name} has {early} segments that begin before 0 s; wanted 0 <= start < end, in seconds")
    empty = pc.sum(pc.less_equal(columns["end"], pc.coalesce(columns["start"], pa.scalar(0.0)))).as_py()
    if empty:
        raise InputError(f"{name} has {empty} segments that end before they begin; wanted start < end, in seconds")
    found = pa.table(columns).cast(CLIP_SCHEMA)
    return ClipList(found, name, origin if found["label"].null_count < len(found) else None)


def _seconds(table: pa.Table, field: str, name: str) -> Any:
    if field not in table.column_names:
        return pa.nulls(len(table), pa.float64())
    try:
        return table[field].combine_chunks().cast(pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"{name}: the column {field} wants seconds (numbers), {error}") from error
