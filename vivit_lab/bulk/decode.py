"""From a line of the manifest to pixels: the stage that any process of any engine can run."""

from __future__ import annotations

import errno
import os
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import fsspec
import numpy as np

from vivit_lab.bulk.marks import mark_video
from vivit_lab.bulk.rows import ClipRow, Decoded, Failure, Outcome
from vivit_lab.errors import ColorWarning, DecodeWarning, FrameTimesWarning, ShortClipWarning, StorageError
from vivit_lab.processing.processor import VivitImageProcessor
from vivit_lab.video.clip import Clip
from vivit_lab.video.index import load_index
from vivit_lab.video.read import read_clip, read_frames
from vivit_lab.video.sample import uniform_frame_indices

__all__ = ["DecodeSpec", "decode_one", "local_copy", "private_bytes", "read_row"]


_NOTED = (ColorWarning, DecodeWarning, FrameTimesWarning, ShortClipWarning)


@dataclass(frozen=True)
class DecodeSpec:
    """How clips are read; small, and sent to every process that decodes.

    Args:
        num_frames: of the model.
        sampling: ``"window"`` or ``"uniform"``, as in ``BulkJob``.
        stride: of a window, in frames.
        processor: prepares pixels.
    """

    num_frames: int
    sampling: str
    stride: int
    processor: VivitImageProcessor


def decode_one(row: ClipRow, spec: DecodeSpec, content: bytes | None = None) -> Outcome:
    """Read and prepare one clip, in one thread.

    Args:
        row: which clip.
        spec: how.
        content: the video itself, where only the calling process can reach it.

    Returns:
        The pixels; or, for anything that is wrong with the clip, what it was.

    Raises:
        StorageError: there is no room for a download: the machine's failure, not the clip's.
    """
    stage, began = "fetch", time.perf_counter()
    seconds = {"fetch": 0.0}
    try:
        with local_copy(row.path, content) as path, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            stage, seconds["fetch"] = "decode", time.perf_counter() - began
            mark = mark_video(row.path, path)  # before it is read: what is written meanwhile shows as a change
            clip = read_row(path, row, spec)
            seconds["decode"] = time.perf_counter() - began - seconds["fetch"]
            prepared = spec.processor.prepare(clip).pixel_values
            assert prepared is not None, "the processor has just prepared it"
            pixels = prepared[0].numpy()
        seconds["prepare"] = time.perf_counter() - began - seconds["fetch"] - seconds["decode"]
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(
                error.errno,
                f"there is no room to download {row.path} to {tempfile.gettempdir()}: {error.strerror}. Finished parts "
                "are whole; make room or set TMPDIR, and start the same command again",
            ) from error
        return _failure(stage, row, error)
    except Exception as error:
        return _failure(stage, row, error)
    notes = [str(one.message) for one in caught if issubclass(one.category, _NOTED)]
    return Decoded(
        pixels, clip.indices.tolist(), clip.seconds.tolist(), clip.end, clip.size, clip.decode_warnings,
        [note.replace(str(path), row.path) for note in notes], seconds, mark,
    )  # fmt: skip


def read_row(path: str | os.PathLike[str], row: ClipRow, spec: DecodeSpec, *, threads: int | str = 1) -> Clip:
    """Read the frames of a row from a local file.

    Args:
        path: the file.
        row: the segment.
        spec: how frames are chosen.
        threads: of the decoder; one where many clips are decoded at once.

    Raises:
        VideoError: the file cannot be read.
        InputError: the segment begins after the video's end.
    """
    start = 0.0 if row.start is None else row.start
    if spec.sampling == "window" and row.end is None:
        return read_clip(path, spec.num_frames, spec.stride, start, threads=threads)
    index = load_index(path)
    first, stop = index.span(start, row.end, row.path)
    last = stop - 1
    if spec.sampling == "window":
        wanted = first + spec.stride * np.arange(spec.num_frames)
        short = int((wanted > last).sum())
        wanted = np.minimum(wanted, last)
        if short:
            text = f"the segment of {row.path} ends {short} frames before the window does; its last frame repeats"
            warnings.warn(text, ShortClipWarning, stacklevel=2)
    else:
        wanted = first + uniform_frame_indices(spec.num_frames, last - first + 1)
    return read_frames(path, wanted, threads=threads, index=index)


@contextmanager
def local_copy(path: str, content: bytes | None = None) -> Iterator[str]:
    """Give a local file of what a path or URL names; what was fetched is removed afterwards.

    Args:
        path: a path or URL.
        content: the file itself, if it was fetched already.
    """
    if content is None and "://" not in path:
        yield path
        return
    if path.startswith(("file://", "local://")):
        yield str(fsspec.core.url_to_fs(path)[1])
        return
    with tempfile.NamedTemporaryFile(suffix=PurePosixPath(path).suffix) as file:
        if content is None:
            fs, place = fsspec.core.url_to_fs(path)
            fs.get_file(place, file.name)
        else:
            file.write(content)
            file.flush()
        yield file.name


def private_bytes(row: ClipRow) -> bytes | None:
    """Return a video that lives in this process's memory (``memory://``), which no other process can reach."""
    if not row.path.startswith("memory://"):
        return None
    fs, place = fsspec.core.url_to_fs(row.path)
    try:
        data: Any = fs.cat_file(place)
    except FileNotFoundError:
        return None
    return bytes(data)


def _failure(stage: str, row: ClipRow, error: BaseException) -> Failure:
    found = Failure.of(stage, error)
    return found if row.path in found.message else Failure(stage, found.kind, f"{row.path}: {found.message}")
