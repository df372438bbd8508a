"""Read and write the tensors of a checkpoint, one at a time, so that a model never lies in memory twice."""

from __future__ import annotations

import json
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vivit_lab import files
from vivit_lab.checkpoints.hub import resolve_file, resolve_first
from vivit_lab.errors import CheckpointError, ConfigError, InputError, UnsafeCheckpointError

__all__ = [
    "WEIGHT_FILES",
    "TensorEntry",
    "TensorSource",
    "open_checkpoint",
    "open_files",
    "parse_dtype",
    "parse_size",
    "read_json",
    "write_checkpoint",
]

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""File names under which a checkpoint's tensors are looked for, the preferred ones first."""

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"  # how the stand-in begins that Git keeps for a large file

_SAFETENSORS_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
_SHORT_DTYPES = {"fp32": "float32", "fp16": "float16", "half": "float16", "bf16": "bfloat16", "fp64": "float64"}


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a checkpoint, known but not read.

    Args:
        shape: its shape.
        dtype: its dtype on disk.
        read: returns the tensor, on the CPU, in that dtype.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return int(torch.Size(self.shape).numel()) * self.dtype.itemsize


class TensorSource(Mapping[str, TensorEntry]):
    """The tensors of a checkpoint by name, each read when it is asked for; a context manager that closes the files.

    Args:
        entries: name → entry.
        stack: what is to be closed in the end.
    """

    def __init__(self, entries: dict[str, TensorEntry], stack: ExitStack | None = None) -> None:
        self._entries = entries
        self._stack = stack or ExitStack()

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> TensorSource:
        """Wrap tensors that are in memory already.

        Raises:
            InputError: a name is no string, a value is no tensor, or a tensor is not a plain array of real numbers in
                memory: complex, sparse, or on the meta device.
        """
        entries = {}
        for name, tensor in tensors.items():
            if not isinstance(name, str) or not isinstance(tensor, Tensor):
                raise InputError(f"wanted a state dict, name → tensor; got {name!r} → {type(tensor).__name__}")
            trouble = _not_plain(tensor)
            if trouble:
                raise InputError(f"{name} is {trouble}; wanted a dense tensor of real numbers, with its values")
            entries[name] = TensorEntry(tuple(tensor.shape), tensor.dtype, lambda tensor=tensor: tensor.detach())
        return cls(entries)

    def __getitem__(self, name: str) -> TensorEntry:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __enter__(self) -> TensorSource:
        return self

    def __exit__(self, *_: object) -> None:
        self._entries = {}
        self._stack.close()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name → shape."""
        return {name: entry.shape for name, entry in self._entries.items()}

    @property
    def dtype(self) -> torch.dtype | None:
        """The dtype of the first floating-point tensor; None where there is none."""
        return next((entry.dtype for entry in self._entries.values() if entry.dtype.is_floating_point), None)


def _not_plain(tensor: Tensor) -> str:
    """Say what keeps a tensor from being copied into a parameter, or nothing."""
    if tensor.is_meta:
        return "on the meta device, which keeps shapes and no values"
    if tensor.layout != torch.strided:
        return f"sparse ({tensor.layout})"
    return f"complex ({tensor.dtype})" if tensor.is_complex() else ""


def open_checkpoint(
    model: str | os.PathLike[str], *, use_safetensors: bool | None = None, **where: Any
) -> TensorSource:
    """Open the weights of a checkpoint: one file or many, safetensors or a PyTorch file, in a directory or on the Hub.

    Args:
        model: a directory, or a Hub id.
        use_safetensors: True looks for safetensors alone, False for a PyTorch file alone; None prefers safetensors.
        **where: ``revision``, ``cache_dir``, ``local_files_only``, ``token`` and ``force_download`` of
            ``resolve_file``; pin them by ``pin_revision`` where other files of the load have to belong to the weights.

    Raises:
        CheckpointNotFoundError: there are no weights, or a shard is missing.
        CheckpointError: a file is damaged, or the index does not describe its shards.
        UnsafeCheckpointError: a file holds more than tensors.
    """
    names = tuple(name for name in WEIGHT_FILES if use_safetensors in (None, ".safetensors" in name))
    path = resolve_first(model, names, **where)
    if path.suffix != ".json":
        return open_files([path])
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path} is not an index of shards: it has no weight_map")
    shards = sorted({_plain_name(path, shard) for shard in weight_map.values()})
    source = open_files([Path(str(resolve_file(model, shard, **where))) for shard in shards])
    absent = sorted(set(weight_map) - set(source))
    if absent:
        source.__exit__()
        raise CheckpointError(f"{path} lists tensors that its shards do not have ({len(absent)}): {', '.join(absent)}")
    return source


def _plain_name(index: Path, shard: Any) -> str:
    """Refuse a shard name that leaves the checkpoint: it comes from a file that somebody else wrote."""
    try:
        return files.plain_name(shard, os.fspath(index))
    except InputError as error:
        raise CheckpointError(str(error)) from error


def open_files(paths: list[Path]) -> TensorSource:
    """Open safetensors or PyTorch files as one set of tensors.

    Args:
        paths: files; a name ending in ``.safetensors`` is read as such, any other as a PyTorch file.

    Raises:
        CheckpointError: a file is damaged, a Git LFS pointer, or holds no plain tensors, or two files hold a tensor of
            the same name.
        UnsafeCheckpointError: a PyTorch file holds more than tensors.
    """
    entries: dict[str, TensorEntry] = {}
    stack = ExitStack()
    try:
        for path in paths:
            _refuse_pointer(path)
            found = _open_safetensors(path, stack) if path.suffix == ".safetensors" else _open_pickle(path)
            twice = sorted(set(found) & set(entries))
            if twice:
                raise CheckpointError(f"{path} repeats tensors of another shard: {', '.join(twice)}")
            entries.update(found)
    except BaseException:
        stack.close()
        raise
    return TensorSource(entries, stack)


def _refuse_pointer(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(len(_LFS_POINTER))
    if start == _LFS_POINTER:
        raise CheckpointError(
            f"{path} is a Git LFS pointer, a few lines that stand for the file: run `git lfs pull` in its repository"
        )


def _open_safetensors(path: Path, stack: ExitStack) -> dict[str, TensorEntry]:
    try:
        file = stack.enter_context(safe_open(os.fspath(path), framework="pt"))
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a whole safetensors file ({error}); fetch it again") from error
    entries = {}
    for name in file.keys():
        part = file.get_slice(name)
        dtype = _SAFETENSORS_DTYPES.get(part.get_dtype())
        if dtype is None:
            raise CheckpointError(f"{path}: {name} is {part.get_dtype()}, a number format that is not supported")
        entries[name] = TensorEntry(tuple(part.get_shape()), dtype, lambda name=name: file.get_tensor(name))
    return entries


def _open_pickle(path: Path) -> dict[str, TensorEntry]:
    contents = _load_pickle(path)
    if not isinstance(contents, dict):
        raise CheckpointError(f"{path} holds a {type(contents).__name__}; wanted a state dict, name → tensor")
    try:
        return dict(TensorSource.from_tensors(contents))
    except InputError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _load_pickle(path: Path) -> Any:
    # only the zip form can be mapped; tensors are then read from the file as they are copied
    mapped = zipfile.is_zipfile(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about old pickle protocols, which it reads all the same
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:
        if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
            name = re.search(r"(?:GLOBAL|global:?|class) ([\w.]+\.\w+)", str(error))
            what = f"asks to run {name[1]}" if name else "holds more than tensors"
            raise UnsafeCheckpointError(
                f"{path} {what}. It was not executed. Wanted a file of tensors: ask its owner for safetensors, or, if "
                "you trust it, load it yourself and save the state dict with safetensors.torch.save_file"
            ) from error
        raise CheckpointError(f"{path} is not a whole PyTorch file ({type(error).__name__}); fetch it again") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: the file does not hold one.
    """
    _refuse_pointer(path)
    try:
        contents = files.read_json(path)
    except InputError as error:
        raise CheckpointError(str(error)) from error
    if not isinstance(contents, dict):
        raise CheckpointError(f"{path} holds a JSON {type(contents).__name__}; wanted an object")
    return contents


