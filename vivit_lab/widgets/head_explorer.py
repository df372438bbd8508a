"""The head explorer: all heads of a model on one clip, switched off and on, with the prediction beside them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import traitlets
from torch import Tensor

from vivit_lab.errors import InputError
from vivit_lab.explain import top_labels
from vivit_lab.heads.importance import HeadImportance
from vivit_lab.heads.mask import HeadMask
from vivit_lab.heads.pruning import prune_heads
from vivit_lab.heads.registry import IMPORTANCES
from vivit_lab.heads.statistics import STATISTICS, head_statistics
from vivit_lab.html import facts_table, report_html, rows_table, tiles
from vivit_lab.records.attention import evaluating, record_attention
from vivit_lab.records.targets import OwnEmbedding
from vivit_lab.widgets.base import LabWidget, Task, float_bytes, floats_of, model_lock, root_bytes
from vivit_lab.widgets.clip_explorer import RowCache
from vivit_lab.widgets.frames import ship_clip

if TYPE_CHECKING:
    from vivit_lab.families.vivit import VivitForVideoClassification, VivitModel
    from vivit_lab.heads.statistics import HeadStatistics
    from vivit_lab.model.config import VivitConfig
    from vivit_lab.records.attention import AttentionRecord
    from vivit_lab.video.clip import Clip

__all__ = [
    "HeadExplorer",
    "HeadScore",
    "ScoreSource",
    "compare_logits",
    "given_score",
    "score_sources",
]


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


def compare_logits(before: Tensor, now: Tensor, config: VivitConfig, count: int = 5) -> dict[str, Any]:
    """Return the highest classes of ``now``, and the one that was highest before, with both numbers.

    Args:
        before: (num_labels,) logits.
        now: likewise.
        config: names the classes, and says whether they exclude each other.
        count: how many classes.

    Returns:
        ``kind`` (``"probability"``, or ``"value"`` for a regression) and ``rows``: ``label``, ``index``, ``before``,
        ``now``, the highest now first; ``top`` and ``top_before``: the two indices.
    """
    all_before, all_now = (top_labels(logits, config, len(logits)) for logits in (before, now))
    key = "probability" if "probability" in all_now[0] else "logit"
    was = {row["index"]: row[key] for row in all_before}
    first = all_before[0]["index"]
    shown = [row for place, row in enumerate(all_now) if place < count or row["index"] == first]
    rows = [
        {"label": row["label"], "index": row["index"], "before": was[row["index"]], "now": row[key]} for row in shown
    ]
    kind = "probability" if key == "probability" else "value"
    return {"kind": kind, "rows": rows, "top": rows[0]["index"], "top_before": first}


class HeadExplorer(LabWidget):
    """Explore a model's heads on one clip: what each looks at, how much it matters, and what goes without it.

    A grid of layers × heads, coloured by a statistic of attention or an importance; in each cell the head's map.
    Clicking a cell switches the head off or on, a layer's name all its heads; the model then predicts anew in the
    background. The newest switch wins. Arrow keys move, Enter or Space switches, S leaves the head alone ("solo").

    Args:
        model: a ViViT.
        clip: prepared with the model's processor.
        record: its attention record, if there is one already.
        scores: name → further numbers to colour by: a ``HeadImportance`` over many clips, or a (layers, heads) tensor.
        threaded: whether the model is asked in a thread; False asks at once (scripts, tests).
        **traits: first values of the traits below.

    Raises:
        InputError: the clip was not prepared, a score does not fit the model, or a trait's value does not fit.
        GridError: the model sees other frames or pixels than the clip was prepared at.

    Example:
        >>> heads = HeadExplorer(model, clip, color_by="michel")
        >>> heads.mask = HeadMask.without([(5, 0)], layers=6, heads=6)
        >>> link_views(heads, clip_explorer, traits=("frame", "layer", "head", "query"))
        >>> smaller = heads.prune()
    """

    parts: ClassVar[tuple[str, ...]] = ("stage.js", "player.js", "grid.js", "head_explorer.js")
    styles: ClassVar[tuple[str, ...]] = ("clip_explorer.css", "head_explorer.css")

    mask: Any = traitlets.Any()
    """The ``HeadMask``: which heads are on. Takes any (layers, heads) array of numbers in [0, 1] too."""
    pruned_model: Any = traitlets.Any(None, allow_none=True)
    """The model without the heads that were off when it was last asked for; None before."""
    color_by = traitlets.Unicode("entropy").tag(sync=True)
    """The score that colours the cells: a statistic of ``head_statistics``, an importance (``"michel"``,
    ``"ablation"``, …), or a name of ``scores``; ``sources`` has them all."""
    layer = traitlets.Int(-1).tag(sync=True)
    """The layer of the head that is looked at; negative counts from the last, and becomes what it stands for."""
    head: Any = traitlets.Any(0).tag(sync=True)
    """The head that is looked at, 0 … heads - 1. What is no head, such as a linked ``ClipExplorer``'s ``"mean"``,
    leaves it as it was."""
    query = traitlets.Int(-1).tag(sync=True)
    """The token whose attention is shown in the cells, its index in the sequence; starts with CLS, or with the middle
    of the clip in a model without CLS."""
    frame = traitlets.Int(0).tag(sync=True)
    """The frame that is shown, 0 … frames - 1."""
    prediction = traitlets.Dict().tag(sync=True)
    """What the model says with this mask and without: ``rows`` (``label``, ``index``, ``before``, ``now``), ``kind``
    (``"probability"``, ``"value"`` or ``"embedding"``), ``heads`` (that are on), ``milliseconds`` (of the pass). Set by
    the widget."""

    _group = traitlets.Unicode("").tag(sync=True)  # see link_views
    _mask = traitlets.List().tag(sync=True)
    _maps = traitlets.Bytes(b"").tag(sync=True)
    _peaks = traitlets.Bytes(b"").tag(sync=True)
    _score = traitlets.Bytes(b"").tag(sync=True)
    _score_info = traitlets.Dict().tag(sync=True)
    _frames = traitlets.Bytes(b"").tag(sync=True)
    _frame_ends = traitlets.List().tag(sync=True)
    _clip = traitlets.Dict().tag(sync=True)
    _menus = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        model: VivitModel | VivitForVideoClassification,
        clip: Clip,
        *,
        record: AttentionRecord | None = None,
        scores: Mapping[str, Any] | None = None,
        threaded: bool = True,
        **traits: Any,
    ) -> None:
        self._check_names(traits)
        if record is None:
            with model_lock(model):
                record = record_attention(model, clip)
        self.clip, self.record = clip, record
        self.rows = RowCache(record)
        self.sources = score_sources(model, clip, record, scores or {})
        self._scores: dict[str, HeadScore] = {}
        self._given_up: set[str] = set()
        self._predicted: HeadMask | None = None
        self._kept = HeadMask.of_model(model.config)  # heads that were pruned stay off
        shipped = ship_clip(clip, record.grid)
        grid = record.grid
        home = 0 if grid.cls else grid.token(grid.t // 2, grid.h // 2, grid.w // 2)
        super().__init__(
            model,
            threaded=threaded,
            **{"query": home, "layer": -1, "mask": self._kept, **traits},
            _frames=shipped.frames,
            _frame_ends=shipped.ends,
            _clip=shipped.facts,
            _menus=self._make_menus(),
        )
        self._mask = [list(row) for row in self.mask.values]
        self._show_maps()
        self._refresh()
        self.observe(self._show_maps, names="query")
        self.observe(self._masked, names="mask")
        self.observe(lambda change: setattr(self, "mask", change.new), names="_mask")
        self.observe(self._wish, names="color_by")

    # --- what is asked ------------------------------------------------------------------------------------------

    def _masked(self, _: Any) -> None:
        self._mask = [list(row) for row in self.mask.values]
        self._refresh()

    def _wish(self, _: Any) -> None:
        self._given_up.discard(self.color_by)
        self._refresh()

    def _refresh(self) -> None:
        """Ask for what is not shown yet: first the prediction, then the score."""
        mask, name = self.mask, self.color_by
        known = name in self._scores or name in self._given_up
        if known and name in self._scores:
            self._show_score(name)
        if mask == self._predicted and known:
            self.executor.cancel()  # an older mask is not wanted any more
            self.busy = False
            return
        saying = "" if known else f"Computing {self.sources[name].label} …"
        self.request(
            lambda task: self._work(task, mask, None if known else name), self._done, saying=saying, quietly=known
        )

    def _work(self, task: Task, mask: HeadMask, name: str | None) -> str | None:
        with task.watching(self.model):
            if mask != self._predicted:
                self._predict(task, mask)
            if name is not None:
                try:
                    self._scores[name] = self.sources[name].compute()
                except Exception:
                    if not task.cancelled:
                        self._given_up.add(name)  # else each switch would fail anew
                    raise
        return name

    def _done(self, name: str | None) -> None:
        if name is not None and name == self.color_by:
            self._show_score(name)
            self.status = f"Coloured by {self.sources[name].label}."

    def _predict(self, task: Task, mask: HeadMask) -> None:
        assert self.clip.pixel_values is not None, "ship_clip refuses a clip that was not prepared"
        pixels = self.clip.pixel_values.to(self.model.device)
        with evaluating(self.model), torch.inference_mode():
            start = time.perf_counter()
            output = self.model(pixels, head_mask=None if mask == self._kept else mask, interpolate_pos_encoding=None)
            answer = self._read(output)
            spent = time.perf_counter() - start
        task.check()
        self._predicted = mask
        self.prediction = {**answer, "heads": len(mask.kept), "milliseconds": round(1000 * spent, 2)}

    def _read(self, output: Any) -> dict[str, Any]:
        config, before = self.model.config, self.record.output
        if output.get("logits") is not None and config.num_labels:
            return compare_logits(before.logits[0], output.logits[0], config)
        bound = OwnEmbedding().bind(before, config)
        before, now = float(bound(before)), float(bound(output))
        row = {"label": "embedding, along the full model's", "index": 0, "before": before, "now": now}
        return {"kind": "embedding", "rows": [row]}

    def on_cancel(self, content: dict[str, Any]) -> None:
        """Answer the cancel button: the score is not asked for again until it is chosen again."""
        if self.color_by not in self._scores:
            self._given_up.add(self.color_by)
        super().on_cancel(content)

    # --- pruning ------------------------------------------------------------------------------------------------

    def prune(self) -> VivitModel | VivitForVideoClassification:
        """Return the model without the heads that are off, and keep it as ``pruned_model``; see ``prune_heads``.

        Raises:
            InputError: the mask scales a head instead of switching it.
        """
        with self.lock:
            self.pruned_model = prune_heads(self.model, self.mask)
        return self.pruned_model

    def on_prune(self, content: dict[str, Any]) -> None:
        """Answer the button that makes the pruned model; it tells the mask, which its message may overtake."""
        self.mask = content.get("mask", self.mask)
        self.prune()
        whole, left = (sum(p.numel() for p in one.parameters()) for one in (self.model, self.pruned_model))
        heads = len(self.mask.kept)
        self.status = f"pruned_model has {heads} heads and {left:,} parameters, {1 - left / whole:.1%} fewer."

    # --- what is shown ------------------------------------------------------------------------------------------

    def _show_maps(self, _: Any = None) -> None:
        maps = self.rows.heads(self.query, "attends_to")[..., self.record.grid.offset :]
        data, peaks = root_bytes(maps.flatten(0, 1))
        with self.hold_sync():
            self._maps, self._peaks = data, float_bytes(peaks)

    def _show_score(self, name: str) -> None:
        score, source = self._scores[name], self.sources[name]
        with self.hold_sync():
            self._score = float_bytes(score.values)
            self._score_info = {"name": name, "label": source.label, "unit": score.unit, "signed": score.signed}

    def score(self) -> HeadScore:
        """Return the numbers that colour the cells.

        Raises:
            InputError: they are not there (yet); ``wait()`` waits for them, ``error`` says why not.
        """
        if self.color_by not in self._scores:
            raise InputError(f"{self.color_by} is not computed: {self.error or 'it is still running, use wait()'}")
        return self._scores[self.color_by]

    def offline_title(self) -> str:
        """Return the title of the offline page."""
        return f"Heads · {self._clip['name']} · {self._menus['caption']}"

    def _repr_html_(self) -> str:
        """Return the scores and the prediction as tables, for where no widget can run."""
        rows = [(row["label"], f"{row['before']:.4g}", f"{row['now']:.4g}") for row in self.prediction.get("rows", [])]
        parts = [facts_table({"clip": self._clip["name"], "heads on": f"{len(self.mask.kept)} of {self._count}"})]
        if rows:
            parts.append(rows_table([self.prediction["kind"], "all heads", "this mask"], rows))
        if self.color_by in self._scores:
            score = self._scores[self.color_by]
            name = f"{self.sources[self.color_by].label}; rows are layers, columns heads"
            parts.append(tiles(score.values.nan_to_num(0).numpy()[None], [name], signed=score.signed))
        return report_html(*parts)

    @property
    def _count(self) -> int:
        return self.record.num_layers * self.record.num_heads

    # --- what a trait may be ------------------------------------------------------------------------------------

    @traitlets.validate("mask")
    def _check_mask(self, proposal: Any) -> HeadMask:
        try:
            mask = proposal.value if isinstance(proposal.value, HeadMask) else HeadMask(proposal.value)
        except InputError as error:
            raise traitlets.TraitError(str(error)) from error
        shape = (self.record.num_layers, self.record.num_heads)
        if mask.shape != shape:
            raise traitlets.TraitError(f"the mask must be {shape} (layers, heads), got {mask.shape}")
        return mask & self._kept

    @traitlets.validate("layer")
    def _check_layer(self, proposal: Any) -> int:
        return self._validated(lambda: self.record.layer_index(proposal.value))

    @traitlets.validate("head")
    def _check_head(self, proposal: Any) -> int:
        head, count = proposal.value, self.record.num_heads
        if type(head) is not int:
            return self._trait_values.get("head", 0)
        if not -count <= head < count:
            raise traitlets.TraitError(f"head must be one of 0..{count - 1}, got {head}")
        return head % count

    @traitlets.validate("query")
    def _check_query(self, proposal: Any) -> int:
        return self._validated(lambda: self.record.token_indices(proposal.value)[0])

    @traitlets.validate("frame")
    def _check_frame(self, proposal: Any) -> int:
        return min(max(proposal.value, 0), len(self.clip) - 1)

    @traitlets.validate("color_by")
    def _check_color_by(self, proposal: Any) -> str:
        if proposal.value not in self.sources:
            raise traitlets.TraitError(f"there is no score {proposal.value!r}; there are {', '.join(self.sources)}")
        return proposal.value

    def _validated(self, check: Any) -> Any:
        try:
            return check()
        except InputError as error:
            raise traitlets.TraitError(str(error)) from error

    def _make_menus(self) -> dict[str, Any]:
        layers, heads = self._kept.shape
        scores = [{"name": name, "label": one.label, "group": one.group} for name, one in self.sources.items()]
        gone = [[layer, head] for layer, row in self._kept.pruned.items() for head in row]
        return {"layers": layers, "heads": heads, "scores": scores, "gone": gone, "caption": self.record.model_id or ""}
