"""Methods by name, with settings and classes as somebody types them."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable
from typing import Any

from vivit_lab.attribution.attcat import AttCAT
from vivit_lab.attribution.attention_gradient import AttentionGradient
from vivit_lab.attribution.chefer import CheferRelevance
from vivit_lab.attribution.gradient_rollout import GradientRollout
from vivit_lab.attribution.input_gradient import InputXGradient
from vivit_lab.attribution.integrated_gradients import IntegratedGradients
from vivit_lab.attribution.legrad import LeGrad
from vivit_lab.attribution.occlusion import Occlusion
from vivit_lab.attribution.raw import RawAttention
from vivit_lab.attribution.rise import Rise
from vivit_lab.attribution.rollout import AttentionRollout
from vivit_lab.attribution.smooth_grad import SmoothGrad
from vivit_lab.attribution.transition import TransitionAttentionMaps
from vivit_lab.attribution.value_norm import ValueNormRollout
from vivit_lab.errors import InputError
from vivit_lab.model.config import VivitConfig

__all__ = ["METHODS", "class_by_name", "make_method"]

METHODS: dict[str, type[Any]] = {
    "raw": RawAttention,
    "rollout": AttentionRollout,
    "gradient_rollout": GradientRollout,
    "chefer": CheferRelevance,
    "attention_gradient": AttentionGradient,
    "legrad": LeGrad,
    "transition": TransitionAttentionMaps,
    "attcat": AttCAT,
    "value_norm": ValueNormRollout,
    "input_x_gradient": InputXGradient,
    "integrated_gradients": IntegratedGradients,
    "smooth_grad": SmoothGrad,
    "occlusion": Occlusion,
    "rise": Rise,
}
"""Every method of the package, by the name that the command line knows it by."""


def make_method(name: str, settings: dict[str, str] | None = None) -> Any:
    """Return a method by its name, with fields given as text.

    Args:
        name: a key of ``METHODS``, or the class's name; upper and lower case alike.
        settings: field → value as typed, e.g. ``{"start_layer": "8", "centred": "true", "window": "2,2,2"}``.

    Raises:
        InputError: there is no such method or field, or a value does not fit it.
    """
    by_name = {**METHODS, **{method.__name__.lower(): method for method in METHODS.values()}}
    method = by_name.get(name.lower())
    if method is None:
        raise InputError(f"method {name!r} is not known; choose one of {', '.join(METHODS)}")
    fields = {field.name: field for field in dataclasses.fields(method)}
    values: dict[str, Any] = {}
    for key, text in (settings or {}).items():
        if key not in fields:
            raise InputError(f"{method.__name__} has no field {key!r}; it has {', '.join(fields) or 'none'}")
        values[key] = _parse(method.__name__, fields[key], text)
    return method(**values)


def class_by_name(text: str, config: VivitConfig) -> int:
    """Return the class that a text names: a whole number is its index, anything else its label.

    Args:
        text: as typed; upper and lower case alike.
        config: names the classes.

    Raises:
        InputError: the model has no such class; the message says which come nearest. An index is checked by the method.
    """
    if re.fullmatch(r"[+-]?\d+", text.strip()):
        return int(text)
    labels = (config.id2label or {}) if config.num_labels else {}
    found = [index for index, label in labels.items() if label.lower() == text.strip().lower()]
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"several classes are called {text!r}: {', '.join(map(str, found))}; give the index of one")
    near = difflib.get_close_matches(text.lower(), [label.lower() for label in labels.values()], n=3)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    known = f"it has {len(labels)} classes" if labels else "it has no classifier"
    raise InputError(f"the model has no class {text!r} ({known}): {hint}Give a label, or an index from 0")


def _parse(method: str, field: dataclasses.Field[Any], text: str) -> Any:
    """Return a field's value from text, by the first of the field's types that reads it."""
    for kind in (part.strip() for part in str(field.type).split(" | ")):
        try:
            return _READERS[kind](text.strip())
        except ValueError:
            continue
    raise InputError(f"{method}'s {field.name} wants {_in_words(str(field.type))}, got {text!r}")


def _none(text: str) -> None:
    if text.lower() != "none":
        raise ValueError


def _flag(text: str) -> bool:
    values = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if text.lower() not in values:
        raise ValueError
    return values[text.lower()]


def _three(text: str) -> tuple[int, ...]:
    sizes = tuple(int(part) for part in text.strip("()").split(","))
    if len(sizes) != 3:
        raise ValueError
    return sizes


_READERS: dict[str, Callable[[str], Any]] = {
    "int": int,
    "float": float,
    "bool": _flag,
    "str": str,
    "None": _none,
    "tuple[int, int, int]": _three,
}


def _in_words(kind: str) -> str:
    return kind.replace("tuple[int, int, int]", "three whole numbers t,h,w").replace("bool", "true or false")
