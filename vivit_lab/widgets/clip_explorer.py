"""The clip explorer: where a token looks through space and time, over the clip's own frames, patch by patch."""

from __future__ import annotations

import gzip
import inspect
import io
import json
import os
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import traitlets
from PIL import Image
from torch import Tensor

from vivit_lab.attribution.base import AttributionMap
from vivit_lab.attribution.raw import RawAttention
from vivit_lab.attribution.reading import HEAD_FUSIONS, fuse_heads, map_of, query_tokens
from vivit_lab.attribution.registry import METHODS
from vivit_lab.attribution.rollout import AttentionRollout
from vivit_lab.colormap import get_colormap
from vivit_lab.errors import InputError
from vivit_lab.explain import top_labels
from vivit_lab.grid import TokenGrid
from vivit_lab.html import picture
from vivit_lab.records.attention import AttentionRecord, record_attention
from vivit_lab.render.legend import Legend, clip_end, make_legend, shown_frames
from vivit_lab.render.painter import Painter, make_painter
from vivit_lab.video.encode import MovieWriter
from vivit_lab.widgets.base import Executor, LabWidget, Task, float_bytes, model_lock, root_bytes
from vivit_lab.widgets.frames import ship_clip

if TYPE_CHECKING:
    from PIL import Image

    from vivit_lab.attribution.base import AttributionMap
    from vivit_lab.families.vivit import VivitForVideoClassification, VivitModel
    from vivit_lab.records.attention import AttentionRecord
    from vivit_lab.video.clip import Clip

__all__ = [
    "ATTENTION",
    "DIRECTIONS",
    "MIME",
    "PAGE_BYTES",
    "AttentionView",
    "ClipExplorer",
    "ExplorerTraits",
    "HeadChoice",
    "RowCache",
    "arguments_of",
    "arrays_of",
    "check_heads",
    "file_of",
    "fuse_choice",
    "is_agnostic",
    "layer_maps",
    "make_menus",
    "make_table",
    "movie_of",
    "painter_of",
    "picture_html",
    "picture_of",
]

DIRECTIONS = ("attends_to", "attended_by")
"""Whether a token is read as a query (its row of the pattern) or as a key (its column)."""

HeadChoice = str | int | list[int]
"""``"mean"``, ``"max"`` or ``"min"`` over all heads, one head, or several whose mean is taken."""

_KEPT = 64  # tokens; a token of ViT-B takes 1.8 MB


def check_heads(choice: object, count: int) -> HeadChoice:
    """Return a choice of heads in its one form, heads counted from 0 and sorted.

    Args:
        choice: see ``HeadChoice``.
        count: heads in a layer.

    Raises:
        InputError: it is none.
    """
    if isinstance(choice, str) and choice in HEAD_FUSIONS:
        return choice
    heads = [choice] if isinstance(choice, int) else list(choice) if isinstance(choice, (list, tuple, set)) else []
    if not heads or not all(type(head) is int and -count <= head < count for head in heads):
        raise InputError(
            f"head must be one of {', '.join(HEAD_FUSIONS)}, a head in 0..{count - 1}, or a list of such; "
            f"got {choice!r}"
        )
    heads = sorted({head % count for head in heads})
    return heads[0] if isinstance(choice, int) else heads


def fuse_choice(pattern: Tensor, choice: HeadChoice, dim: int) -> Tensor:
    """Reduce the head axis ``dim`` of a pattern by a choice of heads that ``check_heads`` returned."""
    if isinstance(choice, str):
        return fuse_heads(pattern, choice, dim)
    if isinstance(choice, int):
        return pattern.select(dim, choice)
    index = torch.tensor(choice, device=pattern.device)
    return pattern.index_select(dim, index).mean(dim=dim)


