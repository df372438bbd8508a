"""Read the parameters of a JAX checkpoint: flax's msgpack files, .npz archives, or trees that are in memory.

A msgpack file holds maps, numbers and arrays, and nothing in it is executed. flax's own types in it are 1, an array
(shape, name of the dtype, bytes); 2, a complex number; and 3, a scalar of numpy. An array above a gigabyte is a map of
chunks.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vivit_lab.errors import CheckpointError, CheckpointNotFoundError, InputError, MissingExtraError
from vivit_lab.files import read_npz

__all__ = ["flatten_tree", "read_msgpack", "read_parameters"]

_CHUNKED = "__msgpack_chunked_array__"
# where a train state keeps the parameters, in the layouts of flax's history; the innermost first
_PLACES = (
    ("optimizer", "target", "params"),
    ("optimizer", "target"),
    ("target", "params"),
    ("target",),
    ("params", "params"),
    ("params",),
    ("state", "params"),
)


def read_parameters(source: Mapping[str, Any] | str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Return the parameters of a checkpoint by path, such as ``"Transformer/encoder_norm/scale"``.

    Args:
        source: a file that flax wrote (msgpack), an ``.npz`` whose names are paths with ``/`` or ``|``, a directory
            that holds one such file named ``checkpoint`` or ``checkpoint_STEP``, or a tree of arrays, nested or flat.
            In a whole train state the parameters are found; the optimizer's moments are left aside.

    Raises:
        CheckpointNotFoundError: there is no such file.
        CheckpointError: the file is damaged, or holds no tree of arrays.
        MissingExtraError: a msgpack file, but msgpack is not installed.
        InputError: the tree has leaves that are no arrays.
    """
    if isinstance(source, Mapping):
        return _parameters(flatten_tree(source), "the tree")
    path = _file_of(Path(source).expanduser())
    if path.suffix == ".npz" or zipfile.is_zipfile(path):
        try:
            arrays = read_npz(path)
        except InputError as error:
            raise CheckpointError(str(error)) from error
        return _parameters(flatten_tree(arrays), os.fspath(path))
    tree = read_msgpack(path.read_bytes(), os.fspath(path))
    if not isinstance(tree, Mapping):
        raise CheckpointError(f"{path} holds a {type(tree).__name__}; wanted a tree of parameters")
    return _parameters(flatten_tree(tree), os.fspath(path))


def _file_of(path: Path) -> Path:
    if path.is_dir():
        found = sorted(path.glob("checkpoint*"), key=lambda file: (len(file.name), file.name))
        if not found:
            raise CheckpointNotFoundError(f"{path} has no file named checkpoint or checkpoint_STEP")
        path = found[-1]  # the last step
    if not path.is_file():
        raise CheckpointNotFoundError(f"there is no JAX checkpoint {path.absolute()}")
    return path


def read_msgpack(contents: bytes, origin: str) -> Any:
    """Return the tree that flax's ``msgpack_serialize`` wrote.

    Args:
        contents: of the file.
        origin: where they come from, for messages.

    Raises:
        CheckpointError: they are damaged, or of another format.
        MissingExtraError: msgpack, or ml_dtypes for bfloat16, is not installed.
    """
    try:
        import msgpack
    except ImportError as error:
        raise MissingExtraError("reading a flax checkpoint needs msgpack: pip install 'vivit-lab[scenic]'") from error
    try:
        tree = msgpack.unpackb(contents, ext_hook=_extension, raw=False, strict_map_key=False)
        return _join_chunks(tree)
    except MissingExtraError:
        raise
    except Exception as error:  # msgpack raises many kinds, and the contents may be anything
        raise CheckpointError(
            f"{origin} is not a whole msgpack file of flax ({type(error).__name__}: {error}); fetch it again"
        ) from error


def _extension(kind: int, contents: bytes) -> Any:
    import msgpack

    if kind not in (1, 2, 3):
        raise CheckpointError(f"extension type {kind} is none of flax's (1 array, 2 complex, 3 scalar)")
    if kind == 2:
        return complex(*msgpack.unpackb(contents))
    shape, dtype, data = msgpack.unpackb(contents, raw=True)
    array = np.frombuffer(data, dtype=_dtype(dtype.decode() if isinstance(dtype, bytes) else dtype)).reshape(shape)
    return array[()] if kind == 3 else array


def _dtype(name: str) -> np.dtype:
    if name in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
        try:
            import ml_dtypes
        except ImportError as error:
            raise MissingExtraError(f"{name} needs ml_dtypes: pip install 'vivit-lab[scenic]'") from error
        return np.dtype(getattr(ml_dtypes, name))
    return np.dtype(name)


def _join_chunks(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    if tree.get(_CHUNKED):
        parts, shape = (_in_order(tree[name]) for name in ("chunks", "shape"))
        return np.concatenate(parts).reshape(shape)
    return {name: _join_chunks(branch) for name, branch in tree.items()}


def _in_order(parts: Any) -> list[Any]:
    """Return a list that flax wrote as a map of its indices."""
    return [parts[str(index)] for index in range(len(parts))] if isinstance(parts, dict) else list(parts)


def flatten_tree(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return path → leaf of a nested tree; names that are paths themselves, with ``/`` or ``|``, are taken as such."""
    leaves: dict[str, Any] = {}
    for name, branch in tree.items():
        path = str(name).replace("|", "/").strip("/")
        if isinstance(branch, Mapping):
            leaves |= {f"{path}/{inner}": leaf for inner, leaf in flatten_tree(branch).items()}
        else:
            leaves[path] = branch
    return leaves


def _parameters(leaves: dict[str, Any], origin: str) -> dict[str, np.ndarray]:
    for place in _PLACES:
        prefix = "/".join(place) + "/"
        inside = {path.removeprefix(prefix): leaf for path, leaf in leaves.items() if path.startswith(prefix)}
        if inside:
            leaves = inside
            break
    if not leaves:
        raise CheckpointError(f"{origin} holds no parameters")
    arrays = {}
    for path, leaf in leaves.items():
        array = leaf if isinstance(leaf, np.ndarray) else np.asarray(leaf)
        if array.dtype.kind not in "fV" and array.dtype.name not in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
            raise InputError(f"{path} of {origin} is no array of real numbers, but {array.dtype} {type(leaf).__name__}")
        arrays[path] = array
    return arrays
