"""Numbers that heads are coloured by: statistics of their attention on one clip, and how much they matter for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from vivit_lab.errors import InputError
from vivit_lab.heads._places import STATISTICS
from vivit_lab.heads.importance import HeadImportance
from vivit_lab.heads.registry import IMPORTANCES
from vivit_lab.heads.statistics import head_statistics
from vivit_lab.hooks.targets import OwnEmbedding
from vivit_lab.widgets.tensors import floats_of

if TYPE_CHECKING:
    from vivit_lab.heads.statistics_result import HeadStatistics
    from vivit_lab.hooks.record import AttentionRecord
    from vivit_lab.video.clip import Clip

__all__ = ["HeadScore", "ScoreSource", "given_score", "score_sources"]


@dataclass(frozen=True, eq=False)
class HeadScore:
    """A number for each head.

    Args:
        values: (layers, heads) float32 on the CPU; NaN for heads that are not there.
        unit: what a number is, in words.
        signed: whether 0 is in the middle of the scale.
    """

    values: Tensor
    unit: str
    signed: bool = False


@dataclass(frozen=True)
class ScoreSource:
    """A score by name, computed when it is asked for.

    Args:
        label: as a menu says it.
        group: the part of the menu.
        compute: is called without arguments.
    """

    label: str
    group: str
    compute: Callable[[], HeadScore]


_NEED_CLIPS = ("ablation_resample", "l0")  # importances that one clip cannot tell
_NEED_MORE = ("artefact_mass", "following")  # statistics that want more than the clip's record


def score_sources(model: Any, clip: Clip, record: AttentionRecord, given: Mapping[str, Any]) -> dict[str, ScoreSource]:
    """Return the scores that an explorer offers.

    Args:
        model: a ViViT. Of one without classes, importances ask about the clip's embedding instead of the loss.
        clip: the prepared clip.
        record: its attention record.
        given: name → what ``given_score`` takes, e.g. an importance over many clips; goes before
            others of that name.

    Raises:
        InputError: something given is no score of this model's heads.
    """
    shape = (record.num_layers, record.num_heads)
    found = {name: _ready(name, given_score(value, shape)) for name, value in given.items()}
    measured = _Statistics(record)
    for name in STATISTICS:
        if name not in (*_NEED_MORE, *given) and (record.grid.cls or name != "cls_mass"):
            found[name] = ScoreSource(_label(name), "Where heads look, this clip", partial(measured.score, name))
    has_classes = bool(getattr(model.config, "num_labels", 0)) and hasattr(model, "classifier")
    for name, method in IMPORTANCES.items():
        if name not in (*_NEED_CLIPS, *given):
            asked = method if has_classes or not hasattr(method, "target") else replace(method, target=OwnEmbedding())
            found[name] = ScoreSource(_label(name), "Importance, this clip", partial(_measure, asked, model, clip))
    return found


def _label(name: str) -> str:
    text = name.replace("_", " ").replace("cls", "CLS")
    return text[0].upper() + text[1:]


def _measure(method: Any, model: Any, clip: Clip) -> HeadScore:
    return _of_importance(method(model, clip, progress=True))


def _ready(name: str, score: HeadScore) -> ScoreSource:
    return ScoreSource(name, "Given", lambda: score)


class _Statistics:
    """All statistics of a record, computed together when the first is asked for."""

    def __init__(self, record: AttentionRecord) -> None:
        self.record = record

    @cached_property
    def all(self) -> HeadStatistics:
        return head_statistics(self.record, progress=True)

    def score(self, name: str) -> HeadScore:
        sampled = "" if self.all.queries is None else f"; {self.all.queries} sampled queries"
        return HeadScore(floats_of(self.all.value(name)), STATISTICS[name] + sampled, name == "past_future")


def _of_importance(found: HeadImportance) -> HeadScore:
    about = "; ".join(text for text in (found.unit, found.target) if text)
    signed = found.signed or bool((found.values < 0).any())
    return HeadScore(floats_of(found.values), about, signed)


def given_score(value: Any, shape: tuple[int, int]) -> HeadScore:
    """Return something as a score.

    Args:
        value: a ``HeadImportance``, a ``HeadScore``, or a (layers, heads) tensor or array.
        shape: (layers, heads) of the model.

    Raises:
        InputError: it has another shape.
    """
    if isinstance(value, HeadImportance):
        score = _of_importance(value)
    elif isinstance(value, HeadScore):
        score = value
    else:
        values = floats_of(value)
        score = HeadScore(values, "as given", bool((values < 0).any()))
    if tuple(score.values.shape) != shape:
        raise InputError(f"a score of {shape} (layers, heads) is wanted, got {tuple(score.values.shape)}")
    return score
