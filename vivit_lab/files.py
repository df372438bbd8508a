"""JSON files that work goes on from when it was cut off: whole or not there, and known to be what was written."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vivit_lab.errors import DamagedFileError, DamagedFileWarning

__all__ = ["read_json", "read_or_set_aside", "set_aside", "write_json"]

_DIGEST = "sha256"


def write_json(path: Path, value: dict[str, Any]) -> None:
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


def read_json(path: Path, keys: Iterable[str] = (), advice: str = "put back a copy of it") -> dict[str, Any]:
    """Return what ``write_json`` wrote; a file of an earlier version has no digest.

    Args:
        path: of the file.
        keys: what it must have.
        advice: what to do if it is damaged.

    Raises:
        DamagedFileError: it is cut off, altered, or lacks a key.
        FileNotFoundError: there is no such file.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
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
        return read_json(path, keys)
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
