"""Class contrast: does a map react to which class it is asked about?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vivit_lab.attribution._html import pictures
from vivit_lab.attribution.base import AttributionMap
from vivit_lab.errors import InputError
from vivit_lab.hooks.classes import named_classes
from vivit_lab.hooks.recorder import record_attention
from vivit_lab.model.classifier import VivitForVideoClassification
from vivit_lab.show.html import facts_table, report_html, rows_table
from vivit_lab.statistics.ranks import spearman
from vivit_lab.video.clip import Clip

__all__ = ["ClassContrast", "class_contrast", "map_contrast"]

Classes = int | Sequence[int] | Tensor | None


@dataclass(frozen=True, eq=False)
class ClassContrast:
    """Two maps of the same clips about two classes, and how much they differ.

    Args:
        contrast: for each clip, 1 − Spearman's correlation of the two maps, in [0, 2]: 0 the same order of tubelets, 1
            unrelated, 2 the reverse; NaN where one map is constant and the other is not the same.
        a: the map of the first class.
        b: the map of the second; the same object for a class-agnostic method.
        names: for each clip, the two classes in words.
        class_agnostic: whether the method cannot tell classes apart, so that the contrast is 0 by construction.
    """

    contrast: list[float]
    a: AttributionMap
    b: AttributionMap
    names: list[tuple[str, str]]
    class_agnostic: bool

    def __len__(self) -> int:
        return len(self.contrast)

    def __str__(self) -> str:
        lines = [self._title()]
        for clip, ((a, b), value) in enumerate(zip(self.names, self.contrast, strict=True)):
            lines.append(f"  clip {clip}: {value:.3f} between {a} and {b}")
        return "\n".join(lines)

    def _title(self) -> str:
        why = ", 0 because the method is class-agnostic" if self.class_agnostic else ""
        return f"class contrast of {self.a.method} (1 − Spearman){why}"

    def _repr_html_(self) -> str:
        rows = [
            (str(clip), *names, f"{value:.3f}")
            for clip, (names, value) in enumerate(zip(self.names, self.contrast, strict=True))
        ]
        parts = [facts_table({"": self._title()}), rows_table(("clip", "class a", "class b", "contrast"), rows)]
        both = [("map", self.a)] if self.class_agnostic else [("class a", self.a), ("class b", self.b)]
        for name, heat in both:
            parts += [facts_table({name: heat.target}), pictures(heat)]
        return report_html(*parts)


def class_contrast(
    method: Any,
    model: VivitForVideoClassification,
    pixel_values: Tensor | Clip | Sequence[Clip],
    a: Classes = None,
    b: Classes = None,
    **options: Any,
) -> ClassContrast:
    """Explain two classes of the same clips and compare the maps.

    A method that shows nearly the same for any class shows what catches the eye, not what tells classes apart.

    Args:
        method: any method of the package; with a class-agnostic one the contrast is 0, and the map is computed once.
        model: a classifier.
        pixel_values: (batch, frames, channels, height, width) or prepared clips.
        a: a class, or one for each clip; None for the predicted one.
        b: likewise; None for the strongest other class.
        **options: further arguments of the method's call, e.g. ``head_mask``.

    Raises:
        InputError: the model has no classifier, fewer than two classes, or not these, or both classes are the same.

    Cost: one forward pass, and the method twice.
    """
    count = getattr(model, "num_labels", 0)
    if not count:
        raise InputError("class contrast wants a classifier; compare any two maps with map_contrast(one, other)")
    if count < 2:
        raise InputError("class contrast wants two classes, the model has one")
    forward = {name: options[name] for name in ("head_mask", "interpolate_pos_encoding") if name in options}
    logits = record_attention(model, pixel_values, layers=[-1], **forward).output.logits
    first, names = named_classes(a, logits, model.config)
    rest = logits.scatter(1, first.unsqueeze(1), -torch.inf)
    second, others = named_classes(b, rest, model.config, chosen="the strongest other")
    if bool((first == second).any()):
        raise InputError(f"class contrast wants two different classes, got {first.tolist()} and {second.tolist()}")
    pairs = list(zip(names, others, strict=True))
    if method.class_agnostic:
        heat = method(model, pixel_values, None, **options)
        return ClassContrast([0.0] * len(heat), heat, heat, pairs, True)
    one, other = (method(model, pixel_values, classes, **options) for classes in (first, second))
    return ClassContrast(map_contrast(one, other), one, other, pairs, False)


def map_contrast(one: AttributionMap, other: AttributionMap) -> list[float]:
    """Return, for each clip, 1 − Spearman's correlation of two maps, in [0, 2].

    Spearman's is Pearson's correlation of ranks, equal values sharing the mean of their ranks. Two equal maps have
    contrast 0 even where they are constant; a constant map and another one have no correlation, NaN.

    Raises:
        InputError: the maps have another shape.
    """
    if one.relevance.shape != other.relevance.shape:
        raise InputError(
            f"two maps of the same clips and grid are wanted, got {tuple(one.relevance.shape)} and "
            f"{tuple(other.relevance.shape)}"
        )
    first, second = (heat.relevance.detach().cpu().flatten(1) for heat in (one, other))
    equal = (first == second).all(dim=1)
    contrast = (1 - spearman(first, second)).clamp(0, 2)
    return torch.where(equal, torch.zeros_like(contrast), contrast).tolist()
