"""Finds, reads and writes preprocessor_config.json."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from vivit_lab.errors import CheckpointNotFoundError, ConfigError, InputError

__all__ = ["CONFIG_NAME", "read_config", "write_config"]

CONFIG_NAME = "preprocessor_config.json"


def read_config(source: str | os.PathLike[str], **place: Any) -> dict[str, Any]:
    """Return the content of a processor's configuration file.

    Args:
        source: a directory that holds preprocessor_config.json, a JSON file, or a Hub id.
        **place: for a Hub id: ``revision``, ``cache_dir``, ``local_files_only`` and ``token``.

    Raises:
        CheckpointNotFoundError: there is no such file.
        ConfigError: the file is not a processor configuration.
    """
    path = _find(source, **place)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ConfigError(f"{path} nests its brackets too deeply to be a processor's configuration") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not a JSON file: {error}") from error
    if isinstance(config, dict):
        # a processor_config.json holds the image processor as one of several parts
        config = config.get("image_processor", config)
    if not isinstance(config, dict):
        raise ConfigError(f"{path} must hold a JSON object, got a {type(config).__name__}")
    return config


def _find(source: str | os.PathLike[str], **place: Any) -> Path:
    path = Path(source)
    if path.is_file():
        return path
    if path.is_dir():
        found = path / CONFIG_NAME
        found = found if found.is_file() else None
    else:
        # imported here: a processor of a local file has no need of the Hub client
        from vivit_lab.checkpoints.hub import resolve_file

        found = resolve_file(os.fspath(source), CONFIG_NAME, **place)
    if found is None:
        raise CheckpointNotFoundError(
            f"{source} has no {CONFIG_NAME}; write one by processor.save_pretrained, or build VivitImageProcessor(...)"
        )
    return Path(found)


def write_config(directory: str | os.PathLike[str], config: dict[str, Any]) -> str:
    """Write a processor's configuration into a directory, which is made, and return the file's path.

    Raises:
        InputError: there is a file at that path.
    """
    folder = Path(directory)
    if folder.is_file():
        raise InputError(f"{directory} is a file, wanted a directory to write {CONFIG_NAME} into")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / CONFIG_NAME
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return str(path)
