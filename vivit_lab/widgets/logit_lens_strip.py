"""The logit lens as a time strip for each class and layer; a click jumps to the clip at that time."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import traitlets

from vivit_lab.errors import InputError
from vivit_lab.numbers import checked_numbers
from vivit_lab.widgets.base import LabWidget, float_bytes

if TYPE_CHECKING:
    from vivit_lab.model.cache import LogitLens

__all__ = ["LogitLensStrip"]


@checked_numbers()
class LogitLensStrip(LabWidget):
    """Show what the classifier would say of each time at each layer; see ``LogitLens``.

    Down: the layers, across: tubelet rows in time, logits averaged over space; at the right the class that the clip's
    summary gives at that layer. A click sets ``frame`` and ``layer``, which ``link_views`` shares with a
    ``ClipExplorer``.

    Args:
        lens: of some clips.
        clip: which of them.
        layers: layers of the model; by default as many as the lens tells.
        **traits: first values of the traits below.

    Raises:
        InputError: the lens does not hold all tokens of a grid, or not that clip; or a trait's value does not fit.

    Example:
        >>> strip = LogitLensStrip(logit_lens(model, clip))
        >>> link_views(strip, ClipExplorer(model, clip), traits=("frame", "layer"))
    """

    parts: ClassVar[tuple[str, ...]] = ("grid.js", "logit_lens_strip.js")
    styles: ClassVar[tuple[str, ...]] = ("grid.css",)

    label = traitlets.Int(-1).tag(sync=True)
    """The class that is shown, its number; starts with the one that the last layer says."""
    centred = traitlets.Bool(True).tag(sync=True)
    """Whether each logit is shown less the mean over all classes of the lens at the same token, which a softmax does
    not see."""
    frame = traitlets.Int(0).tag(sync=True)
    """The frame at which the chosen time begins."""
    layer = traitlets.Int(-1).tag(sync=True)
    """The layer that reads or writes the chosen row: of ``"3_pre"`` and ``"3_mid"`` layer 3, of ``"final_post"`` the
    last."""

    _group = traitlets.Unicode("").tag(sync=True)
    _strips = traitlets.Bytes(b"").tag(sync=True)
    _pooled = traitlets.Bytes(b"").tag(sync=True)
    _facts = traitlets.Dict().tag(sync=True)

    def __init__(self, lens: LogitLens, clip: int = 0, *, layers: int | None = None, **traits: Any) -> None:
        self._check_names(traits)
        if lens.grid is None or lens.tokens is not None:
            raise InputError("the lens does not hold all tokens of a known grid, so it has no time strips")
        if not 0 <= clip < lens.values.shape[1]:
            raise InputError(f"clip must be one of 0..{lens.values.shape[1] - 1} of the lens, got {clip}")
        self.lens, self.clip = lens, clip
        places = [_layer_of(label) for label in lens.labels]
        self.num_layers = layers or 1 + max((place for place in places if place is not None), default=0)
        on_grid = lens.grid.unflatten(lens.values[:, clip], axis=1)  # (layer, t, h, w, class)
        strips = on_grid.mean(dim=(2, 3)).permute(2, 0, 1)  # (class, layer, t)
        pooled = strips.mean(dim=-1).T if lens.pooled is None else lens.pooled[:, clip]  # (layer, class)
        facts = {
            "labels": lens.labels,
            "layers": [self.num_layers - 1 if place is None else place for place in places],
            "classes": lens.classes,
            "names": lens.names,
            "frames": [list(lens.grid.frame_span(t)) for t in range(lens.grid.t)],
            "model": lens.model_id or "",
            "pooled": lens.pooled is not None,
        }
        last = lens.classes[int(pooled[-1].argmax())]
        super().__init__(
            None,
            **{"label": last, "layer": -1, **traits},
            _strips=float_bytes(strips),
            _pooled=float_bytes(pooled),
            _facts=facts,
        )

    def strip(self) -> torch.Tensor:
        """Return what is shown, (layer, t) float32."""
        values = self.lens.values[:, self.clip]
        if self.centred:
            values = values - values.mean(dim=-1, keepdim=True)
        column = self.lens.classes.index(self.label)
        assert self.lens.grid is not None, "__init__ refuses a lens without a grid"
        return self.lens.grid.unflatten(values[..., column]).mean(dim=(-2, -1)).float()

    def offline_title(self) -> str:
        """Return the title of the offline page."""
        return f"Logit lens · {self._facts['model']}"

    def _repr_html_(self) -> str:
        """Return the strips of the strongest classes, for where no widget can run."""
        return self.lens._repr_html_()

    @traitlets.validate("label")
    def _check_label(self, proposal: Any) -> int:
        if proposal.value not in self.lens.classes:
            raise traitlets.TraitError(f"class {proposal.value} is not in the lens of {self.lens.classes[:12]}")
        return proposal.value

    @traitlets.validate("layer")
    def _check_layer(self, proposal: Any) -> int:
        if not -self.num_layers <= proposal.value < self.num_layers:
            raise traitlets.TraitError(f"layer must be one of 0..{self.num_layers - 1}, got {proposal.value}")
        return proposal.value % self.num_layers

    @traitlets.validate("frame")
    def _check_frame(self, proposal: Any) -> int:
        assert self.lens.grid is not None, "__init__ refuses a lens without a grid"
        return min(max(proposal.value, 0), self.lens.grid.num_frames - 1)


def _layer_of(label: str) -> int | None:
    """Return the layer in a label such as ``"3_pre"``; None for the end of the stream."""
    found = re.match(r"(\d+)", label)
    return int(found.group(1)) if found else None
