"""Where in a model: hook points, heads, tokens; and many passes of the same clips, each with another hook."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor

from vivit_lab.errors import GridError, InputError
from vivit_lab.grid import TokenGrid
from vivit_lab.interventions.base import Hook
from vivit_lab.model.hooks import layer_of, resolve_name
from vivit_lab.records.attention import evaluating
from vivit_lab.records.inputs import as_pixel_values

__all__ = [
    "HEAD_PARTS",
    "STREAM_PARTS",
    "Point",
    "Region",
    "TokensLike",
    "cached",
    "chosen_points",
    "grid_or_own",
    "head_numbers",
    "part_name",
    "put",
    "quiet",
    "runs",
    "span_of",
    "stream_before",
    "time_slabs",
    "token_mask",
    "tokens_text",
]

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


HEAD_PARTS = ("z", "q", "k", "v", "pattern", "attn_scores", "result")
"""Parts of an attention layer that have a head axis, each a hook point ``hook_{part}`` of the layer."""

STREAM_PARTS = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
"""Parts of a block that have none."""

_SQUARE = ("attn_scores", "pattern")  # (batch, head, query, key); all others have the token axis second

HeadLike = tuple[int | str, int]
"""(layer, head); instead of a layer, the name of an attention module or of one of its hook points."""


@dataclass(frozen=True)
class Point:
    """A hook point, and some of its heads.

    Args:
        name: the hook's name, which is the module path, such as ``"blocks.3.attn.hook_z"``.
        heads: which heads, by the numbers they were born with; None for all, and for points that have no head axis.
        kept: the born numbers of the heads that a pruned layer has left, in their order; None where none was pruned.
            ``chosen_points`` fills it in from the model.
    """

    name: str
    heads: tuple[int, ...] | None = None
    kept: tuple[int, ...] | None = None

    @property
    def part(self) -> str:
        """The last part of the name, without ``hook_``."""
        return self.name.rsplit(".", 1)[-1].removeprefix("hook_")

    @property
    def has_heads(self) -> bool:
        """Whether the tensor has a head axis."""
        return self.part in HEAD_PARTS

    @property
    def token_axis(self) -> int:
        """The axis of tokens: of queries, for scores and patterns."""
        return 2 if self.part in _SQUARE else 1

    @property
    def head_axis(self) -> int:
        """The axis of heads, where there is one."""
        return 1 if self.part in _SQUARE else 2

    @property
    def places(self) -> tuple[int, ...] | None:
        """Where the heads stand on the head axis; None for all."""
        if self.heads is None or self.kept is None:
            return self.heads
        return tuple(self.kept.index(head) for head in self.heads)

    def where(self, tensor: Tensor, tokens: Tensor | None) -> Tensor:
        """Return a bool tensor that broadcasts to the point's tensor: True for the heads and tokens that are meant.

        Args:
            tensor: what passes the point.
            tokens: (token,) bool, or None for all.

        Raises:
            GridError: the tensor's tokens are not those of the grid.
        """
        shape = [1] * tensor.ndim
        inside = torch.ones(shape, dtype=torch.bool, device=tensor.device)
        if tokens is not None:
            self.check_tokens(tensor.shape[self.token_axis], tokens)
            shape[self.token_axis] = -1
            inside = inside & tokens.to(tensor.device).reshape(shape)
        places = self.places
        if places is not None:
            shape = [1] * tensor.ndim
            shape[self.head_axis] = -1
            count = tensor.shape[self.head_axis]
            inside = inside & torch.tensor([place in places for place in range(count)]).to(tensor.device).reshape(shape)
        return inside

    def check_tokens(self, found: int, tokens: Tensor | None) -> None:
        """Refuse a choice of tokens, (token,) bool, for a tensor with another number of them.

        Raises:
            GridError: the numbers differ.
        """
        if tokens is not None and found != len(tokens):
            raise GridError(
                f"{self.name} has {found} tokens, the token grid {len(tokens)}: pass tokens=None for all of them, or "
                "grid=model.grid_of(pixel_values, True) where positions are interpolated; a factorised model's "
                "patterns and frame-wise layers have no token axis of the whole grid"
            )


def put(point: Point, tensor: Tensor, new: Tensor | float, tokens: Tensor | None) -> Tensor:
    """Return the tensor with ``new`` at the point's heads and tokens; nothing is changed in place.

    Args:
        point: whose heads.
        tensor: what passes the point.
        new: broadcastable to it; cast to its device and dtype.
        tokens: (token,) bool, or None for all.
    """
    value = torch.as_tensor(new).to(device=tensor.device, dtype=tensor.dtype)
    return torch.where(point.where(tensor, tokens), value, tensor)


def head_numbers(attention: Any) -> tuple[int, ...]:
    """Return the heads that an attention layer has, by the numbers they were born with."""
    return tuple(range(attention.num_heads)) if attention.kept_heads is None else attention.kept_heads


def part_name(model: Any, layer: int | str, part: str) -> str:
    """Return the hook's name of a part of a layer.

    Args:
        model: a ViViT.
        layer: counted from 0 (negative: from the end): of the attention layers for parts with heads, else of the
            blocks; or a module's name.
        part: one of ``HEAD_PARTS`` or ``STREAM_PARTS``.

    Raises:
        InputError: there is no such layer or part.
    """
    if part not in HEAD_PARTS + STREAM_PARTS:
        raise InputError(f"there is no part {part!r}; choose one of {', '.join(HEAD_PARTS + STREAM_PARTS)}")
    if isinstance(layer, str):
        return layer if layer.rsplit(".", 1)[-1].startswith("hook_") else f"{layer}.hook_{part}"
    modules = model.attention_layers if part in HEAD_PARTS else list(model.blocks)
    if isinstance(layer, bool) or not isinstance(layer, int) or not -len(modules) <= layer < len(modules):
        raise InputError(f"layer {layer!r} does not exist: wanted 0..{len(modules) - 1}")
    names = {id(module): name for name, module in model.named_modules()}
    return f"{names[id(modules[layer])]}.hook_{part}"


def chosen_points(
    model: Any,
    *,
    heads: Iterable[HeadLike] = (),
    mlps: Iterable[int | str] = (),
    attentions: Iterable[int | str] = (),
    points: Iterable[str | Point] = (),
    part: str = "z",
) -> list[Point]:
    """Return the points that are meant, one for each hook, in the order of the model.

    Args:
        model: a ViViT.
        heads: (layer, head) pairs, heads by the numbers they were born with; those of one layer are put together.
        mlps: layers whose MLP output is meant.
        attentions: layers whose attention output is meant.
        points: hook names, or points.
        part: which part of the heads.

    Raises:
        InputError: there is no such layer, head or hook, a head was pruned, or one hook is asked for twice.
    """
    found: dict[str, Point] = {}
    chosen: dict[str, set[int]] = {}
    for pair in heads:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise InputError(f"heads are (layer, head) pairs, got {pair!r}")
        layer, head = pair
        chosen.setdefault(part_name(model, layer, part), set()).add(head)
    named = [Point(name, tuple(sorted(some))) for name, some in chosen.items()]
    named += [Point(part_name(model, layer, "mlp_out")) for layer in mlps]
    named += [Point(part_name(model, layer, "attn_out")) for layer in attentions]
    named += [point if isinstance(point, Point) else Point(point) for point in points]
    known = model.hook_names
    for given in named:
        point = _checked(model, replace(given, name=resolve_name(given.name, known)))
        if point.name in found:
            raise InputError(f"{point.name} is asked for twice; name its heads in one place")
        found[point.name] = point
    if not found:
        raise InputError(
            "nothing was named: pass heads=[(layer, head)], mlps=[layer], attentions=[layer] or points=[…]"
        )
    return [found[name] for name in known if name in found]


def _checked(model: Any, point: Point) -> Point:
    """Return the point with the heads that its layer has left; refuse heads that it has not."""
    if point.heads is None:
        return point
    if not point.has_heads:
        raise InputError(f"{point.name} has no heads to choose from")
    attention = model.get_submodule(point.name.rsplit(".", 1)[0])
    there, count = head_numbers(attention), attention.born_heads
    wrong = [head for head in point.heads if isinstance(head, bool) or not 0 <= head < count]
    if wrong or not point.heads:
        raise InputError(f"{point.name} has heads 0..{count - 1}, got {list(point.heads)}")
    gone = [head for head in point.heads if head not in there]
    if gone:
        raise InputError(f"{point.name} has the heads {list(there)} left, {gone} were pruned: name those that are left")
    return replace(point, kept=attention.kept_heads)


def grid_or_own(model: Any, grid: TokenGrid | None, clips: Any = None) -> TokenGrid:
    """Return a grid, by default that of the clips, or where there are none that of the model's configuration."""
    if grid is not None:
        return grid
    return model.config.grid if clips is None else model.grid_of(as_pixel_values(clips).values, None)


