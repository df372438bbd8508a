"""Count the files of the package that take part in a job: ``python -m tests.unchanged.frames``.

A file counts when one of its functions runs, the second time that the job is done (the first one imports and caches).
Also tells how long ``import vivit_lab`` takes over a bare Python.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.unchanged import calls
from tests.unchanged.make import STORED

PACKAGE = str(Path(calls.package_file()).parent)


def files_run(job: Callable[[], Any]) -> list[str]:
    """The files of the package with an executed frame, the second time."""
    job()
    seen: set[str] = set()

    def see(frame: Any, event: str, argument: Any) -> None:
        if frame.f_code.co_name != "<module>":
            seen.add(frame.f_code.co_filename)

    threading.settrace(see)
    sys.settrace(see)
    try:
        job()
    finally:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]
    return sorted(name.removeprefix(PACKAGE + "/") for name in seen if name.startswith(PACKAGE))


def import_milliseconds(repeats: int = 10) -> float:
    """The quickest import of the package, less the quickest start of Python."""

    def quickest(code: str) -> float:
        times = []
        for _ in range(repeats):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            times.append(time.perf_counter() - began)
        return 1000 * min(times)

    return quickest("import vivit_lab") - quickest("pass")


def main() -> None:
    torch.set_num_threads(1)
    bench = calls.Bench(STORED)
    with tempfile.TemporaryDirectory() as folder:
        jobs = calls.jobs(bench, Path(folder))
        for name, job in jobs.items():
            files = files_run(job)
            print(f"{name}: {len(files)} files" + (f"\n    {' '.join(files)}" if "-v" in sys.argv else ""))
    print(f"import vivit_lab: {import_milliseconds():.1f} ms over bare Python")


if __name__ == "__main__":
    main()
