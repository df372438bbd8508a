"""Ctrl-C, SIGTERM and SIGHUP end every command, and everything that it has started."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import active_children, get_context

import psutil
import pytest

from tests.bulk.tiny_bulk import tiny_run, write_clips
from vivit_lab.cli.app import main
from vivit_lab.errors import BackendError
from vivit_lab.processes import Stopped, stopping_on_signals, working

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def each_signal(*quick):
    """Every signal; those that are not named only where time does not matter."""
    slow = [pytest.param(number, marks=pytest.mark.benchmark) for number in SIGNALS if number not in quick]
    return pytest.mark.parametrize("number", [*quick, *slow])


START = 90  # seconds that a command has to start what it starts; the machine may be busy
END = 20  # and to end
BUSY = "import sys; from vivit_lab.cli.app import main; sys.exit(main(sys.argv[1:]))"


def family(process):
    """What a process has started, and what those have."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(process.pid).children(recursive=True)
    return []


def ended_by(number, command, started, tmp_path, code=BUSY):
    """Run a command until it has started enough, send it a signal; return its exit code and what is left of it."""
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, command)], cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=log,
            stderr=subprocess.STDOUT, start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    children = []
    try:
        end = time.monotonic() + START
        while process.poll() is None and not started(children := family(process)):
            assert time.monotonic() < end, (tmp_path / "log").read_text()
            time.sleep(0.1)
        assert process.poll() is None, (tmp_path / "log").read_text()
        os.kill(process.pid, number)  # to this process alone, as a supervisor does; a terminal would tell all
        code = process.wait(END)
        _, left = psutil.wait_procs(children, timeout=END / 2)
        return code, [" ".join(child.cmdline()) for child in left if child.is_running()]
    finally:
        for one in (process, *children):
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                one.kill()
        process.wait()


def workers(count):
    """Whether so many processes of a pool are there, beside those that only serve them."""

    def are_there(children):
        names = []
        for child in children:
            with suppress(psutil.NoSuchProcess):
                names.append(" ".join(child.cmdline()))
        return len([name for name in names if "resource_tracker" not in name]) > count

    return are_there


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    """Clips for many minutes of work."""
    folder = tmp_path_factory.mktemp("endless") / "clips"
    first = write_clips(folder, 1)[0]
    for number in range(1, 4000):
        os.link(first, folder / f"more-{number:05d}.mp4")
    return folder


@each_signal(signal.SIGHUP)
def test_a_bulk_run_leaves_nobody_behind(number, checkpoint, endless, tmp_path):
    options = ["--model", checkpoint, "--stride", 1, "--shard-size", 8, "--workers", 2]
    command = ["bulk", "run", endless, "--out", tmp_path / "run", *options]
    code, left = ended_by(number, command, workers(2), tmp_path)
    assert (code, left) == (128 + number, [])
    assert "Go on with: vivit-lab" in (tmp_path / "log").read_text()


@each_signal()
def test_a_head_sweep_with_a_process_a_device_leaves_nobody_behind(number, checkpoint, endless, tmp_path):
    options = ["--model", checkpoint, "--stride", 1, "--device", "cpu,cpu", "--workers", 2]
    command = ["bulk", "heads", tmp_path / "run", "--data", endless, *options]
    code, left = ended_by(number, command, workers(4), tmp_path)
    assert (code, left) == (128 + number, [])


@each_signal(signal.SIGTERM)
def test_an_evaluation_leaves_nobody_behind(number, tmp_path):
    command = ["evaluate", "--workers", 2, "--out", tmp_path / "evaluation", "--clips", 64]
    code, left = ended_by(number, command, workers(1), tmp_path)
    assert (code, left) == (128 + number, [])


@each_signal(signal.SIGTERM)
def test_rendering_leaves_nobody_behind(number, checkpoint, tmp_path):
    clips = write_clips(tmp_path / "clips", 8)
    tiny_run(checkpoint, clips, tmp_path / "run")
    command = ["bulk", "render", tmp_path / "run", "--out", tmp_path / "page", "--zoom", 24, "--workers", 2]
    code, left = ended_by(number, command, workers(2), tmp_path)
    assert (code, left) == (128 + number, [])


@each_signal(signal.SIGTERM)
def test_training_leaves_nobody_behind(number, checkpoint, tmp_path):
    for name in ("a", "b"):
        write_clips(tmp_path / "clips" / name, 4)
    options = ["--model", checkpoint, "--steps", 100000, "--batch-size", 2, "--workers", 2, "--cpu"]
    command = ["train", "--data", tmp_path / "clips", "--out", tmp_path / "run", *options]
    code, left = ended_by(number, command, workers(1), tmp_path)
    assert (code, left) == (128 + number, [])


@each_signal(signal.SIGTERM, signal.SIGINT)
def test_jupyterlab_ends_with_the_command_that_started_it(number, tmp_path):
    pytest.importorskip("jupyterlab", reason="needs the extra [lab]")

    def listening(children):
        return "http://" in (tmp_path / "log").read_text() and bool(children)

    command = ["lab", "--no-browser", "--port", 18880 + number, "--dir", tmp_path / "books", "--", "--allow-root"]
    code, left = ended_by(number, command, listening, tmp_path)
    assert (code, left) == (128 + number, [])


def test_a_worker_that_is_ended_from_outside_is_told_in_words():
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        waiting = pool.submit(time.sleep, 600)
        pool.submit(os.getpid).result()
        for worker in active_children():
            worker.kill()
        with pytest.raises(BackendError, match=r"ended from outside, .*; use fewer"), working(pool, "use fewer"):
            waiting.result()
    assert waiting.done()


@pytest.fixture
def undecided():
    """This process as it begins: nobody has decided what a signal does."""
    before = [signal.signal(number, signal.SIG_DFL) for number in SIGNALS[1:]]
    yield
    for number, handler in zip(SIGNALS[1:], before, strict=True):
        signal.signal(number, handler)


def test_signals_are_left_as_they_were(undecided):
    before = {number: signal.getsignal(number) for number in SIGNALS}
    with pytest.raises(Stopped, match="stopped by SIGTERM"), stopping_on_signals() as came:
        signal.raise_signal(signal.SIGTERM)
    assert came == [signal.SIGTERM]
    assert {number: signal.getsignal(number) for number in SIGNALS} == before
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        with stopping_on_signals() as came:
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.05)
        assert not came
        assert main(["--version"]) == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before[signal.SIGHUP])