Key = TypeVar("Key")


@contextmanager
def quiet(model: Any) -> Iterator[None]:
    """Put a model into evaluation mode, without gradients."""
    with evaluating(model), torch.no_grad():
        yield


def cached(model: Any, pixels: Tensor, names: Sequence[str], forward: dict[str, Any]) -> dict[str, Tensor]:
    """Return what passes some hook points, name → tensor, in evaluation mode and without gradients.

    Args:
        model: a ViViT.
        pixels: (clip, frames, channels, height, width).
        names: of the hook points.
        forward: further arguments of the model's forward.
    """
    with quiet(model):
        _, kept = model.run_with_cache(pixels.to(model.device), names_filter=list(names), **forward)
    return {name: kept[name] for name in names}


def runs(
    model: Any, pixels: Tensor, hooks: Iterable[tuple[Key, Hook]], forward: dict[str, Any]
) -> Iterator[tuple[Key, Any]]:
    """Yield, for each hook by itself, what it belongs to and the model's output under it.

    The residual stream is computed once up to each hooked layer, and each run starts there.

    Args:
        model: a ViViT.
        pixels: (clip, frames, channels, height, width).
        hooks: (key, hook) pairs.
        forward: further arguments of the model's forward.
    """
    hooks = list(hooks)
    starts = {name: stream_before(model, name) for name in {name for _, (name, _) in hooks}}
    streams = sorted({stream for stream in starts.values() if stream is not None})
    begun = cached(model, pixels, streams, forward) if streams else {}
    for key, hook in hooks:
        stream = starts[hook[0]]
        with quiet(model):
            if stream is None:
                output = model.run_with_hooks(pixels.to(model.device), fwd_hooks=[hook], **forward)
            else:
                output = model.run_with_hooks(begun[stream], fwd_hooks=[hook], start_at_layer=layer_of(stream))
        yield key, output


def stream_before(model: Any, name: str) -> str | None:
    """Return the hook of the residual stream that enters a hook's block, from where a pass may start; else None."""
    before = f"blocks.{layer_of(name)}.hook_resid_pre"
    joint = getattr(model.config, "variant", "spacetime") == "spacetime"
    return before if joint and name.startswith("blocks.") and before in model.hook_names else None
