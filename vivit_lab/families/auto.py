"""The right model class for a checkpoint that is only known by name."""

from __future__ import annotations

import os
import warnings
from typing import Any

from vivit_lab.checkpoints.checkpoint import Checkpoint
from vivit_lab.checkpoints.files import TensorSource
from vivit_lab.errors import CheckpointWarning
from vivit_lab.families.vivit import VivitForVideoClassification, VivitModel
from vivit_lab.model.load import load_checkpoint

__all__ = ["load_model"]


def load_model(name: str | os.PathLike[str] | Checkpoint, **options: Any) -> VivitModel | VivitForVideoClassification:
    """Load a checkpoint as what it is: a classifier where it has one, else the bare model, with its pooler if any.

    Args:
        name: a directory, a Hub id, ``"bundled"`` or ``"planted"``, or an opened `Checkpoint`.
        **options: as for ``from_pretrained``.

    Raises:
        CheckpointError: see ``from_pretrained``.
    """
    model, warning = load_checkpoint(_kind_of, name, **options)
    if warning:
        warnings.warn(warning, CheckpointWarning, stacklevel=2)
    return model


def _kind_of(source: TensorSource) -> tuple[type, dict[str, Any]]:
    if any(name.startswith("classifier.") for name in source):
        return VivitForVideoClassification, {}
    return VivitModel, {"add_pooling_layer": any("pooler." in name for name in source)}