class RowCache:
    """Rows and columns of a record, all layers and heads, kept for the tokens that were asked last.

    Args:
        record: of one clip.

    Raises:
        InputError: the record is of several clips.
    """

    def __init__(self, record: AttentionRecord) -> None:
        if record.batch_size != 1:
            raise InputError(f"wanted the record of one clip, got a batch of {record.batch_size}")
        self.record = record
        self._kept: OrderedDict[tuple[int, str], Tensor] = OrderedDict()

    def heads(self, token: int, direction: str) -> Tensor:
        """Return (layer, head, token) float32: where a token looks, or who looks at it.

        Args:
            token: sequence index.
            direction: one of ``DIRECTIONS``.

        Cost: O(layers · tokens · d_model); "attended_by" also one pass over each layer's scores, the first time, where
        the kernel did not tell their log-sum-exp.
        """
        key = (token, direction)
        if key not in self._kept:
            read = self.record.rows if direction == "attends_to" else self.record.columns
            axis = 2 if direction == "attends_to" else 3
            self._kept[key] = torch.stack([read(layer, token).select(axis, 0)[0] for layer in self.record.layers])
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def layers(self, token: int, direction: str, choice: HeadChoice) -> Tensor:
        """Return (layer, token) float32, heads fused."""
        return fuse_choice(self.heads(token, direction), choice, dim=1)


@dataclass(frozen=True)
class AttentionView:
    """Attention of one layer to or from one token, as a map.

    Args:
        layer: which layer; negative counts from the last.
        head: see ``HeadChoice``.
        direction: ``"attends_to"``: the token's row of the pattern; ``"attended_by"``: its column.

    Raises:
        InputError: the direction is neither.
    """

    layer: int = -1
    head: HeadChoice = "mean"
    direction: str = "attends_to"

    def __post_init__(self) -> None:
        if self.direction not in DIRECTIONS:
            raise InputError(f"direction must be one of {', '.join(DIRECTIONS)}, got {self.direction!r}")

    def __call__(self, record: AttentionRecord | RowCache, query: int) -> AttributionMap:
        """Return the map of a token.

        Args:
            record: of one clip, or its cache.
            query: sequence index.

        Raises:
            InputError: the layer, the heads or the token do not exist.
        """
        cache = record if isinstance(record, RowCache) else RowCache(record)
        record = cache.record
        choice = check_heads(self.head, record.num_heads)
        place = record.layers.index(record.layer_index(self.layer))
        tokens, name = query_tokens(record, query)
        values = cache.layers(tokens[0], self.direction, choice)[place]
        return map_of(record, values.unsqueeze(0), self, name, self.scale_of(choice))

    def scale_of(self, choice: HeadChoice) -> str:
        """Return what the numbers are, in words."""
        whose = "where the token looks" if self.direction == "attends_to" else "who looks at the token"
        return f"attention probability, {whose}, {heads_in_words(choice)}"


def heads_in_words(choice: HeadChoice) -> str:
    """Return a choice of heads as text."""
    if isinstance(choice, str):
        return f"{choice} over the heads"
    if isinstance(choice, Sequence):
        return f"mean of heads {', '.join(map(str, choice))}"
    return f"head {choice}"


ATTENTION = "attention"
"""The name, beside those of the methods, of rows and columns of the pattern."""


