"""Models from checkpoints and back: ``from_pretrained`` and ``save_pretrained``, as in Hugging Face's transformers."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn

from vivit_lab.checkpoints.files import write_checkpoint
from vivit_lab.checkpoints.huggingface import foreign_name
from vivit_lab.errors import CheckpointWarning, InputError
from vivit_lab.model.attention import constant_placeholders
from vivit_lab.model.config import VivitConfig, written_fields
from vivit_lab.model.load import load_checkpoint

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["PretrainedMixin"]


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
        config: VivitConfig | Mapping[str, Any] | str | os.PathLike[str] | Any = None,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        force_download: bool = False,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        device: torch.device | str | int | None = None,
        device_map: Any = None,
        attn_implementation: str | None = None,
        use_safetensors: bool | None = None,
        ignore_mismatched_sizes: bool = False,
        progress: bool | None = None,
        **overrides: Any,
    ) -> Self:
        """Load a model in evaluation mode from a directory or the Hub, as transformers or this package saved it.

        Tensors are read one at a time, straight into parameters of the final dtype on the final device: the memory
        needed is the model's and one tensor's. Nothing in the checkpoint is executed. A checkpoint of 400 classes
        without names gets the Kinetics-400 names. All files come from one commit, also where a branch moves meanwhile;
        where the Hub cannot be reached the cache serves.

        Args:
            pretrained_model_name_or_path: a directory, a Hub id, or ``"bundled"`` or ``"planted"`` for one of the
                small models that ship here (where there is no directory of that name).
            config: a configuration to use instead of the checkpoint's ``config.json``: a ``VivitConfig``, one of
                transformers, a dict as in a config.json, or the path or Hub id of one.
            revision: branch, tag or commit on the Hub.
            cache_dir: where downloads are kept; the Hub client's default where None.
            local_files_only: never touch the network.
            token: Hub access token; True for the stored one.
            force_download: fetch the files again although they are in the cache.
            dtype: dtype of the parameters: a torch dtype or its name, ``"auto"`` for the checkpoint's; None is
                PyTorch's default, float32.
            torch_dtype: the same, by its older name.
            device: where the parameters go; PyTorch's default device, the CPU, where None.
            device_map: the same, as transformers calls it; one device only.
            attn_implementation: ``"sdpa"`` (default), ``"eager"`` or ``"flash_attention_2"``.
            use_safetensors: True takes safetensors alone, False a PyTorch file alone; None prefers safetensors.
            ignore_mismatched_sizes: draw a classifier or pooler anew where the checkpoint has one of another size.
            progress: show a bar while tensors are read; None shows it for large models, on a terminal.
            **overrides: fields of the configuration to change (``num_labels``, ``id2label``, …), and arguments of the
                class itself (``add_pooling_layer``). transformers' ``low_cpu_mem_usage`` and ``trust_remote_code`` are
                taken and change nothing: tensors are always read one at a time, and code is never run.

        Raises:
            CheckpointNotFoundError: there is no such checkpoint, or no access to it.
            KeyMismatchError: its tensors are not this model's; all that differ are listed.
            UnsafeCheckpointError: its file holds pickled code; it was not run.
            CheckpointError: a file is damaged.
            ConfigError: the configuration, an override or the dtype is wrong.
            BackendError: the device is not there.
            InputError: ``config`` is nothing of the kind, or an argument asks for what transformers' loader does and
                this one does not (``subfolder``, ``variant``, …); the message says what to do instead.

        Warns:
            CheckpointWarning: a pooler or classifier did not come from the checkpoint, or was not used.

        Example:
            >>> model = VivitForVideoClassification.from_pretrained("google/vivit-b-16x2-kinetics400")
        """
        model, warning = load_checkpoint(
            lambda source: (cls, {}),
            pretrained_model_name_or_path,
            config=config,
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            token=token,
            force_download=force_download,
            dtype=dtype,
            torch_dtype=torch_dtype,
            device=device,
            device_map=device_map,
            attn_implementation=attn_implementation,
            use_safetensors=use_safetensors,
            ignore_mismatched_sizes=ignore_mismatched_sizes,
            progress=progress,
            **overrides,
        )
        if warning:
            warnings.warn(warning, CheckpointWarning, stacklevel=2)
        return model

    def num_parameters(self, only_trainable: bool = False) -> int:
        """Return the number of parameters.

        Args:
            only_trainable: count only those that require a gradient.
        """
        return sum(value.numel() for value in self.parameters() if value.requires_grad or not only_trainable)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        *,
        max_shard_size: int | str = "5GB",
        safe_serialization: bool = True,
        push_to_hub: bool = False,
    ) -> list[Path]:
        """Write the model for transformers (4 and 5) and this package to read.

        transformers has one of the paper's four variants, and no pooling of tokens. Others are written for this package
        alone, under its own names and with ``model_type`` ``"vivit_lab"``, which transformers refuses.

        A pruned model is written as transformers 4 knows it (``pruned_heads`` in config.json; a layer without any head
        as one head of zeros, which changes nothing). transformers 5 cannot load it: it has no pruned heads.

        An error leaves an older checkpoint in the directory as it was, and old and new files are never mixed: see
        ``write_checkpoint``.

        Args:
            save_directory: made where absent; an older checkpoint in it is replaced.
            max_shard_size: weights above this size are split into several files: bytes, or such as ``"5GB"``.
            safe_serialization: True; a pickled file is not written.
            push_to_hub: False; upload the directory afterwards.

        Returns:
            The paths of the files written: ``config.json``, and ``model.safetensors`` or its shards and index.

        Raises:
            CheckpointError: ``save_directory`` is a file.
            InputError: ``max_shard_size`` is no size, or a pickled file or an upload is asked for.
        """
        if not safe_serialization:
            raise InputError(
                "safe_serialization=False would write a pickle, and reading a pickle can run code: this package writes "
                "safetensors alone, which transformers reads too"
            )
        if push_to_hub:
            raise InputError(
                "push_to_hub=True is not supported: save to a directory and upload that, by "
                "huggingface_hub.HfApi().upload_folder(repo_id=…, folder_path=…) or `hf upload`"
            )
        classifies = hasattr(self, "classifier")
        state = constant_placeholders(self.state_dict(), self.config)
        tensors = state
        if not written_fields(self.config):  # transformers has no names for the rest
            tensors = {foreign_name(own, prefixed=classifies): tensor for own, tensor in state.items()}
        contents = self.config.to_dict()
        # who wrote it and from where is no longer true, and one name for the dtype is enough
        for stale in ("_name_or_path", "transformers_version", "dtype"):
            contents.pop(stale, None)
        contents["architectures"] = ["VivitForVideoClassification" if classifies else "VivitModel"]
        contents["torch_dtype"] = str(next(iter(state.values())).dtype).removeprefix("torch.")
        return write_checkpoint(save_directory, tensors, contents, max_shard_size=max_shard_size)
