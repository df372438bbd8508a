"""Files that may be damaged or hostile: names stay in their folder, sizes are known first, JSON can be sealed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
import warnings
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from vivit_lab.errors import DamagedFileError, DamagedFileWarning, InputError, VivitLabError

__all__ = [
    "file_stem",
    "inside",
    "parse_json",
    "plain_name",
    "read_json",
    "read_npz",
    "read_or_set_aside",
    "read_sealed",
    "set_aside",
    "stored_fields",
    "stored_tensors",
    "write_sealed",
]

JSON_BYTES = 256 * 2**20
"""A JSON file that is larger is refused."""
_DIGEST = "sha256"  # the key of a sealed file's digest
_LONGEST_NAME = 255  # bytes; file systems take no more
_EXPANSION = 64  # an archive of weights hardly shrinks; one that grows so much is made to fill the memory
_SMALL = 2**24  # bytes that any archive may hold


def plain_name(name: Any, origin: str) -> str:
    """Return a name that is one file beside others, and nowhere else.

    Args:
        name: what stands in the data.
        origin: where it stands, for the message.

    Raises:
        InputError: it is no text, empty, too long, or holds a separator, a drive, "..", a leading dot or a control
            character.
    """
    plain = (
        isinstance(name, str)
        and bool(name)
        and not name.startswith(".")
        and len(name.encode("utf-8", "surrogateescape")) <= _LONGEST_NAME
        and not any(letter in '/\\:*?"<>|' or not letter.isprintable() for letter in name)
    )
    if not plain:
        raise InputError(f"{origin} gives the name {_short(name)}; wanted the plain name of a file beside it")
    return name


def inside(folder: str | os.PathLike[str], name: Any, origin: str) -> Path:
    """Return the path of a file of that name in a folder, which it does not leave.

    Args:
        folder: the folder.
        name: a file in it, or in folders of it, with ``/`` between them.
        origin: where the name stands, for the message.

    Raises:
        InputError: the name is none that stays in the folder.
    """
    if not isinstance(name, str) or not name:
        raise InputError(f"{origin} gives the name {_short(name)}; wanted the path of a file in {os.fspath(folder)}")
    return Path(folder).joinpath(*(plain_name(part, origin) for part in PurePosixPath(name).parts))


def file_stem(text: str, longest: int = 80) -> str:
    """Return a text as part of a file's name: letters, digits, ``-`` and ``.`` stay, anything else becomes ``_``.

    Args:
        text: any text, such as a label.
        longest: characters that are kept.
    """
    return re.sub(r"[^\w.-]+", "_", text)[:longest].strip("._") or "unnamed"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def read_json(path: str | os.PathLike[str], *, limit: int = JSON_BYTES) -> Any:
    """Return what a JSON file holds.

    Args:
        path: the file, in UTF-8.
        limit: bytes it may have.

    Raises:
        InputError: it is larger, no JSON, or nested too deeply.
        FileNotFoundError: there is no such file.
    """
    size = os.path.getsize(path)
    if size > limit:
        raise InputError(f"{os.fspath(path)} has {size} bytes, more than the {limit} that such a file may have")
    return parse_json(Path(path).read_bytes(), os.fspath(path))


def parse_json(text: str | bytes, origin: str) -> Any:
    """Return what JSON text holds.

    Args:
        text: the text, bytes in UTF-8.
        origin: where it comes from, for the message.

    Raises:
        InputError: it is no JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise InputError(f"{origin} is not JSON that can be read: it is nested too deeply") from None
    except ValueError as error:
        raise InputError(f"{origin} is not JSON: {error}") from error


