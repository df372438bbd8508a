"""What machine a table was measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import psutil
import torch

__all__ = ["describe_machine"]


def describe_machine(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return processor, cores, threads, memory, load, system and versions, and the name of a GPU, as JSON-able values.

    Args:
        device: that the measurements ran on.
    """
    device = torch.device(device)
    facts: dict[str, Any] = {
        "processor": _processor(),
        "cores": psutil.cpu_count() or os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load": round(psutil.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": str(device),
    }
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # another system than Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
