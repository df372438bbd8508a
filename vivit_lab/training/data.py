"""Labelled clips, found, split and checked, and as torch datasets."""

from __future__ import annotations

import os
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vivit_lab.clips.listing import ClipList, list_clips
from vivit_lab.errors import InputError, SkippedClipWarning, VideoError
from vivit_lab.numbers import checked_numbers
from vivit_lab.processing.processor import VivitImageProcessor
from vivit_lab.progress import progress_bar
from vivit_lab.training.augment import Augmentation, mirror_of
from vivit_lab.video.decode import decode_frames
from vivit_lab.video.index import FrameIndex, load_index
from vivit_lab.video.read import temporal_views

__all__ = [
    "LabelledClip",
    "RunClips",
    "ViewClips",
    "class_names",
    "find_clips",
    "path_from",
    "read_window",
    "readable_clips",
    "split_clips",
    "stretch_of",
    "usual_fps",
]


@checked_numbers()
@dataclass(frozen=True)
class LabelledClip:
    """A stretch of a video and its class.

    Args:
        path: the video.
        label: the class's name.
        split: ``"train"``, ``"validation"`` or ``"test"``; None where the data does not say.
        start: where the stretch begins, in seconds from the first frame; None is the beginning.
        end: where it ends; None is the end.
    """

    path: Path
    label: str
    split: str | None = None
    start: float | None = None
    end: float | None = None


def find_clips(source: str | os.PathLike[str] | ClipList) -> list[LabelledClip]:
    """Return the labelled clips of a data set, in an order that does not depend on the file system.

    Args:
        source: what ``list_clips`` reads, with a label for each clip; or its result.

    Raises:
        InputError: there is nothing of the kind, or clips have no label.
    """
    found = source if isinstance(source, ClipList) else list_clips(source)
    rows = found.table.to_pylist()
    bare = [row["path"] for row in rows if row["label"] is None]
    if bare:
        raise InputError(
            f"{found.name} has no label for {len(bare)} of {len(rows)} clips, such as {bare[0]}: wanted class folders "
            "(FOLDER/CLASS/video.mp4), or a table with path and label in each row"
        )
    return [LabelledClip(Path(row["path"]), row["label"], row["split"], row["start"], row["end"]) for row in rows]


def path_from(path: str | os.PathLike[str], folder: Path) -> str:
    """Return a path as a table in a folder names it: relative to the folder, absolute on another drive."""
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # Windows has no relative path from one drive to another
        return os.path.abspath(path)


def class_names(clips: Sequence[LabelledClip]) -> list[str]:
    """Return the classes of clips in order: by number where all are numbers, else by name."""
    names = {clip.label for clip in clips}
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)


def split_clips(
    clips: Sequence[LabelledClip], validation: float = 0.2, seed: int = 0
) -> tuple[list[LabelledClip], list[LabelledClip]]:
    """Return the clips to train on and those to validate on; clips of a split ``"test"`` are in neither.

    Where the data has a split ``"validation"``, that is taken. Else a share of the videos of each class is drawn, at
    least one of a class that has two, none of one that has one; all clips of such a video go with it, of whatever
    class, so that no two stretches of one video tell of each other. Where videos hold several classes, a class that
    would have none left to train on gets one back. The draw depends on the seed and on the order of a class's clips.

    Args:
        clips: as found.
        validation: share of each class's videos to validate on, 0 … 1 (1 excluded); 0 for none.
        seed: of the draw.

    Raises:
        InputError: the share is out of range, or nothing is left to train on.
    """
    if not 0 <= validation < 1:
        raise InputError(f"validation must be a share in 0 … 1 (1 excluded), got {validation!r}")
    own = [clip for clip in clips if clip.split == "validation"]
    rest = [clip for clip in clips if clip.split in (None, "train")]
    if not rest:
        raise InputError(f"of {len(clips)} clips none is for training (split train, or none given)")
    if own or not validation:
        return rest, own
    classes: dict[str, dict[Any, None]] = defaultdict(dict)
    for clip in rest:
        classes[clip.label][clip.path] = None
    held = set()
    for label, videos in classes.items():
        count = min(max(round(validation * len(videos)), 1), len(videos) - 1)
        generator = np.random.default_rng([seed, crc32(label.encode())])
        held.update(list(videos)[number] for number in generator.permutation(len(videos))[:count])
    for videos in classes.values():
        if held.issuperset(videos):  # drawn for other classes too
            held.discard(next(iter(videos)))
    return [clip for clip in rest if clip.path not in held], [clip for clip in rest if clip.path in held]


def readable_clips(
    clips: Sequence[LabelledClip], *, progress: bool | None = None
) -> tuple[list[LabelledClip], list[tuple[LabelledClip, str]]]:
    """Return the clips whose first and last frame can be decoded, and the others with the reason.

    Args:
        clips: as found.
        progress: show a bar; None shows it on a terminal.
    """
    good, bad = [], []
    for clip in progress_bar(clips, progress, "checking videos", "video"):
        try:
            index = load_index(clip.path)
            start, stop = stretch_of(clip, index)
            read_window(clip, index, np.unique([start, stop - 1]))
        except (VideoError, InputError) as error:
            bad.append((clip, " ".join(str(error).split())))
        else:
            good.append(clip)
    return good, bad


def stretch_of(clip: LabelledClip, index: FrameIndex) -> tuple[int, int]:
    """Return the half-open span of frames (start, stop) of a clip.

    Raises:
        InputError: the clip begins after the video's end.
    """
    return index.span(clip.start, clip.end, clip.path)


def read_window(clip: LabelledClip, index: FrameIndex, frames: np.ndarray) -> np.ndarray:
    """Return frames of a video, (frame, height, width, 3) uint8, decoded in one thread.

    Raises:
        VideoError: a frame cannot be decoded.
    """
    return decode_frames(os.fspath(clip.path), index, frames, threads=1).frames


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
