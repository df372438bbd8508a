"""The head masks of a sweep: every single head, a pruning schedule, random sets, or masks of one's own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vivit_lab.errors import InputError
from vivit_lab.files import read_json
from vivit_lab.heads.mask import HeadMask
from vivit_lab.numbers import MOST, checked_numbers

__all__ = ["MaskList"]


@dataclass(frozen=True)
class MaskList:
    """Head masks in order, each with a name; the first of every list keeps all heads.

    Args:
        kind: what they are, a word: ``"single"``, ``"schedule"``, ``"random"``, ….
        names: one a mask.
        masks: layers × heads, 1 keeps.

    Raises:
        InputError: there are no masks, not a name for each, or they differ in shape.

    Example:
        >>> MaskList.single(6, 6), MaskList.random(6, 6, removed=9, count=50)
    """

    kind: str
    names: tuple[str, ...]
    masks: tuple[HeadMask, ...]

    def __post_init__(self) -> None:
        if not self.masks or len(self.names) != len(self.masks):
            raise InputError(f"wanted masks and a name for each, got {len(self.masks)} and {len(self.names)} names")
        shapes = {mask.shape for mask in self.masks}
        if len(shapes) > 1:
            raise InputError(f"masks must have one shape (layers, heads), got {sorted(shapes)}")

    @classmethod
    @checked_numbers(layers=(1, 10_000), heads=(1, 10_000))
    def single(cls, layers: int, heads: int) -> MaskList:
        """Return a mask for each head, which removes it alone."""
        pairs = [(layer, head) for layer in range(layers) for head in range(heads)]
        masks = [HeadMask.without([pair], layers, heads) for pair in pairs]
        return cls._of("single", [f"L{layer}H{head}" for layer, head in pairs], masks)

    @classmethod
    @checked_numbers(layers=(1, 10_000), heads=(1, 10_000), step=(1, None))
    def schedule(cls, order: Sequence[tuple[int, int]], layers: int, heads: int, *, step: int = 1) -> MaskList:
        """Return masks that remove more and more heads.

        Args:
            order: (layer, head) in the order of removal.
            layers: number of layers.
            heads: heads in a layer.
            step: heads removed at a time.

        Raises:
            InputError: a head is not there or is removed twice, or there is none.
        """
        pairs = [(int(layer), int(head)) for layer, head in order]
        if len(set(pairs)) < len(pairs) or not pairs or step < 1:
            raise InputError("a schedule wants heads (layer, head), each once, and a step above 0")
        counts = [*range(step, len(pairs), step), len(pairs)]
        masks = [HeadMask.without(pairs[:count], layers, heads) for count in counts]
        return cls._of("schedule", [f"{count} removed" for count in counts], masks)

    @classmethod
    @checked_numbers(layers=(1, 10_000), heads=(1, 10_000), removed=(0, None), count=(1, MOST))
    def random(cls, layers: int, heads: int, *, removed: int, count: int, seed: int = 0) -> MaskList:
        """Return masks that remove so many heads, drawn at random, without asking for another mask's heads.

        Args:
            layers: number of layers.
            heads: heads in a layer.
            removed: heads that a mask removes.
            count: how many masks.
            seed: of the draw.

        Raises:
            InputError: a number is out of range.
        """
        if not 0 < removed <= layers * heads or count < 1:
            raise InputError(f"wanted 0 < removed <= {layers * heads} heads and count > 0, got {removed} and {count}")
        rng = np.random.default_rng(seed)
        drawn = [rng.choice(layers * heads, removed, replace=False) for _ in range(count)]
        masks = [HeadMask.without([divmod(int(head), heads) for head in one], layers, heads) for one in drawn]
        return cls._of("random", [f"random {number}" for number in range(count)], masks)

    @classmethod
    @checked_numbers(layers=(1, 10_000), heads=(1, 10_000))
    def load(cls, path: str | os.PathLike[str], layers: int, heads: int) -> MaskList:
        """Read masks from a JSON file.

        Args:
            path: the file: a list of [layer, head], the order in which a schedule removes heads; or an object of
                name → matrix of layers × heads.
            layers: number of layers.
            heads: heads in a layer.

        Raises:
            InputError: the file is neither, or names a head that is not there.
        """
        try:
            found = read_json(path)
        except (OSError, ValueError) as error:
            raise InputError(f"{path} holds no masks: {error}") from error
        if isinstance(found, dict) and found:
            return cls._of(Path(path).stem, list(found), [HeadMask(values) for values in found.values()])
        pairs = isinstance(found, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in found)
        if not pairs:
            raise InputError(f"{path} wants a list of [layer, head], or an object of name → matrix (layers × heads)")
        return cls.schedule([(pair[0], pair[1]) for pair in found], layers, heads)

    @classmethod
    def _of(cls, kind: str, names: list[str], masks: list[HeadMask]) -> MaskList:
        whole = HeadMask.ones(*masks[0].shape)
        return cls(kind, ("none removed", *names), (whole, *masks))

    def __len__(self) -> int:
        return len(self.masks)

    @property
    def shape(self) -> tuple[int, int]:
        """(layers, heads)."""
        return self.masks[0].shape

    def tensor(self, device: torch.device | str) -> Tensor:
        """Return the masks as (mask, layer, head) float32."""
        return torch.stack([mask.tensor(device, torch.float32) for mask in self.masks])

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-able values."""
        values = [[list(row) for row in mask.values] for mask in self.masks]
        return {"kind": self.kind, "names": list(self.names), "values": values}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> MaskList:
        """Return the list that ``to_dict`` described."""
        return cls(fields["kind"], tuple(fields["names"]), tuple(HeadMask(values) for values in fields["values"]))
