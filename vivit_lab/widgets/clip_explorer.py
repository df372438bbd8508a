"""The clip explorer: where a token looks through space and time, over the clip's own frames, patch by patch."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from vivit_lab.attribution.base import AttributionMap
from vivit_lab.attribution.raw import RawAttention
from vivit_lab.attribution.registry import METHODS
from vivit_lab.attribution.rollout import AttentionRollout
from vivit_lab.errors import InputError
from vivit_lab.hooks.recorder import record_attention
from vivit_lab.widgets.attention import AttentionView, HeadChoice, RowCache
from vivit_lab.widgets.executor import Executor, Task, model_lock
from vivit_lab.widgets.explorer_traits import ATTENTION, ExplorerTraits
from vivit_lab.widgets.export import MIME, PAGE_BYTES, arrays_of, file_of, movie_of, picture_html, picture_of
from vivit_lab.widgets.frames import ship_clip
from vivit_lab.widgets.menus import arguments_of, is_agnostic, make_menus
from vivit_lab.widgets.table import make_table
from vivit_lab.widgets.tensors import float_bytes

if TYPE_CHECKING:
    from PIL import Image

    from vivit_lab.hooks.record import AttentionRecord
    from vivit_lab.model.classifier import VivitForVideoClassification, VivitModel
    from vivit_lab.video.clip import Clip

__all__ = ["ClipExplorer"]

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
