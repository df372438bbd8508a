"""Attention sinks: tokens on which attention rests, whatever asks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vivit_lab.attribution.reading import require_one_sequence
from vivit_lab.errors import InputError
from vivit_lab.grid import TokenGrid
from vivit_lab.hooks.record import AttentionRecord
from vivit_lab.numbers import checked_numbers
from vivit_lab.show.html import facts_table, report_html, rows_table

__all__ = ["AttentionSinks", "Sink", "attention_sinks"]

_HEADER = ("layer", "heads with a sink", "attention on sinks", "attention on CLS", "strongest sink")


@dataclass(frozen=True)
class Sink:
    """A token that takes much attention in one head.

    Args:
        clip: index in the batch.
        layer: counted from 0.
        head: counted from 0.
        token: sequence index.
        position: its (t, y, x); None for CLS.
        received: its part of the head's attention, in (0, 1].
        lift: how many times more than under uniform attention.
    """

    clip: int
    layer: int
    head: int
    token: int
    position: tuple[int, int, int] | None
    received: float
    lift: float

    def __str__(self) -> str:
        name = "CLS" if self.position is None else "(t={}, y={}, x={})".format(*self.position)
        return f"{name} in layer {self.layer} head {self.head}, {self.received:.1%} = {self.lift:.3g} × uniform"


@dataclass(frozen=True, eq=False)
class AttentionSinks:
    """How much attention every token receives, and which tokens are sinks.

    Args:
        received: (batch, layer, head, token) float32, attention to each token, averaged over queries; sums to 1 over
            the tokens.
        layers: the layers, in the order of that axis.
        grid: the token grid.
        minimum_lift: a sink receives at least so many times what it would under uniform attention.
    """

    received: Tensor
    layers: list[int]
    grid: TokenGrid
    minimum_lift: float

    @property
    def lift(self) -> Tensor:
        """(batch, layer, head, token) how many times more than uniform; 1 is a fair share, the number of tokens all."""
        return self.received * self.grid.num_tokens

    @property
    def is_sink(self) -> Tensor:
        """(batch, layer, head, token) bool."""
        return self.lift >= self.minimum_lift

    @property
    def share(self) -> Tensor:
        """(batch, layer, head) the part of the attention that rests on sinks."""
        return (self.received * self.is_sink).sum(dim=-1)

    @property
    def cls_share(self) -> Tensor | None:
        """(batch, layer, head) the part of the attention that CLS receives; None without CLS."""
        return self.received.select(-1, 0) if self.grid.cls else None

    @checked_numbers(most=(1, None))
    def sinks(self, most: int | None = None) -> list[Sink]:
        """Return the sinks, strongest first.

        Args:
            most: at most so many; None for all.
        """
        lift, found = self.lift, []
        for clip, row, head, token in self.is_sink.nonzero().tolist():
            received = float(self.received[clip, row, head, token])
            place = self.grid.position(token)
            found.append(
                Sink(clip, self.layers[row], head, token, place, received, float(lift[clip, row, head, token]))
            )
        return sorted(found, key=lambda sink: -sink.lift)[:most]

    def __str__(self) -> str:
        lines = [self._title()]
        for layer, heads, share, cls, strongest in self._rows():
            on_cls = "" if cls == "-" else f", {cls} on CLS"
            lines.append(
                f"  layer {layer}: {heads} heads with a sink, {share} of attention on sinks{on_cls}; {strongest}"
            )
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return report_html(facts_table({"attention sinks": self._title()}), rows_table(_HEADER, self._rows()))

    def _title(self) -> str:
        return (
            f"tokens that receive at least {self.minimum_lift:g} × uniform attention ({1 / self.grid.num_tokens:.3g}), "
            "mean over queries; shares are means over heads"
            + (f" and {len(self.received)} clips" if len(self.received) > 1 else "")
        )

    def _rows(self) -> list[tuple[str, ...]]:
        """Return a row of text a layer, as headed by ``_HEADER``."""
        rows, sinks, share, on_cls = [], self.sinks(), self.share, self.cls_share
        heads = self.received.shape[2]
        for index, layer in enumerate(self.layers):
            here = [sink for sink in sinks if sink.layer == layer]
            count = int(self.is_sink[:, index].any(dim=-1).any(dim=0).sum())
            cls = "-" if on_cls is None else f"{float(on_cls[:, index].mean()):.1%}"
            strongest = str(here[0]) if here else "none"
            rows.append((str(layer), f"{count} of {heads}", f"{float(share[:, index].mean()):.1%}", cls, strongest))
        return rows


@checked_numbers()
def attention_sinks(
    record: AttentionRecord, *, layers: Sequence[int] | None = None, minimum_lift: float = 10.0
) -> AttentionSinks:
    """Measure how much attention every token receives in every head, and name those that receive far too much.

    Received is a column mean of the pattern, (1/N) Σ_i A_ij over the N queries i, CLS among both; lift is N times that,
    1 under uniform attention and at most N. Softmax must put its weight somewhere, and heads with nothing to say put it
    on a fixed token (Xiao et al., "Efficient Streaming Language Models with Attention Sinks", ICLR 2024,
    https://arxiv.org/abs/2309.17453; for vision see also ``artefact_tokens``). That weight says nothing about the clip.
    Patterns are before the head mask, so that each head's attention is 1.

    Args:
        record: any record.
        layers: which of the recorded layers; all by default. Negative counts from the last.
        minimum_lift: from what lift on a token is a sink; more than 1. A clip of few tokens cannot reach a high one.

    Returns:
        Memory: 4·layers·heads·tokens bytes a clip (1.8 MB for ViViT-B).

    Raises:
        InputError: no such layer, ``minimum_lift`` is not above 1, or the record is a factorised encoder's.

    Cost: one blockwise pass over each pattern.
    """
    require_one_sequence(attention_sinks, record)
    if not (math.isfinite(minimum_lift) and minimum_lift > 1):
        raise InputError(f"minimum_lift must be above 1 (uniform attention), got {minimum_lift}")
    chosen = record.layers if layers is None else [record.layer_index(layer) for layer in layers]
    if not chosen:
        raise InputError("layers is empty: name some, or leave it out for all")
    clips = []
    for clip in range(record.batch_size):
        sums = []
        for layer in chosen:
            total = torch.zeros(record.num_heads, record.grid.num_tokens, device=record.device)
            for _, block in record.pattern_blocks(layer, clip, masked=False):
                total += block.sum(dim=1)
            sums.append(total / record.grid.num_tokens)
        clips.append(torch.stack(sums))
    return AttentionSinks(torch.stack(clips), chosen, record.grid, minimum_lift)
