"""Time and memory of a call, as the minimum of several repeats in one run."""

import gc
import threading
import time
from collections.abc import Callable
from typing import Any

import psutil


def interleaved(calls: dict[str, Callable[[], Any]], repeats: int = 3) -> dict[str, float]:
    """Seconds of each call: the minimum of ``repeats``, taken in turn so that a busy machine hurts all alike."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def peak_bytes(call: Callable[[], Any], interval: float = 0.002) -> int:
    """How far the process's resident memory rises above where it was while ``call`` runs."""
    gc.collect()
    process = psutil.Process()
    before = peak = process.memory_info().rss
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(interval):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        kept = call()
        peak = max(peak, process.memory_info().rss)
        del kept
    finally:
        done.set()
        watcher.join()
    return peak - before


def report(title: str, seconds: dict[str, float], base: str) -> None:
    """Print a table of seconds and ratios, with the load of the machine."""
    load = psutil.getloadavg()[0]
    print(f"\n{title} (load {load:.1f}, {psutil.cpu_count()} cores)")
    for name, value in seconds.items():
        print(f"  {name:<40} {value * 1000:10.1f} ms  {value / seconds[base]:6.3f} × {base}")
