"""The driver of a run on Ray: which actor does which shard, and what to do about one that never answers."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import LocalRayletDiedError, NodeDiedError, ObjectLostError, RayActorError, RayError

from vivit_lab.bulk.decode import private_bytes
from vivit_lab.bulk.local import OnShard
from vivit_lab.bulk.shard import ShardReport
from vivit_lab.bulk.tasks import Task
from vivit_lab.errors import BackendError

__all__ = ["Dispatch", "in_words"]

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
