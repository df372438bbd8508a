"""Kill a bulk run of the bundled model again and again, and count what was lost: ``python -m tests.bulk.kills``.

Each time the command line is started on a folder of short videos, and its whole process group is ended by SIGKILL at a
random moment: while it starts, between parts, while one is written. In the end the same command finishes the run, which
is compared with one that nobody disturbed.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq

from tests.bulk.tiny_bulk import write_clips
from vivit_lab.bulk import BulkResults

ROOT = Path(__file__).resolve().parents[2]


def command_of(videos: Path, out: Path, model: str) -> list[str]:
    options = [
        "--model",
        model,
        "--shard-size",
        "2",
        "--batch-size",
        "2",
        "--workers",
        "1",
        "--device",
        "cpu",
        "--json",
    ]
    return [sys.executable, "-m", "vivit_lab.cli", "bulk", "run", str(videos), "--out", str(out), *options]


def killed_once(
    command: list[str], parts: Path, rng: random.Random, log: Path, longest: tuple[float, float] = (2, 10)
) -> bool:
    """Start a run and kill its process group at a random moment; return whether it was still at work.

    Three times of four that is within some seconds of its first part, else within some of its start.
    """
    before = len(list(parts.glob("*.parquet")))
    with log.open("a") as text:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        run = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stdout=text, stderr=text, env=environment)
    if rng.random() < 0.75:
        while run.poll() is None and len(list(parts.glob("*.parquet"))) == before:
            time.sleep(0.002)
        time.sleep(rng.choice([rng.uniform(0, 0.05), rng.uniform(0, longest[0])]))
    else:
        time.sleep(rng.uniform(0, longest[1]))
    alive = run.poll() is None
    with suppress(ProcessLookupError):
        os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    return alive


def kill_again_and_again(folder: Path, kills: int, clips: int, seed: int, model: str = "bundled") -> dict[str, object]:
    """Do it, and return counts and verdict."""
    rng, videos, out, log = random.Random(seed), folder / "clips", folder / "run", folder / "log"
    write_clips(videos, clips, frames=72, size=(64, 80))
    subprocess.run(command_of(videos, folder / "whole", model), cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    parts, done, at_work, rounds = out / "clips", 0, 0, 0
    while done < kills:
        alive = killed_once(command_of(videos, out, model), parts, rng, log)
        done, at_work, rounds = done + alive, at_work + (alive and parts.exists()), rounds + 1
        written = sorted(parts.glob("*.parquet"))
        if len(written) > clips // 4:  # leave something to do for the next
            for part in rng.sample(written, len(written) - 2):
                part.unlink()
        print(f"kill {done} of {kills}: {len(written)} parts are there", file=sys.stderr, flush=True)
    subprocess.run(command_of(videos, out, model), cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    results, whole = BulkResults.open(out), BulkResults.open(folder / "whole")
    wanted = results.run.manifest(["clip_id"])["clip_id"].to_pylist()
    rows = Counter(
        name
        for path in sorted(parts.iterdir())
        for name in pq.read_table(path, columns=["clip_id"])["clip_id"].to_pylist()
    )
    damaged = out / "damaged"
    return {
        "kills": done,
        "while a part could be there": at_work,
        "starts": rounds,
        "clips": len(wanted),
        "lost": len(set(wanted) - set(rows)),
        "doubled": sum(count > 1 for count in rows.values()),
        "foreign": len(set(rows) - set(wanted)),
        "damaged parts": len(list(damaged.glob("*.json"))) if damaged.exists() else 0,
        "errors": results.status().errors,
        "equal": results.equals(whole),
        "same digest": results.digest() == whole.digest(),
        "comparison": str(results.compare(whole)),
    }


def is_good(found: dict[str, object]) -> bool:
    """Whether nothing was lost, doubled or altered."""
    counts = [found[name] for name in ("lost", "doubled", "foreign", "damaged parts", "errors")]
    return counts == [0] * len(counts) and found["equal"] is True and found["same digest"] is True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    try:
        found = kill_again_and_again(folder, given.kills, given.clips, given.seed, given.model)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for name, value in found.items():
        print(f"{name}: {value}")
    return 0 if is_good(found) else 1


if __name__ == "__main__":
    sys.exit(main())
