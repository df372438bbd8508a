"""Models from checkpoints and back: ``from_pretrained`` and ``save_pretrained``, as in Hugging Face's transformers."""

from __future__ import annotations

import inspect
import os
import warnings
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn

from vivit_lab.checkpoints.files import TensorSource, open_checkpoint, parse_dtype, read_json
from vivit_lab.checkpoints.hub import resolve_file
from vivit_lab.checkpoints.huggingface import foreign_name
from vivit_lab.checkpoints.labels import with_kinetics_labels
from vivit_lab.checkpoints.save import write_checkpoint
from vivit_lab.errors import BackendError, CheckpointWarning, InputError
from vivit_lab.model.build import build_model
from vivit_lab.model.config import VivitConfig

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["PretrainedMixin", "parse_device"]


class PretrainedMixin(nn.Module):
    """Loading and saving, for the model classes to inherit.

    Attributes:
        name_or_path: the directory or Hub id the weights came from; None for a model made from a configuration.
    """

    config: VivitConfig
    name_or_path: str | None = None

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        config: VivitConfig | None = None,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        device: torch.device | str | int | None = None,
        device_map: Any = None,
        attn_implementation: str | None = None,
        ignore_mismatched_sizes: bool = False,
        progress: bool | None = None,
        **overrides: Any,
    ) -> Self:
        """Load a model in evaluation mode from a directory or the Hub, as transformers or this package saved it.

        Tensors are read one at a time, straight into parameters of the final dtype on the final device: the memory
        needed is the model's and one tensor's. Nothing in the checkpoint is executed. A checkpoint of 400 classes
        without names gets the Kinetics-400 names.

        Args:
            pretrained_model_name_or_path: a directory, a Hub id, or ``"bundled"`` for the small model that ships here.
            config: a configuration to use instead of the checkpoint's ``config.json``.
            revision: branch, tag or commit on the Hub.
            cache_dir: where downloads are kept; the Hub client's default where None.
            local_files_only: never touch the network.
            token: Hub access token; True for the stored one.
            dtype: dtype of the parameters: a torch dtype or its name, ``"auto"`` for the checkpoint's; None is
                PyTorch's default, float32.
            torch_dtype: the same, by its older name.
            device: where the parameters go; PyTorch's default device, the CPU, where None.
            device_map: the same, as transformers calls it; one device only.
            attn_implementation: ``"sdpa"`` (default), ``"eager"`` or ``"flash_attention_2"``.
            ignore_mismatched_sizes: draw a classifier or pooler anew where the checkpoint has one of another size.
            progress: show a bar while tensors are read; None shows it for large models, on a terminal.
            **overrides: fields of the configuration to change (``num_labels``, ``id2label``, …), and arguments of the
                class itself (``add_pooling_layer``).

        Raises:
            CheckpointNotFoundError: there is no such checkpoint, or no access to it.
            KeyMismatchError: its tensors are not this model's; all that differ are listed.
            UnsafeCheckpointError: its file holds pickled code; it was not run.
            CheckpointError: a file is damaged.
            ConfigError: the configuration, an override or the dtype is wrong.
            BackendError: the device is not there.

        Warns:
            CheckpointWarning: a pooler or classifier did not come from the checkpoint, or was not used.

        Example:
            >>> model = VivitForVideoClassification.from_pretrained("google/vivit-b-16x2-kinetics400")
        """
        name = os.fspath(pretrained_model_name_or_path)
        where = {"revision": revision, "cache_dir": cache_dir, "local_files_only": local_files_only, "token": token}
        target = parse_device(_one_of("device", device, "device_map", _plain_device(device_map)))
        arguments = {key: overrides.pop(key) for key in list(overrides) if key in _arguments(cls)}
        if attn_implementation is not None:
            overrides["attn_implementation"] = attn_implementation
        stored: dict[str, Any] = {}
        if config is None:
            stored = read_json(_required(resolve_file(pretrained_model_name_or_path, "config.json", **where)))
        with open_checkpoint(pretrained_model_name_or_path, **where) as source:
            wanted = _one_of("dtype", dtype, "torch_dtype", torch_dtype)
            final = _final_dtype(wanted, stored, source)
            settings = _settings(config, stored, source, overrides)
            model, warning = build_model(
                cls,
                settings,
                source,
                origin=name,
                dtype=final,
                device=target,
                arguments=arguments,
                ignore_mismatched_sizes=ignore_mismatched_sizes,
                progress=progress,
            )
        if warning:
            warnings.warn(warning, CheckpointWarning, stacklevel=2)
        model.name_or_path = name
        return model

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *, max_shard_size: int | str = "5GB"
    ) -> list[Path]:
        """Write the model for transformers (4 and 5) and this package to read; all files appear at once or not at all.

        Args:
            save_directory: made where absent; an older checkpoint in it is replaced.
            max_shard_size: weights above this size are split into several files: bytes, or such as ``"5GB"``.

        Returns:
            The paths of the files written: ``config.json``, and ``model.safetensors`` or its shards and index.

        Raises:
            CheckpointError: ``save_directory`` is a file.
            InputError: ``max_shard_size`` is no size.
        """
        classifies = hasattr(self, "classifier")
        state = self.state_dict()
        tensors = {foreign_name(own, prefixed=classifies): tensor for own, tensor in state.items()}
        contents = self.config.to_dict()
        # who wrote it and from where is no longer true, and one name for the dtype is enough
        for stale in ("_name_or_path", "transformers_version", "dtype"):
            contents.pop(stale, None)
        contents["architectures"] = ["VivitForVideoClassification" if classifies else "VivitModel"]
        contents["torch_dtype"] = str(next(iter(state.values())).dtype).removeprefix("torch.")
        return write_checkpoint(save_directory, tensors, contents, max_shard_size=max_shard_size)


