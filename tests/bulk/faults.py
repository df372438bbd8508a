"""Faults that tests of all engines share: poisoned clips, a small disk, and what must be true afterwards."""

import os
import re
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from vivit_lab.bulk import BulkResults


def link_clips(folder: Path, movies: list[Path], count: int) -> Path:
    """A folder of so many clips, under names of their own, made of a few movies."""
    folder.mkdir(parents=True)
    for number in range(count):
        os.link(movies[number % len(movies)], folder / f"clip-{number:04d}.mp4")
    return folder


def assert_whole(results: BulkResults, clips: int) -> None:
    """Each clip has one row, read from the parts themselves, and nothing else lies among them."""
    files = sorted((Path(results.run.store.root) / "clips").iterdir())
    assert [file.name for file in files] == [f"part-{shard:06d}.parquet" for shard in range(results.run.shards)]
    found = [name for file in files for name in pq.read_table(file, columns=["clip_id"])["clip_id"].to_pylist()]
    wanted = results.run.manifest(["clip_id"])["clip_id"].to_pylist()
    assert found == wanted
    assert len(set(found)) == len(found) == clips


def assert_equal(results: BulkResults, wanted: BulkResults) -> None:
    """Two runs are equal as far as it is promised: floats up to rounding, all else to the bit."""
    comparison = results.compare(wanted)
    assert comparison.is_equal, str(comparison)
    assert comparison.clips == len(wanted) == len(results)
    assert results.digest() == wanted.digest()


@contextmanager
def small_disk(place: Path, size: str):
    """A file system in memory, of a size such as ``"256k"``; skips where nobody may mount one."""
    place.mkdir(parents=True, exist_ok=True)
    options = ["-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    try:
        made = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if made.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {made.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def enlarge(place: Path, size: str) -> None:
    """Make room on a small disk."""
    subprocess.run(["mount", "-o", f"remount,size={size}", str(place)], check=True)


def assert_two_failed(results: BulkResults, hanging: Path, crashing: Path) -> None:
    """All rows are good but those of the clip that hangs and of the one that crashes its decoder."""
    frame = results.to_pandas()
    failed = frame[frame.status == "error"].set_index("path")
    assert failed.error_type.to_dict() == {str(hanging): "timeout", str(crashing): "crash"}, failed.error.to_dict()
    assert (failed.error_stage == "decode").all()
    assert re.search(r"decoding took more than \d+ s in the last of 2 tries", failed.error[str(hanging)])
    assert "the process that decoded it was ended by SIGSEGV in the last of 2 tries" in failed.error[str(crashing)]
    assert results.table(["map"])["map"].null_count == 2
