"""The published JAX checkpoints of ViViT, as models of this package."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from vivit_lab.checkpoints.checkpoint import kinetics400_labels
from vivit_lab.checkpoints.files import TensorSource, parse_dtype
from vivit_lab.checkpoints.scenic import convert_parameters, read_fields, read_parameters
from vivit_lab.errors import ConfigError
from vivit_lab.families.vivit import VivitForVideoClassification
from vivit_lab.model.build import build_model
from vivit_lab.model.config import VivitConfig
from vivit_lab.model.load import parse_device

__all__ = ["from_scenic"]


def from_scenic(
    path_or_tree: Mapping[str, Any] | str | os.PathLike[str],
    *,
    dtype: torch.dtype | str = torch.float32,
    device: torch.device | str | int | None = None,
    **config_fields: Any,
) -> VivitForVideoClassification:
    """Load a ViViT of google-research/scenic, in evaluation mode: all four variants, whatever flax release wrote them.

    Names and shapes tell the variant, widths, layers, heads, tubelet and number of classes. They do not tell
    ``num_frames`` or ``image_size`` where the positions lie on one space-time grid (give one of them),
    ``attention_order`` of a ``factorized_self_attention_block``, or ``variant`` where there is no CLS token and no
    second attention. What was given is checked against the shapes. A classifier of 400 classes gets the Kinetics-400
    names.

    Trap: scenic's ``patches.size`` is (h, w, t), ``tubelet_size`` here is (t, h, w).

    Several classifiers (``output_projection_noun``, ``output_projection_verb``) are put side by side in the order of
    their names, or of the ``label_groups`` given, which tell what logits belong to which. Where one classifier holds
    several groups of classes, as the published one of EPIC-KITCHENS does, pass ``label_groups={"noun": 300, "verb":
    97}`` in the order of the training configuration's ``class_splits``; ``split_logits`` then gives a tensor for each.

    Args:
        path_or_tree: a checkpoint file of flax (msgpack), the directory that holds it, an ``.npz``, or a tree of
            arrays, nested or with paths as names; see ``vivit_lab.checkpoints.scenic.read_parameters``.
        dtype: dtype of the parameters; the conversion is done in float32.
        device: where the parameters go; PyTorch's default device where None.
        **config_fields: fields of ``VivitConfig`` that the parameters do not tell, and such as ``id2label``.

    Raises:
        CheckpointError: the file is not there, damaged, or of another format.
        MissingExtraError: msgpack is not installed: the extra ``[scenic]``.
        ConfigError: a field is missing, wrong, or not what the parameters tell; the message names it.
        KeyMismatchError: parameters are unknown or missing; all are listed.

    Example:
        >>> model = from_scenic("vivit_b_16x2_fe_k400/checkpoint")
    """
    tree = read_fields(read_parameters(path_or_tree), config_fields)
    told = {name: tuple(value) if isinstance(value, list) else value for name, value in config_fields.items()}
    wrong = {name: value for name, value in tree.fields.items() if told.get(name, value) != value}
    if wrong:
        listed = ", ".join(f"{name}={told[name]!r}, but they tell {value!r}" for name, value in wrong.items())
        raise ConfigError(f"the parameters contradict what was given: {listed}; leave it out")
    fields = {**tree.fields, **config_fields}
    if "id2label" not in fields and (names := _names_of(fields)):
        fields["id2label"] = dict(enumerate(names))
    if "id2label" in fields:
        fields.pop("num_labels")
    config = VivitConfig().replace(**fields)
    model, _ = build_model(
        VivitForVideoClassification,
        config,
        TensorSource.from_tensors(convert_parameters(tree, config.attention_order)),
        origin="the scenic checkpoint",
        dtype=parse_dtype(dtype),
        device=parse_device(device),
    )
    model.name_or_path = None if isinstance(path_or_tree, Mapping) else os.fspath(path_or_tree)
    return model


def _names_of(fields: Mapping[str, Any]) -> list[str]:
    """Return the names of the classes where they are known: of Kinetics-400, or made of the groups' names."""
    groups = fields.get("label_groups") or {}
    if groups and sum(groups.values()) == fields["num_labels"]:
        return [f"{group}_{index}" for group, count in groups.items() for index in range(count)]
    return list(kinetics400_labels()) if fields["num_labels"] == 400 else []
