"""What is explained: a number that a model's output gives for each clip, and what it is called."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vivit_lab.errors import InputError
from vivit_lab.families.vivit import make_summary
from vivit_lab.model.config import VivitConfig

__all__ = [
    "BoundTarget",
    "ClassLogit",
    "CosineSimilarity",
    "LogitDifference",
    "OwnEmbedding",
    "Probability",
    "Target",
    "TargetLike",
    "all_names",
    "bind_target",
    "named_classes",
]

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


_SOURCES = ("auto", "pooler", "cls")


@dataclass(frozen=True, eq=False)
class BoundTarget:
    """A target whose classes are fixed for the clips of one batch.

    Args:
        score: (output, clip index of each row of the output) → (row,).
        names: for each clip, what is explained in words, such as ``"class 3 (LABEL_3), predicted"``.
        unit: what a score is: ``"logit"``, ``"probability"``, …
        classes: (num_clips,) the one class that is explained in each clip; None where a target is about something else.
    """

    score: Callable[[Any, Tensor], Tensor]
    names: list[str]
    unit: str
    classes: Tensor | None = None

    @property
    def num_clips(self) -> int:
        """How many clips it was bound to."""
        return len(self.names)

    @property
    def name(self) -> str:
        """What is explained in all clips, in words."""
        return all_names(self.names)

    def __call__(self, output: Any, clips: Sequence[int] | Tensor | None = None) -> Tensor:
        """Return the scores (row,) of a model's output.

        Args:
            output: a model's output.
            clips: which of the bound clips each row is a version of; by default row i is one of clip i.

        Raises:
            InputError: the rows are not those of the bound clips, or the target's function gave something else than one
                number a row.
        """
        some = next(iter(output.values()))
        if clips is None and len(some) != self.num_clips:
            raise InputError(
                f"the target is bound to {self.num_clips} clips, the output has {len(some)}: name its clips"
            )
        index = torch.as_tensor(range(self.num_clips) if clips is None else clips, device=some.device)
        scores = self.score(output, index)
        if not isinstance(scores, Tensor) or scores.shape != (len(index),):
            got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise InputError(f"a target must give one number a clip, a tensor ({len(index)},); got {got}")
        return scores


class Target(ABC):
    """Base of the targets. A subclass says how its score is computed by ``bind``."""

    @abstractmethod
    def bind(self, output: Any, config: VivitConfig) -> BoundTarget:
        """Fix what depends on the clean clips' output, such as the predicted class.

        Args:
            output: the model's output for the clean clips.
            config: the model's configuration, which names the classes.
        """


TargetLike = Target | BoundTarget | int | Sequence[int] | Tensor | Callable[[Any], Tensor] | None
"""What a method takes as ``target``; see ``bind_target``."""


@dataclass(frozen=True)
class ClassLogit(Target):
    """The logit of a class.

    Args:
        index: the class, one for each clip, or None for each clip's predicted class.

    Example:
        >>> heat = CheferRelevance()(model, clip, ClassLogit(3))  # or simply 3
    """

    index: int | Sequence[int] | Tensor | None = None

    def bind(self, output: Any, config: VivitConfig) -> BoundTarget:
        """See ``Target.bind``.

        Raises:
            InputError: the model has no classifier, or not that class.
        """
        logits = _logits(output, config)
        classes, names = named_classes(self.index, logits, config)
        return BoundTarget(lambda output, clips: _take(output.logits, classes, clips), names, "logit", classes)


@dataclass(frozen=True)
class LogitDifference(Target):
    """The logit of class a less that of class b: why this and not that.

    Args:
        a: the class to explain; one for each clip; None for the predicted class.
        b: the class to tell it from; None for the strongest other class.
    """

    a: int | Sequence[int] | Tensor | None = None
    b: int | Sequence[int] | Tensor | None = None

    def bind(self, output: Any, config: VivitConfig) -> BoundTarget:
        """See ``Target.bind``.

        Raises:
            InputError: the model has no classifier or a single class, not that class, or both classes are the same.
        """
        logits = _logits(output, config)
        if logits.shape[1] < 2:
            raise InputError("a logit difference wants two classes, the model has one")
        first, names = named_classes(self.a, logits, config)
        rest = logits.detach().scatter(1, first.unsqueeze(1), -torch.inf)
        second, others = named_classes(self.b, rest, config, chosen="the strongest other")
        if bool((first == second).any()):
            raise InputError(
                f"a logit difference wants two different classes, got {all_names(names)} and {all_names(others)}"
            )

        def score(output: Any, clips: Tensor) -> Tensor:
            return _take(output.logits, first, clips) - _take(output.logits, second, clips)

        pairs = [f"{name}, against {other}" for name, other in zip(names, others, strict=True)]
        return BoundTarget(score, pairs, "logit difference")


@dataclass(frozen=True)
class Probability(Target):
    """The probability of a class: softmax over the classes (a sigmoid where the model has several labels a clip).

    Its gradient vanishes where the model is sure; prefer ``ClassLogit`` for gradient methods.

    Args:
        index: the class, one for each clip, or None for each clip's predicted class.
    """

    index: int | Sequence[int] | Tensor | None = None

    def bind(self, output: Any, config: VivitConfig) -> BoundTarget:
        """See ``Target.bind``.

        Raises:
            InputError: the model has no classifier, or not that class.
        """
        logits = _logits(output, config)
        classes, names = named_classes(self.index, logits, config)
        several = config.problem_type == "multi_label_classification"

        def score(output: Any, clips: Tensor) -> Tensor:
            values = output.logits.float()
            return _take(values.sigmoid() if several else values.softmax(dim=-1), classes, clips)

        return BoundTarget(score, [f"probability of {name}" for name in names], "probability", classes)


@dataclass(frozen=True, eq=False)
class CosineSimilarity(Target):
    """Cosine of the clip's embedding and another one, for models without a classifier.

    Args:
        embedding: (d_model,), or (batch, d_model) for one a clip, e.g. of another clip or a class mean.
        of: ``"pooler"`` for the pooler's output, ``"cls"`` for the CLS token after the final LayerNorm, ``"auto"`` for
            the pooler's where there is one.

    Raises:
        InputError: ``of`` is not known, or the embedding is no vector or batch of vectors.
    """

    embedding: Tensor = field(repr=False)
    of: str = "auto"

    def __post_init__(self) -> None:
        _check_source(self.of)
        if not isinstance(self.embedding, Tensor) or self.embedding.ndim not in (1, 2):
            raise InputError("embedding must be a tensor (d_model,) or (batch, d_model)")

    def bind(self, output: Any, config: VivitConfig) -> BoundTarget:
        """See ``Target.bind``.

        Raises:
            InputError: the model's output has no such embedding, or one of another size.
        """
        source, features = _features(output, config, self.of)
        count, width = features.shape
        shape = tuple(self.embedding.shape)
        if shape not in ((width,), (1, width), (count, width)):
            raise InputError(f"embedding must be ({width},) or ({count} clips, {width}), got {shape}")
        wanted = self.embedding.to(features.device, torch.float32).expand(count, width)

        def score(output: Any, clips: Tensor) -> Tensor:
            return functional.cosine_similarity(
                _features(output, config, self.of)[1].float(), wanted.index_select(0, clips), dim=-1
            )

        names = [f"cosine similarity of the {source} to an embedding"] * count
        return BoundTarget(score, names, "cosine similarity")


@dataclass(frozen=True)
class OwnEmbedding(Target):
    """Length of a clip's embedding along that of the clean clip: what a model without classes made of it.

    For the clean clip it is the embedding's norm; where a perturbed clip's embedding has turned away, it is smaller.

    Args:
        of: as for ``CosineSimilarity``.

    Raises:
        InputError: ``of`` is not known.
    """

    of: str = "auto"

    def __post_init__(self) -> None:
        _check_source(self.of)

    def bind(self, output: Any, config: VivitConfig) -> BoundTarget:
        """See ``Target.bind``.

        Raises:
            InputError: the model's output has no such embedding.
        """
        source, features = _features(output, config, self.of)
        along = functional.normalize(features.detach().float(), dim=-1)

        def score(output: Any, clips: Tensor) -> Tensor:
            return (_features(output, config, self.of)[1].float() * along.index_select(0, clips)).sum(dim=-1)

        name = f"{source} along that of the clean clip"
        return BoundTarget(score, [name] * len(features), "embedding length")


def _check_source(of: str) -> None:
    if of not in _SOURCES:
        raise InputError(f"of={of!r} is not known; choose one of {', '.join(_SOURCES)}")


def _features(output: Any, config: VivitConfig, of: str) -> tuple[str, Tensor]:
    """Return what an embedding is called, and the embedding, (row, d_model)."""
    if of == "cls" and config.classifier != "token":
        raise InputError("of='cls': this model has no CLS token, it averages all of them; use of='auto'")
    pooled = output.get("pooler_output")
    if of != "cls" and pooled is not None:
        return "pooler output", pooled
    hidden = output.get("last_hidden_state")
    if of != "pooler" and hidden is not None:
        return _summary_name(config), make_summary(config)(hidden, getattr(output, "grid", None) or config.grid)
    if of != "pooler" and not config.num_labels and output.get("logits") is not None:
        return _summary_name(config), output.logits  # a classifier that was left out passes it on
    raise InputError(f"the model's output has no embedding of={of!r}: use a VivitModel (with its pooler)")


def _summary_name(config: VivitConfig) -> str:
    if config.spatial_only_baseline:
        return "mean of the CLS tokens"
    return "CLS token" if config.classifier == "token" else "mean of all tokens"


@dataclass(frozen=True, eq=False)
class _Function(Target):
    """A user's function: output → (row,)."""

    function: Callable[[Any], Tensor]

    def bind(self, output: Any, config: VivitConfig) -> BoundTarget:
        name = getattr(self.function, "__name__", type(self.function).__name__)
        count = len(next(iter(output.values())))
        return BoundTarget(lambda output, _: self.function(output), [f"{name}(output)"] * count, "target")


