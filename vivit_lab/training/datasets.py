"""Labelled clips as torch datasets: the clips of a whole run, varied, and clips to validate on, in several views."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vivit_lab.errors import InputError, SkippedClipWarning, VideoError
from vivit_lab.processing.processor import VivitImageProcessor
from vivit_lab.training.augment import Augmentation
from vivit_lab.training.clips import LabelledClip, read_window, stretch_of
from vivit_lab.training.mirror import mirror_of
from vivit_lab.video.index import load_index
from vivit_lab.video.views import temporal_views

__all__ = ["RunClips", "ViewClips", "usual_fps"]

_AUTO_FLIP = 0.5  # probability of a mirror image where it keeps the class, or gives another


class RunClips(Dataset[tuple[Tensor, int]]):
    """The training clips of a whole run: item i is the i-th clip that the run sees, varied, and its class.

    Each epoch goes through all clips once. Order and variation of an item are functions of the seed and i alone, so a
    run that was cut off continues as if it had not been, in any number of worker processes. A clip that cannot be read
    gives its place to the next one of the epoch's order, with a ``SkippedClipWarning``.

    Args:
        clips: to train on.
        classes: names of the classes in the order of the model.
        length: clips of the whole run.
        num_frames: frames of a clip.
        processor: sizes and range of the pixel values.
        augmentation: how clips are varied.
        seed: of order and variation.
        shuffle: another order in each epoch; False keeps the given one.

    Raises:
        InputError: there are no clips, or a label is not among the classes.
    """

    def __init__(
        self,
        clips: Sequence[LabelledClip],
        classes: Sequence[str],
        length: int,
        num_frames: int,
        processor: VivitImageProcessor,
        augmentation: Augmentation,
        *,
        seed: int = 0,
        shuffle: bool = True,
    ) -> None:
        self.clips, self.labels, self.classes = list(clips), _labels(clips, classes), list(classes)
        self.mirror = mirror_of(self.classes)
        self.length, self.num_frames, self.processor, self.augmentation = length, num_frames, processor, augmentation
        self.seed, self.shuffle = seed, shuffle

    def __len__(self) -> int:
        return self.length

    def clip_of(self, item: int) -> int:
        """Return which of the clips an item is, counted from 0."""
        epoch, place = divmod(item, len(self.clips))
        if not self.shuffle:
            return place
        return int(np.random.default_rng([self.seed, epoch, 1]).permutation(len(self.clips))[place])

    def __getitem__(self, item: int) -> tuple[Tensor, int]:
        if not 0 <= item < self.length:
            raise IndexError(f"item {item} of a run of {self.length} clips")
        count = len(self.clips)
        epoch = item - item % count
        for later in range(count):
            chosen = self.clip_of(epoch + (item + later) % count)
            generator = np.random.default_rng([self.seed, item, 2])
            try:
                return self._read(self.clips[chosen], generator)
            except VideoError as error:
                _warn(self.clips[chosen], error, "the next clip takes its place")
        raise InputError(f"none of the {count} clips to train on can be read; the warnings before say why")

    def _read(self, clip: LabelledClip, generator: np.random.Generator) -> tuple[Tensor, int]:
        """Return a clip, varied, and the number of the class that it shows then."""
        index, flip = load_index(clip.path), self.augmentation.flip
        indices = self.augmentation.frame_indices(*stretch_of(clip, index), self.num_frames, generator)
        image = clip.label
        if isinstance(flip, str):  # "auto"
            image = self.mirror.of(clip.label)
            flip = 0.0 if image is None else _AUTO_FLIP
        frames = read_window(clip, index, indices)
        pixels, mirrored = self.augmentation.vary(frames, generator, self.processor, flip)
        return pixels, self.classes.index(image if mirrored and image is not None else clip.label)


class ViewClips(Dataset[tuple[Tensor, int]]):
    """Clips to validate on: an item is ``(pixel_values, label)``, (view, frame, channel, height, width) and an int.

    A clip that cannot be read is zeros with the label -1, with a ``SkippedClipWarning``.

    Args:
        clips: to validate on.
        classes: names of the classes in the order of the model.
        num_frames: frames of a view.
        processor: prepares the pixels.
        stride: distance of the frames of a view.
        views: windows of each clip, see ``temporal_views``.

    Raises:
        InputError: there are no clips, a label is not among the classes, or stride or views are not positive.
    """

    def __init__(
        self,
        clips: Sequence[LabelledClip],
        classes: Sequence[str],
        num_frames: int,
        processor: VivitImageProcessor,
        *,
        stride: int = 2,
        views: int = 4,
    ) -> None:
        self.clips, self.labels = list(clips), _labels(clips, classes)
        self.num_frames, self.processor, self.stride, self.views = num_frames, processor, stride, views
        temporal_views(0, 1, num_frames, stride, views)  # refuses what is not positive

    def __len__(self) -> int:
        return len(self.clips)

    def read(self, item: int) -> Tensor:
        """Return the views of a clip.

        Raises:
            VideoError: it cannot be read.
        """
        clip = self.clips[item]
        index = load_index(clip.path)
        wanted = temporal_views(*stretch_of(clip, index), self.num_frames, self.stride, self.views)
        frames, places = np.unique(wanted, return_inverse=True)
        pixels = read_window(clip, index, frames)
        prepared = self.processor(pixels, return_tensors="pt").pixel_values[0].to(torch.float32)
        return prepared[torch.from_numpy(places.reshape(wanted.shape))]

    def __getitem__(self, item: int) -> tuple[Tensor, int]:
        if not 0 <= item < len(self.clips):
            raise IndexError(f"item {item} of {len(self.clips)} clips")
        try:
            return self.read(item), self.labels[item]
        except VideoError as error:
            _warn(self.clips[item], error, "does not count")
            return torch.zeros(self.views, self.num_frames, 3, *self._size()), -1

    def _size(self) -> tuple[int, int]:
        crop = self.processor.crop_size if self.processor.do_center_crop else self.processor.size
        return (crop["height"], crop["width"])


def usual_fps(clips: Sequence[LabelledClip], most: int = 64) -> float:
    """Return the median frame rate of clips, frames a second; of many, of some that are evenly spread."""
    chosen = clips[:: -(-len(clips) // most)]
    return float(np.median([load_index(clip.path).fps for clip in chosen]))


def _labels(clips: Sequence[LabelledClip], classes: Sequence[str]) -> list[int]:
    if not clips:
        raise InputError("wanted at least one clip, got none")
    number = {name: index for index, name in enumerate(classes)}
    if unknown := sorted({clip.label for clip in clips} - set(number)):
        raise InputError(f"clips have the labels {', '.join(unknown)}, which are not among {', '.join(classes)}")
    return [number[clip.label] for clip in clips]


def _warn(clip: LabelledClip, error: Exception, instead: str) -> None:
    reason = " ".join(str(error).split())
    warnings.warn(f"{clip.path} cannot be read and {instead}: {reason}", SkippedClipWarning, stacklevel=3)
