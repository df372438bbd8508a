"""The engine of many machines: Ray, with the model in actors and decoding in tasks; extra ``[ray]``."""

from __future__ import annotations

import io
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from vivit_lab.bulk.engine import OnShard, Task
from vivit_lab.errors import BackendError, InputError, MissingExtraError
from vivit_lab.processes import usable_cores

__all__ = ["ClusterPlan", "RayExecutor", "plan_cluster"]

_PRINTERS = "ray_"  # how the names of Ray's threads begin that print what it has to tell
_FAREWELL = 10.0  # seconds in which they end
_SHARE = 0.01  # of a CPU, for an actor: binds it to a node that computes, and leaves whole CPUs for decoding


@dataclass(frozen=True)
class RayExecutor:
    """A Ray cluster, or this machine as one.

    The run's folder must be one that all nodes share, or a URL, and vivit-lab must be installed on each. Losing nodes
    costs time only: their shards are done again elsewhere. Without an accelerator there is one model a node.

    Args:
        address: of a running cluster, or ``"auto"`` for the one this machine belongs to; None uses the cluster that
            this process is connected to, and starts Ray on this machine if there is none.
        models: actors with a model; one a GPU, or else one a node, where None.
        workers: decoding tasks at a time in all; as many as there are CPUs where None.
        num_gpus: of an actor; 1 in a cluster that has any, else 0, where None.
        timeout: seconds that one clip's decoding may take, in its task.
        ahead: clips that are decoded before they are needed, a model; twice its share of the CPUs plus 8 where None.
        patience: seconds without a finished shard after which the run is given up; more than a shard takes. A tenth
            of it is also how long a shard may take before an actor that has nothing to do is given the same shard, and
            how long the late one may then leave a question unanswered before it is started anew.

    Raises:
        InputError: a number is not positive.
        MissingExtraError: Ray is not installed.

    Example:
        >>> run_bulk(job, "s3://clips/", "s3://run/", executor=RayExecutor("auto"))
    """

    address: str | None = None
    models: int | None = None
    workers: int | None = None
    num_gpus: float | None = None
    timeout: float = 120.0
    ahead: int | None = None
    patience: float = 1800.0

    def __post_init__(self) -> None:
        for name in ("models", "workers", "timeout", "ahead", "patience"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"{name} must be above 0, got {value!r}")
        if self.num_gpus is not None and self.num_gpus < 0:
            raise InputError(f"num_gpus must not be negative, got {self.num_gpus!r}")
        if find_spec("ray") is None:
            raise MissingExtraError("the engine ray needs Ray: pip install 'vivit-lab[ray]'")

    def run(self, task: Task, shards: Sequence[int], on_shard: OnShard) -> None:
        """See ``Executor``."""
        import ray
        from ray.exceptions import RayError

        from vivit_lab.bulk.ray_cluster import PULSE, Dispatch, ModelWorker

        with self._connected():
            plan = plan_cluster(self, [one["Resources"] for one in ray.nodes() if one["Alive"]], len(shards))
            remote: Any = ray.remote  # its types do not know of groups
            actor = remote(
                num_cpus=plan.num_cpus,
                num_gpus=plan.num_gpus,
                max_restarts=-1,
                max_task_retries=-1,
                scheduling_strategy="SPREAD",
                concurrency_groups={PULSE: 1},
            )(ModelWorker)
            models = [actor.remote(task, self.timeout, plan.ahead, plan.threads) for _ in range(plan.models)]
            try:
                Dispatch(task, models, shards, self.patience).run(on_shard)
            finally:
                with suppress(RayError, ConnectionError):  # the cluster may be gone
                    for model in models:
                        ray.kill(model)

    @contextmanager
    def _connected(self) -> Iterator[None]:
        """Be connected to a cluster; what was connected or started for the run is let go after it."""
        import ray

        if ray.is_initialized():
            yield
            return
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "warning"}
        if self.address is None:
            # the share of the actor takes a whole CPU from decoding, so there is one more than is used
            options |= {"num_cpus": (self.workers or usable_cores()) + 1, "include_dashboard": False}
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a library does not report what its user does
        on_stop = signal.getsignal(signal.SIGTERM)
        with redirect_stdout(_QuietOutput(sys.stdout)), self._started(ray, options, on_stop):
            yield

    @contextmanager
    def _started(self, ray: Any, options: dict[str, Any], on_stop: Any) -> Iterator[None]:
        """Start Ray or connect to it, and let it go at the end."""
        try:
            _check_address(self.address)
            ray.init(self.address or "local", **options)
            _on_sigterm(on_stop)  # Ray's own handler would leave this process at once
        except OSError as error:
            if self.address is None:
                raise
            raise BackendError(
                f"there is no Ray cluster at {self.address!r} ({error}); start one with `ray start --head`, or leave "
                "the address out to use this machine alone"
            ) from error
        try:
            yield
        finally:
            with redirect_stdout(io.StringIO()):  # it repeats what its threads have told
                ray.shutdown()
            _on_sigterm(on_stop)  # Ray has let the signal end this process
            for thread in threading.enumerate():
                if thread.name.startswith(_PRINTERS):
                    thread.join(_FAREWELL)