def bind_target(target: TargetLike, output: Any, config: VivitConfig, default: type[Any] = ClassLogit) -> BoundTarget:
    """Return a target bound to clean clips.

    Args:
        target: a ``Target``; an int or one int for each clip (classes); None for the predicted class; or a function of
            the model's output that gives one number for each row and treats each row alone (it is also given outputs
            of several versions of one clip).
        output: the model's output for the clean clips.
        config: the model's configuration.
        default: what a bare class means, ``ClassLogit`` or ``Probability``.

    Raises:
        InputError: it is none of these, or does not fit the model.
    """
    if isinstance(target, BoundTarget):
        return target
    if isinstance(target, Target):
        return target.bind(output, config)
    if callable(target) and not isinstance(target, Tensor):
        return _Function(target).bind(output, config)
    return default(target).bind(output, config)


def _logits(output: Any, config: VivitConfig) -> Tensor:
    logits = output.get("logits")
    if logits is None or not config.num_labels:
        raise InputError(
            "the model has no classifier, so no class can be explained: pass target=CosineSimilarity(embedding) or a "
            "function of the output, e.g. lambda output: output.last_hidden_state[:, 0].norm(dim=-1)"
        )
    return logits


def _take(values: Tensor, classes: Tensor, clips: Tensor) -> Tensor:
    return values.gather(1, classes.index_select(0, clips).unsqueeze(1)).squeeze(1)