def parse_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """Return the floating-point dtype of a name such as ``"float16"``, ``"torch.bfloat16"`` or ``"bf16"``.

    Raises:
        ConfigError: it is no floating-point dtype a model can have.
    """
    found = dtype
    if isinstance(dtype, str):
        name = dtype.removeprefix("torch.")
        found = getattr(torch, _SHORT_DTYPES.get(name, name), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point or found.itemsize < 2:
        raise ConfigError(
            f"dtype={dtype!r} is not a dtype of a model: wanted 'auto', 'float32', 'bfloat16', 'float16', 'float64' or "
            "the torch dtype"
        )
    return found


_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_OURS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")


def parse_size(size: int | str) -> int:
    """Return the bytes of a size such as ``"5GB"``, ``"200MiB"`` or ``1000``.

    Raises:
        InputError: it is not a positive size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?I?B?)", str(size).strip().upper())
    count = int(float(match[1]) * _UNITS[match[2]]) if match and match[2] in _UNITS else 0
    if count < 1 or isinstance(size, bool):
        raise InputError(
            f"max_shard_size={size!r} is not a size: wanted bytes as a number, or such as '5GB' or '200MB'"
        )
    return count


def write_checkpoint(
    directory: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    config: dict[str, Any],
    *,
    max_shard_size: int | str = "5GB",
) -> list[Path]:
    """Write ``config.json`` and ``model.safetensors``, or shards and their index above ``max_shard_size``.

    Every file is written beside its place. Once all are complete an older checkpoint is put aside, its ``config.json``
    first, and the new files take their names, ``config.json`` last; an error on the way puts the older one back as it
    was. The names change one after the other, so a process that is killed between them can leave a directory without
    ``config.json``, which does not load, but never one that mixes old and new. Needs memory for one shard at a time.

    Args:
        directory: where to; made where absent.
        tensors: name → tensor, on any device.
        config: contents of ``config.json``.
        max_shard_size: the most bytes of tensors a file may have; a larger single tensor gets a file of its own.

    Returns:
        The paths of the files written.

    Raises:
        CheckpointError: ``directory`` is a file.
        InputError: ``max_shard_size`` is no size.
    """
    folder = Path(directory).expanduser()
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"cannot save into {folder}: it is a file, wanted a directory")
    shards = _split(tensors, parse_size(max_shard_size))
    folder.mkdir(parents=True, exist_ok=True)
    pending: dict[Path, Path] = {}
    try:
        settings = _part(folder, "config.json", pending)
        _write_json(settings, config)
        for name, keys in shards.items():
            part = _part(folder, name, pending)
            save_file({key: _plain(tensors[key]) for key in keys}, part, metadata={"format": "pt"})
            part.chmod(settings.stat().st_mode)  # safetensors makes it private; others may read what they may read here
        if len(shards) > 1:
            index = {
                "metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())},
                "weight_map": {key: name for name, keys in shards.items() for key in keys},
            }
            _write_json(_part(folder, "model.safetensors.index.json", pending), index)
        written = list(pending.values())
        pending[settings] = pending.pop(settings)  # to the end
        _exchange(folder, pending)
    finally:
        for part in pending:
            part.unlink(missing_ok=True)
    return written


def _exchange(folder: Path, pending: Mapping[Path, Path]) -> None:
    """Put the older checkpoint aside and give the new files their names; undo both after an error."""
    # all old weights go, as a reader would prefer an old model.safetensors to new shards
    older = [folder / "config.json", *sorted(path for path in folder.iterdir() if _OURS.fullmatch(path.name))]
    aside = {folder / f".{path.name}.{os.getpid()}.old": path for path in older if path.is_file()}
    placed: list[Path] = []
    try:
        for away, path in aside.items():
            os.replace(path, away)
        for part, path in pending.items():
            os.replace(part, path)
            placed.append(path)
    except BaseException:
        for path in placed:
            path.unlink()
        for away, path in reversed(aside.items()):  # the settings last, as they make it loadable
            if away.exists():
                os.replace(away, path)
        raise
    for away in aside:
        away.unlink()


def _split(tensors: Mapping[str, Tensor], limit: int) -> dict[str, list[str]]:
    """Fill files in order up to the limit; return file name → names of its tensors."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name, tensor in tensors.items():
        if groups[-1] and filled + tensor.nbytes > limit:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += tensor.nbytes
    if len(groups) == 1:
        return {"model.safetensors": groups[0]}
    return {f"model-{i:05d}-of-{len(groups):05d}.safetensors": group for i, group in enumerate(groups, start=1)}


def _part(folder: Path, name: str, pending: dict[Path, Path]) -> Path:
    # not named *.safetensors, so that nothing takes it for a checkpoint
    part = folder / f".{name}.{os.getpid()}.part"
    pending[part] = folder / name
    return part


def _plain(tensor: Tensor) -> Tensor:
    """Return the values alone: on the CPU, contiguous, not a window on a larger storage."""
    tensor = tensor.detach().cpu().contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def _write_json(path: Path, contents: dict[str, Any]) -> None:
    path.write_text(json.dumps(contents, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
