"""Class names that a checkpoint does not tell itself."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

__all__ = ["are_placeholders", "kinetics400_labels", "with_kinetics_labels"]


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
