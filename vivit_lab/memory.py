"""How much memory is free, asked before something large is made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vivit_lab.errors import OutOfMemoryBudgetError

if TYPE_CHECKING:
    import torch

__all__ = ["format_bytes", "free_bytes", "require_bytes"]

_CGROUP = Path("/sys/fs/cgroup")


def free_bytes(device: torch.device | str) -> int | None:
    """Return the bytes that are free on a device, or None where that cannot be known.

    On the CPU this is what the system could give without swapping, and no more than a container's limit leaves.
    """
    kind = device.split(":")[0] if isinstance(device, str) else device.type
    if kind == "cpu":
        free = _available()
        if free is None:
            return None
        try:
            limit = (_CGROUP / "memory.max").read_text().strip()
            if limit != "max":
                used = int((_CGROUP / "memory.current").read_text())
                statistics = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
                # the cache of files is given back when memory is wanted
                free = min(free, int(limit) - used + int(statistics.get("inactive_file", 0)))
        except (OSError, ValueError):
            pass  # no control group: the machine's own figure stands
        return max(free, 0)
    if kind == "cuda":
        import torch  # here, so that reading videos needs no torch

        if not torch.cuda.is_available():
            return None
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # held by PyTorch, unused
        return torch.cuda.mem_get_info(device)[0] + kept
    return None


def _available() -> int | None:
    """Return the bytes of main memory that the system could give without swapping, or None where it does not say."""
    try:
        import psutil
    except ImportError:  # `vivit_lab.video` also works where numpy and av alone are installed
        try:
            lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
            return int(lines["MemAvailable"].split()[0]) * 1024
        except (OSError, KeyError, ValueError):
            return None
    return psutil.virtual_memory().available


def require_bytes(wanted: int, device: torch.device | str, what: str, instead: str) -> None:
    """Refuse to make something that does not fit.

    Raises:
        OutOfMemoryBudgetError: fewer than ``wanted`` bytes are free; says ``what`` was wanted and what to do
            ``instead``.
    """
    free = free_bytes(device)
    if free is not None and wanted > free:
        raise OutOfMemoryBudgetError(
            f"{what} needs {format_bytes(wanted)}, but {format_bytes(free)} are free on {device}; {instead}"
        )


def format_bytes(count: int) -> str:
    """Return a byte count in decimal units, such as ``5.67 GB``."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} GB"
