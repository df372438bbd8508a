"""Processes that work for another one: how many it may start, and that they end when it does or is told to."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import parent_process
from threading import Thread
from typing import Any, NoReturn

from vivit_lab.errors import BackendError

__all__ = ["Stopped", "die_with_parent", "stopping_on_signals", "usable_cores", "working"]

_SIGNALS = ("SIGTERM", "SIGHUP")  # Windows has no SIGHUP
_PATIENCE = 5.0  # seconds that a process has to end, before it is killed


class Stopped(KeyboardInterrupt):
    """SIGTERM or SIGHUP came: ends a command as Ctrl-C does, so that it ends what it has started.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def die_with_parent() -> None:
    """Let this process end when the one that started it does, also when that is killed."""
    parent = parent_process()
    assert parent is not None, "it is started by another process"
    Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


@contextmanager
def stopping_on_signals() -> Iterator[list[int]]:
    """Have SIGTERM and SIGHUP raise ``Stopped`` in a block, where nobody has decided otherwise about them.

    Left to itself, either ends Python at once, and no ``with`` or ``finally`` ends the processes that were started. A
    signal that is ignored (``nohup``) stays ignored; in another thread than the main one nothing changes. The block is
    given a list that will hold the number of the signal that came.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    taken = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]

    def stop(number: int, _frame: Any) -> NoReturn:
        for other in taken:
            signal.signal(other, signal.SIG_IGN)  # one is enough: another must not cut the clearing up short
        came.append(number)
        raise Stopped(number)

    for number in taken:
        signal.signal(number, stop)
    try:
        yield came
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def working(pool: Any, advice: str) -> Iterator[None]:
    """Wait for a pool's work in a block; where that is broken off, end the workers at once, whatever they are at.

    Args:
        pool: a ``ProcessPoolExecutor``; it takes no more work then.
        advice: what to do if a worker was ended from outside.

    Raises:
        BackendError: a worker was ended from outside.
    """
    try:
        yield
    except BrokenProcessPool as error:
        _end_workers(pool)
        raise BackendError(
            f"a worker process was ended from outside, which is what happens where memory runs out; {advice}"
        ) from error
    except BaseException:
        _end_workers(pool)
        raise


def _end_workers(pool: Any) -> None:
    workers = list((getattr(pool, "_processes", None) or {}).values())  # Python 3.14 has terminate_workers
    pool.shutdown(wait=False, cancel_futures=True)
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join(_PATIENCE)
        if worker.is_alive():
            worker.kill()
