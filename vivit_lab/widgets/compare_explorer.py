"""Two maps side by side and as a difference: of two clips, models or methods, or without some heads."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import traitlets

from vivit_lab.attribution.base import AttributionMap
from vivit_lab.attribution.registry import METHODS
from vivit_lab.drawing import draw
from vivit_lab.errors import InputError
from vivit_lab.explain import top_labels
from vivit_lab.heads.mask import HeadMask
from vivit_lab.html import facts_table, report_html
from vivit_lab.records.attention import evaluating
from vivit_lab.records.inputs import as_pixel_values
from vivit_lab.statistics.ranks import spearman
from vivit_lab.widgets.base import Executor, LabWidget, Task, float_bytes, model_lock
from vivit_lab.widgets.frames import ship_clip

if TYPE_CHECKING:
    from vivit_lab.families.vivit import VivitForVideoClassification, VivitModel
    from vivit_lab.video.clip import Clip

__all__ = ["CompareExplorer", "Side"]

_NAMES = ("left", "right")


@dataclass(frozen=True, eq=False)
class Side:
    """What is shown on one side.

    Args:
        model: a ViViT.
        clip: prepared with that model's processor.
        method: a name of ``METHODS`` or of the explorer's ``methods``.
        head_mask: which heads are on; None for all.
        label: what stands above it; made of what differs where None.
    """

    model: VivitModel | VivitForVideoClassification
    clip: Clip
    method: str = "rollout"
    head_mask: HeadMask | None = None
    label: str | None = None


class CompareExplorer(LabWidget):
    """Compare two maps: side by side on one scale, and their difference on a diverging one.

    The sides may differ in clip, model, method or heads. Methods, class and masks can be changed; maps are computed in
    the background. Both clips run on one clock; the difference is right − left, drawn over the left clip, where both
    lie on grids of one size.

    Args:
        left: one side.
        right: the other.
        methods: name → method (an object called as ``method(model, clip)``), beside those of the package.
        threaded: whether the models are asked in a thread; False asks at once (scripts, tests).
        **traits: first values of the traits below.

    Raises:
        InputError: a clip was not prepared, or a trait's value does not fit.
        GridError: a model sees other frames or pixels than its clip was prepared at.

    Example:
        >>> CompareExplorer.of_methods(model, clip, "rollout", "chefer")
        >>> masked = CompareExplorer.of_masks(model, clip, heads.mask, method="chefer")
        >>> traitlets.link((heads, "mask"), (masked, "right_mask"))
    """

    parts: ClassVar[tuple[str, ...]] = ("stage.js", "player.js", "compare_explorer.js")
    styles: ClassVar[tuple[str, ...]] = ("clip_explorer.css", "compare_explorer.css")

    left_method = traitlets.Unicode("rollout").tag(sync=True)
    """The method of the left side."""
    right_method = traitlets.Unicode("rollout").tag(sync=True)
    """The method of the right side."""
    target: Any = traitlets.Any(None, allow_none=True).tag(sync=True)
    """The class that class-specific methods explain on both sides; None for each side's predicted one."""
    left_mask: Any = traitlets.Any(None, allow_none=True)
    """The heads that are on at the left, a ``HeadMask``; None for all."""
    right_mask: Any = traitlets.Any(None, allow_none=True)
    """The heads that are on at the right, a ``HeadMask``; None for all."""
    normalize = traitlets.Enum(("share", "as_is"), "share").tag(sync=True)
    """``"share"``: each map divided by the sum of its magnitudes, so that maps in different units compare; ``"as_is"``:
    the methods' own numbers."""
    frame = traitlets.Int(0).tag(sync=True)
    """The frame of the left clip that is shown; the right clip shows the one of the same time since its start."""
    left_heat = traitlets.Bytes(b"").tag(sync=True)
    """The left map, float32 (t, h, w). Set by the widget."""
    right_heat = traitlets.Bytes(b"").tag(sync=True)
    """The right map, float32 (t, h, w). Set by the widget."""
    info = traitlets.Dict().tag(sync=True)
    """What the maps are: for ``left`` and ``right`` ``signed``, ``scale``, ``title``, ``says``; ``spearman``: their
    rank correlation, None where the grids differ. Set by the widget."""

    _group = traitlets.Unicode("").tag(sync=True)
    _left = traitlets.Dict().tag(sync=True)
    _left_frames = traitlets.Bytes(b"").tag(sync=True)
    _left_ends = traitlets.List().tag(sync=True)
    _right = traitlets.Dict().tag(sync=True)
    _right_frames = traitlets.Bytes(b"").tag(sync=True)  # empty where both sides have one clip
    _right_ends = traitlets.List().tag(sync=True)
    _menus = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        left: Side,
        right: Side,
        *,
        methods: Mapping[str, Any] | None = None,
        threaded: bool = True,
        **traits: Any,
    ) -> None:
        self._check_names(traits)
        self.sides = (left, right)
        self.methods: dict[str, Any] = {**{name: kind() for name, kind in METHODS.items()}, **(methods or {})}
        self._known: dict[Any, Any] = {}
        self.maps: tuple[AttributionMap, AttributionMap] | None = None
        grids = [side.model.grid_of(as_pixel_values(side.clip).values, None) for side in self.sides]
        shipped = [ship_clip(side.clip, grid) for side, grid in zip(self.sides, grids, strict=True)]
        same = left.clip is right.clip and grids[0] == grids[1]
        first = {"left_method": left.method, "left_mask": left.head_mask}
        first |= {"right_method": right.method, "right_mask": right.head_mask}
        super().__init__(
            left.model,
            threaded=threaded,
            **{**first, **traits},
            _left=shipped[0].facts,
            _left_frames=shipped[0].frames,
            _left_ends=shipped[0].ends,
            _right=shipped[1].facts,
            _right_frames=b"" if same else shipped[1].frames,
            _right_ends=[] if same else shipped[1].ends,
            _menus=self._make_menus(),
        )
        # each side holds its own model's lock while it is asked, so that two explorers cannot wait for each other
        self.executor = Executor(nullcontext(), threaded=threaded)
        self._ask()
        self.observe(self._ask, names=["left_method", "right_method", "left_mask", "right_mask", "target"])

    @classmethod
    def of_methods(cls, model: Any, clip: Clip, left: str, right: str, **options: Any) -> CompareExplorer:
        """Compare two methods on one clip."""
        return cls(Side(model, clip, left), Side(model, clip, right), **options)

    @classmethod
    def of_clips(cls, model: Any, left: Clip, right: Clip, method: str = "rollout", **options: Any) -> CompareExplorer:
        """Compare two clips under one model and method."""
        return cls(Side(model, left, method), Side(model, right, method), **options)

    @classmethod
    def of_models(
        cls,
        left: Any,
        right: Any,
        clip: Clip,
        method: str = "rollout",
        *,
        right_clip: Clip | None = None,
        **options: Any,
    ) -> CompareExplorer:
        """Compare two models on one clip; ``right_clip`` is the clip as the right model's processor prepares it."""
        return cls(Side(left, clip, method), Side(right, right_clip or clip, method), **options)

    @classmethod
    def of_masks(
        cls, model: Any, clip: Clip, mask: HeadMask, method: str = "rollout", **options: Any
    ) -> CompareExplorer:
        """Compare the full model, at the left, with the one that has only some heads on."""
        return cls(Side(model, clip, method), Side(model, clip, method, mask), **options)

    # --- what is asked ------------------------------------------------------------------------------------------

    def _keys(self) -> list[tuple[Any, ...]]:
        keys = []
        for number, name in enumerate(_NAMES):
            method = getattr(self, f"{name}_method")
            target = None if getattr(self.methods[method], "class_agnostic", False) else self.target
            keys.append((number, method, target, getattr(self, f"{name}_mask")))
        return keys

    def _ask(self, _: Any = None) -> None:
        keys = self._keys()
        missing = [key for key in keys if key not in self._known]
        saying = f"Computing {', '.join(dict.fromkeys(key[1] for key in missing))} …"
        self.request(
            lambda task: self._work(task, missing), lambda _: self._show(keys), saying=saying, quietly=not missing
        )

    def _work(self, task: Task, keys: list[tuple[Any, ...]]) -> None:
        for number, method, target, mask in keys:
            side = self.sides[number]
            with model_lock(side.model), task.watching(side.model):
                task.check()
                found = self._run(side, self.methods[method], target, mask)
                says = self._prediction(number, side, mask)
            self._known[number, method, target, mask] = (found, says)

    def _run(self, side: Side, method: Any, target: Any, mask: HeadMask | None) -> AttributionMap:
        known = inspect.signature(method).parameters
        options: dict[str, Any] = {"progress": True} if "progress" in known else {}
        if not getattr(method, "class_agnostic", False):
            options["target"] = target
        if mask is not None:
            if "head_mask" not in known:
                raise InputError(f"{type(method).__name__} takes no head mask; choose another method")
            options["head_mask"] = mask
        return method(side.model, side.clip, **options)

    def _prediction(self, number: int, side: Side, mask: HeadMask | None) -> str:
        if not hasattr(side.model, "classifier") or not side.model.config.num_labels:
            return ""
        if (number, mask) not in self._known:
            assert side.clip.pixel_values is not None, "ship_clip refuses a clip that was not prepared"
            with evaluating(side.model), torch.inference_mode():
                pixels = side.clip.pixel_values.to(side.model.device)
                logits = side.model(pixels, head_mask=mask, interpolate_pos_encoding=None).logits[0]
            top = top_labels(logits, side.model.config, 1)[0]
            sure = f" ({top['probability']:.0%})" if "probability" in top else ""
            self._known[number, mask] = f"predicts {top['label']}{sure}"
        return self._known[number, mask]

    def _show(self, keys: list[tuple[Any, ...]]) -> None:
        (left, left_says), (right, right_says) = (self._known[key] for key in keys)
        self.maps = (left, right)
        info = {
            name: {"signed": each.signed, "scale": each.scale, "title": title, "says": says, "target": each.target}
            for name, each, title, says in zip(
                _NAMES, self.maps, self._titles(keys), (left_says, right_says), strict=True
            )
        }
        with self.hold_sync():
            self.left_heat, self.right_heat = (float_bytes(each.relevance[0]) for each in self.maps)
            self.info = {**info, "spearman": self._agreement(left, right)}
        self.status = f"Shown: {info['left']['title']} and {info['right']['title']}."

    def _agreement(self, left: AttributionMap, right: AttributionMap) -> float | None:
        if left.grid.shape != right.grid.shape:
            return None
        found = float(spearman(left.relevance.cpu().flatten(1), right.relevance.cpu().flatten(1)))
        return found if found == found else None  # NaN where a map is constant

    def _titles(self, keys: list[tuple[Any, ...]]) -> list[str]:
        """Return what stands above each side: what it has that the other has not, or its method."""
        left, right = self.sides
        found = []
        for side, (_, method, _, mask), other in zip(self.sides, keys, (keys[1], keys[0]), strict=True):
            parts = [side.label] if side.label else []
            if not side.label and left.model is not right.model:
                parts.append(side.model.name_or_path or type(side.model).__name__)
            if not side.label and left.clip is not right.clip:
                parts.append(
                    Path(side.clip.path).name if side.clip.path else f"{'left' if side is left else 'right'} clip"
                )
            if mask != other[3]:
                parts.append("all heads" if mask is None else f"{len(mask.kept)} heads on")
            if not parts or method != other[1]:
                parts.append(type(self.methods[method]).__name__)
            found.append(" · ".join(parts))
        return found

    def offline_title(self) -> str:
        """Return the title of the offline page."""
        return " against ".join(self.info[name]["title"] for name in _NAMES) if self.info else "Comparison"

    def _repr_html_(self) -> str:
        """Return both maps, row by row, for where no widget can run."""
        if self.maps is None:
            return super()._repr_html_()
        parts = []
        for name, each in zip(_NAMES, self.maps, strict=True):
            said = self.info[name]
            parts.append(facts_table({name: said["title"], "model": said["says"] or None, "scale": each.scale}))
            parts.append(draw(each[0], "pictures"))
        return report_html(*parts)

    # --- what a trait may be ------------------------------------------------------------------------------------

    @traitlets.validate("left_method", "right_method")
    def _check_method(self, proposal: Any) -> str:
        if proposal.value not in self.methods:
            raise traitlets.TraitError(f"there is no method {proposal.value!r}; there are {', '.join(self.methods)}")
        return proposal.value

    @traitlets.validate("left_mask", "right_mask")
    def _check_mask(self, proposal: Any) -> HeadMask | None:
        config = self.sides[_NAMES.index(proposal.trait.name.partition("_")[0])].model.config
        wanted = (config.num_attention_layers, config.num_attention_heads)
        if proposal.value is None:
            return None
        try:
            mask = proposal.value if isinstance(proposal.value, HeadMask) else HeadMask(proposal.value)
        except InputError as error:
            raise traitlets.TraitError(str(error)) from error
        if mask.shape != wanted:
            raise traitlets.TraitError(f"the mask must be {wanted} (layers, heads), got {mask.shape}")
        return None if all(value == 1 for row in mask.values for value in row) else mask

    @traitlets.validate("frame")
    def _check_frame(self, proposal: Any) -> int:
        return min(max(proposal.value, 0), len(self.sides[0].clip) - 1)

    def _make_menus(self) -> dict[str, Any]:
        configs = [side.model.config for side in self.sides]
        classes = []
        if all(hasattr(side.model, "classifier") and side.model.config.num_labels for side in self.sides):
            shared = min(config.num_labels or 0 for config in configs)
            classes = [(configs[0].id2label or {}).get(index, str(index)) for index in range(shared)]
        entries = [
            {
                "name": name,
                "label": type(method).__name__ if name in METHODS else name,
                "takes_class": not getattr(method, "class_agnostic", False),
            }
            for name, method in self.methods.items()
        ]
        return {"methods": entries, "classes": classes}
