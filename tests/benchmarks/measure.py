"""Time and memory of a call, as the minimum of several repeats in one run."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch


def interleaved(
    calls: dict[str, Callable[[], Any]], repeats: int = 3, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Seconds of each call: the minimum of ``repeats``, taken in turn so that a busy machine hurts all alike."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(repeats):
        for name, call in calls.items():
            start = clock()
            call()
            best[name] = min(best[name], clock() - start)
    return best


@contextmanager
def one_thread() -> Iterator[None]:
    """Let PyTorch compute in one thread, whose CPU time (``time.process_time``) other processes hardly disturb."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# Not ru_maxrss: a child starts with its parent's, so that a small peak would hide behind a large parent.
_PROBE = """
def status(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name + ":"))
{setup}
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak of resident memory starts anew
before = status("VmRSS")
{call}
print("PEAK", status("VmHWM") - before)
"""


def peak_bytes(setup: str, call: str, repeats: int = 2) -> int:
    """How far a fresh process's resident memory rises while ``call`` runs, after ``setup``: the minimum of repeats.

    Linux only: it reads the peak from /proc, after resetting it.
    """
    code = _PROBE.format(setup=setup, call=call)
    peaks = []
    for _ in range(repeats):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.split("PEAK")[1]))
    return min(peaks)


def report(title: str, seconds: dict[str, float], base: str) -> None:
    """Print a table of seconds and ratios, with the load of the machine."""
    load = psutil.getloadavg()[0]
    print(f"\n{title} (load {load:.1f}, {psutil.cpu_count()} cores)")
    for name, value in seconds.items():
        print(f"  {name:<40} {value * 1000:10.1f} ms  {value / seconds[base]:6.3f} × {base}")
