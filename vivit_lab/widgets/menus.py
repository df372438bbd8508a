"""What the clip explorer offers to choose from, and what a method's call takes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vivit_lab.attribution.registry import METHODS
from vivit_lab.explain import top_labels
from vivit_lab.widgets.explorer_traits import ATTENTION

if TYPE_CHECKING:
    from vivit_lab.hooks.record import AttentionRecord
    from vivit_lab.model.classifier import VivitForVideoClassification, VivitModel

__all__ = ["arguments_of", "is_agnostic", "make_menus"]


def is_agnostic(method: Any) -> bool:
    """Whether a method's map does not depend on a class."""
    return bool(getattr(method, "class_agnostic", False))


def arguments_of(method: Any) -> set[str]:
    """Return the names of the arguments that a method can be called with."""
    return set(inspect.signature(method).parameters)


def make_menus(
    model: VivitModel | VivitForVideoClassification, record: AttentionRecord, methods: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what the controls offer, JSON-able.

    Args:
        model: names the classes.
        record: of the clip; its prediction is part of the caption.
        methods: name → method.

    Returns:
        ``methods`` (each with ``name``, ``label``, ``takes_class``, ``takes_query`` and ``enabled``: a method that
        explains a class needs a classifier), ``classes`` (labels), ``layers`` and ``heads`` (how many), ``caption``.
    """
    config = model.config
    logits = getattr(record.output, "logits", None)
    classes = [(config.id2label or {}).get(index, str(index)) for index in range(config.num_labels or 0)]
    classes = classes if logits is not None else []
    entries = [{"name": ATTENTION, "label": "Attention", "takes_class": False, "takes_query": True, "enabled": True}]
    for name, method in methods.items():
        agnostic = is_agnostic(method)
        label = type(method).__name__ if name in METHODS else name
        enabled = agnostic or bool(classes)
        takes = {"takes_class": not agnostic, "takes_query": "queries" in arguments_of(method)}
        entries.append({"name": name, "label": label, **takes, "enabled": enabled})
    caption = record.model_id or type(model).__name__
    if logits is not None and classes:
        top = top_labels(logits[0], config, 1)[0]
        sure = f" ({top['probability']:.0%})" if "probability" in top else ""
        caption += f" · predicts {top['label']}{sure}"
    return {
        "methods": entries,
        "classes": classes,
        "layers": record.num_layers,
        "heads": record.num_heads,
        "caption": caption,
    }
