"""One clip from a row, in any process; and a pool of such processes that survives them."""

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path

import fsspec
import numpy as np
import psutil
import pytest

from tests.bulk.held_back import held_back, opening_below
from vivit_lab.bulk.clips import ClipRow, Decoded, Failure
from vivit_lab.bulk.decode import DecodeSpec, PoolDecoder, decode_one, private_bytes, read_row
from vivit_lab.errors import InputError
from vivit_lab.processing import VivitImageProcessor
from vivit_lab.video import read_clip

PROCESSOR = VivitImageProcessor.trained_range(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32})


def spec(**fields):
    return DecodeSpec(**{"num_frames": 4, "sampling": "window", "stride": 2, "processor": PROCESSOR, **fields})


def row(path, start=None, end=None):
    return ClipRow(f"{path}-{start}", str(path), start, end)


def test_a_window_is_what_read_clip_reads(movies):
    found = decode_one(row(movies[0]), spec())
    clip = read_clip(movies[0], 4, 2, processor=PROCESSOR)
    assert isinstance(found, Decoded)
    np.testing.assert_array_equal(found.pixels, clip.pixel_values[0])
    assert (found.frame_indices, found.size, found.end) == ([0, 2, 4, 6], clip.size, clip.end)
    assert set(found.seconds) == {"fetch", "decode", "prepare"}
    assert found.notes == []


@pytest.mark.parametrize(
    ("start", "end", "sampling", "frames"),
    [
        (0.3, None, "window", [3, 5, 7, 9]),
        (0.3, 1.0, "window", [3, 5, 7, 9]),
        (0.3, 0.7, "window", [3, 5, 6, 6]),  # frame 7 is shown from the end on
        (0.25, 0.35, "window", [2, 3, 3, 3]),
        (None, None, "uniform", [1, 4, 7, 10]),
        (0.4, 0.8, "uniform", [4, 5, 6, 7]),
        (0.4, 0.6, "uniform", [4, 4, 5, 5]),
    ],
)
def test_segments(start, end, sampling, frames, movies):
    found = decode_one(row(movies[0], start, end), spec(sampling=sampling))
    assert found.frame_indices == frames
    assert bool(found.notes) == (len(set(frames)) < 4)


def test_what_is_wrong_becomes_a_failure(movies, tmp_path):
    late = decode_one(row(movies[0], 7.0, 8.0), spec())
    assert (late.stage, late.kind) == ("decode", "InputError")
    assert "begins at 7.0 s" in late.message
    gone = decode_one(row(tmp_path / "gone.mp4"), spec())
    assert (gone.stage, gone.kind) == ("decode", "VideoNotFoundError")
    far = decode_one(row("memory://nowhere/gone.mp4"), spec())
    assert (far.stage, far.kind) == ("fetch", "FileNotFoundError")
    assert "memory://nowhere/gone.mp4" in far.message
    with pytest.raises(InputError, match="the segment begins at"):
        read_row(movies[0], row(movies[0], 7.0, 8.0), spec())


def test_urls_are_fetched(movies):
    url = f"memory://{uuid.uuid4().hex}/clip.mp4"
    fsspec.filesystem("memory").pipe_file(url, movies[0].read_bytes())
    here, there = decode_one(row(movies[0]), spec()), decode_one(row(url), spec())
    np.testing.assert_array_equal(here.pixels, there.pixels)
    assert decode_one(row(f"file://{movies[0]}"), spec()).frame_indices == [0, 2, 4, 6]
    assert private_bytes(row(url)) == movies[0].read_bytes()
    assert private_bytes(row(movies[0])) is None
    assert private_bytes(row("memory://nowhere/gone.mp4")) is None
    with PoolDecoder(spec(), workers=1) as decoder:  # its process cannot reach this one's memory
        found, gone = decoder([row(url), row("memory://nowhere/gone.mp4")])
    np.testing.assert_array_equal(found.pixels, here.pixels)
    assert gone.stage == "fetch"


def test_a_video_may_come_from_whoever_asks(movies):
    gone = row("memory://nowhere/gone.mp4")
    with PoolDecoder(spec(), workers=1) as decoder:
        decoder.contents[gone.clip_id] = movies[0].read_bytes()
        found = next(decoder([gone]))
    np.testing.assert_array_equal(found.pixels, decode_one(row(movies[0]), spec()).pixels)


