"""The files of a run: whole or not there at all, on a local disk or wherever fsspec reaches.

A part is written to a temporary file, brought to the disk, renamed into place, and its directory brought to the disk
too; an object store gets it in one request that creates and never replaces; other file systems of fsspec have a draft
moved into place, or are refused where they cannot. So a part that exists was written to its end.

What became of it since is another question. Between a part's data and its footer stand the sha256 of both, in a gap
that readers of Parquet do not look at; and each page has a checksum. So damage is told from whatever is read, and never
read as numbers.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet
from fsspec.spec import AbstractFileSystem

from vivit_lab.clips.listing import file_system_of
from vivit_lab.errors import DamagedFileError, InputError, StorageError
from vivit_lab.files import parse_json

__all__ = ["Store", "pc", "pq", "seconds_of"]

# they make their functions when they are imported, which type checkers do not see
pc: Any = pyarrow.compute
pq: Any = pyarrow.parquet

_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)  # of FAT, SMB, many FUSE mounts
_BUCKETS = {"s3", "gs", "abfs", "oss"}  # have no folders; making one would make a bucket whose name is misspelt
_LOCK = "lock"  # in the folder of drafts
_ROW_GROUP = 64  # rows; what is read for one map
_SEAL = b"vivit_lab.sha256"  # what follows are the digests of the data before it, and of the footer after it
_SEAL_BYTES = len(_SEAL) + 2 * hashlib.sha256().digest_size
_FOOTER_BYTES = 8  # at the end of a Parquet file: its length, and PAR1


@dataclass(frozen=True)
class Store:
    """A directory of files that appear whole.

    Args:
        root: a local directory, or a URL of one.
    """

    root: str

    @classmethod
    def at(cls, place: str | os.PathLike[str]) -> Store:
        """Return the store at a path or URL; local paths become absolute."""
        text = os.fspath(place)
        if text.startswith(("file://", "local://")):
            text = str(fsspec.core.url_to_fs(text)[1])
        return cls(text.rstrip("/") if "://" in text else os.path.abspath(os.path.expanduser(text)))

    @property
    def is_local(self) -> bool:
        """Whether it is a directory of this machine's file systems."""
        return "://" not in self.root

    @cached_property
    def _remote(self) -> tuple[Any, str]:
        fs, place = file_system_of(self.root)
        return fs, place.rstrip("/")

    def place(self, name: str) -> str:
        """Return the path or URL of a file."""
        return f"{self.root}/{name}"

    def exists(self, name: str) -> bool:
        """Whether there is a file of that name."""
        if self.is_local:
            return os.path.isfile(self.place(name))
        fs, root = self._remote
        return bool(fs.isfile(f"{root}/{name}"))

    def listing(self, folder: str) -> dict[str, float]:
        """Return the files of a folder and when each was written (seconds since 1970; 0 where that is not known)."""
        if self.is_local:
            try:
                with os.scandir(self.place(folder)) as entries:
                    return {entry.name: entry.stat().st_mtime for entry in entries if entry.is_file()}
            except FileNotFoundError:
                return {}
        fs, root = self._remote
        fs.invalidate_cache()
        try:
            found = fs.ls(f"{root}/{folder}", detail=True)
        except FileNotFoundError:
            return {}
        return {one["name"].rpartition("/")[2]: seconds_of(one) for one in found if one["type"] == "file"}

    def read(self, name: str) -> bytes:
        """Return a file's content.

        Raises:
            InputError: there is no such file.
        """
        try:
            if self.is_local:
                return Path(self.place(name)).read_bytes()
            fs, root = self._remote
            return bytes(fs.cat_file(f"{root}/{name}"))
        except FileNotFoundError as error:
            raise InputError(f"there is no {self.place(name)}; wanted the folder of a bulk run") from error

    def read_json(self, name: str) -> Any:
        """Return what ``write_json`` wrote.

        Raises:
            InputError: there is no such file.
            DamagedFileError: it is no JSON any more.
        """
        content = self.read(name)
        try:
            return parse_json(content, "what it holds")
        except InputError as error:
            raise DamagedFileError(
                f"{self.place(name)} is damaged ({error}). Put back a copy of it, or begin anew in another folder; the "
                "parts beside it are plain Parquet files, which other programs read without it"
            ) from error

    @contextmanager
    def parquet(
        self, name: str, schema: pa.Schema | None = None, rows: int | None = None, content: bytes | None = None
    ) -> Iterator[Any]:
        """Open a Parquet file; on a local disk only what is asked for is read.

        Args:
            name: of the file.
            schema: the columns that it must have, metadata aside.
            rows: how many rows it must have.
            content: the file, where it was read already.

        Raises:
            DamagedFileError: the file, or what is read of it within the block, is cut off or altered; or it has other
                columns or rows.
        """
        try:
            if content is None and self.is_local:
                source: Any = pa.memory_map(self.place(name))
            else:
                source = io.BytesIO(self.read(name) if content is None else content)
            _check_footer(source)
            with pq.ParquetFile(source, page_checksum_verification=True) as file:
                if schema is not None and not _same_columns(file.schema_arrow, schema):
                    raise _Damage("it has other columns than the run's parts")
                if rows is not None and file.metadata.num_rows != rows:
                    raise _Damage(f"it has {file.metadata.num_rows} rows, wanted {rows}")
                yield file
        except (pa.ArrowException, OSError, _Damage) as error:
            if isinstance(error, OSError) and (error.errno is not None or isinstance(error, FileNotFoundError)):
                raise  # the disk's or the network's failure, not the file's
            raise DamagedFileError(
                f"{self.place(name)} is damaged ({_first_line(error)}); resume the run, and it is moved aside and made "
                "anew"
            ) from error

    def read_table(
        self, name: str, columns: list[str] | None = None, schema: pa.Schema | None = None, rows: int | None = None
    ) -> pa.Table:
        """Return columns of a Parquet file; see ``parquet``."""
        with self.parquet(name, schema, rows) as file:
            return file.read(columns=columns, use_threads=False)

    def check_table(
        self,
        name: str,
        columns: list[str] | None = None,
        schema: pa.Schema | None = None,
        rows: int | None = None,
    ) -> pa.Table:
        """Read all of a Parquet file, raise if a bit of it is not as it was written, and return columns of it.

        A file of an earlier version has no digest of its data: all its columns are decoded instead.

        Raises:
            InputError: there is no such file.
            DamagedFileError: see ``parquet``.
        """
        content = self.read(name)
        with self.parquet(name, schema, rows, content) as file:
            footer = _footer_start(memoryview(content))
            seal = content[footer - _SEAL_BYTES : footer]
            if seal.startswith(_SEAL):
                digest = hashlib.sha256(memoryview(content)[: footer - _SEAL_BYTES]).digest()
                if digest != seal[len(_SEAL) : len(_SEAL) + len(digest)]:
                    raise _Damage("its data is not what was written")
            else:
                file.read(use_threads=False)
            return file.read(columns=columns, use_threads=False)

    def set_aside(self, name: str, reason: str) -> str | None:
        """Move a file into the folder ``damaged``, with the reason beside it.

        Args:
            name: of the file.
            reason: why.

        Returns:
            The place where it is now; None where somebody else has moved it.

        Raises:
            StorageError: see ``write``.
        """
        target = f"damaged/{name.replace('/', '-')}.{uuid.uuid4().hex[:8]}"
        try:
            if self.is_local:
                Path(self.place("damaged")).mkdir(exist_ok=True)
                os.rename(self.place(name), self.place(target))
            else:
                fs, root = self._remote
                fs.makedirs(f"{root}/damaged", exist_ok=True)
                fs.mv(f"{root}/{name}", f"{root}/{target}")
        except FileNotFoundError:
            return None
        self.write_json(f"{target}.json", {"file": name, "reason": reason, "seconds": time.time()})
        return self.place(target)

    def write(self, name: str, content: bytes, *, replace: bool = True) -> bool:
        """Write a file whole.

        Args:
            name: of the file; its folder is made.
            content: all of it.
            replace: whether a file of that name gives way. On an object store it never does.

        Returns:
            Whether it was written; False where it was there before and was not to be replaced.

        Raises:
            StorageError: the disk is full, or refuses the file for the reason that is named; what was written before
                stays.
        """
        try:
            if self.is_local:
                return self._write_local(name, content, replace)
            fs, root = self._remote
            if not _BUCKETS.intersection((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol):
                fs.makedirs(f"{root}/{name}".rpartition("/")[0], exist_ok=True)
            with suppress(FileExistsError):
                return _create(fs, f"{root}/{name}", f"{root}/_tmp", content)
            return False
        except OSError as error:
            full = error.errno in _FULL
            why, mend = ("the disk is full", "make room") if full else (str(error.strerror or error), "mend that")
            raise StorageError(
                error.errno or errno.EIO,
                f"{self.place(name)} could not be written: {why}. All parts that were finished before are whole; "
                f"{mend} and start the same command again, and it goes on where it stopped",
            ) from error

    def _write_local(self, name: str, content: bytes, replace: bool) -> bool:
        target = Path(self.place(name))
        draft = Path(self.place("_tmp")) / f"{target.name}.{uuid.uuid4().hex}"
        target.parent.mkdir(parents=True, exist_ok=True)
        draft.parent.mkdir(exist_ok=True)
        try:
            with draft.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if replace:
                draft.replace(target)
            elif not _named(draft, target):
                return False
        finally:
            draft.unlink(missing_ok=True)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return True

    def write_json(self, name: str, value: Any, *, replace: bool = True) -> bool:
        """Write a JSON file whole; see ``write``."""
        return self.write(name, (json.dumps(value, indent=1) + "\n").encode(), replace=replace)

    def write_table(
        self, name: str, table: pa.Table, *, split: list[str] | None = None, row_group: int = _ROW_GROUP
    ) -> bool:
        """Write a Parquet file whole, with zstd.

        Args:
            name: of the file.
            table: its content.
            split: columns of lists of numbers that are stored byte-stream-split.
            row_group: rows that are read together.

        Raises:
            StorageError: see ``write``.
        """
        leaves = [f"{column}.list.element" for column in split or []]
        buffer = io.BytesIO()
        pq.write_table(
            table,
            buffer,
            compression="zstd",
            row_group_size=row_group,
            use_dictionary=_texts(table.schema),  # numbers of maps repeat too seldom
            use_byte_stream_split=leaves,
            write_page_checksum=True,
        )
        return self.write(name, _sealed(buffer.getvalue()))

    def sweep(self, older_than: float) -> int:
        """Remove drafts that a killed run left, written before a time (seconds since 1970); return how many."""
        drafts = self.listing("_tmp").items() if self.is_local else ()
        left = [name for name, when in drafts if when < older_than and name != _LOCK]
        for name in left:
            Path(self.place(f"_tmp/{name}")).unlink(missing_ok=True)
        return len(left)


class _Damage(Exception):
    """Why a file is not what was written."""


def _sealed(content: bytes) -> bytes:
    """Return a Parquet file with the digests of its data and of its footer between the two."""
    footer = _footer_start(memoryview(content))
    data, end = content[:footer], content[footer:]
    return data + _SEAL + hashlib.sha256(data).digest() + hashlib.sha256(end).digest() + end


def _footer_start(content: memoryview) -> int:
    """Return where the footer of a Parquet file begins."""
    return len(content) - _FOOTER_BYTES - int.from_bytes(content[-_FOOTER_BYTES : -_FOOTER_BYTES + 4], "little")


def _check_footer(source: Any) -> None:
    """Raise if the end of a Parquet file is missing or altered; one of an earlier version has no digest of it."""
    source.seek(0, os.SEEK_END)
    size = source.tell()
    source.seek(max(size - _FOOTER_BYTES, 0))
    end = source.read(_FOOTER_BYTES)
    start = size - _FOOTER_BYTES - int.from_bytes(end[:4], "little")
    if len(end) < _FOOTER_BYTES or end[4:] != b"PAR1" or start < 4:
        raise _Damage(f"it has {size} bytes and no end of a Parquet file")
    source.seek(max(start - _SEAL_BYTES, 0))
    seal = source.read(start - max(start - _SEAL_BYTES, 0))
    if seal.startswith(_SEAL) and hashlib.sha256(source.read()).digest() != seal[-hashlib.sha256().digest_size :]:
        raise _Damage("its footer is not what was written")
    source.seek(0)


def _same_columns(found: pa.Schema, wanted: pa.Schema) -> bool:
    return found.names == wanted.names and all(map(pa.DataType.equals, found.types, wanted.types))


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _create(fs: Any, target: str, drafts: str, content: bytes) -> bool:
    """Create a file of a remote file system whole; return whether it was not there before.

    An object store does so in one request. fsspec's own way for others opens the file and writes: cut off, it would
    leave a part that looks done. There a draft is moved into place, as on a local disk; of two that write at the same
    moment the later one prevails.

    Raises:
        InputError: the file system can neither create a file at once nor move one.
    """
    kind = type(fs)
    if fs.async_impl or kind.pipe_file is not AbstractFileSystem.pipe_file:
        fs.pipe_file(target, content, mode="create")
        return True
    if kind.mv is AbstractFileSystem.mv:  # copies, and then removes
        raise InputError(
            f"a run cannot be written to {target}: its file system ({kind.__name__}) neither creates a file at once "
            "nor moves one, so that a run cut off would leave half a file; use a local folder or an object store"
        )
    if fs.exists(target):
        return False
    draft = f"{drafts}/{target.rpartition('/')[2]}.{uuid.uuid4().hex}"
    fs.makedirs(drafts, exist_ok=True)
    fs.pipe_file(draft, content)
    fs.mv(draft, target)
    return True


def _named(draft: Path, target: Path) -> bool:
    """Give a draft its name; unlike a rename, this refuses a name that is taken.

    Where the file system has no hard links, processes take turns at a look and a rename, by a lock that a killed one
    lets go of. It holds on one machine, and between those whose mounts share locks; where the file system has no locks
    either, of two that write at the same moment the later one prevails.
    """
    try:
        os.link(draft, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with (draft.parent / _LOCK).open("w") as turn:
            with suppress(ImportError, OSError):
                import fcntl  # of POSIX alone

                fcntl.flock(turn, fcntl.LOCK_EX)
            if target.exists():
                return False
            draft.replace(target)
    return True


def _texts(schema: pa.Schema) -> list[str]:
    """Return the names under which Parquet knows the columns of text."""
    found = []
    for field in schema:
        is_list = pa.types.is_list(field.type)
        if pa.types.is_string(field.type.value_type if is_list else field.type):
            found.append(f"{field.name}.list.element" if is_list else field.name)
    return found


def seconds_of(entry: dict[str, Any]) -> float:
    """Return when a file was written, of what a file system of fsspec tells: seconds since 1970, 0 if it does not."""
    for key in ("mtime", "LastModified", "last_modified", "created"):
        value = entry.get(key)
        if value is not None:
            return (
                float(value.timestamp() if hasattr(value, "timestamp") else value)
                if not isinstance(value, str)
                else 0.0
            )
    return 0.0
