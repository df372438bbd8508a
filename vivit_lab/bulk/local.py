"""The engine of one machine: a pool of decoding processes, and one model a device."""

from __future__ import annotations

import queue
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, Protocol

import torch

from vivit_lab.bulk.pool import PoolDecoder
from vivit_lab.bulk.rows import ClipRow
from vivit_lab.bulk.shard import ShardReport, run_shard
from vivit_lab.bulk.tasks import Task
from vivit_lab.errors import BackendError, InputError
from vivit_lab.numbers import checked_numbers
from vivit_lab.processes import die_with_parent, usable_cores

__all__ = ["Executor", "LocalExecutor", "OnShard"]

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
        context.set_forkserver_preload(["vivit_lab.bulk.pool"])
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
