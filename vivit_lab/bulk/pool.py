"""Decoding in processes of their own: one that crashes or hangs costs its clip alone."""

from __future__ import annotations

import os
import signal
import warnings
from collections import deque
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TaskTimeoutError
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

import torch
from pebble import ProcessExpired, ProcessPool

from vivit_lab.bulk.ahead import ReadAhead
from vivit_lab.bulk.decode import DecodeSpec, decode_one, private_bytes
from vivit_lab.bulk.rows import ClipRow, Failure, Outcome
from vivit_lab.errors import BackendError, InputError
from vivit_lab.processes import die_with_parent, usable_cores

__all__ = ["PoolDecoder", "crash_failure", "start_worker"]

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
        context.set_forkserver_preload(["vivit_lab.bulk.pool"])
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
