"""The clips of a run: its manifest, by what a video is known again, and the columns of a part."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa

from vivit_lab.bulk.store import seconds_of
from vivit_lab.clips.listing import ClipList, list_clips

__all__ = [
    "MANIFEST_SCHEMA",
    "MAP_PARTS",
    "MARKS",
    "TIMES",
    "ClipRow",
    "Decoded",
    "Failure",
    "Outcome",
    "PartLayout",
    "VideoMark",
    "clip_id",
    "has_changed",
    "manifest_of",
    "mark_video",
    "row_of",
]

MARKS: dict[str, pa.DataType] = {
    "video_bytes": pa.int64(),
    "video_modified": pa.float64(),
    "video_etag": pa.string(),
    "video_digest": pa.string(),
}
"""Columns of a row that say which file it was computed from: size in bytes, seconds since 1970, an object store's ETag,
and 32 hex digits of the sha256 of the first and last 64 KiB."""

_ENDS = 1 << 16  # bytes of the head, and of the tail


@dataclass(frozen=True)
class VideoMark:
    """What a file was when it was read; None is what nobody told.

    Args:
        size: in bytes.
        modified: when it was last written, in seconds since 1970.
        etag: of an object store.
        digest: of head and tail.
    """

    size: int | None = None
    modified: float | None = None
    etag: str | None = None
    digest: str | None = None

    def columns(self) -> dict[str, Any]:
        """Return the columns of a row, see ``MARKS``."""
        return dict(zip(MARKS, (self.size, self.modified, self.etag, self.digest), strict=True))

    @classmethod
    def of_row(cls, row: dict[str, Any]) -> VideoMark:
        """Return what a row's columns say."""
        return cls(*(row[name] for name in MARKS))


def mark_video(name: str, path: str) -> VideoMark:
    """Return the mark of a video that is about to be read; an empty one for what is no regular file.

    Args:
        name: its path or URL.
        path: the local file of it, which is the same, or a copy that was fetched.
    """
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):  # opening a pipe might wait for ever
            return VideoMark()
        with Path(path).open("rb") as file:
            head = file.read(_ENDS)
            file.seek(max(found.st_size - _ENDS, 0))
            digest = _digest(head, file.read(_ENDS))
    except OSError:
        return VideoMark()  # whoever reads it says what is wrong
    if _is_local(name):
        return VideoMark(found.st_size, found.st_mtime, None, digest)
    _, modified, etag = _told(name)
    return VideoMark(found.st_size, modified, etag, digest)


def has_changed(name: str, mark: VideoMark) -> bool:
    """Return whether a video is another one than when it was marked.

    Size, time and ETag are asked for first, and only if a time or ETag differs its head and tail are read: a file that
    was merely copied or touched has not changed. A video that is gone or out of reach has not changed either. What this
    does not see is a change between head and tail that keeps the size.

    Args:
        name: its path or URL.
        mark: of then.
    """
    if mark.size is None:
        return False
    try:
        size, modified, etag = _told(name)
        if size is not None and size != mark.size:
            return True
        if etag is not None and etag == mark.etag:
            return False
        if modified is not None and modified == mark.modified:
            return False
        return mark.digest is not None and _ends(name, mark.size) != mark.digest
    except Exception:  # every file system of fsspec has errors of its own for what is gone or out of reach
        return False


def _is_local(name: str) -> bool:
    return "://" not in name or name.startswith(("file://", "local://"))


def _place_of(name: str) -> tuple[Any, str]:
    """Return the file system of a path or URL, and its place there; a file's name with "::" in it is no URL."""
    return fsspec.core.url_to_fs(name) if "://" in name else (fsspec.filesystem("file"), name)


def _told(name: str) -> tuple[int | None, float | None, str | None]:
    """Return size, time and ETag as the file system tells them."""
    fs, place = _place_of(name)
    if _is_local(name):
        found = os.stat(place)
        return found.st_size, found.st_mtime, None
    try:
        fs.invalidate_cache()
        told: Any = fs.info(place)
    except Exception:  # it was fetched, so this file system merely tells nothing of it
        return None, None, None
    etag = next((str(told[key]) for key in ("ETag", "etag") if told.get(key)), None)
    return told.get("size"), seconds_of(told) or None, etag


def _ends(name: str, size: int) -> str:
    fs, place = _place_of(name)
    head: Any = fs.cat_file(place, 0, min(_ENDS, size))
    tail: Any = fs.cat_file(place, max(size - _ENDS, 0), size)
    return _digest(bytes(head), bytes(tail))


