"""Which tokens are meant: boxes of tubelets, time slabs, lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from vivit_lab.errors import GridError, InputError
from vivit_lab.grid import TokenGrid

__all__ = ["Region", "TokensLike", "span_of", "time_slabs", "token_mask", "tokens_text"]

Span = int | slice | None
"""Along one axis of the grid: one place (negative ones count from the end), a slice, or None for the whole axis."""


@dataclass(frozen=True)
class Region:
    """A box of tubelets: every (t, y, x) in three spans of the token grid.

    Args:
        t: time span: one tubelet row, a slice of them, or None for all.
        y: vertical span, likewise.
        x: horizontal span, likewise.
        cls: whether the CLS token belongs to it too.

    Example:
        >>> Region(t=slice(2, 4)).mask(grid).sum()  # two tubelet rows, all places
        tensor(72)
        >>> Region(y=slice(0, 3), cls=True)
        Region(y=0:3, CLS)
    """

    t: Span = None
    y: Span = None
    x: Span = None
    cls: bool = False

    def mask(self, grid: TokenGrid) -> Tensor:
        """Return (token,) bool, True inside.

        Raises:
            GridError: the region lies outside the grid, is empty, or names a CLS token that the grid lacks.
        """
        if self.cls and not grid.cls:
            raise GridError(f"{self} names a CLS token, the grid {grid.shape} has none")
        inside = torch.zeros(grid.shape, dtype=torch.bool)
        spans = [span_of(name, getattr(self, name), size) for name, size in zip("tyx", grid.shape, strict=True)]
        inside[spans[0], spans[1], spans[2]] = True
        return torch.cat((torch.full((grid.offset,), self.cls), inside.reshape(-1)))

    def __repr__(self) -> str:
        spans = [f"{name}={_span_text(getattr(self, name))}" for name in "tyx" if getattr(self, name) is not None]
        return f"Region({', '.join([*spans, *(['CLS'] if self.cls else [])])})"


TokensLike = Region | int | Sequence[int] | Tensor | str | None
"""What a function takes as ``tokens``; see ``token_mask``."""


def span_of(name: str, span: Span, size: int) -> slice:
    """Return a span of an axis as a slice with ends.

    Raises:
        GridError: it holds no place of the axis, or its ends lie outside.
    """
    if isinstance(span, bool) or not (span is None or isinstance(span, (int, slice))):
        raise GridError(f"{name} must be a whole number, a slice or None, got {span!r}")
    if isinstance(span, int):
        if not -size <= span < size:
            raise GridError(f"{name}={span} is outside the grid: wanted {-size}..{size - 1}")
        return slice(span % size, span % size + 1)
    span = slice(None) if span is None else span
    outside = [end for end in (span.start, span.stop) if end is not None and not -size <= end <= size]
    places = range(*span.indices(size))
    if outside or not places or places.step < 0:
        raise GridError(f"{name}={_span_text(span)} holds no places of an axis of {size}, or reaches past its ends")
    return slice(places.start, places.stop, places.step)


def token_mask(tokens: TokensLike, grid: TokenGrid) -> Tensor:
    """Return (token,) bool, True for the tokens that are meant.

    Args:
        tokens: a ``Region``; one token's index or several; a bool tensor (token,) or (t, h, w); ``"cls"`` or
            ``"tubelets"``; None for every token, CLS included.
        grid: the token grid.

    Raises:
        GridError: a token or region lies outside the grid, or none is meant.
        InputError: it is none of these.
    """
    if tokens is None:
        return torch.ones(grid.num_tokens, dtype=torch.bool)
    if isinstance(tokens, str):
        if tokens not in ("cls", "tubelets"):
            raise InputError(f"tokens={tokens!r} is not known; choose 'cls', 'tubelets', a Region or token indices")
        if tokens == "cls" and not grid.cls:
            raise GridError("the grid has no CLS token")
        return (torch.arange(grid.num_tokens) < grid.offset) == (tokens == "cls")
    if isinstance(tokens, Region):
        return tokens.mask(grid)
    given = torch.as_tensor(tokens).detach().cpu()
    if given.dtype == torch.bool:
        return _from_mask(given, grid)
    if given.is_floating_point() or given.ndim > 1 or not given.numel():
        raise InputError(f"tokens must be a Region, indices or a bool mask, got {given.dtype} {tuple(given.shape)}")
    outside = [index for index in given.reshape(-1).tolist() if not -grid.num_tokens <= index < grid.num_tokens]
    if outside:
        raise GridError(f"tokens {outside[:8]} are outside the sequence of {grid.num_tokens} tokens")
    mask = torch.zeros(grid.num_tokens, dtype=torch.bool)
    mask[given.reshape(-1).long()] = True
    return mask


def _from_mask(given: Tensor, grid: TokenGrid) -> Tensor:
    if tuple(given.shape) == grid.shape:
        given = torch.cat((torch.zeros(grid.offset, dtype=torch.bool), given.reshape(-1)))
    if tuple(given.shape) != (grid.num_tokens,):
        raise GridError(f"a mask of tokens must be ({grid.num_tokens},) or {grid.shape}, got {tuple(given.shape)}")
    if not bool(given.any()):
        raise GridError("the mask holds no token")
    return given


def time_slabs(grid: TokenGrid, slabs: int | Sequence[Span]) -> list[Region]:
    """Return the grid cut in time.

    Args:
        grid: the token grid.
        slabs: how many slabs of as equal lengths as can be; or spans of tubelet rows.

    Raises:
        GridError: there are more slabs than tubelet rows, none, or one lies outside.
    """
    if isinstance(slabs, int) and not isinstance(slabs, bool):
        if not 1 <= slabs <= grid.t:
            raise GridError(f"{grid.t} tubelet rows make 1 to {grid.t} time slabs, not {slabs}")
        ends = [round(index * grid.t / slabs) for index in range(slabs + 1)]
        return [Region(t=slice(start, stop)) for start, stop in pairwise(ends)]
    if isinstance(slabs, (bool, str)) or not isinstance(slabs, Sequence) or not slabs:
        raise GridError(f"slabs must be a number of slabs or a list of spans of tubelet rows, got {slabs!r}")
    return [Region(t=span_of("t", span, grid.t)) for span in slabs]


def tokens_text(tokens: Any) -> str:
    """Return in words which tokens are meant."""
    if tokens is None:
        return "all tokens"
    if isinstance(tokens, str):
        return "the CLS token" if tokens == "cls" else "all tubelets"
    if isinstance(tokens, Region):
        return repr(tokens)
    given = torch.as_tensor(tokens)
    count = int(given.sum()) if given.dtype == torch.bool else given.numel()
    return f"{count} token{'s' if count != 1 else ''}"


def _span_text(span: Any) -> str:
    if not isinstance(span, slice):
        return str(span)
    ends = ["" if end is None else str(end) for end in (span.start, span.stop)]
    step = "" if span.step in (None, 1) else f":{span.step}"
    return f"{ends[0]}:{ends[1]}{step}"