class ExplorerTraits(LabWidget):
    """What a ``ClipExplorer`` shows and how; each trait is the browser's, too."""

    clip: Clip
    record: AttentionRecord
    methods: dict[str, Any]

    frame = traitlets.Int(0).tag(sync=True)
    """The frame that is shown, 0 … frames - 1. During playback it stands still here until the pause."""
    layer = traitlets.Int(-1).tag(sync=True)
    """The layer whose attention is shown; negative counts from the last, and becomes what it stands for."""
    head: Any = traitlets.Any("mean").tag(sync=True)
    """``"mean"``, ``"max"`` or ``"min"`` over the heads, one head, or a list of heads whose mean is shown."""
    method = traitlets.Unicode(ATTENTION).tag(sync=True)
    """``"attention"`` (a row or column of the pattern), or the name of a method, of the package or of ``methods``."""
    target: Any = traitlets.Any(None).tag(sync=True)
    """The class that class-specific methods explain: an index, or None for the predicted class."""
    query = traitlets.Int(-1).tag(sync=True)
    """The token that is asked about, its index in the sequence; 0 is CLS where there is one. Starts with CLS, or with
    the middle of the clip in a model without CLS."""
    locked = traitlets.Bool(False).tag(sync=True)
    """Whether a token was chosen. Another ``query`` than the first one sets it; False brings that one back. A model
    without CLS reads no single token: while nothing is locked its methods start from the mean of all, and True asks
    them about the middle of the clip itself."""
    preview = traitlets.Int(-1).tag(sync=True)
    """The token under the pointer, shown while no other is locked; -1 for none."""
    direction = traitlets.Enum(DIRECTIONS, DIRECTIONS[0]).tag(sync=True)
    """``"attends_to"``: where the token looks; ``"attended_by"``: who looks at it."""
    colormap = traitlets.Unicode(None, allow_none=True).tag(sync=True)
    """A name of ``COLORMAP_NAMES``; None, or one that does not suit the sign of the map, takes inferno or coolwarm."""
    alpha = traitlets.Float(None, min=0.0, max=1.0, allow_none=True).tag(sync=True)
    """Opacity of the heat in [0, 1]; None: proportional to the heat, up to 0.8."""
    normalize = traitlets.Enum(("clip99", "clip", "frame"), "clip99").tag(sync=True)
    """The colour scale: ``"clip99"``: one for the clip, to its 99th percentile; ``"clip"``: to its highest;
    ``"frame"``: each tubelet row its own."""
    threshold = traitlets.Float(0.0, min=0.0, max=1.0).tag(sync=True)
    """Share of the colour scale (of its half, for signed maps) below which nothing is drawn."""
    view = traitlets.Enum(("overlay", "heat"), "overlay").tag(sync=True)
    """``"overlay"``: heat over the frame; ``"heat"``: the heat alone."""
    heat = traitlets.Bytes(b"").tag(sync=True)
    """What is drawn, float32 (layer, t, h, w) for attention, (1, t, h, w) for a method. Set by the widget."""
    heat_info = traitlets.Dict().tag(sync=True)
    """What ``heat`` is: ``layered``, ``signed``, ``scale``, ``query``, ``title``. Set by the widget."""

    _group = traitlets.Unicode("").tag(sync=True)  # views of one group share frame and layer in the browser
    _home = traitlets.Int(0).tag(sync=True)
    _frames = traitlets.Bytes(b"").tag(sync=True)
    _frame_ends = traitlets.List().tag(sync=True)
    _clip = traitlets.Dict().tag(sync=True)
    _menus = traitlets.Dict().tag(sync=True)
    _table = traitlets.Bytes(b"").tag(sync=True)  # filled in offline pages alone
    _table_info = traitlets.Dict().tag(sync=True)

    def _validated(self, check: Callable[[], Any]) -> Any:
        try:
            return check()
        except InputError as error:
            raise traitlets.TraitError(str(error)) from error

    @traitlets.validate("frame")
    def _check_frame(self, proposal: Any) -> int:
        return min(max(proposal.value, 0), len(self.clip) - 1)

    @traitlets.validate("layer")
    def _check_layer(self, proposal: Any) -> int:
        return self._validated(lambda: self.record.layer_index(proposal.value))

    @traitlets.validate("head")
    def _check_head(self, proposal: Any) -> HeadChoice:
        return self._validated(lambda: check_heads(proposal.value, self.record.num_heads))

    @traitlets.validate("query")
    def _check_query(self, proposal: Any) -> int:
        return self._validated(lambda: self.record.token_indices(proposal.value)[0])

    @traitlets.validate("locked")
    def _check_locked(self, proposal: Any) -> bool:
        # CLS is what is asked about while nothing is
        return proposal.value and not (self.record.grid.cls and self.query == self._home)

    @traitlets.validate("preview")
    def _check_preview(self, proposal: Any) -> int:
        return proposal.value if proposal.value < 0 else self._check_query(proposal)

    @traitlets.validate("colormap")
    def _check_colormap(self, proposal: Any) -> str | None:
        return None if proposal.value is None else self._validated(lambda: get_colormap(proposal.value).name)

    @traitlets.validate("method")
    def _check_method(self, proposal: Any) -> str:
        if proposal.value != ATTENTION and proposal.value not in self.methods:
            known = ", ".join((ATTENTION, *self.methods))
            raise traitlets.TraitError(f"there is no method {proposal.value!r}; there are {known}")
        return proposal.value


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


_ROWS = 128  # queries of all heads that exist at once


