"""What runs on a Ray cluster: decoding in tasks, the model in actors, and the driver that hands out shards."""

from __future__ import annotations

import faulthandler
import time
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray.exceptions import (
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)

from vivit_lab.bulk.clips import ClipRow, Failure, Outcome
from vivit_lab.bulk.decode import DecodeSpec, PoolDecoder, ReadAhead, crash_failure, decode_one, private_bytes
from vivit_lab.bulk.engine import OnShard, Task
from vivit_lab.bulk.job import ShardReport, Stage, run_shard
from vivit_lab.errors import BackendError, InputError

__all__ = [
    "PULSE",
    "Dispatch",
    "ModelWorker",
    "RayDecoder",
    "decode_in_time",
    "in_words",
    "is_alive",
]

PULSE = "pulse"
"""The actor's thread that answers while the other one is at work."""

_PAUSE = 0.5  # seconds before a clip is sent again whose node was lost
_STARTS = 5  # of a process to decode in, on whatever node
_ENDS = 2  # of the task that watches such a process; the first may be an accident
_LOST = (NodeDiedError, LocalRayletDiedError, ObjectLostError)  # the node is gone, or what it had decoded


def decode_in_time(row: ClipRow, spec: DecodeSpec, timeout: float, content: bytes | None = None) -> Outcome:
    """Decode one clip, and end this process if that takes too long.

    The clock runs here and not where the clip is waited for, since a wait would count the time in a queue too. It is a
    thread of the C runtime, so it also ends a decoder that never returns to Python.

    Args:
        row: which clip.
        spec: how.
        timeout: seconds.
        content: see ``decode_one``.
    """
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(timeout, exit=True)
    try:
        return decode_one(row, spec, content)
    finally:
        faulthandler.cancel_dump_traceback_later()


def _decode_watched(row: ClipRow, spec: DecodeSpec, timeout: float, content: bytes | None) -> Iterator[Any]:
    """Say on which node the work begins, then do it in a process whose end tells a crash from a hang; Ray does not.

    Where the node starts no such process, the outcome is a ``BackendError``.
    """
    yield ray.get_runtime_context().get_node_id()
    try:
        with PoolDecoder(spec, workers=1, timeout=timeout, tried=1) as decoder:
            if content is not None:
                decoder.contents[row.clip_id] = content
            yield from decoder([row])
    except BackendError as error:
        yield error


# Ray tries nothing again: it would count the loss of a node as the clip's try, and not say which of the two it was
_TASK: Any = {"num_cpus": 1, "max_retries": 0}
_decode: Any = ray.remote(**_TASK)(decode_in_time)
_watched: Any = ray.remote(**_TASK, num_returns="streaming")(_decode_watched)


class RayDecoder(ReadAhead):
    """Decodes clips ahead of the model, in tasks on any node.

    A clip whose process ends, or is ended for want of memory, is tried once more, in a process of its own; the loss of
    a node is nobody's try, however often it happens.

    Args:
        spec: how clips are read.
        timeout: seconds that a clip may take, in its task.
        ahead: clips that are decoded or being decoded before they are asked for.
    """

    def __init__(self, spec: DecodeSpec, *, timeout: float, ahead: int) -> None:
        super().__init__(ahead)
        self.spec, self.timeout = spec, timeout
        self.contents: dict[str, Any] = {}
        """Clips that only the driver could reach: id → reference to the file."""

    def _arguments(self, row: ClipRow) -> tuple[Any, ...]:
        return row, self.spec, self.timeout, self.contents.get(row.clip_id)

    def _submit(self, row: ClipRow) -> Any:
        return _decode.remote(*self._arguments(row))

    def _cancel(self, ticket: Any) -> None:
        ray.cancel(ticket)

    def _result(self, row: ClipRow, ticket: Any) -> Outcome:
        while True:
            try:
                return _get(ticket)
            except (WorkerCrashedError, OutOfMemoryError):
                return self._second_try(row)
            except _LOST:
                time.sleep(_PAUSE)
                ticket = self._submit(row)

    def _second_try(self, row: ClipRow) -> Outcome:
        barren: list[str] = []  # nodes that started no process, once for each time
        ended = 0  # how often the task itself ended, which only watches
        while True:
            node = None
            try:
                told = _watched.remote(*self._arguments(row))
                node = _get(next(told))
                outcome = _get(next(told))
                if not isinstance(outcome, BackendError):
                    return outcome
                barren.append(node)
                if len(barren) == _STARTS:
                    named = ", ".join(dict.fromkeys(barren))
                    raise BackendError(
                        f"nodes of the Ray cluster ({named}) started no process to decode in, {_STARTS} times in a row "
                        f"({outcome}); look there for limits of processes and memory, and start the same command again"
                    ) from outcome
                time.sleep(_PAUSE * 2 ** len(barren))  # else the node that fails is the first to be free again
            except WorkerCrashedError:
                if node is not None and is_alive(node):
                    ended += 1
                    if ended == _ENDS:
                        return crash_failure(row, None)
            except OutOfMemoryError:
                why = "Ray ended the process that decoded it, since its node ran out of memory"
                return Failure("decode", "crash", f"{row.path}: {why}")
            except _LOST:
                pass
            time.sleep(_PAUSE)


