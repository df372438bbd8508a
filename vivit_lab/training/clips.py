"""A user's own labelled clips: found in folders or a table, split, checked, and read as a run wants them."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from vivit_lab.clips.listing import ClipList, list_clips
from vivit_lab.errors import InputError, VideoError
from vivit_lab.numbers import checked_numbers
from vivit_lab.progress import progress_bar
from vivit_lab.video.decode import decode_frames
from vivit_lab.video.index import FrameIndex, load_index

__all__ = [
    "LabelledClip",
    "class_names",
    "find_clips",
    "path_from",
    "read_window",
    "readable_clips",
    "split_clips",
    "stretch_of",
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
