"""Classes by number, and what they are called."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vivit_lab.errors import InputError
from vivit_lab.model.config import VivitConfig

__all__ = ["all_names", "named_classes"]

_MOST_NAMES = 8


def named_classes(
    index: int | Sequence[int] | Tensor | None, logits: Tensor, config: VivitConfig, chosen: str = "predicted"
) -> tuple[Tensor, list[str]]:
    """Return the class of each clip, (batch,), and for each clip its name in words.

    Args:
        index: a class, one for each clip, or None for the one with the largest logit.
        logits: (batch, class).
        config: names the classes.
        chosen: what the class with the largest logit is called.

    Raises:
        InputError: the model has no such class.
    """
    batch, count = logits.shape
    if index is None:
        classes = logits.argmax(dim=-1)
    else:
        classes = torch.tensor(_indices(index, batch, count), device=logits.device)
    labels, how = config.id2label or {}, f", {chosen}" if index is None else ""
    return classes, [f"class {value} ({labels.get(value, f'LABEL_{value}')}){how}" for value in classes.tolist()]


def all_names(names: Sequence[str]) -> str:
    """Return what stands for the names of a batch of clips: the one they share, or each clip's own, in order.

    Args:
        names: for each clip; of a large batch the first eight are given.
    """
    if len(set(names)) == 1:
        return names[0]
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return f"clip by clip: {'; '.join(names[:_MOST_NAMES])}{more}"


def _indices(index: Any, batch: int, count: int) -> list[int]:
    wanted = f"one of the model's classes 0..{count - 1}, or one for each of the {batch} clips"
    try:
        given = index.tolist() if isinstance(index, Tensor) else index
        values = [operator.index(value) for value in (given if isinstance(given, (list, tuple, range)) else [given])]
    except TypeError as error:
        raise InputError(f"a target is {wanted}, a Target or a function; got {index!r}") from error
    each = given if isinstance(given, (list, tuple, range)) else [given]
    if (
        any(isinstance(value, (bool, np.bool_)) for value in each)
        or len(values) not in (1, batch)
        or not all(0 <= value < count for value in values)
    ):
        raise InputError(f"a target class must be {wanted}; got {index!r}")
    return values * batch if len(values) == 1 else values