class ModelWorker:
    """The model, in an actor: does one shard after another, and has clips of the next decoded meanwhile.

    Args:
        task: what is done; small, since Ray keeps it to start the actor anew.
        timeout: see ``RayDecoder``.
        ahead: see ``RayDecoder``.
        threads: of the model on a CPU; equal everywhere, since another number of them sums in another order.
    """

    def __init__(self, task: Task, timeout: float, ahead: int, threads: int) -> None:
        warnings.simplefilter("ignore")  # nobody reads them here; those about clips are in their rows
        torch.set_num_threads(threads)
        self._task, self._stage = task, None
        self._decoder = RayDecoder(task.decode, timeout=timeout, ahead=ahead)
        self._next: int | None = None

    def work(self, shard: int, following: int | None, contents: dict[str, Any]) -> ShardReport | Exception:
        """Do a shard.

        Args:
            shard: its number.
            following: the shard that this actor will be given next, as far as is known.
            contents: videos of both that only the driver can reach: id → reference.

        Returns:
            What became of it; or why the run cannot go on, as a value, because Ray would wrap an exception.
        """
        try:
            return self._do(shard, following, contents)
        except Exception as error:
            return error

    @ray.method(concurrency_group=PULSE)
    def pulse(self) -> None:
        """Answer, to show that this process runs."""

    def _do(self, shard: int, following: int | None, contents: dict[str, Any]) -> ShardReport:
        self._decoder.contents |= contents
        rows = self._rows(shard)
        if shard != self._next:
            self._decoder.expect(rows)
        if following is not None:
            self._decoder.expect_then(self._rows(following))
        self._next = following
        self._decoder.begin()  # while the model loads
        report = run_shard(rows, self._decoder, self._model(), self._task.sink(shard))
        for row in rows:
            self._decoder.contents.pop(row.clip_id, None)
        return report

    def _rows(self, shard: int) -> list[ClipRow]:
        try:
            return self._task.rows(shard)
        except (FileNotFoundError, InputError) as error:
            raise BackendError(
                f"a node of the Ray cluster cannot read the run's folder ({error}): it wants a folder that all nodes "
                "share, or a URL such as s3://bucket/run"
            ) from error

    def _model(self) -> Stage:
        if self._stage is None:
            self._stage = self._task.stage("cuda" if ray.get_gpu_ids() else "cpu")
        return self._stage


def _get(ticket: Any) -> Any:
    try:
        return ray.get(ticket)  # Ray's types do not know what a task gives
    except RayTaskError as error:
        raise error.cause from error  # a full disk
    except (WorkerCrashedError, OutOfMemoryError, *_LOST):
        raise
    except RayError as error:  # no other try would end otherwise
        reason = " ".join(str(error).split())[:300]
        raise BackendError(f"Ray cannot run its tasks ({type(error).__name__}: {reason}); see `ray status`") from error


def is_alive(node: str) -> bool:
    """Whether a node of the cluster is there, as far as the cluster knows."""
    return any(one["NodeID"] == node and one["Alive"] for one in ray.nodes())


_TICK = 1.0  # seconds between two looks at what is late
_SLOW = 3  # times the slowest shard so far: then another actor is given the same shard

_Shard = tuple[int, dict[str, Any]]  # its number; and the videos of it that only the driver can read


@dataclass(eq=False)
class _Given:
    """A shard that an actor is at."""

    model: int
    shard: int
    contents: dict[str, Any]
    began: float
    is_late: bool = False
    pulse: Any = None
    """Asked of an actor that is late."""
    asked: float = 0.0