def parse_device(device: torch.device | str | int | None) -> torch.device:
    """Return the device, having made sure that it is there; None is PyTorch's default device.

    Raises:
        BackendError: there is no such device on this machine.
    """
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BackendError(
            f"device {device!r} cannot be used here: {reason}; wanted such as 'cpu' or 'cuda'"
        ) from error


def _plain_device(device_map: Any) -> Any:
    if isinstance(device_map, dict) and list(device_map) == [""]:
        return device_map[""]
    if isinstance(device_map, dict) or device_map in ("auto", "balanced", "balanced_low_0", "sequential"):
        raise InputError(f"device_map={device_map!r} would split the model; wanted one device, such as 'cuda:0'")
    return device_map


def _one_of(name: str, value: Any, alias: str, other: Any) -> Any:
    if value is not None and other is not None and value != other:
        raise InputError(f"{name}={value!r} and {alias}={other!r} are two names of one argument; give one of them")
    return other if value is None else value


def _arguments(kind: type) -> set[str]:
    return set(inspect.signature(kind).parameters) - {"config"}


def _required(path: Path | None) -> Path:
    assert path is not None, "a required file is found or raises"
    return path


def _final_dtype(wanted: torch.dtype | str | None, stored: dict[str, Any], source: TensorSource) -> torch.dtype:
    if wanted == "auto":
        wanted = stored.get("dtype") or stored.get("torch_dtype") or source.dtype
    return torch.get_default_dtype() if wanted is None else parse_dtype(wanted)


def _settings(
    config: VivitConfig | None, stored: dict[str, Any], source: TensorSource, overrides: dict[str, Any]
) -> VivitConfig:
    """Return the configuration to build: the one given or stored, with class names found and overrides applied."""
    if config is None:
        head = source.get("classifier.weight")
        if head is not None and stored.get("id2label") is None and stored.get("num_labels") is None:
            stored = {**stored, "num_labels": head.shape[0]}  # the config is silent, the weights are not
        config = VivitConfig.from_dict(with_kinetics_labels(stored))
    label2id = overrides.pop("label2id", None)
    if label2id is not None:
        overrides.setdefault("id2label", {index: name for name, index in label2id.items()})
    return config.replace(**overrides) if overrides else config
