"""Files whose opening waits, as on a network drive that does not answer: the test holds a write lease on them.

Linux lets other processes wait until the lease is given up, for at most 45 seconds, or longer where root asks for it.
"""

from __future__ import annotations

import fcntl
import os
import signal
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["held_back", "opening_below"]

PATIENCE = Path("/proc/sys/fs/lease-break-time")  # seconds; a busy machine needs more


@contextmanager
def held_back(path: Path) -> Iterator[Path]:
    """Make a file; whoever opens it waits until the block ends."""
    path.write_bytes(b"no one reads this")
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)  # sent to the holder, and deadly, when someone waits
    lease, patience = os.open(path, os.O_RDWR), None
    with suppress(OSError):
        patience = PATIENCE.read_text()
        PATIENCE.write_text("600")
    try:
        fcntl.fcntl(lease, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        yield path
    finally:
        os.close(lease)
        with suppress(OSError):
            PATIENCE.write_text(patience or "45")
        signal.signal(signal.SIGIO, before)


def opening_below(process: int, path: Path) -> list[int]:
    """Return which descendants of a process wait to open a file."""
    return [child.pid for child in psutil.Process(process).children(recursive=True) if _is_opening(child.pid, path)]


def _is_opening(process: int, path: Path) -> bool:
    name = os.fsencode(path) + b"\0"
    with suppress(OSError, IndexError, ValueError):
        for task in Path(f"/proc/{process}/task").iterdir():
            if (task / "wchan").read_text() == "__break_lease":
                place = int((task / "syscall").read_text().split()[2], 16)  # openat's second argument
                with open(task / "mem", "rb", buffering=0) as memory:
                    memory.seek(place)
                    if memory.read(len(name)) == name:
                        return True
    return False