class Dispatch:
    """Hands shards to actors until all are done.

    Args:
        task: what is done.
        models: handles of ``ModelWorker``.
        shards: to do.
        patience: see ``RayExecutor``.
    """

    def __init__(self, task: Task, models: list[Any], shards: Sequence[int], patience: float) -> None:
        self.task, self.models, self.patience = task, models, patience
        self.todo, self.left = deque(shards), set(shards)
        self.busy: dict[Any, _Given] = {}
        self.kept: dict[int, _Shard] = {}  # actor → the shard it is decoding ahead
        self.idle = list(range(len(models)))
        self.started = [model.pulse.remote() for model in models]
        self.slowest = 0.0

    def run(self, on_shard: OnShard) -> None:
        """Do all, and call ``on_shard`` once for each.

        Raises:
            VivitLabError: the run cannot go on.
            BackendError: nothing was finished for too long, or an actor failed for good.
        """
        with in_words():
            self._run(on_shard)

    def _run(self, on_shard: OnShard) -> None:
        news = time.monotonic()
        while self.left:
            self._give()
            done, _ = ray.wait(list(self.busy), timeout=min(_TICK, self.patience / 10))
            now = time.monotonic()
            for one in done:
                given = self.busy.pop(one)
                self.idle.append(given.model)
                report = _report(one)
                if given.shard in self.left:
                    news = now
                    self.left.remove(given.shard)
                    self.slowest = max(self.slowest, now - given.began)
                    on_shard(given.shard, report)
            self._look_for_late(now)
            if now - news > self.patience:
                raise BackendError(
                    f"no shard was finished in {self.patience:g} s, {len(self.left)} are left; see `ray status` for "
                    "what the cluster lacks. Finished parts stay: start the same command again, and it goes on"
                )

    def _give(self) -> None:
        """Give shards to the actors that have none."""
        for model in list(self.idle):
            kept = self.kept.pop(model, None)
            given = kept if kept and kept[0] in self.left else self._take()
            if given is None:
                continue
            shard, contents = given
            # near the end, whoever is ready first takes what is left
            following = self._take() if len(self.todo) > len(self.models) else None
            if following is not None:
                self.kept[model] = following
            theirs = contents | (following[1] if following else {})
            result = self.models[model].work.remote(shard, following[0] if following else None, theirs)
            self.idle.remove(model)
            self.busy[result] = _Given(model, shard, contents, time.monotonic())

    def _take(self) -> _Shard | None:
        """Return the next shard, and what only this process can read of it."""
        while self.todo:
            shard = self.todo.popleft()
            if shard in self.left:
                found = {row.clip_id: private_bytes(row) for row in self.task.rows(shard)}
                return shard, {name: ray.put(data) for name, data in found.items() if data is not None}
        return None

    def _look_for_late(self, now: float) -> None:
        """Let others do what an actor is at for so long that it may be frozen, or wait for a node that never comes.

        A part that is written twice is the same part. A frozen actor keeps the CPUs on which its clips were decoded,
        maybe all of them, so one that does not answer is ended; Ray starts it anew.
        """
        limit = self.patience / 10
        for given in self.busy.values():
            model = self.models[given.model]
            if given.is_late:
                if given.pulse and now - given.asked > limit:
                    if not _is_there(given.pulse):
                        ray.kill(model, no_restart=False)
                    given.pulse = None
            elif now - given.began > max(_SLOW * self.slowest, limit):
                given.is_late = True
                kept = self.kept.pop(given.model, None)
                self.todo.extend([given.shard, *([kept[0]] if kept else [])])
                if _is_there(self.started[given.model]):
                    given.pulse, given.asked = model.pulse.options(max_task_retries=0).remote(), now


def _is_there(result: Any) -> bool:
    return bool(ray.wait([result], timeout=0)[0])


@contextmanager
def in_words() -> Iterator[None]:
    """Say in words what to do where Ray itself fails; its own texts are a page of addresses and logs.

    Raises:
        BackendError: Ray lost what the run was working with, or cannot start it.
    """
    again = "Finished parts are whole: start the same command again, and it goes on where it stopped"
    try:
        yield
    except (RayActorError, NodeDiedError, LocalRayletDiedError, ObjectLostError) as error:
        raise BackendError(
            "Ray lost a node that the run worked on (its raylet or the machine ended), or a process with the model, "
            f"and has nowhere to start it. {again}. If it happens again, see what ended it: the nodes' memory and "
            f"disks, `ray status`, and Ray's own logs ({type(error).__name__})"
        ) from error
    except (RayError, ConnectionError) as error:
        reason = next(filter(None, map(str.strip, str(error).splitlines())), "it gave no reason")
        raise BackendError(
            f"the Ray cluster failed ({type(error).__name__}: {reason[:200]}); see `ray status`. {again}"
        ) from error


def _report(result: Any) -> ShardReport:
    with in_words():
        report: Any = ray.get(result)
    if isinstance(report, Exception):
        raise report
    return report
