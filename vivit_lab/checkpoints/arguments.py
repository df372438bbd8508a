"""Arguments that transformers' ``from_pretrained`` takes and this one does not need, or does not support."""

from __future__ import annotations

from typing import Any

from vivit_lab.errors import InputError

__all__ = ["take_loader_arguments"]

# What is always so here, whatever is passed: tensors are read one at a time, no code of a checkpoint is ever run, and a
# download goes on where it stopped.
_WITHOUT_EFFECT = ("low_cpu_mem_usage", "trust_remote_code", "code_revision", "resume_download", "_fast_init")

# What is not supported, and what to do instead. The value in front asks for nothing, as does None.
_NOT_SUPPORTED: dict[str, tuple[Any, str]] = {
    "subfolder": ("", "keep the model in a repository of its own, or pass the path of the local subfolder"),
    "variant": ("", "rename the files to model.safetensors, or keep them in a directory or revision of their own"),
    "output_loading_info": (False, "a CheckpointWarning tells what did not come from the checkpoint, and a "
                            "KeyMismatchError what does not fit"),
    "proxies": ({}, "set HTTPS_PROXY in the environment, which the Hub's client reads"),
    "use_auth_token": (False, "pass token=…, its newer name"),
    "state_dict": (None, "build the model from its configuration and call load_state_dict, which wants this package's "
                   "names, or save the tensors beside a config.json and load that directory"),
    "from_tf": (False, "convert the weights to safetensors first"),
    "from_flax": (False, "convert the weights to safetensors first"),
    "gguf_file": ("", "convert the weights to safetensors first"),
    "quantization_config": (None, "load in float, e.g. dtype='bfloat16'"),
    "load_in_8bit": (False, "load in float, e.g. dtype='bfloat16'"),
    "load_in_4bit": (False, "load in float, e.g. dtype='bfloat16'"),
    "weights_only": (True, "pickled code is never run; convert the file to safetensors where you trust it"),
    "key_mapping": (None, "rename the tensors in the file"),
    "max_memory": (None, "one device holds the whole model: pass device"),
    "offload_folder": (None, "one device holds the whole model: pass device"),
    "offload_state_dict": (False, "one device holds the whole model: pass device"),
    "offload_buffers": (False, "one device holds the whole model: pass device"),
    "tp_plan": (None, "one device holds the whole model: pass device"),
}  # fmt: skip


def take_loader_arguments(arguments: dict[str, Any]) -> None:
    """Take out of keyword arguments those of transformers' loader that change nothing here.

    Args:
        arguments: what a caller passed besides the arguments known here; loader arguments are removed from it, and what
            is left are fields of the configuration.

    Raises:
        InputError: one of them asks for what is not supported; the message says what to do instead.
    """
    for name in _WITHOUT_EFFECT:
        arguments.pop(name, None)
    for name, (nothing, instead) in _NOT_SUPPORTED.items():
        value = arguments.pop(name, None)
        if value is not None and value != nothing:
            raise InputError(f"{name} is not supported: {instead} (got {name}={value!r})")