def make_table(
    rows: RowCache, layer: int, choice: HeadChoice, direction: str, most_bytes: int
) -> tuple[bytes, dict[str, Any]] | None:
    """Return the stored answers of as many queries and layers as fit.

    First the queries of the shown layer: every patch, or every second (third, …) row and column of each tubelet row, so
    that the nearest stored patch answers. What is left takes the other layers, nearest first.

    Args:
        rows: of the clip's record.
        layer: the layer shown.
        choice: of heads.
        direction: see ``AttentionView``.
        most_bytes: of the result.

    Returns:
        The gzip file, and where what is in it (JSON-able): ``step`` and ``layers``, each with ``layer``, ``start``
        (byte), ``count`` (queries), ``cls``, ``ys``, ``xs``. None where not even a few queries fit.
    """
    grid = rows.record.grid
    shown = layer_maps(rows, layer, choice, direction)
    for step in range(1, max(grid.h, grid.w) + 1):
        kept = _Kept(grid, step)
        packed = kept.pack(shown)
        file = gzip.compress(packed, 6)
        if len(file) <= most_bytes:
            break
    else:
        return None
    parts, layers = [packed], [layer]
    for other in sorted(set(rows.record.layers) - {layer}, key=lambda one: (abs(one - layer), one)):
        more = kept.pack(layer_maps(rows, other, choice, direction))
        if len(file) + len(gzip.compress(more, 6)) > most_bytes:
            break
        parts.append(more)
        layers.append(other)
        file = gzip.compress(b"".join(parts), 6)
    starts = np.cumsum([0, *map(len, parts[:-1])]).tolist()
    entries = [{"layer": one, "start": start, **kept.facts} for one, start in zip(layers, starts, strict=True)]
    return file, {"step": step, "layers": entries}


def layer_maps(rows: RowCache, layer: int, choice: HeadChoice, direction: str) -> torch.Tensor:
    """Return the maps of all tokens in a layer, (query, tubelet) float32 on the CPU.

    Cost: one pass in blocks over the layer's pattern, and tokens² numbers (39 MB for ViT-B).
    """
    record, parts = rows.record, []
    layer = record.layer_index(layer)
    for start in range(0, record.grid.num_tokens, _ROWS):
        tokens = list(range(start, min(start + _ROWS, record.grid.num_tokens)))
        parts.append(fuse_choice(record.rows(layer, tokens)[0], choice, dim=0).cpu())
    pattern = torch.cat(parts)
    if direction == "attended_by":
        pattern = pattern.T
    return pattern[:, record.grid.offset :]


class _Kept:
    """The queries that are kept of a grid: CLS, and every ``step``-th row and column."""

    def __init__(self, grid: TokenGrid, step: int) -> None:
        first = (step - 1) // 2  # in the middle of what it stands for
        self.ys = list(range(min(first, grid.h - 1), grid.h, step))
        self.xs = list(range(min(first, grid.w - 1), grid.w, step))
        self.tokens = [0] if grid.cls else []
        self.tokens += [grid.token(t, y, x) for t in range(grid.t) for y in self.ys for x in self.xs]
        self.facts = {"count": len(self.tokens), "cls": grid.cls, "ys": self.ys, "xs": self.xs}

    def pack(self, maps: torch.Tensor) -> bytes:
        roots, largest = root_bytes(maps[self.tokens])
        return float_bytes(largest) + roots


MIME = {"png": "image/png", "mp4": "video/mp4", "npz": "application/octet-stream", "html": "text/html"}
"""The files that an explorer can be saved as."""
PAGE_BYTES = 1_950_000
"""Of an offline page, at most."""
_NARROWEST = 360  # pixels; smaller frames are enlarged by a whole factor


def picture_html(explorer: ClipExplorer, map: AttributionMap) -> str:
    """Return the picture as HTML, for where no widget can run."""
    buffer = io.BytesIO()
    picture_of(explorer, map).convert("RGB").save(buffer, format="JPEG", quality=88)
    alt = f"{type(explorer).__name__}: the frame that was shown, with heat"
    return picture(alt, buffer.getvalue())


def painter_of(explorer: ClipExplorer, map: AttributionMap) -> Painter:
    """Return the renderer's painter with the explorer's settings: it draws what the browser does, at source size."""
    wanted = explorer.colormap
    suits = wanted is not None and get_colormap(wanted).diverging == map.signed
    heat_only = explorer.view == "heat"
    painter = make_painter(
        explorer.clip,
        map,
        layout=explorer.view,
        colormap=wanted if suits else None,
        alpha=None if heat_only else explorer.alpha,
        normalize="frame" if explorer.normalize == "frame" else "clip",
        percentile=99.0 if explorer.normalize == "clip99" else None,
    )
    if not explorer.threshold or heat_only:
        return painter
    level = np.arange(256)
    share = (np.abs(level - 127.5) - 0.5) / 127 if painter.scale.colormap.diverging else level / 255
    drawn = share >= explorer.threshold
    return replace(
        painter,
        colors=painter.colors * drawn[:, None].astype(np.uint16),
        clear=np.where(drawn, painter.clear, 256).astype(np.uint16),
    )


