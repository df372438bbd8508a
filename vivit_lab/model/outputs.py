"""What a model returns: Hugging Face's fields, by name, by index or as a tuple."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Self

from torch import Tensor
from torch.export import register_dataclass

from vivit_lab.grid import TokenGrid

__all__ = ["Encoded", "ModelOutput", "VideoClassifierOutput", "VivitModelOutput"]


class Encoded(NamedTuple):
    """What the backbone gives to the heads on top of it."""

    last_hidden_state: Tensor
    hidden_states: tuple[Tensor, ...] | None
    attentions: tuple[Tensor, ...] | None
    grid: TokenGrid | None = None


@dataclass
class ModelOutput:
    """Base of the outputs: fields that were not asked for are None, and are skipped by index, keys and tuple."""

    _grid = None  # no field: a tuple of the output has no place for it

    @property
    def grid(self) -> TokenGrid | None:
        """The grid of the clips, where the states alone do not tell it: of a ``spatial_only_baseline``."""
        return self._grid

    def on_grid(self, grid: TokenGrid | None) -> Self:
        """Note the grid of the clips, and return the output."""
        self._grid = grid
        return self

    def like(self, values: Mapping[str, Any]) -> Self:
        """Return an output with these fields, of clips of the same grid."""
        made = type(self)(**values)
        return made if self._grid is None else made.on_grid(self._grid)

    def to_tuple(self) -> tuple[Any, ...]:
        """Return the fields that are present, in order."""
        return tuple(getattr(self, name) for name in self.keys())

    def keys(self) -> list[str]:
        """Return the names of the fields that are present."""
        return [entry.name for entry in fields(self) if getattr(self, entry.name) is not None]

    def values(self) -> list[Any]:
        """Return the fields that are present, in order."""
        return list(self.to_tuple())

    def items(self) -> list[tuple[str, Any]]:
        """Return (name, value) of the fields that are present."""
        return list(zip(self.keys(), self.to_tuple(), strict=True))

    def get(self, name: str, default: Any = None) -> Any:
        """Return a field, or ``default`` where it is not present."""
        return getattr(self, name) if name in self.keys() else default

    def __getitem__(self, key: int | slice | str) -> Any:
        if isinstance(key, str):
            if key not in self.keys():
                raise KeyError(f"{key!r} is not in this output; it has {', '.join(self.keys())}")
            return getattr(self, key)
        return self.to_tuple()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())


@dataclass
class VivitModelOutput(ModelOutput):
    """Output of ``VivitModel``.

    Args:
        last_hidden_state: (batch, token, d_model) after the final LayerNorm.
        pooler_output: (batch, ``pooler_output_size``), ``pooler_act`` of dense(CLS); None without a pooling layer.
        hidden_states: ``num_hidden_layers + 1`` tensors (batch, token, d_model): the embeddings, then each block's
            output; the last one is *after* the final LayerNorm, as in transformers 4.56. In transformers 5 it is
            before; that is ``cache["resid_post", -1]`` of an activation cache here.
        attentions: patterns (batch, head, query, key) after the head mask, one a layer asked for, in that order.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class VideoClassifierOutput(ModelOutput):
    """Output of ``VivitForVideoClassification``.

    Args:
        loss: scalar, where labels were given.
        logits: (batch, num_labels).
        hidden_states: see ``VivitModelOutput``.
        attentions: see ``VivitModelOutput``.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


register_dataclass(VivitModelOutput)
register_dataclass(VideoClassifierOutput)
