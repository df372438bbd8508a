"""Processes that work for another one: how many it may start, and that they end when it does."""

from __future__ import annotations

import os
from multiprocessing import parent_process
from threading import Thread

__all__ = ["die_with_parent", "usable_cores"]


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def die_with_parent() -> None:
    """Let this process end when the one that started it does, also when that is killed."""
    parent = parent_process()
    assert parent is not None, "it is started by another process"
    Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
