"""From a name to a model: find the configuration, open the weights once, and build what they are."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from vivit_lab.checkpoints.checkpoint import Checkpoint, with_kinetics_labels
from vivit_lab.checkpoints.files import TensorSource, parse_dtype, read_json
from vivit_lab.checkpoints.hub import take_loader_arguments
from vivit_lab.errors import BackendError, InputError
from vivit_lab.model.build import build_model
from vivit_lab.model.config import VivitConfig

__all__ = ["load_checkpoint", "parse_device"]

_WHERE = ("revision", "cache_dir", "local_files_only", "token", "force_download")


def load_checkpoint(
    choose: Callable[[TensorSource], tuple[type, dict[str, Any]]],
    name: str | os.PathLike[str] | Checkpoint,
    *,
    config: Any = None,
    dtype: torch.dtype | str | None = None,
    torch_dtype: torch.dtype | str | None = None,
    device: torch.device | str | int | None = None,
    device_map: Any = None,
    attn_implementation: str | None = None,
    use_safetensors: bool | None = None,
    ignore_mismatched_sizes: bool = False,
    progress: bool | None = None,
    **overrides: Any,
) -> tuple[Any, str]:
    """Load a checkpoint as ``PretrainedMixin.from_pretrained`` describes; the weights are opened once, at one commit.

    Args:
        choose: returns the model's class, and arguments of it besides the configuration, for the checkpoint's tensors.
        name: a directory, a Hub id, ``"bundled"`` or ``"planted"``, or an opened checkpoint.
        config: see ``from_pretrained``; so are the others.
        dtype: dtype of the parameters.
        torch_dtype: the same.
        device: where the parameters go.
        device_map: the same.
        attn_implementation: how attention is computed.
        use_safetensors: which files are looked for.
        ignore_mismatched_sizes: draw a head of another size anew.
        progress: show a bar.
        **overrides: where to look (``revision``, …), fields of the configuration, and arguments of the class.

    Returns:
        The model, and what to warn of (``""`` for nothing).
    """
    target = parse_device(_one_of("device", device, "device_map", _plain_device(device_map)))
    wanted = _one_of("dtype", dtype, "torch_dtype", torch_dtype)
    take_loader_arguments(overrides)
    checkpoint = Checkpoint.open(name, **{key: overrides.pop(key) for key in _WHERE if key in overrides})
    if attn_implementation is not None:
        overrides["attn_implementation"] = attn_implementation
    given = None if config is None else _given_config(config, checkpoint.where)
    stored = {} if given is not None else checkpoint.config
    with checkpoint.weights(use_safetensors=use_safetensors) as source:
        kind, arguments = choose(source)
        arguments |= {key: overrides.pop(key) for key in list(overrides) if key in _arguments(kind)}
        model, warning = build_model(
            kind,
            _settings(given, stored, source, overrides),
            source,
            origin=checkpoint.name,
            dtype=_final_dtype(wanted, stored, source),
            device=target,
            arguments=arguments,
            ignore_mismatched_sizes=ignore_mismatched_sizes,
            progress=progress,
        )
    model.name_or_path = checkpoint.name
    return model, warning


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


def _given_config(config: Any, where: Mapping[str, Any]) -> VivitConfig:
    """Return the configuration that a caller gave in one of the forms in which transformers knows one."""
    if isinstance(config, VivitConfig):
        return config
    if isinstance(config, (str, os.PathLike)):
        path = Path(config).expanduser()
        # a checkpoint of its own; the revision is the other one's
        elsewhere = {key: value for key, value in where.items() if key not in ("revision", "force_download")}
        contents: Any = read_json(path) if path.is_file() else Checkpoint.open(config, **elsewhere).config
    elif isinstance(config, Mapping):
        contents = config
    elif not isinstance(config, type) and callable(getattr(config, "to_dict", None)):
        contents = config.to_dict()
    else:
        raise InputError(
            "config must be a VivitConfig, a transformers configuration, a dict as in a config.json, or the path or "
            f"Hub id of one; got {config!r}"
        )
    return VivitConfig.from_dict(with_kinetics_labels(dict(contents)))


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
        if not isinstance(label2id, Mapping):
            raise InputError(f"label2id must be name → class index, got {label2id!r:.200}")
        overrides.setdefault("id2label", {index: name for name, index in label2id.items()})
    return config.replace(**overrides) if overrides else config
