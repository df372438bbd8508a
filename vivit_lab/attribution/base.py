"""What a method returns: a relevance for each tubelet, with everything needed to read it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from vivit_lab.drawing import draw
from vivit_lab.errors import GridError, InputError
from vivit_lab.files import stored_fields, stored_tensors
from vivit_lab.grid import TokenGrid
from vivit_lab.records.targets import all_names

__all__ = ["AttributionMap", "is_fake"]

_PER_CLIP = ("targets", "frame_indices", "sources", "cls_share")
_FORMAT = "vivit_lab.AttributionMap/1"


@dataclass(frozen=True, eq=False)
class AttributionMap:
    """Relevance of every tubelet of a batch of clips, and how it was made.

    Args:
        relevance: (batch, t, h, w) float32.
        grid: the token grid the relevance lies on.
        method: name of the method, e.g. ``"AttentionRollout"``.
        parameters: the method's fields, JSON-able.
        scale: what the numbers are, in words: unit and what they sum to.
        signed: whether negative relevance has a meaning (drawn with a diverging map).
        target: the class or tokens that were explained, in words; None where a method has none. Where ``targets`` are
            given it is made of them.
        model_id: which model: its Hub id, directory or class.
        frame_indices: for each clip, the source index of each frame; None where unknown.
        sources: for each clip, its file (``"path"``) and how its pixels were cut from it (``"geometry"``), so that the
            map is not drawn over another; None where unknown.
        cls_share: for each clip, the relevance of the CLS token, which has no place in the grid; None without CLS, and
            for methods that give it none.
        provenance: anything else worth keeping, JSON-able (versions, dtype, device, attention implementation).
        targets: for each clip, what was explained, in words; None where ``target`` says it for all.

    Raises:
        GridError: the relevance does not have the grid's shape.
        InputError: it holds a NaN or infinity, or negative values though not signed.
    """

    relevance: torch.Tensor
    grid: TokenGrid
    method: str
    parameters: dict[str, Any] = field(default_factory=dict)
    scale: str = "relevance"
    signed: bool = False
    target: str | None = None
    model_id: str | None = None
    frame_indices: list[list[int]] | None = None
    sources: list[dict[str, Any]] | None = None
    cls_share: list[float] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    targets: list[str] | None = None

    def __post_init__(self) -> None:
        relevance = self.relevance.detach().to(torch.float32)
        if relevance.ndim != 4 or tuple(relevance.shape[1:]) != self.grid.shape:
            raise GridError(
                f"relevance must be (batch, {', '.join(map(str, self.grid.shape))}), got {tuple(relevance.shape)}"
            )
        object.__setattr__(self, "relevance", relevance)
        for name in _PER_CLIP:
            each = getattr(self, name)
            if each is not None and len(each) != len(relevance):
                raise InputError(f"{name} has {len(each)} clips, the relevance {len(relevance)}")
        if self.targets:
            object.__setattr__(self, "target", all_names(self.targets))
        if is_fake(relevance):
            return
        if not bool(torch.isfinite(relevance).all()):
            raise InputError(f"{self.method} gave a relevance that is not finite; compute in float32 or bfloat16")
        if not self.signed and bool((relevance < 0).any()):
            raise InputError(f"{self.method} gave negative relevance but is not marked as signed")

    def __len__(self) -> int:
        return len(self.relevance)

    def __getitem__(self, index: int | slice) -> AttributionMap:
        """Return the map of one clip of the batch, as a batch of one, or of a slice of it."""
        if isinstance(index, int):
            index = range(len(self))[index]
            index = slice(index, index + 1)
        parts = {name: getattr(self, name) for name in _PER_CLIP}
        parts = {name: None if each is None else each[index] for name, each in parts.items()}
        return replace(self, relevance=self.relevance[index], **parts)

    @property
    def limits(self) -> tuple[float, float]:
        """The smallest and largest relevance of the whole batch."""
        return (float(self.relevance.min()), float(self.relevance.max()))

    @property
    def over_time(self) -> torch.Tensor:
        """(batch, t) relevance summed over each tubelet row's places."""
        return self.relevance.sum(dim=(2, 3))

    def to(self, device: torch.device | str) -> AttributionMap:
        """Return the map with its relevance on a device."""
        return replace(self, relevance=self.relevance.to(device))

    def metadata(self) -> dict[str, Any]:
        """Return all but the numbers, as JSON-able values."""
        return {
            "grid": self.grid.to_dict(),
            "method": self.method,
            "parameters": self.parameters,
            "scale": self.scale,
            "signed": self.signed,
            "target": self.target,
            "targets": self.targets,
            "model_id": self.model_id,
            "frame_indices": self.frame_indices,
            "sources": self.sources,
            "cls_share": self.cls_share,
            "provenance": self.provenance,
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the map as one safetensors file: the tensor ``relevance``, all else as JSON in the metadata."""
        contents = {"relevance": self.relevance.cpu().contiguous()}
        Path(path).write_bytes(save(contents, metadata={"format": _FORMAT, "map": json.dumps(self.metadata())}))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> AttributionMap:
        """Read a map that ``save`` wrote.

        Raises:
            InputError: the file is not an attribution map.
            FileNotFoundError: there is no such file.
        """
        fields, tensors = stored_tensors(path, f"an attribution map ({_FORMAT})", "map", format=_FORMAT)
        with stored_fields(path, f"an attribution map ({_FORMAT})"):
            fields["grid"] = TokenGrid(**fields["grid"])
            return cls(tensors["relevance"], **fields)

    def __repr__(self) -> str:
        span = "no values" if is_fake(self.relevance) else "{:.3g}–{:.3g}".format(*self.limits)
        settings = ", ".join(f"{name}={value!r}" for name, value in self.parameters.items())
        return (
            f"AttributionMap({self.method}({settings}), {len(self)} × {self.grid.t}×{self.grid.h}×{self.grid.w}, "
            f"{span}, scale: {self.scale})"
        )

    def _repr_html_(self) -> str:
        """Return the map as a notebook shows it: what it is, its colour scale, and its tubelet rows as pictures."""
        return draw(self)


def is_fake(tensor: torch.Tensor) -> bool:
    """Whether the tensor has a shape and device but no values (device placement is tested with such tensors)."""
    from torch._subclasses.fake_tensor import FakeTensor

    return isinstance(tensor, FakeTensor) or tensor.is_meta
