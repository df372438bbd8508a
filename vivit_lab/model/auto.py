"""The right model class for a checkpoint that is only known by name."""

from __future__ import annotations

import os
from typing import Any

from vivit_lab.checkpoints.files import open_checkpoint
from vivit_lab.model.classifier import VivitForVideoClassification, VivitModel

__all__ = ["load_model"]

_WHERE = ("revision", "cache_dir", "local_files_only", "token")


def load_model(name: str | os.PathLike[str], **options: Any) -> VivitModel | VivitForVideoClassification:
    """Load a checkpoint as what it is: a classifier where it has one, else the bare model, with its pooler if any.

    Args:
        name: a directory, a Hub id, or ``"bundled"``.
        **options: as for ``from_pretrained``.

    Raises:
        CheckpointError: see ``from_pretrained``.
    """
    where = {key: options[key] for key in _WHERE if key in options}
    with open_checkpoint(name, **where) as source:
        names = list(source)
    if any(key.startswith("classifier.") for key in names):
        return VivitForVideoClassification.from_pretrained(name, **options)
    has_pooler = any("pooler." in key for key in names)
    return VivitModel.from_pretrained(name, add_pooling_layer=has_pooler, **options)
