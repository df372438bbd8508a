"""A checkpoint by its name: where its files are, found once, and what they say."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vivit_lab import files
from vivit_lab.checkpoints.files import TensorSource, open_checkpoint, read_json
from vivit_lab.checkpoints.hub import BUNDLED, bundled_model_path, is_local, pin_revision, resolve_file
from vivit_lab.checkpoints.huggingface import own_name
from vivit_lab.errors import ConfigError, InputError

__all__ = [
    "PROCESSOR_PARTS",
    "SAMPLING_KEY",
    "Checkpoint",
    "are_placeholders",
    "kinetics400_labels",
    "read_processor",
    "weights_digest",
    "with_kinetics_labels",
]


@cache
def kinetics400_labels() -> tuple[str, ...]:
    """Return the 400 class names of Kinetics-400 in the order checkpoints are trained with: alphabetical, case ignored.

    The names are those of the dataset (Kay et al. 2017); see ``data/NOTICE.md``.

    Example:
        >>> kinetics400_labels()[116]
        'eating spaghetti'
    """
    text = resources.files("vivit_lab.checkpoints").joinpath("kinetics400.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def are_placeholders(id2label: dict[Any, str] | None) -> bool:
    """Whether these names say nothing: none at all, or each is ``LABEL_n`` with its own index."""
    return not id2label or all(str(name) == f"LABEL_{index}" for index, name in id2label.items())


def with_kinetics_labels(config: dict[str, Any]) -> dict[str, Any]:
    """Return a ``config.json``'s contents with the Kinetics-400 names where 400 classes have none.

    The published ViViT checkpoints are of that kind. Any other number of classes, and names that are there, stay.

    Args:
        config: contents of a ``config.json``; not changed.
    """
    names = config.get("id2label")
    if names is not None and not isinstance(names, dict):
        return config  # the configuration says what is wrong with it
    count = len(names) if names else config.get("num_labels")
    if count != 400 or not are_placeholders(names):
        return config
    labels = kinetics400_labels()
    return {
        **config,
        "id2label": {str(index): name for index, name in enumerate(labels)},
        "label2id": {name: index for index, name in enumerate(labels)},
    }


SAMPLING_KEY = "vivit_lab_sampling"
"""The key of a processor's file under which the frames, stride and fps that a model was trained with are kept."""

