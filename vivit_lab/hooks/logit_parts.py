"""What direct logit attribution returns: shares that sum to a logit."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vivit_lab.errors import InputError, MissingExtraError
from vivit_lab.grid import TokenGrid
from vivit_lab.hooks.classes import all_names
from vivit_lab.show.html import facts_table, report_html, rows_table, text_line, tiles

__all__ = ["LogitAttribution"]

_HEAD = re.compile(r"L(\d+)H(\d+)")
_MOST_ROWS = 12


@dataclass(frozen=True, eq=False)
class LogitAttribution:
    """A class's logit as a sum of shares: Σ values + bias + remainder = total, clip by clip.

    Args:
        values: (batch, component) float32, in logits.
        labels: for each component: ``"embed"``, ``"pos_embed"``, ``"3_attn_out"``, ``"L3H2"``, ``"3_mlp_out"``.
        bias: (batch,) what no component wrote: the biases of classifier and final LayerNorm, and, where attention is
            split into heads, of its output projections.
        total: (batch,) the model's own logit; less the mean logit where ``centred``, less the other class's where two
            are compared.
        by: ``"layer"``, ``"head"`` or ``"token"``.
        centred: whether the mean over the classes was taken off.
        targets: for each clip, which class.
        by_token: (batch, head, token) float32 shares of the heads by source token, in the order of ``head_labels``;
            None unless ``by`` is ``"token"``.
        grid: the token grid.
        model_id: which model.
        provenance: versions, dtype, device and attention implementation.
    """

    values: Tensor
    labels: list[str]
    bias: Tensor
    total: Tensor
    by: str
    centred: bool
    targets: list[str]
    by_token: Tensor | None = None
    grid: TokenGrid | None = None
    model_id: str | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def remainder(self) -> Tensor:
        """(batch,) what is left of the total: rounding, unless hooks or dropout were at work."""
        return self.total - self.values.sum(dim=1) - self.bias

    @property
    def head_labels(self) -> list[str]:
        """The components that are heads."""
        return [label for label in self.labels if _HEAD.fullmatch(label)]

    @property
    def heads(self) -> Tensor:
        """(batch, layer, head) shares of the heads; NaN for pruned ones and a factorised encoder's spatial ones.

        Raises:
            InputError: attention was not split into heads.
        """
        places = [(column, _HEAD.fullmatch(label)) for column, label in enumerate(self.labels)]
        found = [(column, int(match[1]), int(match[2])) for column, match in places if match]
        if not found:
            raise InputError("attention was not split into heads: direct_logit_attribution(..., by='head')")
        layers, heads = (1 + max(place[axis] for place in found) for axis in (1, 2))
        table = self.values.new_full((len(self.values), layers, heads), torch.nan)
        for column, layer, head in found:
            table[:, layer, head] = self.values[:, column]
        return table

    def share(self, label: str) -> Tensor:
        """Return one component's share, (batch,).

        Raises:
            InputError: there is no such component.
        """
        if label not in self.labels:
            raise InputError(f"there is no component {label!r}; there are {', '.join(self.labels[:6])} …")
        return self.values[:, self.labels.index(label)]

    def tubelets(self, head: str | None = None) -> Tensor:
        """Return what came through attention from each tubelet, (batch, t, h, w), in logits.

        Args:
            head: one head, such as ``"L3H2"``; None sums all heads of all layers.

        Raises:
            InputError: the shares were not split by source token, or there is no such head.
        """
        if self.by_token is None or self.grid is None:
            raise InputError("shares were not split by source token: direct_logit_attribution(..., by='token')")
        if head is None:
            return self.grid.unflatten(self.by_token.sum(dim=1))
        if head not in self.head_labels:
            raise InputError(f"there is no head {head!r}; there are {', '.join(self.head_labels[:6])} …")
        return self.grid.unflatten(self.by_token[:, self.head_labels.index(head)])

    def to_pandas(self) -> Any:
        """Return a table with columns clip, target, component, share; ``bias`` and ``remainder`` are components too.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise MissingExtraError("tables need pandas: pip install 'vivit-lab[lab]'") from error
        columns = torch.cat((self.values, self.bias[:, None], self.remainder[:, None]), dim=1).tolist()
        rows = [
            (clip, self.targets[clip], label, share)
            for clip, shares in enumerate(columns)
            for label, share in zip([*self.labels, "bias", "remainder"], shares, strict=True)
        ]
        return pd.DataFrame(rows, columns=["clip", "target", "component", "share"])

    def __repr__(self) -> str:
        return (
            f"LogitAttribution(by {self.by}, {len(self.values)} clips, {len(self.labels)} components, "
            f"{all_names(self.targets)})"
        )

    def _repr_html_(self) -> str:
        """Return the first clip's shares: a picture of the heads or source tokens, and the strongest components."""
        clip = self.values[0]
        total, bias = float(self.total[0]), float(self.bias[0])
        facts = {
            "direct logit attribution": f"by {self.by}{', centred over classes' if self.centred else ''}",
            "target": self.targets[0],
            "model": self.model_id,
            "clip": f"0 of {len(self.values)}" if len(self.values) > 1 else None,
            "logit": f"{total:.4g} = components {float(clip.sum()):.4g} + biases {bias:.4g}",
        }
        order = clip.abs().argsort(descending=True)[:_MOST_ROWS].tolist()
        rows = [[self.labels[index], f"{float(clip[index]):+.4g}"] for index in order]
        return report_html(facts_table(facts), *self._pictures(), rows_table(["component", "share of the logit"], rows))

    def _pictures(self) -> list[str]:
        if self.by_token is not None and self.grid is not None:
            spans = [self.grid.frame_span(t) for t in range(self.grid.t)]
            names = [f"frames {start}–{stop - 1}" for start, stop in spans]
            return [
                text_line("by source tubelet, all heads"),
                tiles(self.tubelets()[0].cpu().numpy(), names, signed=True),
            ]
        if self.head_labels:
            table = self.heads[:1].nan_to_num().cpu().numpy()
            return [tiles(table, ["down: layers, across: heads"], signed=True)]
        return []
