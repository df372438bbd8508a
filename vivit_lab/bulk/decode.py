"""From a line of the manifest to pixels, in processes of their own: one that crashes or hangs costs its clip alone."""

from __future__ import annotations

import errno
import os
import signal
import tempfile
import time
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TaskTimeoutError
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from multiprocessing import get_context
from pathlib import PurePosixPath
from typing import Any

import fsspec
import numpy as np
import torch
from pebble import ProcessExpired, ProcessPool

from vivit_lab.bulk.clips import ClipRow, Decoded, Failure, Outcome, mark_video
from vivit_lab.errors import (
    BackendError,
    ColorWarning,
    DecodeWarning,
    FrameTimesWarning,
    InputError,
    ShortClipWarning,
    StorageError,
)
from vivit_lab.processes import die_with_parent, usable_cores
from vivit_lab.processing.processor import VivitImageProcessor
from vivit_lab.video.clip import Clip
from vivit_lab.video.index import load_index
from vivit_lab.video.read import read_clip, read_frames, uniform_frame_indices

__all__ = [
    "DecodeSpec",
    "PoolDecoder",
    "ReadAhead",
    "crash_failure",
    "decode_one",
    "local_copy",
    "private_bytes",
    "read_row",
    "start_worker",
]


class ReadAhead(ABC):
    """Has clips decoded before they are asked for, and gives them in order; where they are decoded is the engine's.

    Args:
        ahead: clips that are decoded or being decoded before they are asked for.
    """

    def __init__(self, ahead: int) -> None:
        self.ahead = ahead
        self._queued: deque[tuple[ClipRow, Any]] = deque()
        self._plan: Iterator[ClipRow] = iter(())

    @abstractmethod
    def _submit(self, row: ClipRow) -> Any:
        """Have a clip decoded; return what it can be waited for with."""

    @abstractmethod
    def _result(self, row: ClipRow, ticket: Any) -> Outcome:
        """Wait for a clip; one that crashes or hangs its decoder is a ``Failure``."""

    @abstractmethod
    def _cancel(self, ticket: Any) -> None:
        """Forget a clip that nobody will ask for."""

    def expect(self, rows: Iterable[ClipRow]) -> None:
        """Name the clips that will be asked for, in order, so that they are decoded across the ends of shards."""
        self._drop()
        self._plan = iter(rows)

    def expect_then(self, rows: Iterable[ClipRow]) -> None:
        """Name the clips that will be asked for after those that are expected already."""
        self._plan = chain(self._plan, rows)

    def begin(self) -> bool:
        """Start decoding what is expected; return whether there is anything to wait for."""
        self._fill()
        return bool(self._queued)

    def __call__(self, rows: Sequence[ClipRow]) -> Iterator[Outcome]:
        """Go through the clips of rows, in their order."""
        self.begin()
        if rows and (not self._queued or self._queued[0][0] != rows[0]):
            self.expect(rows)  # something else than was expected
        for row in rows:
            self._fill()
            _, ticket = self._queued.popleft()
            outcome = self._result(row, ticket)
            self._fill()
            yield outcome

    def _drop(self) -> None:
        for _, ticket in self._queued:
            self._cancel(ticket)
        self._queued.clear()

    def _fill(self) -> None:
        while len(self._queued) < self.ahead:
            row = next(self._plan, None)
            if row is None:
                return
            self._queued.append((row, self._submit(row)))


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


_START_SECONDS = 180.0  # until the first process answers: it imports torch, and the machine may be busy
_TRIES = 2  # of a clip whose decoder crashed or hung
_RENEWALS = 3  # of a pool whose processes were all ended from outside, for one clip


