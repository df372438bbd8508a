"""Model calls off the main thread: the newest request wins, older ones are dropped, a running one can be cancelled.

A widget's callbacks arrive while cells run (JupyterLab ≥ 4.4 with ipykernel ≥ 7 gives them a thread of their own), so
whatever touches a model holds that model's one re-entrant lock.
"""

from __future__ import annotations

import atexit
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from vivit_lab.model.hook_placing import lock_of
from vivit_lab.progress import watching_progress

__all__ = ["Executor", "Task", "TaskCancelledError", "model_lock"]


def model_lock(model: torch.nn.Module) -> AbstractContextManager[Any]:
    """Return the one re-entrant lock of a model, which its hooks and all its widgets share."""
    return lock_of(model)


class TaskCancelledError(Exception):
    """Ends a task from inside, because nobody waits for its result any more. Never shown to a user."""


class Task:
    """One request to an ``Executor``; what it runs is called with it.

    Args:
        number: of the request; a larger one is newer.
        report: is called with (steps done, steps in all or None) as a method's progress bar moves.
    """

    def __init__(self, number: int, report: Callable[[int, int | None], None] | None = None) -> None:
        self.number = number
        self.thread: int | None = None
        self._report = report
        self._stop = threading.Event()

    def cancel(self) -> None:
        """Ask the task to end at its next step."""
        self._stop.set()

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked it to end, or a newer request came."""
        return self._stop.is_set()

    def check(self) -> None:
        """End the task here if it was cancelled.

        Raises:
            TaskCancelledError: it was.
        """
        if self.cancelled:
            raise TaskCancelledError

    def progress(self, done: int, total: int | None) -> None:
        """Pass a method's progress on, and end the task if it was cancelled.

        Raises:
            TaskCancelledError: it was.
        """
        self.check()
        if self._report is not None:
            self._report(done, total)

    @contextmanager
    def watching(self, model: torch.nn.Module) -> Iterator[None]:
        """Let the task end at every block of the model and at every step of a progress bar, in its own thread alone.

        Raises:
            TaskCancelledError: the task was cancelled while the block ran.
        """
        self.thread = threading.get_ident()
        blocks = getattr(model, "blocks", None)
        handles = [block.register_forward_pre_hook(self._at_block) for block in (blocks if blocks is not None else ())]
        try:
            with watching_progress(self.progress):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _at_block(self, *_: Any) -> None:
        if threading.get_ident() == self.thread:
            self.check()


class Executor:
    """Runs the newest request; one that a newer one overtook is cancelled, or dropped before it starts.

    The thread exists only while there is something to do.

    Args:
        lock: is held while a request runs.
        threaded: whether requests run in a thread of their own; False runs each at once, in the caller's (tests,
            scripts).
    """

    def __init__(self, lock: AbstractContextManager[Any], *, threaded: bool = True) -> None:
        self.lock = lock
        self.threaded = threaded
        self._changed = threading.Condition(threading.RLock())
        self._thread: threading.Thread | None = None
        self._waiting: tuple[Task, Callable[[Task], Any], Callable[[Any], None], Callable[[Exception], None]] | None
        self._waiting = None
        self._running: Task | None = None
        self._count = 0
        _EXECUTORS.add(self)

    def submit(
        self,
        work: Callable[[Task], Any],
        done: Callable[[Any], None],
        failed: Callable[[Exception], None],
        report: Callable[[int, int | None], None] | None = None,
    ) -> Task:
        """Run ``work`` and hand its result to ``done``, unless a newer request comes first.

        Args:
            work: what to compute, while the lock is held.
            done: receives the result, after the lock was given back, in the thread that computed it.
            failed: receives what ``work`` or ``done`` raised.
            report: receives (steps done, steps in all or None).
        """
        with self._changed:
            self._count += 1
            task = Task(self._count, report)
            if self._running is not None:
                self._running.cancel()
            self._waiting = (task, work, done, failed)
            if self.threaded and self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="vivit-lab widget", daemon=True)
                self._thread.start()
        if not self.threaded:
            self._loop()
        return task

    def cancel(self) -> bool:
        """Drop the request that waits, and ask the running one to end; returns whether there was either."""
        with self._changed:
            found = self._waiting is not None or self._running is not None
            self._waiting = None
            if self._running is not None:
                self._running.cancel()
        return found

    def wait(self, timeout: float = 60.0) -> bool:
        """Wait until nothing runs or waits; returns whether that came within ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._waiting is None and self._running is None, timeout)

    def _loop(self) -> None:
        while True:
            with self._changed:
                if self._waiting is None:
                    self._thread = None
                    self._changed.notify_all()
                    return
                task, work, done, failed = self._waiting
                self._waiting, self._running = None, task
            try:
                self._run(task, work, done, failed)
            finally:
                with self._changed:
                    self._running = None
                    self._changed.notify_all()

    def _run(self, task: Task, work: Any, done: Any, failed: Any) -> None:
        try:
            with self.lock:
                task.check()
                result = work(task)
            task.check()
            done(result)
        except TaskCancelledError:
            return
        except Exception as error:  # the widget shows it: an error in a thread would be lost in a log
            if not task.cancelled:
                failed(error)


_EXECUTORS: weakref.WeakSet[Executor] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """Let no thread be inside the model when the interpreter ends, which would abort the process."""
    for executor in list(_EXECUTORS):
        executor.cancel()
    for executor in list(_EXECUTORS):
        executor.wait(10)