def write_sealed(path: Path, value: dict[str, Any]) -> None:
    """Write a dictionary whole or not at all, with a digest of it inside.

    Args:
        path: of the file.
        value: JSON-able, without NaN.
    """
    text = json.dumps({**value, _DIGEST: _digest(value)}, allow_nan=False)
    draft = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.part")
    try:
        draft.write_text(text + "\n", encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def read_sealed(path: Path, keys: Iterable[str] = (), advice: str = "put back a copy of it") -> dict[str, Any]:
    """Return what ``write_sealed`` wrote; a file of an earlier version has no digest.

    Args:
        path: of the file.
        keys: what it must have.
        advice: what to do if it is damaged.

    Raises:
        DamagedFileError: it is cut off, altered, or lacks a key.
        FileNotFoundError: there is no such file.
    """
    try:
        value = read_json(path)
    except InputError as error:
        raise DamagedFileError(f"{path} is damaged ({error}); {advice}") from error
    digest = value.pop(_DIGEST, None) if isinstance(value, dict) else None
    if not isinstance(value, dict) or (digest is not None and digest != _digest(value)):
        raise DamagedFileError(f"{path} is damaged (it is not what was written); {advice}")
    if missing := [key for key in keys if key not in value]:
        raise DamagedFileError(f"{path} is damaged (it lacks {', '.join(missing)}); {advice}")
    return value


def read_or_set_aside(path: Path, keys: Iterable[str] = ()) -> dict[str, Any] | None:
    """Return what a file holds that can be computed again; None where it is not there or damaged.

    A damaged one is moved aside, see ``set_aside``.

    Args:
        path: of the file.
        keys: what it must have.
    """
    try:
        return read_sealed(path, keys)
    except FileNotFoundError:
        return None
    except DamagedFileError as error:
        set_aside(path, error)
        return None


def set_aside(path: Path, error: Exception) -> None:
    """Rename a damaged file that will be computed again to ``….damaged``, and tell by a warning.

    Args:
        path: of the file.
        error: what is wrong with it.
    """
    target = path.with_name(f"{path.name}.damaged")
    path.replace(target)
    reason = str(error).partition(");")[0].removeprefix(f"{path} is damaged (")
    warnings.warn(
        f"{path} is damaged ({reason}). Moved to {target}; it is computed again", DamagedFileWarning, stacklevel=4
    )


def _digest(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def read_npz(
    path: str | os.PathLike[str], names: Collection[str] | None = None, *, limit: int | None = None
) -> dict[str, np.ndarray]:
    """Return arrays of an ``.npz`` archive, whose sizes are looked at before anything is unpacked.

    Args:
        path: the archive.
        names: of the arrays; None reads all.
        limit: bytes that they may have together; None is 64 times the size of the file, and at least 16 MiB.

    Raises:
        InputError: it is no such archive, lacks an array, or would unpack to more.
        FileNotFoundError: there is no such file.
    """
    allowed = limit if limit is not None else max(_EXPANSION * os.path.getsize(path), _SMALL)
    try:
        with zipfile.ZipFile(path) as archive:
            held = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
            absent = sorted(set(names or ()) - set(held))
            if absent:
                raise InputError(f"{os.fspath(path)} has no array {_short(absent[0])}; it holds {_short(sorted(held))}")
            chosen = {name: held[name] for name in (held if names is None else names)}
            total = sum(entry.file_size for entry in chosen.values())
            if total > allowed:
                raise InputError(
                    f"{os.fspath(path)} would unpack to {total} bytes, more than the {allowed} that are allowed for it"
                )
            return {name: _array(archive, entry, name) for name, entry in chosen.items()}
    except (
        zipfile.BadZipFile,
        ValueError,
        EOFError,
        NotImplementedError,
        RuntimeError,
        MemoryError,
        zlib.error,
    ) as error:
        if isinstance(error, VivitLabError):
            raise
        raise InputError(f"{os.fspath(path)} is not a whole .npz of plain arrays: {error}") from error


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, name: str) -> np.ndarray:
    """Return one array; its header may claim no more than the archive says it has."""
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    claimed = int(np.prod([int(size) for size in shape], dtype=object)) * dtype.itemsize
    if dtype.hasobject or claimed > entry.file_size:
        raise InputError(f"the header of {name} tells of {shape} {dtype}, which are not there as plain numbers")
    with archive.open(entry) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def stored_tensors(
    path: str | os.PathLike[str], kind: str, key: str, /, **expected: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields and tensors of a result that was stored as safetensors.

    Args:
        path: the file.
        kind: what it should be, for the message: "an attribution map".
        key: of the metadata entry that holds the fields, as JSON.
        **expected: what other metadata entries must say, such as ``format="…/1"``.

    Returns:
        The fields, and name → tensor.

    Raises:
        InputError: the file holds something else.
        FileNotFoundError: there is no such file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            told = file.metadata() or {}
            right = key in told and all(told.get(name) == value for name, value in expected.items())
            tensors = {name: file.get_tensor(name) for name in file.keys()} if right else {}
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise InputError(f"{os.fspath(path)} is not {kind}: {error}") from error
    if not right:
        found = ", ".join(f"{name} {_short(told.get(name))}" for name in expected)
        raise InputError(f"{os.fspath(path)} is a safetensors file, but not {kind}: it has {found}")
    fields = parse_json(told[key], f"the description in {os.fspath(path)}")
    if not isinstance(fields, dict):
        raise InputError(f"{os.fspath(path)} is not {kind}: its description is a {type(fields).__name__}")
    return fields, tensors


@contextmanager
def stored_fields(path: str | os.PathLike[str], kind: str) -> Iterator[None]:
    """Turn what fields of a damaged or foreign file raise, where a result is made of them, into an ``InputError``."""
    try:
        yield
    except VivitLabError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{os.fspath(path)} is not {kind}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise InputError(f"{os.fspath(path)} is not {kind} ({type(error).__name__}: {error})") from error
