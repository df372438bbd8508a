"""Faults that really happen to a run on one machine: kill -9, poisoned clips, a full disk, and broken files."""

import os
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from tests.bulk.faults import assert_equal, assert_two_failed, assert_whole, enlarge, link_clips, small_disk
from tests.bulk.held_back import held_back
from tests.bulk.kills import killed_once
from tests.bulk.test_decode import readers_ended
from tests.bulk.tiny_bulk import LOCAL, tiny_job, tiny_run
from vivit_lab.bulk import BulkResults, LocalExecutor, run_bulk
from vivit_lab.errors import StorageError

ROOT = Path(__file__).resolve().parents[2]

RUN = """
import sys
from tests.bulk.tiny_bulk import tiny_job
from vivit_lab.bulk import run_bulk
from vivit_lab.bulk import LocalExecutor

if __name__ == "__main__":
    checkpoint, videos, out = sys.argv[1:]
    print("BEGIN", flush=True)
    run_bulk(tiny_job(checkpoint, shard_size=2), videos, out, executor=LocalExecutor(workers=1), progress=False)
"""


@pytest.mark.parametrize("kills", [10, pytest.param(50, marks=pytest.mark.benchmark)])
def test_a_run_that_is_killed_again_and_again_loses_and_doubles_nothing(kills, checkpoint, movies, tmp_path):
    count, rng = 60, random.Random(kills)
    videos = link_clips(tmp_path / "clips", movies, count)
    whole = tiny_run(checkpoint, videos, tmp_path / "whole", shard_size=2)
    out, script = tmp_path / "run", tmp_path / "script.py"
    script.write_text(RUN)
    parts, done, at_work = out / "clips", 0, 0
    while done < kills:
        command = [sys.executable, str(script), str(checkpoint), str(videos), str(out)]
        was_running = killed_once(command, parts, rng, tmp_path / "log", longest=(0.2, 6))
        done += was_running
        at_work += was_running and parts.exists()
        written = sorted(parts.glob("*.parquet"))
        if len(written) > count // 3:  # leave enough to do for the next; losing parts is no harm either
            for part in rng.sample(written, len(written) - 2):
                part.unlink()
    assert at_work >= kills // 2
    results = run_bulk(tiny_job(checkpoint, shard_size=2), videos, out, executor=LOCAL, progress=False)
    assert_whole(results, count)
    assert_equal(results, whole)


def test_a_clip_that_hangs_and_one_that_crashes_among_a_hundred(checkpoint, movies, tmp_path):
    videos = link_clips(tmp_path / "clips", movies, 98)
    hanging, crashing = videos / "clip-0033-hangs.mp4", videos / "clip-0066-crashes.mp4"
    with held_back(hanging), readers_ended(crashing, signal.SIGSEGV):
        out = tmp_path / "run"
        engine = LocalExecutor(workers=2, timeout=6)
        results = run_bulk(tiny_job(checkpoint, shard_size=16), videos, out, executor=engine, progress=False)
    assert_whole(results, 100)
    assert_two_failed(results, hanging, crashing)


def test_a_full_disk_stops_the_run_and_room_lets_it_go_on(checkpoint, movies, tmp_path):
    videos = link_clips(tmp_path / "clips", movies, 24)
    whole = tiny_run(checkpoint, videos, tmp_path / "whole", shard_size=4)
    with small_disk(tmp_path / "disk", "48k") as disk:
        with pytest.raises(StorageError, match=r"the disk is full. All parts that were finished before are whole"):
            tiny_run(checkpoint, videos, disk / "run", shard_size=4)
        some = BulkResults.open(disk / "run")
        assert 0 < len(some.reader.parts) < 6
        assert not list((disk / "run" / "_tmp").iterdir())
        enlarge(disk, "4m")
        results = run_bulk(None, None, disk / "run", executor=LOCAL, progress=False)
        assert_whole(results, 24)
        assert_equal(results, whole)


DOWNLOAD = """
import sys, fsspec
from tests.bulk.tiny_bulk import tiny_run
from vivit_lab.errors import StorageError

if __name__ == "__main__":
    checkpoint, movie, out = sys.argv[1:]
    fsspec.filesystem("memory").pipe_file("memory://clips/a.mp4", open(movie, "rb").read() + bytes(1 << 20))
    try:
        tiny_run(checkpoint, "memory://clips", out)
    except StorageError as error:
        print("STOPPED", error)
"""


def test_no_room_for_downloads_stops_the_run_and_blames_no_clip(checkpoint, movies, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(DOWNLOAD)
    # a short path: the sockets of the pool's processes lie there, too
    with tempfile.TemporaryDirectory() as place, small_disk(Path(place), "64k") as disk:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(disk)}
        command = [sys.executable, script, checkpoint, movies[0], tmp_path / "run"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert "STOPPED" in done.stdout, done.stderr
    assert "there is no room to download memory://" in done.stdout
    assert not list((tmp_path / "run").glob("clips/*.parquet"))


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """The file with some bytes changed, cut out, doubled, zeroed or cut off."""
    data = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        at, size = int(rng.integers(0, max(len(data), 1))), int(2 ** rng.uniform(0, 10))
        kind = rng.integers(0, 7)
        if kind == 0:
            del data[at:]
        elif kind == 1:
            del data[at : at + size]
        elif kind == 2:
            data[at:at] = data[at : at + size]
        elif kind == 3:
            data[at : at + size] = bytes(len(data[at : at + size]))
        elif kind == 4:
            data[at : at + size] = rng.bytes(len(data[at : at + size]))
        elif kind == 5 and len(data) > 600:  # headers are what a decoder believes
            place = int(rng.choice([rng.integers(0, 64), len(data) - rng.integers(1, 600)]))
            data[place : place + 4] = int(rng.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000])).to_bytes(4, "big")
        elif data:
            data[min(at, len(data) - 1)] ^= 1 << int(rng.integers(0, 8))
    return bytes(data)


def test_each_of_a_thousand_broken_files_ends_as_a_row(checkpoint, movies, video, tmp_path):
    count = 1000
    rng = np.random.default_rng(count)
    sources = [video.read_bytes(), *(path.read_bytes() for path in movies[:4])]
    (tmp_path / "clips").mkdir()
    for number in range(count):
        data = mutated(sources[number % len(sources)], rng)
        (tmp_path / "clips" / f"clip-{number:04d}{('.mp4', '.mkv', '.avi')[number % 3]}").write_bytes(data)
    results = tiny_run(checkpoint, tmp_path / "clips", tmp_path / "run", shard_size=50)
    assert_whole(results, count)
    frame = results.to_pandas()
    assert set(frame.status) == {"ok", "error"}
    failed = frame[frame.status == "error"]
    assert failed.error.str.len().min() > 0
    assert all(path in error for path, error in zip(failed.path, failed.error, strict=True))
    print(f"{count} broken files: {len(failed)} errors, {dict(failed.error_type.value_counts())}")
