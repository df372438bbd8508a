"""Time and peak memory of calls, measured so that a busy machine and earlier calls disturb them little."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import torch

from vivit_lab.errors import InputError

__all__ = ["PeakMeter", "interleaved", "one_thread", "peak_bytes", "report", "sampled"]

_PROC = Path("/proc/self")


def sampled(
    calls: Mapping[str, Callable[[], Any]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Return the seconds of every repeat of each call, the calls taken in turn so that a busy machine hurts all alike.

    Args:
        calls: name → what to call.
        repeats: how often, at least 1.
        clock: returns seconds.

    Raises:
        InputError: ``repeats`` is not positive.
    """
    if repeats < 1:
        raise InputError(f"repeats must be at least 1, got {repeats}")
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = clock()
            call()
            seconds[name].append(clock() - start)
    return seconds


def interleaved(
    calls: Mapping[str, Callable[[], Any]], repeats: int = 3, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Return the least seconds of each call, see ``sampled``."""
    return {name: min(values) for name, values in sampled(calls, repeats, clock).items()}


@contextmanager
def one_thread() -> Iterator[None]:
    """Let PyTorch compute in one thread, whose CPU time (``time.process_time``) other processes hardly disturb."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class PeakMeter:
    """How far memory rises above where it was, while a ``with`` block runs.

    On CUDA, what PyTorch's allocator gave out; on the CPU, the resident memory of this process (Linux only: it resets
    the peak that /proc keeps). Meant for a process of its own: memory that an earlier call left behind hides a rise.

    Args:
        device: where the block computes.

    Attributes:
        bytes: the rise, after the block; None where it cannot be measured.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.bytes: int | None = None
        self._before: int | None = None

    def __enter__(self) -> PeakMeter:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)
        elif sys.platform == "linux":
            with suppress(OSError, AttributeError):  # what was freed goes back to the system, so that a rise shows
                ctypes.CDLL(None).malloc_trim(0)  # glibc's alone
            with suppress(OSError):  # some containers do not let the peak of resident memory start anew
                (_PROC / "clear_refs").write_text("5")
                self._before = _status("VmRSS")
        return self

    def __exit__(self, *_error: object) -> None:
        if self._before is None:
            return
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            self.bytes = torch.cuda.max_memory_allocated(self.device) - self._before
        else:
            self.bytes = max(_status("VmHWM") - self._before, 0)


def _status(name: str) -> int:
    lines = (_PROC / "status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


# Not ru_maxrss: a child starts with its parent's, so that a small peak would hide behind a large parent.
_PROBE = """
from vivit_lab.bench.measure import PeakMeter
{setup}
with PeakMeter() as meter:
    {call}
print("PEAK", meter.bytes)
"""


def peak_bytes(setup: str, call: str, repeats: int = 2) -> int:
    """Return how far the memory of a fresh process rises while ``call`` runs, after ``setup``: the least of repeats.

    Args:
        setup: Python code.
        call: one line of Python code.
        repeats: how many processes.
    """
    code = _PROBE.format(setup=setup, call=call)
    peaks = []
    for _ in range(repeats):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.split("PEAK")[1]))
    return min(peaks)


def report(title: str, seconds: Mapping[str, float], base: str) -> None:
    """Print a table of seconds and ratios, with the load of the machine."""
    load = psutil.getloadavg()[0]
    print(f"\n{title} (load {load:.1f}, {psutil.cpu_count()} cores)")
    for name, value in seconds.items():
        print(f"  {name:<40} {value * 1000:10.1f} ms  {value / seconds[base]:6.3f} × {base}")
