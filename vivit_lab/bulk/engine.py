"""run_bulk: begin or resume a run on an engine; the engine of one machine."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import signal
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from multiprocessing import get_context
from typing import Any, Protocol

import torch
from safetensors.torch import save

from vivit_lab.bulk.clips import ClipRow, row_of
from vivit_lab.bulk.decode import DecodeSpec, PoolDecoder
from vivit_lab.bulk.job import BulkJob, Result, ShardReport, Sink, Stage, run_shard
from vivit_lab.bulk.results import BulkResults
from vivit_lab.bulk.run import BulkRun, changed_clips, part_name, prepare_run, set_aside_damaged, tell_changed
from vivit_lab.clips.listing import ClipList
from vivit_lab.errors import BackendError, DamagedFileError, InputError, MissingExtraError
from vivit_lab.numbers import checked_numbers
from vivit_lab.processes import die_with_parent, usable_cores
from vivit_lab.progress import progress_bar

__all__ = [
    "ClipTask",
    "Executor",
    "LocalExecutor",
    "OnShard",
    "RetryTask",
    "Task",
    "drive",
    "make_executor",
    "run_bulk",
    "shard_range",
]


class Task(Protocol):
    """Work that any engine can do; picklable and small."""

    def shards(self) -> list[int]:
        """Return the shards that have something left to do, from the listing of the store."""
        ...

    def rows(self, shard: int) -> list[ClipRow]:
        """Return the clips of a shard."""
        ...

    @property
    def decode(self) -> DecodeSpec:
        """How clips are read."""
        ...

    def stage(self, device: torch.device | str) -> Stage:
        """Load the model onto a device: slow, once a process."""
        ...

    def sink(self, shard: int) -> Sink:
        """Return what keeps a shard's results."""
        ...


@dataclass(frozen=True)
class ClipTask:
    """The clips of a run, each shard into its part.

    Args:
        run: the folder.
    """

    run: BulkRun

    def shards(self) -> list[int]:
        """See ``Task``."""
        done = self.run.done()
        return [shard for shard in range(self.run.shards) if shard not in done]

    def rows(self, shard: int) -> list[ClipRow]:
        """See ``Task``."""
        return self.run.rows(shard)

    @property
    def decode(self) -> DecodeSpec:
        """See ``Task``."""
        return self.run.decode

    def stage(self, device: torch.device | str) -> Stage:
        """See ``Task``."""
        return self.run.stage(device)

    def sink(self, shard: int) -> Sink:
        """See ``Task``."""
        return PartSink(self.run, self.rows(shard), shard, f"clips/{part_name(shard)}")


@dataclass(frozen=True)
class RetryTask(ClipTask):
    """Some clips once more; what comes of them goes into overlays, and no part is touched.

    Args:
        run: the folder.
        clips: shard → which; None takes all that failed.
    """

    clips: Mapping[int, Sequence[str]] | None = field(default=None, hash=False)

    @cached_property
    def _failed(self) -> Mapping[int, Sequence[str]]:
        if self.clips is not None:
            return self.clips
        found = {}
        for shard in sorted(self.run.done()):
            failed: dict[str, bool] = {}
            for name in [f"clips/{part_name(shard)}", *self._overlays.get(shard, [])]:
                try:
                    rows = self.run.store.read_table(name, ["clip_id", "status"], self.run.layout.schema)
                except DamagedFileError:
                    continue  # of a shard that this process was not asked for; else it was set aside before
                failed |= {row["clip_id"]: row["status"] == "error" for row in rows.to_pylist()}
            if any(failed.values()):
                found[shard] = [name for name, wrong in failed.items() if wrong]
        return found

    @cached_property
    def _overlays(self) -> dict[int, list[str]]:
        return self.run.overlays()

    def shards(self) -> list[int]:
        """See ``Task``."""
        return list(self._failed)

    def rows(self, shard: int) -> list[ClipRow]:
        """See ``Task``."""
        failed = set(self._failed[shard])
        return [row for row in self.run.rows(shard) if row.clip_id in failed]

    def sink(self, shard: int) -> Sink:
        """See ``Task``."""
        last = self._overlays.get(shard, [])[-1:]  # one before it may have been set aside
        number = int(last[0].removesuffix(".parquet").rpartition(".")[2]) + 1 if last else 0
        name = f"overlay/{part_name(shard).removesuffix('.parquet')}.{number:03d}.parquet"
        return PartSink(self.run, self.rows(shard), shard, name, retries=True)


class PartSink:
    """Writes the part of a shard, and before it the hidden states that it names.

    Args:
        run: the folder.
        rows: the shard's clips.
        shard: its number.
        name: of the part.
        retries: whether the clips failed before.
    """

    def __init__(self, run: BulkRun, rows: Sequence[ClipRow], shard: int, name: str, *, retries: bool = False) -> None:
        self.run, self.rows, self.shard, self.name = run, rows, shard, name
        self.parts: Sequence[str] = [name]
        self.retries = retries

    def __call__(self, part: str, results: Sequence[Result]) -> None:
        """Write the part; see ``Sink``."""
        rows = [
            row_of(clip, self.run.class_of(clip.label), result) for clip, result in zip(self.rows, results, strict=True)
        ]
        hidden = {row["clip_id"]: row.pop("hidden") for row in rows if "hidden" in row}
        about = [row.pop("about") for row in rows if "about" in row]
        file, digest = self._write_hidden(hidden) if hidden else (None, None)
        for row in rows:
            row["hidden_file"] = file if row["clip_id"] in hidden else None
        table = self.run.layout.table(rows)
        known = {"vivit_lab.maps": json.dumps(about[0] if about else {}), "vivit_lab.written": str(time.time())}
        if file is not None:
            known["vivit_lab.hidden"] = json.dumps({"file": file, "sha256": digest})
        table = table.replace_schema_metadata(known)
        self.run.store.write_table(part, table, split=self.run.layout.split)

    def _write_hidden(self, hidden: dict[str, torch.Tensor]) -> tuple[str, str]:
        """Return the file's name and sha256."""
        name = f"hidden/part-{self.shard:06d}-{uuid.uuid4().hex}.safetensors"
        tensors = {clip: states.contiguous() for clip, states in hidden.items()}
        content = save(tensors, metadata={"hidden_states": self.run.job.hidden_states})
        self.run.store.write(name, content)
        return name, hashlib.sha256(content).hexdigest()


OnShard = Callable[[int, ShardReport], None]


class Executor(Protocol):
    """An engine: it runs ``run_shard`` on the shards of a task, wherever it likes and in any order."""

    def run(self, task: Task, shards: Sequence[int], on_shard: OnShard) -> None:
        """Do the shards, and call ``on_shard`` in this process after each one's parts are written.

        Raises:
            VivitLabError: the run cannot go on; parts that were written stay.
        """
        ...


@checked_numbers()
@dataclass(frozen=True)
class LocalExecutor:
    """A pool of decoding processes on this machine; the model in this process, or in one for each of several devices.

    Args:
        workers: decoding processes in all; as many as there are usable cores where None.
        devices: ``"auto"`` for every CUDA device, or the CPU; or names of devices, one process for each if several.
        timeout: seconds that one clip's decoding may take.
        ahead: clips that are decoded before they are needed, a model; twice its workers plus 8 where None.

    Raises:
        InputError: there are no devices, or a number is not positive.
    """

    workers: int | None = None
    devices: str | tuple[str, ...] = "auto"
    timeout: float = 120.0
    ahead: int | None = None

    def __post_init__(self) -> None:
        if not self.device_names():
            raise InputError("wanted at least one device, got none")
        if (self.workers is not None and self.workers < 1) or not self.timeout > 0:
            raise InputError(f"wanted workers and timeout above 0, got {self.workers} and {self.timeout}")

    def device_names(self) -> list[str]:
        """Return the devices that models go to."""
        if self.devices != "auto":
            return [self.devices] if isinstance(self.devices, str) else list(self.devices)
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())] or ["cpu"]

    def run(self, task: Task, shards: Sequence[int], on_shard: OnShard) -> None:
        """See ``Executor``."""
        names = self.device_names()[: max(len(shards), 1)]
        if len(names) == 1:
            self._work(task, shards, names[0], on_shard, self.workers)
            return
        self._spread(task, shards, names, on_shard)

    def _work(self, task: Task, shards: Iterable[int], device: str, on_shard: OnShard, workers: int | None) -> None:
        """Do shards with one model, in this process."""
        stage = task.stage(device)
        begun: deque[tuple[int, list[ClipRow]]] = deque()

        def rows_ahead() -> Iterator[ClipRow]:
            for shard in shards:
                rows = task.rows(shard)
                begun.append((shard, rows))
                yield from rows

        with PoolDecoder(task.decode, workers=workers, timeout=self.timeout, ahead=self.ahead) as decoder:
            decoder.expect(rows_ahead())
            while decoder.begin() and begun:
                shard, rows = begun.popleft()
                on_shard(shard, run_shard(rows, decoder, stage, task.sink(shard)))

    def _spread(self, task: Task, shards: Sequence[int], names: list[str], on_shard: OnShard) -> None:
        """Do shards with one model a device, each in its own process, which takes the next shard when it is ready."""
        context = get_context("forkserver")
        context.set_forkserver_preload(["vivit_lab.bulk.decode"])
        todo, told = context.Queue(), context.Queue()
        for shard in [*shards, *[None] * len(names)]:
            todo.put(shard)
        share = max((self.workers or usable_cores()) // len(names), 1)
        alone = LocalExecutor(share, "cpu", self.timeout, self.ahead)
        models = [context.Process(target=_serve, args=(alone, task, name, todo, told)) for name in names]
        for model in models:
            model.start()
        try:
            self._collect(models, told, len(shards), on_shard)
        finally:
            for model in models:
                model.terminate()
                model.join()

    def _collect(self, models: list[Any], told: Any, count: int, on_shard: OnShard) -> None:
        left = count
        while left:
            gone = [model for model in models if model.exitcode not in (None, 0)]
            try:
                shard, report = told.get(timeout=1.0)
            except queue.Empty:
                if gone and all(model.exitcode is not None for model in models):
                    raise BackendError(
                        f"the process of a model ended with code {gone[0].exitcode} and left {left} shards undone; "
                        "start the same command again, and it goes on where it stopped"
                    ) from None
                continue
            if isinstance(report, BaseException):
                raise report
            on_shard(shard, report)
            left -= 1


def _serve(alone: LocalExecutor, task: Task, device: str, todo: Any, told: Any) -> None:
    """Work for one device, in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    try:
        alone._work(task, iter(todo.get, None), device, lambda shard, report: told.put((shard, report)), alone.workers)
    except Exception as error:
        told.put((-1, error))
        raise


_STALE_SECONDS = 3600.0  # a draft this old belongs to a run that was killed


@checked_numbers()
def run_bulk(
    job: BulkJob | None,
    videos: str | os.PathLike[str] | Sequence[Any] | None,
    out: str | os.PathLike[str],
    *,
    executor: str | Executor = "local",
    shards: str | Sequence[int] | None = None,
    retry_errors: bool = False,
    progress: bool | None = None,
    on_found: Callable[[ClipList], Any] | None = None,
) -> BulkResults:
    """Explain a data set: begin a run, or go on with one that was cut off.

    A clip that cannot be read or computed becomes a row that says why; nothing else stops for it. The parts that are
    there are read first: a damaged one is named, moved to ``damaged/`` and computed again, and so are the rows of
    videos that have changed since. A script that calls
    this wants ``if __name__ == "__main__":`` around it, because the decoding processes import the script.

    Args:
        job: what is computed; None takes that of the folder.
        videos: a folder, pattern, table or URL, see ``list_clips``; None takes the clips of the folder.
        out: the run's folder, a path or URL. Parts that are there are done.
        executor: ``"local"``, ``"ray"``, or an engine with settings of its own (``LocalExecutor(workers=8)``).
        shards: only these, as numbers or ``"first:stop"``, for several machines that share a folder; all where None.
        retry_errors: also try the clips again that failed before; what comes of it goes into overlays.
        progress: show a bar; None shows it on a terminal.
        on_found: is called with the clips that ``videos`` names, before the work begins; ``print`` says in a line how
            many there are and where their labels come from.

    Returns:
        The results, also of a run that others are still working on.

    Raises:
        InputError: an argument does not fit, or there is nothing to do with.
        ConfigError: the folder holds another run.
        StorageError: the disk is full; start again when there is room.
        BackendError: the model fails on every clip, or processes do not start.
        OutOfMemoryBudgetError: one clip alone does not fit into memory.

    Example:
        >>> results = run_bulk(BulkJob("planted", stride=1), "clips/", "run/")
    """
    engine = make_executor(executor)
    run = prepare_run(job, videos, out, on_found)
    run.store.sweep(time.time() - _STALE_SECONDS)
    chosen = shard_range(shards, run.shards)
    lost = set_aside_damaged(run, chosen, progress)
    changed = changed_clips(run, chosen, progress)
    tell_changed(run, changed, "Their rows are computed again, and lie over the old ones")
    drive(engine, ClipTask(run), run, shards, progress)
    drive(engine, RetryTask(run, changed), run, list(changed), progress, "changed videos")
    if retry_errors or lost:
        drive(engine, RetryTask(run), run, shards if retry_errors else lost, progress, "trying again")
    return BulkResults.open(out)


def make_executor(executor: str | Executor, **options: Any) -> Executor:
    """Return an engine by its name.

    Args:
        executor: ``"local"``, ``"ray"``, or an engine, which is returned.
        **options: of the engine.

    Raises:
        InputError: there is no such engine.
        MissingExtraError: Ray is not installed.
    """
    if executor == "local":
        return LocalExecutor(**options)
    if executor == "ray":
        try:
            engine = import_module("vivit_lab.bulk.ray")
        except ModuleNotFoundError as error:
            raise MissingExtraError("the engine ray needs Ray: pip install 'vivit-lab[ray]'") from error
        return engine.RayExecutor(**options)
    if isinstance(executor, str):
        raise InputError(f"executor={executor!r} is not known; choose local or ray, or pass an engine")
    return executor


def drive(
    engine: Executor,
    task: Task,
    run: BulkRun,
    shards: str | Sequence[int] | None = None,
    progress: bool | None = None,
    name: str = "clips",
) -> None:
    """Let an engine do what is left of a task, with a progress bar.

    Args:
        engine: the engine.
        task: the task.
        run: its folder.
        shards: see ``run_bulk``.
        progress: see ``run_bulk``.
        name: of the bar.
    """
    chosen = set(shard_range(shards, run.shards))
    left = [shard for shard in task.shards() if shard in chosen]
    if not left:
        return
    size = run.info["shard_size"]
    total = min(len(chosen) * size, run.clips)
    bar = progress_bar(None, progress, name, "clip", total, max(total - len(left) * size, 0))
    counts = {"errors": 0}

    def on_shard(shard: int, report: ShardReport) -> None:
        counts["errors"] += report.errors
        bar.update(report.clips)
        bar.set_postfix(parts=shard, **counts)

    with bar:
        engine.run(task, left, on_shard)


def shard_range(shards: str | Sequence[int] | None, count: int) -> list[int]:
    """Return the shards that are meant.

    Args:
        shards: numbers, ``"first:stop"`` (either may be left out), or None for all.
        count: how many shards there are.

    Raises:
        InputError: it is no range, or names a shard that is not there. A ``stop`` beyond the end is the end.
    """
    if shards is None:
        return list(range(count))
    if isinstance(shards, str):
        first, colon, stop = shards.partition(":")
        try:
            low, high = int(first or 0), int(stop or count) if colon else int(first) + 1
        except ValueError as error:
            raise InputError(f"shards wants first:stop (0:100) or a number, got {shards!r}") from error
        if not 0 <= low <= high:
            raise InputError(f"shards wants 0 <= first <= stop, got {shards!r}")
        return list(range(low, min(high, count)))
    chosen = [int(shard) for shard in shards]
    wrong = [shard for shard in chosen if not 0 <= shard < count]
    if wrong:
        raise InputError(f"there are shards 0..{count - 1}, got {wrong[:5]}")
    return chosen