def _on_sigterm(handler: Any) -> None:
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


class _QuietOutput(io.TextIOBase):
    """Standard output without what Ray's own threads print there: pages of its logs, amid our JSON.

    Of each message of theirs the first line goes to standard error.

    Args:
        output: the real one.
    """

    def __init__(self, output: Any) -> None:
        self._output = output

    def write(self, text: str) -> int:
        """Write to where it belongs."""
        if threading.current_thread().name.startswith(_PRINTERS):
            sys.stderr.write(text[: text.find("\n") + 1] if "\n" in text else text)
        else:
            self._output.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the real one."""
        self._output.flush()

    def isatty(self) -> bool:
        """Whether the real one is a terminal."""
        return self._output.isatty()


def _check_address(address: str | None) -> None:
    """Raise OSError where nobody answers; Ray itself would wait for many minutes."""
    host, colon, port = (address or "").rpartition(":")
    if colon and "/" not in host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=30).close()


@dataclass(frozen=True)
class ClusterPlan:
    """How a cluster is shared out.

    Args:
        models: actors.
        num_cpus: of an actor.
        num_gpus: of an actor.
        ahead: clips decoded ahead, an actor.
        threads: of a model on a CPU.
    """

    models: int
    num_cpus: float
    num_gpus: float
    ahead: int
    threads: int


def plan_cluster(engine: RayExecutor, nodes: Sequence[dict[str, float]], shards: int) -> ClusterPlan:
    """Return how many actors there are, and what each takes.

    An actor takes next to nothing of the CPUs: all of them together, moved to the last node that is left, must leave
    a whole CPU for decoding there, or nothing would ever be decoded again.

    Args:
        engine: the settings.
        nodes: resources of each node, as Ray names them.
        shards: how many there are to do.
    """
    cpus = [node["CPU"] for node in nodes if node.get("CPU", 0) >= 1] or [1.0]
    gpus = sum(node.get("GPU", 0) for node in nodes)
    num_gpus = engine.num_gpus if engine.num_gpus is not None else float(gpus > 0)
    models = engine.models or (int(gpus // num_gpus) if num_gpus else len(cpus))
    models = max(min(models, shards), 1)
    share = _SHARE if min(cpus) >= 2 and models * _SHARE <= 1 else 0.0
    ahead = engine.ahead or 2 * -(-int(sum(cpus)) // models) + 8
    if engine.workers is not None:
        ahead = min(ahead, max(engine.workers // models, 1))
    return ClusterPlan(models, share, num_gpus, ahead, max(int(min(cpus)) // 2, 1))