def test_the_pool_keeps_the_order_and_reads_ahead_across_calls(movies):
    rows = [row(path) for path in movies[:9]]
    with PoolDecoder(spec(), workers=2, ahead=3) as decoder:
        decoder.expect(rows)
        assert decoder.begin()
        found = [*decoder(rows[:4]), *decoder(rows[4:])]
        assert not decoder.begin()
        for path, one in zip(movies, found, strict=False):
            np.testing.assert_array_equal(one.pixels, decode_one(row(path), spec()).pixels)
        again = list(decoder([rows[7], rows[2]]))  # what was not expected is decoded all the same
        np.testing.assert_array_equal(again[1].pixels, found[2].pixels)


def test_a_decoder_that_hangs_costs_its_clip_alone(movies, tmp_path):
    rows = [row(movies[0]), row(tmp_path / "hangs.mp4"), row(movies[1]), row(movies[2])]
    with held_back(tmp_path / "hangs.mp4"), PoolDecoder(spec(), workers=2, timeout=1.5) as decoder:
        found = list(decoder(rows))
    assert [type(one) for one in found] == [Decoded, Failure, Decoded, Decoded]
    assert (found[1].stage, found[1].kind) == ("decode", "timeout")
    assert "more than 1.5 s in the last of 2 tries" in found[1].message


@contextmanager
def readers_ended(path, number):
    """End, by a signal, whichever process opens a file."""
    stop = threading.Event()

    def end_them():
        while not stop.wait(0.02):
            for child in opening_below(os.getpid(), path):
                with suppress(OSError):
                    os.kill(child, number)

    with held_back(path):
        watcher = threading.Thread(target=end_them)
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()


def test_a_decoder_that_crashes_costs_its_clip_alone(movies, tmp_path):
    poison = tmp_path / "poison.mp4"
    with readers_ended(poison, signal.SIGSEGV), PoolDecoder(spec(), workers=2, timeout=20) as decoder:
        found = list(decoder([row(movies[0]), row(poison), row(movies[1])]))
    assert [type(one) for one in found] == [Decoded, Failure, Decoded]
    assert (found[1].stage, found[1].kind) == ("decode", "crash")
    assert "SIGSEGV in the last of 2 tries" in found[1].message


def test_processes_that_are_ended_while_they_wait_cost_no_clip(movies):
    rows = [row(path) for path in movies[:6]]
    with PoolDecoder(spec(), workers=2, ahead=2) as decoder:
        decoder.expect(rows)
        found = list(decoder(rows[:3]))
        time.sleep(0.5)  # what is ahead is decoded by now, so that its processes wait
        for child in psutil.Process().children(recursive=True):
            if psutil.Process(child.pid).children() == [] and child.ppid() != os.getpid():
                child.kill()
        time.sleep(0.5)
        found += decoder(rows[3:])
    assert all(isinstance(one, Decoded) for one in found)


def test_wrong_numbers():
    for fields in ({"workers": 0}, {"timeout": 0}, {"ahead": 0}):
        with pytest.raises(InputError, match="wanted workers, timeout and ahead above 0"):
            PoolDecoder(spec(), **fields)


UNGUARDED = """
from vivit_lab.bulk.decode import PoolDecoder
from vivit_lab.errors import BackendError
from tests.bulk.test_decode import spec, row
try:
    with PoolDecoder(spec(), workers=1) as decoder:
        list(decoder([row("x.mp4")]))
except BackendError as error:
    print("REFUSED", error)
"""


def test_a_script_without_a_guard_is_told_so(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED)
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment, check=False)
    assert "if __name__ == '__main__'" in done.stdout


FOREVER = """
import sys, time
from tests.bulk.test_decode import spec, row
from vivit_lab.bulk.decode import PoolDecoder
if __name__ == "__main__":
    decoder = PoolDecoder(spec(), workers=2)
    list(decoder([row(sys.argv[1])]))
    print("READY", flush=True)
    time.sleep(600)
"""


def test_no_process_stays_when_its_run_is_killed(movies, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(FOREVER)
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with subprocess.Popen([sys.executable, script, movies[0]], stdout=subprocess.PIPE, env=environment) as run:
        assert run.stdout.readline() == b"READY\n"
        workers = psutil.Process(run.pid).children(recursive=True)
        assert len(workers) >= 2
        run.kill()
        _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive
