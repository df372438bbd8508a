"""``run_bulk``: begin or resume a run on an engine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from vivit_lab.bulk.check import changed_clips, set_aside_damaged, tell_changed
from vivit_lab.bulk.job import BulkJob
from vivit_lab.bulk.local import Executor, LocalExecutor
from vivit_lab.bulk.results import BulkResults
from vivit_lab.bulk.run import BulkRun, prepare_run
from vivit_lab.bulk.shard import ShardReport
from vivit_lab.bulk.tasks import ClipTask, RetryTask, Task
from vivit_lab.clips.listing import ClipList
from vivit_lab.errors import InputError, MissingExtraError
from vivit_lab.numbers import checked_numbers
from vivit_lab.progress import progress_bar

__all__ = ["drive", "make_executor", "run_bulk", "shard_range"]

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
