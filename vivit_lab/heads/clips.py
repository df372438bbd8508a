"""The clips that heads are judged on: tensors, prepared clips, datasets and data of an evaluation, by one name."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from vivit_lab.errors import InputError
from vivit_lab.model.inputs import check_pixels
from vivit_lab.progress import progress_bar
from vivit_lab.records.inputs import as_pixel_values
from vivit_lab.video.clip import Clip

__all__ = ["ClipBatch", "ClipSet", "clip_set"]


@dataclass(frozen=True, eq=False)
class ClipBatch:
    """Some clips.

    Args:
        pixel_values: (batch, frames, channels, height, width), normalised.
        labels: (batch,) classes, or None where they are not known.
        places: which clips of the set they are, counted from 0.
    """

    pixel_values: Tensor
    labels: Tensor | None
    places: list[int]

    def __len__(self) -> int:
        return len(self.pixel_values)


@dataclass(frozen=True, eq=False)
class ClipSet:
    """Clips that are read when they are asked for.

    Args:
        read: indices → (pixel values, labels or None).
        indices: which of what is read belong to this set, in order.
        description: what they are, JSON-able.
    """

    read: Callable[[list[int]], tuple[Tensor, Tensor | None]]
    indices: tuple[int, ...]
    description: Any = None

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, places: Sequence[int]) -> ClipSet:
        """Return the clips at some places of this set."""
        return replace(self, indices=tuple(self.indices[place] for place in places))

    def batch(self, places: Sequence[int]) -> ClipBatch:
        """Read the clips at some places of this set.

        Raises:
            InputError: a pixel is NaN, infinite or not normalised; see ``check_pixels``.
        """
        pixels, labels = self.read([self.indices[place] for place in places])
        check_pixels(pixels, f"pixel_values of clips {places[0]}..{places[-1]}" if len(places) else "pixel_values")
        return ClipBatch(pixels, labels, list(places))

    def batches(self, size: int, progress: bool | None = False, name: str = "clips") -> Iterator[ClipBatch]:
        """Read all clips, batch by batch.

        Args:
            size: clips in a batch.
            progress: whether to show a bar; None shows it on a terminal.
            name: what the bar says.

        Raises:
            InputError: the size is not positive.
        """
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise InputError(f"batch_size must be a positive integer, got {size!r}")
        starts = range(0, len(self), size)
        for start in progress_bar(starts, progress, name, "batch", total=math.ceil(len(self) / size)):
            yield self.batch(range(start, min(start + size, len(self))))

    def digests(self) -> list[str]:
        """Return what tells each clip from others, a digest of its pixels. Reads every clip."""
        found = []
        for batch in self.batches(8):
            for clip in batch.pixel_values:
                contents = clip.detach().cpu().float().contiguous().numpy().tobytes()
                found.append(hashlib.blake2b(contents, digest_size=12).hexdigest())
        return found

    def as_dataset(self) -> Dataset[tuple[Tensor, int]]:
        """Return the clips as a dataset of (pixel values, class), which ``train`` takes."""
        return _AsDataset(self)


class _AsDataset(Dataset[tuple[Tensor, int]]):
    def __init__(self, clips: ClipSet) -> None:
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, item: int) -> tuple[Tensor, int]:
        batch = self.clips.batch([item])
        if batch.labels is None:
            raise InputError("training wants clips with labels, and these have none")
        return batch.pixel_values[0], int(batch.labels[0])


def clip_set(data: Any, labels: Any = None) -> ClipSet:
    """Return clips under one name, whatever they come as.

    Args:
        data: one of: pixel values (clips, frames, channels, height, width); (pixel values, labels); a prepared ``Clip``
            or a list of them; a dataset with a length and items (pixel values, label), such as ``PlantedDataset``; data
            of an evaluation (``open_data``, ``PlantedClips``); an iterable of batches (pixel values, labels), such as a
            ``DataLoader``, which is read into memory; or a ``ClipSet``.
        labels: (clips,) classes, for data that come without.

    Raises:
        InputError: it is none of these, there are no clips, or not one label for each.
    """
    found = _clip_set(data)
    if not len(found):
        raise InputError("wanted at least one clip, got none")
    if labels is None:
        return found
    given = torch.as_tensor(labels)
    if given.shape != (len(found),):
        raise InputError(f"wanted one label for each of {len(found)} clips, got {tuple(given.shape)}")
    base, places = found.read, {index: place for place, index in enumerate(found.indices)}
    return replace(
        found, read=lambda indices: (base(indices)[0], given[torch.tensor([places[index] for index in indices])])
    )


def _clip_set(data: Any) -> ClipSet:
    if isinstance(data, ClipSet):
        return data
    if isinstance(data, tuple) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        pixels, labels = data
        if len(pixels) != len(labels):
            raise InputError(f"wanted one label for each of {len(pixels)} clips, got {len(labels)}")
        return _of_tensors(pixels, labels)
    if isinstance(data, Tensor):
        return _of_tensors(data, None)
    if isinstance(data, Clip) or (isinstance(data, Sequence) and len(data) and isinstance(data[0], Clip)):
        return _of_tensors(as_pixel_values(data).values, None)
    given: Any = data
    if callable(getattr(given, "batch", None)) and callable(getattr(given, "describe", None)):

        def read(indices: list[int]) -> tuple[Tensor, Tensor | None]:
            batch = given.batch(indices)
            return batch.pixel_values, batch.labels

        return ClipSet(read, tuple(range(len(data))), given.describe())
    if hasattr(data, "__len__") and hasattr(data, "__getitem__") and not isinstance(data, (list, tuple, dict, str)):

        def items(indices: list[int]) -> tuple[Tensor, Tensor | None]:
            pixels, labels = zip(*(data[index] for index in indices), strict=True)
            return torch.stack(pixels), torch.tensor([int(label) for label in labels])

        return ClipSet(items, tuple(range(len(data))), type(data).__name__)
    if hasattr(data, "__iter__") and not isinstance(data, (dict, str)):
        batches = list(data)
        if batches and all(isinstance(part, (tuple, list)) and len(part) == 2 for part in batches):
            return _of_tensors(torch.cat([part[0] for part in batches]), torch.cat([part[1] for part in batches]))
    raise InputError(
        "wanted clips: pixel values, (pixel values, labels), prepared clips, a dataset of (pixel values, label), data "
        f"of an evaluation, or batches (pixel values, labels); got {type(data).__name__}"
    )


def _of_tensors(pixels: Tensor, labels: Tensor | None) -> ClipSet:
    if pixels.ndim != 5:
        raise InputError(f"pixel values are (clips, frames, channels, height, width), got {tuple(pixels.shape)}")

    def read(indices: list[int]) -> tuple[Tensor, Tensor | None]:
        index = torch.tensor(indices, dtype=torch.long)
        chosen = pixels.index_select(0, index.to(pixels.device))
        return chosen, None if labels is None else labels.index_select(0, index.to(labels.device))

    return ClipSet(read, tuple(range(len(pixels))), {"kind": "tensor", "shape": list(pixels.shape)})
