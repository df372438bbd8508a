"""A folder of numbered pictures, read as a video.

The last number in a picture's name is its place: ``7.png``, ``frame_0007.jpg``, ``dog-01-frame-7.png``. Frames follow
each other in the order of these numbers, and a folder has no times, so a frame rate must be given or is assumed.
"""

from __future__ import annotations

import math
import os
import re
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from vivit_lab.errors import DecodeError, FrameTimesWarning, InputError, NotAVideoError
from vivit_lab.memory import require_bytes
from vivit_lab.video.index import FrameIndex, load_index
from vivit_lab.video.source import (
    DECODER_ERRORS,
    PICTURE_SUFFIXES,
    Source,
    is_path,
    open_container,
    orientation,
    upright,
)
from vivit_lab.warn import warn_caller

__all__ = ["first_picture", "index_of", "is_folder", "numbered_pictures", "read_pictures"]

_USUAL_RATE = 25
_TICKS = 1000  # a frame: times that are asked for are rounded to the nearest tick


def is_folder(source: Any) -> TypeGuard[str | os.PathLike[str]]:
    """Whether a source is the path of a folder."""
    return is_path(source) and os.path.isdir(source)


def index_of(source: Source, stream: int = 0, fps: float | None = None) -> FrameIndex:
    """Return the index of a video, or of a folder of numbered pictures.

    Args:
        source: the path of a video file or of a folder, a video's bytes, or a binary file object.
        stream: which of a file's video streams, from 0.
        fps: pictures a second of a folder; None takes 25 and says so.

    Raises:
        InputError: ``fps`` is not positive, or given for a file, which has times of its own.
        NotAVideoError: no video, or a folder without numbered pictures.

    Warns:
        FrameTimesWarning: the frame rate was assumed, or numbers are missing between the pictures.
    """
    if not is_folder(source):
        if fps is not None:
            raise InputError(f"fps={fps!r} is for a folder of pictures; a video has times of its own: leave it out")
        return load_index(source, stream)
    if stream:
        raise InputError(f"a folder of pictures is one video stream, numbered 0; got stream={stream}")
    if fps is not None and (isinstance(fps, bool) or not math.isfinite(fps) or fps <= 0):
        raise InputError(f"fps must be positive, got {fps!r}")
    pictures = numbered_pictures(source)
    if fps is None:
        warn_caller(
            f"{os.fspath(source)} is a folder of pictures, whose frame rate is not known: {_USUAL_RATE} frames a "
            "second are assumed; give fps= to read_clip, read_frames or probe",
            FrameTimesWarning,
        )
    gaps = np.diff([_number(picture) or 0 for picture in pictures])
    if len(gaps) and len(odd := np.flatnonzero(gaps > gaps.min())):
        warn_caller(
            f"the pictures of {os.fspath(source)} are not numbered evenly (see after {pictures[odd[0]].name}): their "
            "times are as if none were missing",
            FrameTimesWarning,
        )
    rate = Fraction(fps if fps is not None else _USUAL_RATE).limit_denominator(100_000)
    places = _TICKS * np.arange(len(pictures), dtype=np.int64)
    return FrameIndex(places, places, 1 / (rate * _TICKS), _TICKS, rate)


def numbered_pictures(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the pictures of a folder in the order of their numbers.

    Raises:
        NotAVideoError: there is none, or one has no number, or a number is there twice.
    """
    pictures = [
        file
        for file in Path(folder).iterdir()
        if file.suffix.lower() in PICTURE_SUFFIXES and not file.name.startswith(".") and file.is_file()
    ]
    if not pictures:
        raise NotAVideoError(
            f"{os.fspath(folder)} is a directory without pictures; wanted the path of one video file, or of a folder "
            "of numbered pictures (frame_0001.png, frame_0002.png, …)"
        )
    numbers: dict[int, Path] = {}
    for picture in sorted(pictures):
        number = _number(picture)
        if number is None:
            raise NotAVideoError(
                f"{picture} has no number in its name; wanted the path of one video file, or of a folder in which each "
                "picture is numbered"
            )
        if number in numbers:
            raise NotAVideoError(
                f"two pictures of {os.fspath(folder)} have the number {number}, {numbers[number].name} and "
                f"{picture.name}: put each series of pictures into a folder of its own"
            )
        numbers[number] = picture
    return [numbers[number] for number in sorted(numbers)]


def _number(picture: Path) -> int | None:
    digits = re.findall(r"[0-9]+", picture.stem)
    return int(digits[-1]) if digits else None


def first_picture(folder: str | os.PathLike[str]) -> tuple[Any, str]:
    """Return the first frame of a folder as decoded by PyAV, and FFmpeg's name of its codec."""
    frame, codec, _ = _decode(numbered_pictures(folder)[0])
    return frame, codec


def read_pictures(folder: str | os.PathLike[str], wanted: np.ndarray) -> tuple[np.ndarray, int]:
    """Read frames of a folder.

    Args:
        folder: of numbered pictures.
        wanted: (n,) their places in the order of their numbers, from 0; order and repetition are kept.

    Returns:
        (n, H, W, 3) uint8 RGB, turned as their cameras say, and how many of them are damaged.

    Raises:
        DecodeError: a picture cannot be decoded, or has another size than the one before it.
        OutOfMemoryBudgetError: the frames would not fit into the free memory.
    """
    pictures, troubles = numbered_pictures(folder), 0
    pixels: np.ndarray | None = None
    places, back = np.unique(wanted, return_inverse=True)
    for row, place in enumerate(places.tolist()):
        frame, _, damaged = _decode(pictures[place])
        shown = upright(frame.to_ndarray(format="rgb24"), *orientation(frame))
        troubles += damaged
        if pixels is None:
            instead = "read fewer frames, or parts of the folder one after another (num_frames=, stride=, start=)"
            require_bytes(
                len(places) * shown.nbytes, "cpu", f"{len(places)} RGB frames of {os.fspath(folder)}", instead
            )
            pixels = np.empty((len(places), *shown.shape), np.uint8)
        if shown.shape != pixels.shape[1:]:
            raise DecodeError(
                f"{pictures[place]} is {shown.shape[0]}×{shown.shape[1]}, pictures before it are "
                f"{pixels.shape[1]}×{pixels.shape[2]}: a clip has one size"
            )
        pixels[row] = shown
    assert pixels is not None
    in_order = np.array_equal(back.ravel(), np.arange(len(places)))
    return (pixels if in_order else pixels[back.ravel()]), troubles


def _decode(picture: Path) -> tuple[Any, str, bool]:
    """Return the frame of a picture, its codec, and whether damage was concealed."""
    failure = "it holds no picture"
    for strict in (True, False):
        with open_container(picture) as container:
            for stream in container.streams.video[:1]:
                context: Any = stream.codec_context
                context.options = {"err_detect": "explode"} if strict else {}
                try:
                    for frame in container.decode(stream):
                        return frame, context.codec.canonical_name, not strict
                except DECODER_ERRORS as error:
                    failure = getattr(error, "strerror", None) or str(error)
    raise DecodeError(f"{picture} cannot be decoded ({failure})")
