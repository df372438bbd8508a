"""Write a checkpoint that transformers and this package read: config.json and safetensors, never old and new mixed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from vivit_lab.errors import CheckpointError, InputError

__all__ = ["parse_size", "write_checkpoint"]

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