PROCESSOR_PARTS = ("video_processor", "image_processor")  # of a processor_config.json, the preferred one first


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A checkpoint whose place is known: all that is read from it comes from one directory, or one commit on the Hub.

    Made by `Checkpoint.open`. A file is looked for, or downloaded, when it is first asked for.

    Args:
        name: the name it was opened by.
        folder: its directory; None for one on the Hub.
        where: how its files are found on the Hub, as far as it was given: ``revision`` (then a commit, where the Hub or
            the cache told it), ``cache_dir``, ``local_files_only``, ``token`` and ``force_download``. A directory needs
            none of them.

    Example:
        >>> checkpoint = Checkpoint.open("planted")
        >>> checkpoint.config["num_frames"], checkpoint.processor_file.name
        (16, 'preprocessor_config.json')
    """

    name: str
    folder: Path | None
    where: Mapping[str, Any]

    @classmethod
    def open(cls, name: str | os.PathLike[str] | Checkpoint = "bundled", **where: Any) -> Checkpoint:
        """Find a checkpoint, once for all of its files.

        Args:
            name: a directory, a Hub id, ``"bundled"`` or ``"planted"``, or a checkpoint that was opened already, which
                comes back as it is. A bundled name wins over a folder of that name that holds no config.json.
            **where: ``revision``, ``cache_dir``, ``local_files_only``, ``token`` and ``force_download``, as for
                ``from_pretrained``.

        Raises:
            CheckpointNotFoundError: there is no such directory or repository, no access to it, or no connection and
                nothing cached.
            BundledDataError: the bundled model is not there or damaged.
            InputError: an opened checkpoint is to be looked for elsewhere.
        """
        if isinstance(name, Checkpoint):
            asked = sorted(key for key, value in where.items() if value not in (None, False))
            if asked:
                raise InputError(
                    f"{name.name} is opened already, so {', '.join(asked)} would change nothing: give the name instead "
                    "of the checkpoint"
                )
            return name
        text = os.fspath(name)
        if is_local(name):
            return cls(text, Path(text).expanduser(), where)
        if name in BUNDLED:
            how = {key: where[key] for key in ("cache_dir", "local_files_only", "token") if key in where}
            return cls(text, bundled_model_path(text, **how), where)
        return cls(text, None, pin_revision(text, **where))

    @property
    def revision(self) -> str | None:
        """The commit on the Hub that all files come from; None for a directory."""
        return None if self.folder is not None else self.where.get("revision")

    @property
    def place(self) -> str | Path:
        """The directory, or the Hub id."""
        return self.name if self.folder is None else self.folder

    def file(self, filename: str, *, required: bool = False) -> Path | None:
        """Return the path of one of its files, downloaded where it has to be.

        Args:
            filename: its name in the directory or repository.
            required: whether it is an error that there is none.

        Returns:
            The path; None where it has no such file.

        Raises:
            CheckpointNotFoundError: it has no such file, and it is required; or it cannot be fetched.
        """
        return resolve_file(self.place, filename, **self.where, required=required)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The contents of its config.json; they are shared, so copy them before you change them.

        Raises:
            CheckpointNotFoundError: it has none.
            CheckpointError: it is not JSON.
        """
        path = self.file("config.json", required=True)
        assert path is not None, "a required file is found or raises"
        return read_json(path)

    @cached_property
    def processor_file(self) -> Path | None:
        """The file that tells how its pixels are prepared, None where there is none.

        Of several it is the one that transformers 5 takes for a video: processor_config.json where the processor is one
        of its parts, video_preprocessor_config.json, preprocessor_config.json.

        Raises:
            CheckpointError: a processor_config.json is not JSON.
        """
        parts = self.file("processor_config.json")
        if parts is not None and not set(PROCESSOR_PARTS).isdisjoint(read_json(parts)):
            return parts
        return self.file("video_preprocessor_config.json") or self.file("preprocessor_config.json")

    @cached_property
    def processor(self) -> dict[str, Any] | None:
        """What ``processor_file`` says of the processor, None where there is no such file; shared, as ``config`` is.

        Raises:
            ConfigError: the file holds no JSON object.
        """
        path = self.processor_file
        return None if path is None else read_processor(path)

    @property
    def sampling(self) -> dict[str, Any]:
        """How frames of the training clips were taken, as this package noted it; empty where it did not."""
        noted = (self.processor or {}).get(SAMPLING_KEY)
        return dict(noted) if isinstance(noted, dict) else {}

    def weights(self, *, use_safetensors: bool | None = None) -> TensorSource:
        """Open its weights, to be read tensor by tensor; a context manager that closes the files.

        Args:
            use_safetensors: True looks for safetensors alone, False for a PyTorch file alone; None prefers safetensors.

        Raises:
            CheckpointNotFoundError: it has none.
            CheckpointError: a file is damaged.
            UnsafeCheckpointError: a file holds more than tensors.
        """
        return open_checkpoint(self.place, use_safetensors=use_safetensors, **self.where)

    @cached_property
    def digest(self) -> str:
        """The sha256 of its weights in float32, under this package's names, whatever the files' format and names.

        It is the ``weights_digest`` of a model loaded from it in float32, where every parameter is in the checkpoint,
        and so what runs and evaluations know the weights by. Reads all weights: about a second for 400 MB.
        """
        with self.weights() as source:
            names = sorted((own_name(name) or name, name) for name in source)
            return _sha256((own, _float32(source[name].read())) for own, name in names)


def read_processor(path: Path) -> dict[str, Any]:
    """Return what a file says of a processor: all of it, or that part of a processor_config.json.

    Raises:
        ConfigError: the file, or the part, is no JSON object.
    """
    try:
        contents = files.read_json(path)
    except InputError as error:
        raise ConfigError(str(error)) from error
    if isinstance(contents, dict):
        contents = next((contents[part] for part in PROCESSOR_PARTS if part in contents), contents)
    if not isinstance(contents, dict):
        raise ConfigError(f"{path} must hold a JSON object, got a {type(contents).__name__}")
    return contents


def weights_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the sha256 of tensors: their names, in order, and their bytes.

    Args:
        tensors: name → tensor, such as a model's ``state_dict()``, on any device.
    """
    return _sha256(sorted(tensors.items()))


def _sha256(tensors: Iterable[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
