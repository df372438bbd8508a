"""The peers that tests compare with: transformers 4 or 5, whichever is installed, and what only one of them can do."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
import transformers
from safetensors.torch import load_file
from torch import Tensor

from tests.checkpoints.version_5 import version_5

__all__ = ["TRANSFORMERS", "file_state", "in_memory", "needs_transformers_4"]

TRANSFORMERS = int(transformers.__version__.split(".")[0])
"""Its major version."""

needs_transformers_4 = pytest.mark.skipif(
    TRANSFORMERS >= 5, reason="transformers 5 has no head masks, no pruned heads and writes no pickles"
)


def in_memory(name: str) -> str:
    """The installed transformers' own name of a tensor, from its name in a file, which is transformers 4's."""
    return name if TRANSFORMERS < 5 else version_5(name)


def file_state(model: Any) -> dict[str, Tensor]:
    """The tensors of a model of transformers by their names in a file, which are transformers 4's in both majors."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return {name: value.clone() for name, value in load_file(Path(folder) / "model.safetensors").items()}
