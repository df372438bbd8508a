"""The files that tell how a model's pixels are prepared: found, read and written, as transformers 4 and 5 have them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from vivit_lab.checkpoints.checkpoint import PROCESSOR_PARTS, Checkpoint, read_processor
from vivit_lab.checkpoints.files import read_json
from vivit_lab.checkpoints.hub import BUNDLED
from vivit_lab.errors import CheckpointNotFoundError, ConfigError, InputError

__all__ = ["CONFIG_NAME", "as_image_processor", "read_config", "write_config"]

CONFIG_NAME = "preprocessor_config.json"
_VIDEO_NAME = "video_preprocessor_config.json"


def read_config(source: str | os.PathLike[str] | Checkpoint, **place: Any) -> dict[str, Any]:
    """Return the content of a processor's configuration file, as a preprocessor_config.json has it.

    Of a checkpoint's files the first of these is read, which is transformers 5's order for a video:
    processor_config.json where the processor is one of its parts, video_preprocessor_config.json,
    preprocessor_config.json.

    Args:
        source: a directory that holds such a file, a JSON file, a Hub id, ``"bundled"`` or ``"planted"``, or an opened
            checkpoint.
        **place: for a Hub id: ``revision``, ``cache_dir``, ``local_files_only`` and ``token``.

    Raises:
        CheckpointNotFoundError: there is no such file.
        ConfigError: the file is not a processor configuration.
    """
    if not isinstance(source, Checkpoint) and source not in BUNDLED and Path(source).is_file():
        return read_processor(Path(source))
    checkpoint = Checkpoint.open(source, **place)
    config = checkpoint.processor
    if config is None:
        raise CheckpointNotFoundError(
            f"{checkpoint.name} has no {CONFIG_NAME}; write one by processor.save_pretrained, or build "
            "VivitImageProcessor(...)"
        )
    return dict(config)


def as_image_processor(config: dict[str, Any]) -> dict[str, Any]:
    """Return the content of transformers 5's video processor as that of its image processor; any other unchanged."""
    kind = config.get("video_processor_type")
    if kind is None:
        return config
    config = {name: value for name, value in config.items() if name != "video_processor_type"}
    config["image_processor_type"] = str(kind).replace("VideoProcessor", "ImageProcessor")
    # the video processor has no option for it: what it rescales, it moves to [-1, 1] too
    return {**config, "offset": config.get("do_rescale", True) is not False}


def write_config(directory: str | os.PathLike[str], config: dict[str, Any]) -> str:
    """Write a processor's configuration into a directory, which is made, and return the file's path.

    Where the directory holds a file of transformers 5 that would be read first, that is brought up to date too.

    Raises:
        InputError: there is a file at that path.
    """
    folder = Path(directory)
    if folder.is_file():
        raise InputError(f"{directory} is a file, wanted a directory to write {CONFIG_NAME} into")
    folder.mkdir(parents=True, exist_ok=True)
    newer = _newer_files(folder, config)  # first, as it may refuse
    for path, contents in {folder / CONFIG_NAME: config, **newer}.items():
        path.write_text(json.dumps(contents, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return str(folder / CONFIG_NAME)


def _newer_files(folder: Path, config: dict[str, Any]) -> dict[Path, dict[str, Any]]:
    """Return the new contents of those files of transformers 5 that are there and would be read in its place."""
    written = {}
    video, parts = folder / _VIDEO_NAME, folder / "processor_config.json"
    if video.is_file():
        written[video] = _as_video_processor(config)
    contents = read_json(parts) if parts.is_file() else {}
    video_part, image_part = PROCESSOR_PARTS
    named = {image_part: config}
    if video_part in contents:
        named[video_part] = _as_video_processor(config)
    if not contents.keys().isdisjoint(named):
        written[parts] = {**contents, **{part: value for part, value in named.items() if part in contents}}
    return written


def _as_video_processor(config: dict[str, Any]) -> dict[str, Any]:
    if config["offset"] != config["do_rescale"]:
        raise ConfigError(
            f"transformers' video processor moves what it rescales to [-1, 1], so offset={config['offset']} with "
            f"do_rescale={config['do_rescale']} cannot be written for it, and the directory has a file of it: save "
            "into another, or remove that file first"
        )
    kept = {name: value for name, value in config.items() if name not in ("offset", "image_processor_type")}
    return {**kept, "video_processor_type": "VivitVideoProcessor"}
