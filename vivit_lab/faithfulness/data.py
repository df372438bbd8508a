"""What methods are judged on: clips, and what is known of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from vivit_lab.errors import VideoError

__all__ = ["EvaluationBatch", "EvaluationData", "readable"]


@dataclass(frozen=True, eq=False)
class EvaluationBatch:
    """Some clips of a data set.

    Args:
        pixel_values: (batch, frames, channels, height, width), normalised.
        names: what each clip is called; all different in the data set.
        labels: (batch,) classes, or None where they are not known.
        mask: (batch, t, h, w), the share of each tubelet that the evidence covers; None where it is not known.
        window: (batch, t), the share of each tubelet row that lies in the evidence's window; None likewise.
    """

    pixel_values: Tensor
    names: Sequence[str]
    labels: Tensor | None = None
    mask: Tensor | None = None
    window: Tensor | None = None

    @classmethod
    def joined(cls, batches: Sequence[EvaluationBatch]) -> EvaluationBatch:
        """Return batches of one data set as one, in their order."""

        def along(name: str) -> Tensor | None:
            parts = [part for batch in batches if (part := getattr(batch, name)) is not None]
            return torch.cat(parts) if parts else None

        names = [name for batch in batches for name in batch.names]
        pixels = torch.cat([batch.pixel_values for batch in batches])
        return cls(pixels, names, along("labels"), along("mask"), along("window"))

    def take(self, keep: Tensor) -> EvaluationBatch:
        """Return the clips at some indices."""
        parts = {name: getattr(self, name) for name in ("labels", "mask", "window")}
        taken: dict[str, Any] = {name: None if part is None else part[keep] for name, part in parts.items()}
        names = [self.names[index] for index in keep.tolist()]
        return replace(self, pixel_values=self.pixel_values[keep], names=names, **taken)


class EvaluationData(Protocol):
    """A data set to judge methods on. It must be picklable where there are several workers."""

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int]) -> EvaluationBatch:
        """Return some clips."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return what the data are, JSON-able: another description is another run."""
        ...


def readable(data: EvaluationData, indices: list[int]) -> tuple[EvaluationBatch | None, list[int], list[str]]:
    """Return the clips that can be read (None where none can), their indices, and why the others cannot."""
    try:
        return data.batch(indices), indices, []
    except (VideoError, FileNotFoundError):
        found, kept, failed = [], [], []
    for index in indices:  # which of them is it?
        try:
            found.append(data.batch([index]))
            kept.append(index)
        except (VideoError, FileNotFoundError) as error:
            failed.append(" ".join(str(error).split()))
    return EvaluationBatch.joined(found) if found else None, kept, failed
