"""The traits of the clip explorer, and what each may be."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import traitlets

from vivit_lab.colormap import get_colormap
from vivit_lab.errors import InputError
from vivit_lab.widgets.attention import DIRECTIONS, HeadChoice, check_heads
from vivit_lab.widgets.base import LabWidget

if TYPE_CHECKING:
    from vivit_lab.hooks.record import AttentionRecord
    from vivit_lab.video.clip import Clip

__all__ = ["ATTENTION", "ExplorerTraits"]

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
