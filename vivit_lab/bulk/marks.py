"""By what a video is known again: its size, when it was written, and a digest of its head and tail."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa

from vivit_lab.bulk.store import seconds_of

__all__ = ["MARKS", "VideoMark", "has_changed", "mark_video"]

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