def _digest(head: bytes, tail: bytes) -> str:
    return hashlib.sha256(head + tail).hexdigest()[:32]


def clip_id(path: str, start: float | None = None, end: float | None = None) -> str:
    """Return the name of a clip: 16 hex digits of the sha256 of its path and segment.

    Args:
        path: absolute path or URL of the video.
        start: first second of the segment; None is the video's beginning.
        end: where the segment ends, in seconds; None is the video's end.
    """
    segment = f"{path}\0{'' if start is None else float(start)!r}\0{'' if end is None else float(end)!r}"
    return hashlib.sha256(segment.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class ClipRow:
    """One line of a run's manifest.

    Args:
        clip_id: see ``clip_id``.
        path: absolute path or URL of the video.
        start: first second of the segment, or None.
        end: where the segment ends, in seconds, or None.
        label: the class as it was given, or None.
    """

    clip_id: str
    path: str
    start: float | None = None
    end: float | None = None
    label: str | None = None


@dataclass(frozen=True)
class Failure:
    """Why a clip has no result.

    Args:
        stage: ``"fetch"``, ``"decode"`` or ``"model"``.
        kind: the error's class, or ``"crash"`` or ``"timeout"``.
        message: one line.
    """

    stage: str
    kind: str
    message: str

    @classmethod
    def of(cls, stage: str, error: BaseException) -> Failure:
        """Return the failure that an exception tells of."""
        return cls(stage, type(error).__name__, " ".join(str(error).split()) or repr(error))


@dataclass(frozen=True, eq=False)
class Decoded:
    """A clip as the model takes it, and where its frames came from.

    Args:
        pixels: (T, C, h, w) float32.
        frame_indices: of each frame in the file, from 0.
        frame_seconds: when each frame is shown, in seconds from the file's first frame.
        end: when the last frame stops being shown, in seconds.
        size: (height, width) of the file's frames in pixels, as shown.
        decode_warnings: how many times the decoder reported damage.
        notes: what the reader warned of, one text a warning.
        seconds: stage → seconds it took: ``"fetch"`` (downloads), ``"decode"``, ``"prepare"``.
        mark: by what the file is known again.
    """

    pixels: np.ndarray
    frame_indices: list[int]
    frame_seconds: list[float]
    end: float
    size: tuple[int, int]
    decode_warnings: int = 0
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    mark: VideoMark = field(default_factory=VideoMark)

    def columns(self) -> dict[str, Any]:
        """Return what a part says of the clip itself."""
        return {
            "frame_indices": self.frame_indices,
            "frame_seconds": self.frame_seconds,
            "start_seconds": self.frame_seconds[0],
            "end_seconds": self.end,
            "height": self.size[0],
            "width": self.size[1],
            "decode_warnings": self.decode_warnings,
            "notes": self.notes,
            **{f"seconds_{stage}": value for stage, value in self.seconds.items()},
            **self.mark.columns(),
        }


Outcome = Decoded | Failure


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
        for column in self.schema:
            values = [row.get(column.name) for row in rows]
            columns.append(_fixed(values, column.type) if column.name in wide else pa.array(values, column.type))
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


def manifest_of(
    videos: str | os.PathLike[str] | Sequence[Any] | ClipList,
    classes: Mapping[int, str],
    on_found: Callable[[ClipList], Any] | None = None,
) -> pa.Table:
    """Return the manifest of the clips that a name stands for.

    Args:
        videos: see ``vivit_lab.clips.list_clips``.
        classes: index → name of the model's classes; empty where it has none.
        on_found: is called with the clips that were found, before anything is made of them.

    Returns:
        A table of ``MANIFEST_SCHEMA``.

    Raises:
        InputError: there are no clips, one is there with different labels, or a label is no class of the model.
    """
    if not isinstance(videos, ClipList):
        source: Any = list(videos) if isinstance(videos, (list, tuple)) else videos
        videos = list_clips(source)
    found = videos.once().for_classes(classes)
    if on_found is not None:
        on_found(found)
    table = found.table
    segments = zip(*(table[name].to_pylist() for name in ("path", "start", "end")), strict=True)
    ids = [clip_id(*segment) for segment in segments]
    columns = {name: table[name] for name in MANIFEST_SCHEMA.names if name != "clip_id"}
    return pa.table({"clip_id": ids, **columns}).cast(MANIFEST_SCHEMA)