def _legend(explorer: ClipExplorer, map: AttributionMap, painter: Painter, width: int) -> Legend:
    legend = make_legend(explorer.clip, map, painter.scale, width, colorbar=True, strip=True)
    assert legend is not None
    return legend


def _zoom(painter: Painter) -> int:
    return max(1, -(-_NARROWEST // painter.size[1]))


def _enlarged(frame: np.ndarray, zoom: int) -> np.ndarray:
    return frame.repeat(zoom, axis=0).repeat(zoom, axis=1) if zoom > 1 else frame


def picture_of(explorer: ClipExplorer, map: AttributionMap) -> Image.Image:
    """Return the frame that an explorer shows, with its heat and the legend."""
    painter = painter_of(explorer, map)
    zoom = _zoom(painter)
    (frame,) = painter.paint([explorer.frame])
    legend = _legend(explorer, map, painter, painter.size[1] * zoom)
    return Image.fromarray(legend.under(_enlarged(frame, zoom), explorer.frame))


def movie_of(explorer: ClipExplorer, map: AttributionMap, path: Path) -> Path:
    """Write all frames at their own times; ``render_movie`` with a threshold, made of its own parts."""
    painter = painter_of(explorer, map)
    zoom = _zoom(painter)
    legend = _legend(explorer, map, painter, painter.size[1] * zoom)
    clip = explorer.clip
    shown = shown_frames(clip)
    size = legend.canvas_size((painter.size[0] * zoom, painter.size[1] * zoom))
    with MovieWriter(path, *size, end=clip_end(clip)) as movie:
        for index, frame in zip(shown, painter.paint(shown), strict=True):
            movie.write(legend.under(_enlarged(frame, zoom), index), float(clip.seconds[index]))
    return path


def arrays_of(explorer: ClipExplorer, map: AttributionMap) -> bytes:
    """Return an .npz file of the numbers; see ``ClipExplorer.save_npz``."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        relevance=map.relevance[0].cpu().numpy(),
        seconds=explorer.clip.seconds,
        frame_indices=explorer.clip.indices,
        metadata=np.array(json.dumps(map.metadata())),
    )
    return buffer.getvalue()


def file_of(explorer: ClipExplorer, map: AttributionMap, kind: str) -> bytes:
    """Return the file that a button asks for, ``kind`` being a key of ``MIME``."""
    if kind == "html":
        return explorer.to_html().encode()
    if kind == "npz":
        return arrays_of(explorer, map)
    if kind == "png":
        buffer = io.BytesIO()
        picture_of(explorer, map).save(buffer, format="PNG")
        return buffer.getvalue()
    with tempfile.TemporaryDirectory() as directory:
        return movie_of(explorer, map, Path(directory) / "clip.mp4").read_bytes()


_KEPT_MAPS = 32


class ClipExplorer(ExplorerTraits):
    """Explore one clip: click a patch and see where it looks, or who looks at it, in every layer and head.

    Frames go to the browser once, the maps of the current token for all layers at each click; layers, frames, colours,
    opacity, scale and threshold then change without Python. Attention is read exactly from one record. Other methods
    run in the background, with progress and a cancel button.

    In the picture: hovering previews a patch, a click locks it, Esc or a second click lets it go. Arrow keys, Enter,
    Space, ``,`` ``.`` and F (held: the frame without heat) do the same from the keyboard.

    Args:
        model: a ViViT, in any state; it is run in evaluation mode.
        clip: prepared with the model's processor.
        record: its attention record, if there is one already; else one is taken (one forward pass).
        methods: name → method (an object called as ``method(model, clip)``), beside those of the package.
        threaded: whether the model is asked in a thread; False asks at once (scripts, tests).
        **traits: first values of the traits below.

    Raises:
        InputError: the clip was not prepared, the record is of several clips, or a trait's value does not fit.
        GridError: the model sees other frames or pixels than the clip was prepared at.

    Example:
        >>> explorer = ClipExplorer(model, clip, layer=-1)
        >>> explorer.query = explorer.record.grid.token(t=4, y=8, x=3)
        >>> explorer.map  # what is shown, as numbers
    """

    parts: ClassVar[tuple[str, ...]] = ("stage.js", "player.js", "table.js", "clip_explorer.js")
    styles: ClassVar[tuple[str, ...]] = ("clip_explorer.css",)

    def __init__(
        self,
        model: VivitModel | VivitForVideoClassification,
        clip: Clip,
        *,
        record: AttentionRecord | None = None,
        methods: Mapping[str, Any] | None = None,
        threaded: bool = True,
        **traits: Any,
    ) -> None:
        self._check_names(traits)
        if record is None:
            with model_lock(model):
                record = record_attention(model, clip)
        self.clip, self.record = clip, record
        self.rows = RowCache(record)
        self.methods: dict[str, Any] = {**{name: kind() for name, kind in METHODS.items()}, **(methods or {})}
        self._maps: OrderedDict[Any, AttributionMap] = OrderedDict()
        self._shown: Any = None
        self._asked: Any = None
        shipped = ship_clip(clip, record.grid)
        grid = record.grid
        home = 0 if grid.cls else grid.token(grid.t // 2, grid.h // 2, grid.w // 2)
        super().__init__(
            model,
            threaded=threaded,
            **{"query": home, "layer": -1, **traits},
            _home=home,
            _frames=shipped.frames,
            _frame_ends=shipped.ends,
            _clip=shipped.facts,
            _menus=make_menus(model, record, self.methods),
        )
        self._lock(None)
        self._ask_now()
        self.observe(self._lock, names="query")
        self.observe(self._let_go, names="locked")
        self.observe(self._ask, names=["query", "locked", "preview", "direction", "head", "method", "target"])

    @property
    def shown_query(self) -> int:
        """The token whose map is wanted: the locked one, or else the one under the pointer."""
        if self.method == ATTENTION and not self.locked and self.preview >= 0:
            return self.preview
        return self.query

    @property
    def map(self) -> AttributionMap:
        """What the picture shows, as numbers with their origin; of the layer that is chosen now.

        Raises:
            InputError: the chosen method did not give a map (yet); ``wait()`` waits for it, ``error`` says why not.
        """
        if self.method == ATTENTION:
            return AttentionView(self.layer, self.head, self.direction)(self.rows, self.shown_query)
        found = self._maps.get(self._key())
        if found is None:
            raise InputError(f"{self.method} has given no map: {self.error or 'it is still running, use wait()'}")
        return found

    # --- what is asked ------------------------------------------------------------------------------------------

    def _lock(self, _: Any) -> None:
        if self.query != self._home:
            self.locked = True
        elif self.record.grid.cls:
            self.locked = False

    def _let_go(self, _: Any) -> None:
        if not self.locked:
            self.query = self._home

    def _key(self) -> tuple[Any, ...]:
        """What the map depends on; changes of anything else ask nothing."""
        if self.method == ATTENTION:
            head = tuple(self.head) if isinstance(self.head, list) else self.head
            return (ATTENTION, self.shown_query, self.direction, head)
        method = self.methods[self.method]
        query = self.query if "queries" in arguments_of(method) else None
        if not self.locked and not self.record.grid.cls:
            query = None  # the method starts from what the classifier reads, the mean of all
        return (self.method, query, None if is_agnostic(method) else self.target)

    def _ask_now(self) -> None:
        """Show attention at once, so that a picture is there before anything runs in the background."""
        self._show((), self._attention(self.shown_query, self.direction, self.head))
        if self.method == ATTENTION:
            self._shown = self._key()
        else:
            self._ask()

    def _ask(self, _: Any = None) -> None:
        key = self._key()
        if self.busy and key == self._asked:
            return  # one change of the browser's may change several traits
        self._asked = key
        if key == self._shown:
            self.executor.cancel()  # what was asked in between is not wanted any more
            self.busy = False
        elif self.method == ATTENTION:
            token, direction, head = self.shown_query, self.direction, self.head
            self.request(
                lambda task: self._attention(token, direction, head), lambda found: self._show(key, found), quietly=True
            )
        elif key in self._maps:
            self._show_map(key, self._maps[key])
        else:
            name = self.method
            self.request(
                lambda task: self._run(task, *key),
                lambda found: self._show_map(key, found),
                saying=f"Computing {name} …",
            )

    def _attention(self, token: int, direction: str, head: HeadChoice) -> tuple[torch.Tensor, dict[str, Any]]:
        values = self.rows.layers(token, direction, head)
        scale = AttentionView(direction=direction).scale_of(head)
        return self.record.grid.unflatten(values), {"layered": True, "signed": False, "scale": scale, "query": token}

    def _run(self, task: Task, name: str, query: int | None, target: int | None) -> AttributionMap:
        method = self.methods[name]
        arguments = arguments_of(method)
        options: dict[str, Any] = {"progress": True} if "progress" in arguments else {}
        if query is not None and not (self.record.grid.cls and query == 0):
            options["queries"] = query
        if not is_agnostic(method):
            options["target"] = target
        reads_record = isinstance(method, (RawAttention, AttentionRollout))
        with task.watching(self.model):
            return method(self.record, **options) if reads_record else method(self.model, self.clip, **options)

    def _show_map(self, key: tuple[Any, ...], found: AttributionMap) -> None:
        self._maps[key] = found
        self._maps.move_to_end(key)
        while len(self._maps) > _KEPT_MAPS:
            self._maps.popitem(last=False)
        about = f"{found.scale}; {found.target}" if found.target else found.scale
        info = {"layered": False, "signed": found.signed, "scale": about, "query": key[1]}
        self._show(key, (found.relevance[0], info))
        self.status = f"Shown: {found.method}."

    def _show(self, key: tuple[Any, ...], found: tuple[torch.Tensor, dict[str, Any]]) -> None:
        values, info = found
        with self.hold_sync():
            self.heat = float_bytes(values)
            self.heat_info = info
        self._shown = key

    # --- what is shown, as files --------------------------------------------------------------------------------

    def picture(self) -> Image.Image:
        """Return the frame that is shown at source size, with its heat, the colour bar and the time strip."""
        return picture_of(self, self.map)

    def save_png(self, path: str | os.PathLike[str]) -> Path:
        """Write ``picture()`` to a PNG file and return its path."""
        self.picture().save(path, format="PNG")
        return Path(path)

    def save_movie(self, path: str | os.PathLike[str]) -> Path:
        """Write all frames, at their own times, to a movie and return its path; see ``render_movie``.

        Raises:
            InputError: the name does not end in .mp4, .m4v, .mov or .mkv.
            VideoNotFoundError: the directory is not there.
        """
        return movie_of(self, self.map, Path(path))

    def save_npz(self, path: str | os.PathLike[str]) -> Path:
        """Write the numbers behind the picture to an .npz file and return its path.

        It holds ``relevance`` (t, h, w) float32, ``seconds`` and ``frame_indices`` of the clip's frames, and
        ``metadata``: JSON with the method, its parameters, the query, the model and the scale.
        """
        Path(path).write_bytes(arrays_of(self, self.map))
        return Path(path)

    def offline_state(self) -> dict[str, Any]:
        """Return what an offline page starts from, with as many stored answers as fit into 2 MB."""
        state = {**super().offline_state(), "preview": -1}
        spare = PAGE_BYTES - len(self._page(state))
        if self.method == ATTENTION:
            made = make_table(self.rows, self.layer, self.head, self.direction, spare * 3 // 4)
            if made is not None:
                state["_table"], state["_table_info"] = made
        return state

    def offline_title(self) -> str:
        """Return the title of the offline page."""
        return f"{self._clip['name']} · {self._menus['caption']}"

    def on_export(self, content: dict[str, Any]) -> None:
        """Answer a button under "Save": make the file and hand it to the browser."""
        kind = str(content.get("what"))
        if kind not in MIME:
            raise InputError(f"cannot save as {kind!r}; wanted one of {', '.join(MIME)}")
        name = f"{Path(self._clip['name']).stem}_{self.method}.{kind}"
        shown = self.map

        def hand_over(data: bytes) -> None:
            self.send({"type": "file", "name": name, "mime": MIME[kind]}, [data])
            self.status = f"Saved {name} ({len(data) / 1e6:.2f} MB)."

        self.status = f"Making {name} …"
        # a queue of its own: a pointer that moves over the picture must not drop it
        queue = Executor(nullcontext(), threaded=self.executor.threaded)
        queue.submit(lambda task: file_of(self, shown, kind), hand_over, self.show_error)

    def _repr_html_(self) -> str:
        return picture_html(self, self.map)
