"""Rows and columns of a record as maps: what one token attends to, or is attended by, in every layer at once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vivit_lab.attribution.base import AttributionMap
from vivit_lab.attribution.reading import HEAD_FUSIONS, fuse_heads, map_of, query_tokens
from vivit_lab.errors import InputError
from vivit_lab.hooks.record import AttentionRecord

__all__ = ["DIRECTIONS", "AttentionView", "HeadChoice", "RowCache", "check_heads", "fuse_choice"]

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
