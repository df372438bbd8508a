"""Where in the model: a hook point, and some of its heads and tokens.

Nothing here knows a list of names: layers are found by the modules themselves, so that every variant of the model that
names its hook points alike can be intervened in alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vivit_lab.errors import GridError, InputError
from vivit_lab.grid import TokenGrid
from vivit_lab.hooks.inputs import as_pixel_values
from vivit_lab.model.hook_names import resolve_name

__all__ = ["HEAD_PARTS", "STREAM_PARTS", "Point", "chosen_points", "grid_or_own", "head_numbers", "part_name", "put"]

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