class PoolDecoder(ReadAhead):
    """Decodes clips ahead of the model, in a pool of processes.

    Args:
        spec: how clips are read.
        workers: processes; all usable cores where None.
        timeout: seconds that a clip may take before its process is ended.
        ahead: clips that are decoded or being decoded before they are asked for; twice the workers plus 8 where None.
        tried: how often another decoder has tried each clip already: a clip is given to two processes in all, before
            its crash or hang is taken for its own.

    Raises:
        InputError: a number is not positive.
        BackendError: the processes do not start.
    """

    def __init__(
        self,
        spec: DecodeSpec,
        *,
        workers: int | None = None,
        timeout: float = 120.0,
        ahead: int | None = None,
        tried: int = 0,
    ) -> None:
        workers = usable_cores() if workers is None else workers
        if workers < 1 or not timeout > 0 or (ahead is not None and ahead < 1):
            raise InputError(
                f"wanted workers, timeout and ahead above 0, got workers={workers}, timeout={timeout}, ahead={ahead}"
            )
        super().__init__(2 * workers + 8 if ahead is None else ahead)
        self.spec, self.timeout, self.workers, self.tried = spec, timeout, workers, tried
        self.contents: dict[str, bytes] = {}
        """Videos that the caller has already: id → file."""
        self._pool = self._new_pool()
        self._ready = False

    def _new_pool(self) -> Any:
        # forked from a server that has everything imported and no threads: quick to start, and to start again
        context = get_context("forkserver")
        context.set_forkserver_preload(["vivit_lab.bulk.decode"])
        return ProcessPool(self.workers, initializer=start_worker, context=context)

    def begin(self) -> bool:
        """See ``ReadAhead``."""
        self._check_start()
        return super().begin()

    def close(self, *, kill: bool = False) -> None:
        """End the processes; ``kill`` does not wait for the clips in work."""
        self._drop()
        if kill:
            self._pool.stop()
        else:
            self._pool.close()
        self._pool.join()

    def __enter__(self) -> PoolDecoder:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(kill=True)

    def _cancel(self, ticket: Any) -> None:
        ticket.cancel()

    def _submit(self, row: ClipRow) -> Any:
        given = self.contents.get(row.clip_id)
        arguments = [row, self.spec, private_bytes(row) if given is None else given]
        try:
            return self._pool.schedule(decode_one, args=arguments, timeout=self.timeout)
        except RuntimeError as error:  # the pool broke meanwhile; whoever asks for the clip starts it anew
            broken: Future[Outcome] = Future()
            broken.set_exception(BrokenProcessPool(str(error)))
            return broken

    def _result(self, row: ClipRow, ticket: Any) -> Outcome:
        future, failed, renewed = ticket, self.tried, 0
        while True:
            try:
                return future.result()
            except TaskTimeoutError:
                failed, failure = failed + 1, _timeout_failure(row, self.timeout)
            except ProcessExpired as error:
                failed, failure = failed + 1, crash_failure(row, error.exitcode)
            except BrokenProcessPool as error:  # a process was ended while it had no clip: nobody's fault here
                failure = None
                renewed += 1
                if renewed > _RENEWALS:
                    raise BackendError(
                        f"the processes that decode end before they are given a clip ({error})"
                    ) from error
                self._renew()
            if failure is not None and failed >= _TRIES:
                return failure
            future = self._submit(row)

    def _renew(self) -> None:
        """Start the pool anew, and what was queued in it."""
        self._pool.stop()
        self._pool.join()
        self._pool, self._ready = self._new_pool(), False
        self._check_start()
        self._queued = deque((row, self._submit(row)) for row, _ in self._queued)

    def _check_start(self) -> None:
        """Refuse to take processes that never start for clips that crash."""
        if self._ready:
            return
        try:
            self._pool.schedule(os.getpid, timeout=_START_SECONDS).result()
        except (ProcessExpired, BrokenProcessPool, TaskTimeoutError) as error:
            raise BackendError(
                f"the processes that decode do not start ({error}). A script that starts a bulk run wants "
                "`if __name__ == '__main__':` around it, because they import it"
            ) from error
        self._ready = True


def _timeout_failure(row: ClipRow, seconds: float) -> Failure:
    """Return the failure of a clip whose decoder hung."""
    return Failure(
        "decode", "timeout", f"{row.path}: decoding took more than {seconds:g} s in the last of {_TRIES} tries"
    )


def crash_failure(row: ClipRow, exitcode: int | None) -> Failure:
    """Return the failure of a clip whose decoder's process ended; with None, nobody knows how."""
    how = "ended" if exitcode is None else f"ended with code {exitcode}"
    if exitcode is not None and exitcode < 0:
        how = f"was ended by {signal.Signals(-exitcode).name}"
    return Failure("decode", "crash", f"{row.path}: the process that decoded it {how} in the last of {_TRIES} tries")


def start_worker() -> None:
    """Prepare a process of a pool: one thread, quiet, Ctrl-C left to its parent, and gone when that is."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that holds the pool
    die_with_parent()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
