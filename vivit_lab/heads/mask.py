"""Head masks as values: which heads are kept, layers × heads in [0, 1]."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vivit_lab.errors import InputError
from vivit_lab.files import read_json, read_npz
from vivit_lab.html import facts_table, report_html, tiles
from vivit_lab.model.attention import present_heads
from vivit_lab.model.config import VivitConfig
from vivit_lab.numbers import checked_numbers

__all__ = ["HeadMask"]

_FORMAT = "vivit_lab head mask 1"


@dataclass(frozen=True)
class HeadMask:
    """A number in [0, 1] for each head of a model: 1 keeps it, 0 removes it, what lies between scales its context.

    It can be given as ``head_mask`` wherever this package takes one (a model's forward, ``record_attention``, every
    method), and ``tensor()`` is the same for anything else. Heads are counted as before any was pruned.

    Args:
        values: for each layer a tuple of one number a head; any (layers, heads) array or tensor is taken.

    Raises:
        InputError: it is not a matrix with at least one layer and head, or a number lies outside [0, 1].

    Example:
        >>> mask = HeadMask.without([(0, 1), (2, 3)], layers=6, heads=6)
        >>> logits = model(pixel_values, head_mask=mask).logits
        >>> smaller = prune_heads(model, mask)
    """

    values: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        given: Any = self.values
        if isinstance(given, Tensor):
            given = given.detach().cpu().double().numpy()
        try:
            matrix = np.asarray(given, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"a head mask wants numbers, one row of heads for each layer: {error}") from error
        if matrix.ndim != 2 or not matrix.size:
            raise InputError(f"a head mask wants a matrix (layers, heads), got shape {matrix.shape}")
        if not ((matrix >= 0) & (matrix <= 1)).all():  # also refuses NaN
            raise InputError(f"a head mask wants numbers in [0, 1], 1 keeps; got {matrix.min():g} … {matrix.max():g}")
        object.__setattr__(self, "values", tuple(tuple(float(value) for value in row) for row in matrix))

    @classmethod
    def _of(cls, matrix: Any) -> HeadMask:
        return cls(matrix)

    @classmethod
    @checked_numbers(layers=(1, 10_000), heads=(1, 10_000))
    def ones(cls, layers: int, heads: int) -> HeadMask:
        """Return the mask that keeps every head."""
        return cls._of(np.ones((layers, heads)))

    @classmethod
    @checked_numbers(layers=(1, 10_000), heads=(1, 10_000))
    def without(
        cls, removed: Iterable[tuple[int, int]] | Mapping[int, Iterable[int]], layers: int, heads: int
    ) -> HeadMask:
        """Return the mask that removes some heads and keeps the others.

        Args:
            removed: (layer, head) pairs, or layer → heads as ``prune_heads`` takes them; negative ones count from the
                end.
            layers: number of layers.
            heads: heads in a layer.

        Raises:
            InputError: there is no such head.
        """
        pairs: list[Any] = [*removed]
        if isinstance(removed, Mapping):
            pairs = [(layer, head) for layer, row in removed.items() for head in row]
        matrix = np.ones((layers, heads))
        for layer, head in pairs:
            if not (-layers <= layer < layers and -heads <= head < heads):
                raise InputError(f"there is no head {(layer, head)}: layers 0..{layers - 1}, heads 0..{heads - 1}")
            matrix[layer, head] = 0
        return cls._of(matrix)

    @classmethod
    def of_model(cls, config: VivitConfig) -> HeadMask:
        """Return which heads a model still has, from its configuration: 0 for those that were pruned."""
        present = present_heads(config, torch.empty(0))
        if present is None:
            return cls.ones(config.num_attention_layers, config.num_attention_heads)
        return cls._of(present)

    @classmethod
    @checked_numbers()
    def from_scores(
        cls,
        scores: Any,
        *,
        threshold: float | None = None,
        fraction: float | None = None,
        keep: int | None = None,
        largest: bool = True,
    ) -> HeadMask:
        """Return the mask that keeps the heads with the highest scores.

        Exactly one of ``threshold``, ``fraction`` and ``keep`` says how many. Among equals the earlier layer and head
        stay. NaN marks a head that is not there; it is removed, and counts for nothing in ``fraction``.

        Args:
            scores: (layers, heads), or a ``HeadImportance``.
            threshold: keep the heads whose score is at least this.
            fraction: keep so large a share of the heads, in [0, 1]; their number is rounded to the nearest.
            keep: keep so many heads.
            largest: False keeps the lowest scores instead (at most ``threshold``).

        Raises:
            InputError: not exactly one of the three is given, it is out of range, or the scores are no matrix.
        """
        given = scores if isinstance(scores, (Tensor, np.ndarray)) else getattr(scores, "values", scores)
        matrix = np.asarray(given.detach().cpu() if isinstance(given, Tensor) else given, dtype=np.float64)
        if matrix.ndim != 2:
            raise InputError(f"scores must be (layers, heads), got {matrix.shape}")
        if sum(option is not None for option in (threshold, fraction, keep)) != 1:
            raise InputError("give exactly one of threshold, fraction and keep")
        signed = matrix if largest else -matrix
        if threshold is not None:
            return cls._of(np.nan_to_num(signed, nan=-np.inf) >= (threshold if largest else -threshold))
        there = np.flatnonzero(~np.isnan(signed))
        count = _count(fraction, keep, len(there))
        order = there[np.argsort(-signed.ravel()[there], kind="stable")]
        mask = np.zeros(matrix.size)
        mask[order[:count]] = 1
        return cls._of(mask.reshape(matrix.shape))

    @property
    def shape(self) -> tuple[int, int]:
        """(layers, heads)."""
        return len(self.values), len(self.values[0])

    def tensor(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """Return the mask as a tensor (layers, heads), in PyTorch's default dtype where none is given."""
        return torch.tensor(self.values, device=device, dtype=dtype)

    @property
    def is_binary(self) -> bool:
        """Whether every head is kept or removed, none scaled."""
        return all(value in (0.0, 1.0) for row in self.values for value in row)

    @property
    def pruned(self) -> dict[int, list[int]]:
        """Layer → the heads whose number is 0, for the layers that have any."""
        rows = {layer: [head for head, value in enumerate(row) if not value] for layer, row in enumerate(self.values)}
        return {layer: heads for layer, heads in rows.items() if heads}

    @property
    def kept(self) -> list[tuple[int, int]]:
        """The (layer, head) of each head whose number is not 0."""
        return [(layer, head) for layer, row in enumerate(self.values) for head, value in enumerate(row) if value]

    @property
    def counts(self) -> list[int]:
        """For each layer, how many of its heads are kept."""
        return [sum(value != 0 for value in row) for row in self.values]

    @property
    def share_removed(self) -> float:
        """The share of all heads that are removed, in [0, 1]."""
        return 1 - len(self.kept) / (self.shape[0] * self.shape[1])

    def invert(self) -> HeadMask:
        """Return 1 - values: what was kept is removed, and the other way round."""
        return HeadMask(tuple(tuple(1 - value for value in row) for row in self.values))

    def __invert__(self) -> HeadMask:
        return self.invert()

    def __and__(self, other: HeadMask) -> HeadMask:
        """Keep what both keep: the smaller number of each head."""
        return self._joined(other, min)

    def __or__(self, other: HeadMask) -> HeadMask:
        """Keep what either keeps: the larger number of each head."""
        return self._joined(other, max)

    def _joined(self, other: HeadMask, choose: Any) -> HeadMask:
        if not isinstance(other, HeadMask):
            return NotImplemented
        if self.shape != other.shape:
            raise InputError(f"two masks of one shape are wanted, got {self.shape} and {other.shape} (layers, heads)")
        rows = zip(self.values, other.values, strict=True)
        return HeadMask(tuple(tuple(choose(pair) for pair in zip(*row, strict=True)) for row in rows))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the mask as JSON, or as npz where the name ends so.

        Raises:
            InputError: the name ends in neither ``.json`` nor ``.npz``.
        """
        path = Path(path)
        if _suffix(path) == ".json":
            path.write_text(json.dumps({"format": _FORMAT, "values": self.values}) + "\n", encoding="utf-8")
        else:
            np.savez(path, head_mask=np.array(self.values))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> HeadMask:
        """Read a mask from JSON (as ``save`` writes it, or a bare list of rows) or npz (its array ``head_mask``).

        Raises:
            InputError: the file holds no head mask.
            FileNotFoundError: there is no such file.
        """
        path = Path(path)
        try:
            if _suffix(path) == ".json":
                found = read_json(path)
                found = found["values"] if isinstance(found, dict) else found
            else:
                found = read_npz(path, ["head_mask"])["head_mask"].tolist()
        except (KeyError, ValueError, EOFError, OSError) as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise InputError(f"{path} holds no head mask: {error}") from error
        return cls(found)

    def __repr__(self) -> str:
        layers, heads = self.shape
        pruned = ", ".join(f"{layer}: {row}" for layer, row in self.pruned.items())
        return f"HeadMask({layers} layers × {heads} heads, {len(self.kept)} kept; removed {{{pruned}}})"

    def _repr_html_(self) -> str:
        layers, heads = self.shape
        facts: dict[str, str | None] = {
            "head mask": f"{len(self.kept)} of {layers * heads} heads kept; rows are layers, columns heads",
            "kept by layer": ", ".join(map(str, self.counts)),
        }
        return report_html(facts_table(facts), tiles(np.array(self.values)[None], ["1 keeps, 0 removes"], signed=False))


def _count(fraction: float | None, keep: int | None, total: int) -> int:
    if fraction is not None:
        if not 0 <= fraction <= 1:
            raise InputError(f"fraction must lie in [0, 1], got {fraction}")
        return round(fraction * total)
    if isinstance(keep, bool) or not isinstance(keep, int) or not 0 <= keep <= total:
        raise InputError(f"keep must be an integer from 0 to the {total} heads there are, got {keep!r}")
    return keep


def _suffix(path: Path) -> str:
    if path.suffix.lower() not in (".json", ".npz"):
        raise InputError(f"a head mask is kept as .json or .npz, got {path.name!r}")
    return path.suffix.lower()
