"""The Ray engine: the same numbers as on one machine, and nothing lost with clips, processes, nodes and disks.

All of it runs on one small cluster: a head that computes nothing, and three nodes of two CPUs.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import fsspec
import numpy as np
import psutil
import pytest
import torch

from tests.bulk.faults import assert_equal, assert_two_failed, assert_whole, enlarge, link_clips, small_disk
from tests.bulk.held_back import held_back
from tests.bulk.test_decode import readers_ended
from tests.bulk.tiny_bulk import LOCAL, tiny_job, tiny_run
from vivit_lab.bulk import BulkResults, MaskList, run_bulk, sweep_heads
from vivit_lab.bulk.clips import ClipRow
from vivit_lab.bulk.engine import make_executor
from vivit_lab.bulk.ray import ClusterPlan, RayExecutor, plan_cluster
from vivit_lab.cli.app import main
from vivit_lab.errors import BackendError, InputError, MissingExtraError, StorageError

ROOT = Path(__file__).resolve().parents[2]
NODES = 3
STORE = 100 << 20  # bytes of a node's object store
PATIENT = {
    "RAY_raylet_start_wait_time_s": "60",  # a busy machine takes long to start a node
    "RAY_agent_register_timeout_ms": "180000",
    "RAY_health_check_period_ms": "1000",  # a lost node is known to be after five of these
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else Ray warns of what it may do one day
}


def test_a_cluster_is_shared_out():
    engine = RayExecutor()
    node = {"CPU": 16.0, "memory": 1e9}
    assert plan_cluster(engine, [{"memory": 1e9}, node, node], 100) == ClusterPlan(2, 0.01, 0.0, 40, 8)
    assert plan_cluster(engine, [node, node], 1).models == 1
    assert plan_cluster(engine, [{**node, "GPU": 4.0}, node], 100) == ClusterPlan(4, 0.01, 1.0, 24, 8)
    assert plan_cluster(RayExecutor(num_gpus=0.5), [{**node, "GPU": 4.0}], 100).models == 8
    assert plan_cluster(RayExecutor(models=3, workers=6, ahead=9), [node], 100) == ClusterPlan(3, 0.01, 0.0, 2, 8)
    # a share of a node's only CPU would leave none for decoding, and so would those of a hundred actors of two
    assert plan_cluster(engine, [{"CPU": 1.0}, node], 100).num_cpus == 0
    assert plan_cluster(RayExecutor(models=101), [{"CPU": 2.0}], 200).num_cpus == 0
    assert plan_cluster(engine, [], 100).models == 1  # nodes may come later


def test_wrong_settings_and_a_missing_extra(monkeypatch):
    for name in ("models", "workers", "timeout", "ahead", "patience"):
        with pytest.raises(InputError, match=f"{name} must be above 0, got 0"):
            RayExecutor(**{name: 0})
    with pytest.raises(InputError, match="num_gpus must not be negative, got -1"):
        RayExecutor(num_gpus=-1)
    assert make_executor("ray", address="auto", workers=3, timeout=5.0) == RayExecutor("auto", workers=3, timeout=5.0)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'vivit-lab\[ray\]'"):
        make_executor("ray")


ALONE = """
import sys
from vivit_lab.cli.app import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""
SIGNALLED = """
import signal
import sys
from vivit_lab.cli.app import main
from vivit_lab.processes import Stopped, stopping_on_signals

if __name__ == "__main__":
    with stopping_on_signals():
        code = main(sys.argv[1:])
        try:
            signal.raise_signal(signal.SIGTERM)  # Ray has not taken it over
        except Stopped:
            sys.exit(code)
"""


def test_the_command_line_starts_ray_on_this_machine(checkpoint, movies, finished, tmp_path):
    pytest.importorskip("ray")
    link_clips(tmp_path / "clips", movies, 6)
    options = ["--model", checkpoint, "--stride", 1, "--shard-size", 4, "--batch-size", 4, "--workers", 1, "--json"]
    (tmp_path / "script.py").write_text(SIGNALLED)
    command = [tmp_path / "script.py", "bulk", "run", tmp_path / "clips", "--out", tmp_path / "run", *options]
    environment = {**os.environ, **PATIENT, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *map(str, command), "--engine", "ray"],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = BulkResults.open(tmp_path / "run")
    assert_whole(results, 6)
    np.testing.assert_allclose(results.row(2)["logits"], finished.row(2)["logits"], atol=1e-5)


def started_on_this_machine(checkpoint, folder, movies):
    """The command line with a Ray of its own, at work on clips for many minutes; and what it has started."""
    link_clips(folder / "clips", movies, 2000)
    options = ["--model", checkpoint, "--stride", 1, "--shard-size", 2, "--batch-size", 2, "--workers", 1, "--json"]
    (folder / "script.py").write_text(ALONE)
    command = [folder / "script.py", "bulk", "run", folder / "clips", "--out", folder / "run", *options]
    environment = {**os.environ, **PATIENT, "HOME": str(folder), "PYTHONPATH": str(ROOT)}
    # a raylet that is gone refuses its check at once; one of a busy machine may take its time to answer
    environment["RAY_health_check_timeout_ms"] = "60000"
    command = [sys.executable, *map(str, command), "--engine", "ray"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    end = time.monotonic() + 300
    while len(list((folder / "run").glob("clips/*.parquet"))) < 2:
        if process.poll() is not None or time.monotonic() > end:
            process.terminate()  # and Ray with it
            pytest.fail(f"it is not at work: {process.communicate()}")
        time.sleep(0.1)
    return process, psutil.Process(process.pid).children(recursive=True)


def test_a_raylet_that_is_killed_is_told_in_words(checkpoint, movies, tmp_path):
    pytest.importorskip("ray")
    process, children = started_on_this_machine(checkpoint, tmp_path, movies)
    try:
        next(child for child in children if "raylet" in child.name()).kill()
        out, told = process.communicate(timeout=240)
    finally:
        process.kill()
        for child in psutil.wait_procs(children, timeout=10)[1]:
            child.kill()
    assert process.returncode == 1, told
    error = json.loads(out)["error"]  # Ray's own logs are not among it
    assert "state-dump" not in told
    assert re.match(r"Ray lost a node .* start the same command again, and it goes on where it stopped", error)
    assert "actor_id" not in error
    assert len(error) < 600


@pytest.mark.benchmark
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_a_ray_that_the_command_started(number, checkpoint, movies, tmp_path):
    pytest.importorskip("ray")
    process, children = started_on_this_machine(checkpoint, tmp_path, movies)
    try:
        process.send_signal(number)
        out, told = process.communicate(timeout=60)
        _, left = psutil.wait_procs(children, timeout=20)
    finally:
        process.kill()
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()
    assert process.returncode == 128 + number, told
    assert "Go on with" in json.loads(out.strip().splitlines()[-1])["error"]
    assert [child.name() for child in left] == []


def test_a_cluster_that_is_not_there_is_named():
    pytest.importorskip("ray")
    with pytest.raises(BackendError, match=r"no Ray cluster at '127\.0\.0\.1:1' .*refused.*`ray start --head`"):
        RayExecutor("127.0.0.1:1").run(None, [0], None)


class RayDouble:
    """Stands for a cluster: each ``ray.get`` raises or returns the next of a list, and tasks are counted."""

    def __init__(self, monkeypatch, answers):
        from vivit_lab.bulk import ray_cluster as ray_work

        self.answers, self.sent = iter(answers), 0
        monkeypatch.setattr(ray_work.ray, "get", self.get)
        monkeypatch.setattr(ray_work, "_PAUSE", 0.0)
        monkeypatch.setattr(ray_work, "is_alive", lambda node: True)
        for name in ("_decode", "_watched"):
            monkeypatch.setattr(ray_work, name, self)
        self.decoder = ray_work.RayDecoder(None, timeout=60.0, ahead=1)

    def remote(self, *arguments):
        self.sent += 1
        return iter(range(2))

    def get(self, ticket):
        answer = next(self.answers)
        if isinstance(answer, Exception) and not isinstance(answer, BackendError):  # which is an outcome
            raise answer
        return answer

    def __call__(self):
        row = ClipRow("clip", "clip.mp4")
        return self.decoder._result(row, self.decoder._submit(row))


def test_a_clip_that_fills_the_memory_of_its_node_is_tried_twice(monkeypatch):
    errors = pytest.importorskip("ray").exceptions
    full = [errors.OutOfMemoryError("memory"), "node", errors.OutOfMemoryError("memory")]
    for answers in (full, [errors.WorkerCrashedError(), errors.OutOfMemoryError("memory")]):
        double = RayDouble(monkeypatch, answers)
        told = double()
        assert (told.stage, told.kind, double.sent) == ("decode", "crash", 2)
        assert told.message == "clip.mp4: Ray ended the process that decoded it, since its node ran out of memory"
    assert RayDouble(monkeypatch, [errors.OutOfMemoryError("memory"), "node", "pixels"])() == "pixels"


def test_the_end_of_the_task_that_watches_is_taken_for_the_clips_when_it_comes_again(monkeypatch):
    crash = pytest.importorskip("ray").exceptions.WorkerCrashedError
    assert RayDouble(monkeypatch, [crash(), "node", crash(), "node", "pixels"])() == "pixels"
    double = RayDouble(monkeypatch, [crash(), "node", crash(), "node", crash()])
    told = double()
    assert (told.kind, told.message, double.sent) == (
        "crash",
        "clip.mp4: the process that decoded it ended in the last of 2 tries",
        3,
    )


def test_only_what_was_lost_is_sent_again_without_limit(monkeypatch):
    errors = pytest.importorskip("ray").exceptions
    gone = [errors.NodeDiedError("n"), errors.LocalRayletDiedError(), errors.ObjectLostError("0", "", "")] * 5
    double = RayDouble(monkeypatch, [*gone, errors.WorkerCrashedError(), *gone, "node", "pixels"])
    assert (double(), double.sent) == ("pixels", 32)
    for kind in (errors.OutOfDiskError, errors.TaskUnschedulableError, errors.RuntimeEnvSetupError):
        for before in ([], [errors.WorkerCrashedError()]):
            double = RayDouble(monkeypatch, [*before, kind("no room")])
            with pytest.raises(BackendError, match=rf"Ray cannot run its tasks.*{kind.__name__}.*no room"):
                double()


def test_a_node_that_starts_no_process_is_nobodys_try(monkeypatch):
    errors = pytest.importorskip("ray").exceptions
    none = BackendError("the processes that decode do not start")
    double = RayDouble(monkeypatch, [errors.WorkerCrashedError(), "a", none, "b", none, "a", "pixels"])
    assert (double(), double.sent) == ("pixels", 4)
    double = RayDouble(monkeypatch, [errors.WorkerCrashedError(), *["a", none] * 2, *["b", none] * 3])
    with pytest.raises(
        BackendError, match=r"cluster \(a, b\) started no process .*5 times in a row \(the processes that"
    ):
        double()


def test_a_task_tells_where_it_is_and_that_no_process_starts_there(monkeypatch):
    pytest.importorskip("ray")
    from vivit_lab.bulk import ray_cluster as ray_work

    def refused(*_, **__):
        raise BackendError("the processes that decode do not start")

    monkeypatch.setattr(ray_work.ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "a"))
    monkeypatch.setattr(ray_work, "PoolDecoder", refused)
    node, outcome = ray_work._decode_watched(ClipRow("clip", "clip.mp4"), None, 60.0, None)
    assert node == "a"
    assert isinstance(outcome, BackendError)


class SmallCluster:
    """A head without CPUs and three nodes with two; nodes that were lost come back when asked for."""

    def __init__(self):
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.nodes = []

    def fill(self):
        while len(self.nodes) < NODES:
            self.nodes.append(self.cluster.add_node(num_cpus=2, object_store_memory=STORE))
        self.cluster.wait_for_nodes(timeout=120)

    def kill_node(self):
        """SIGKILL a node: first its raylet, then all that it started."""
        node = self.nodes.pop()
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        workers = raylet.children(recursive=True)
        raylet.kill()
        for worker in workers:
            if worker.is_running():
                worker.kill()
        self.cluster.remove_node(node, allow_graceful=False)  # waits for what is left of it


@pytest.fixture(scope="module")
def small_cluster(tmp_path_factory):
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**PATIENT, "HOME": str(tmp_path_factory.mktemp("home"))}.items():
            patch.setenv(name, value)
        small = SmallCluster()
        small.fill()
        on_sigterm = signal.getsignal(signal.SIGTERM)
        ray.init(address=small.cluster.address, log_to_driver=False, logging_level="error")
        yield small
        ray.shutdown()
        signal.signal(signal.SIGTERM, on_sigterm)
        small.cluster.shutdown()


@pytest.fixture
def cluster(small_cluster):
    """The cluster with all its nodes."""
    small_cluster.fill()
    return small_cluster


@pytest.mark.parametrize("batch_size", [1, 8])
def test_the_numbers_of_both_engines_agree(batch_size, cluster, finished, table, checkpoint, tmp_path):
    job = tiny_job(checkpoint, methods=("rollout", "chefer"), batch_size=batch_size)
    there = run_bulk(job, table, tmp_path / "ray", executor=RayExecutor(models=1), progress=False)
    assert_whole(there, 25)
    names = ["clip_id", "path", "status", "error", "error_stage", "prediction", "frame_indices"]
    assert there.table(names).equals(finished.table(names))
    for place in (0, 3, 7, 19):
        np.testing.assert_allclose(there.row(place)["logits"], finished.row(place)["logits"], atol=1e-5)
        for method in ("rollout", "chefer"):
            ours, theirs = there.map(place, method), finished.map(place, method)
            torch.testing.assert_close(ours.relevance, theirs.relevance, atol=1e-5, rtol=0)


def test_head_sweeps_run_there_too(cluster, checkpoint, movies, tmp_path):
    run = tiny_run(checkpoint, movies[:6], tmp_path / "run", shard_size=4).run.store.root
    info = BulkResults.open(run).run.info
    masks = MaskList.single(info["layers"], info["heads"])
    here = sweep_heads(run, masks, name="here", executor=LOCAL, progress=False)
    there = sweep_heads(run, masks, name="there", executor=RayExecutor(), progress=False)
    assert there.parts == here.parts
    for name in ("clips", "removed"):
        assert there.summary[name].equals(here.summary[name])
    for name in ("margin", "kl"):
        np.testing.assert_allclose(there.summary[name], here.summary[name], atol=1e-5)


def test_heads_of_a_labelled_data_set_in_one_command(cluster, checkpoint, movies, tmp_path, capsys):
    videos = tmp_path / "clips.csv"
    videos.write_text("path,label\n" + "".join(f"{path},{number % 5}\n" for number, path in enumerate(movies[:6])))
    options = ["--data", videos, "--model", checkpoint, "--stride", 1, "--shard-size", 4, "--batch-size", 2, "--json"]
    found = []
    for engine in ("local", "ray"):
        command = ["bulk", "heads", tmp_path / engine, *options, "--masks", "random:3:2", "--engine", engine]
        assert main(list(map(str, command))) == 0
        found.append(json.loads(capsys.readouterr().out.strip().splitlines()[-1]))
    here, there = (one.pop("masks") for one in found)
    assert found[0] == found[1] == {"sweep": "random", "parts_done": 2, "parts": 2}
    for name in ("mask", "removed", "clips", "accuracy"):
        assert [row[name] for row in there] == [row[name] for row in here]
    for name in ("margin", "kl"):
        np.testing.assert_allclose([row[name] for row in there], [row[name] for row in here], atol=1e-5)


def test_videos_in_the_memory_of_the_driver_are_sent(cluster, checkpoint, movies, tmp_path):
    memory = fsspec.filesystem("memory")
    for number, path in enumerate(movies[:5]):
        memory.pipe_file(f"memory://for-ray/clip-{number}.mp4", path.read_bytes())
    job = tiny_job(checkpoint, shard_size=1)
    results = run_bulk(job, "memory://for-ray", tmp_path / "run", executor=RayExecutor(models=1), progress=False)
    memory.rm("/for-ray", recursive=True)
    assert list(results.to_pandas().status) == ["ok"] * 5
    here = tiny_run(checkpoint, movies[:5], tmp_path / "here", shard_size=1)
    torch.testing.assert_close(results.map(4).relevance, here.map(4).relevance, atol=1e-5, rtol=0)


def test_a_folder_that_nodes_cannot_read_is_named(cluster, checkpoint, movies, tmp_path):
    with pytest.raises(BackendError, match=r"cannot read the run's folder .* a folder that all nodes share, or a URL"):
        run_bulk(tiny_job(checkpoint), movies[:2], "memory://of-the-driver", executor=RayExecutor(), progress=False)
    fsspec.filesystem("memory").rm("/of-the-driver", recursive=True)


def test_a_clip_that_hangs_and_one_that_crashes_among_a_hundred(cluster, checkpoint, movies, tmp_path):
    videos = link_clips(tmp_path / "clips", movies, 98)
    hanging, crashing = videos / "clip-0033-hangs.mp4", videos / "clip-0066-crashes.mp4"
    with held_back(hanging), readers_ended(crashing, signal.SIGSEGV):
        job, engine = tiny_job(checkpoint, shard_size=16), RayExecutor(timeout=12)
        results = run_bulk(job, videos, tmp_path / "run", executor=engine, progress=False)
    assert_whole(results, 100)
    assert_two_failed(results, hanging, crashing)


@pytest.mark.parametrize("lost", [1, 2])
def test_nodes_that_are_killed_cost_no_row(lost, cluster, checkpoint, movies, tmp_path):
    videos = link_clips(tmp_path / "clips", movies, 120)
    whole = tiny_run(checkpoint, videos, tmp_path / "whole", shard_size=4)
    out, killed_at = tmp_path / "run", []

    def kill_midway():
        while len(list(out.glob("clips/*.parquet"))) < 4:
            time.sleep(0.01)
        for _ in range(lost):
            cluster.kill_node()
        killed_at.append(len(list(out.glob("clips/*.parquet"))))

    killer = threading.Thread(target=kill_midway)
    killer.start()
    try:
        job, engine = tiny_job(checkpoint, shard_size=4), RayExecutor(ahead=4)
        results = run_bulk(job, videos, out, executor=engine, progress=False)
    finally:
        killer.join()
    assert killed_at[0] < 30  # there was something left to do
    assert_whole(results, 120)
    assert set(results.to_pandas().status) == {"ok"}
    assert_equal(results, whole)


def test_a_full_disk_stops_the_run_and_room_lets_it_go_on(cluster, checkpoint, movies, tmp_path):
    videos = link_clips(tmp_path / "clips", movies, 24)
    with small_disk(tmp_path / "disk", "48k") as disk:
        job, engine = tiny_job(checkpoint, shard_size=4), RayExecutor(models=1)
        with pytest.raises(StorageError, match="the disk is full"):
            run_bulk(job, videos, disk / "run", executor=engine, progress=False)
        enlarge(disk, "4m")
        results = run_bulk(None, None, disk / "run", executor=engine, progress=False)
        assert_whole(results, 24)
        assert set(results.to_pandas().status) == {"ok"}


@pytest.mark.parametrize("models", [1, 2])
def test_a_frozen_actor_does_not_hold_the_run(models, cluster, checkpoint, movies, tmp_path):
    videos = link_clips(tmp_path / "clips", movies, 40)
    frozen, out = [], tmp_path / "run"

    def freeze_one():
        while not frozen:
            for process in psutil.process_iter(["name", "cmdline"]):
                if "ModelWorker.work" in " ".join(process.info["cmdline"] or []):
                    process.suspend()
                    frozen.append(process)
                    return
            time.sleep(0.02)

    watcher = threading.Thread(target=freeze_one)
    watcher.start()
    try:
        job, engine = tiny_job(checkpoint, shard_size=2), RayExecutor(models=models, patience=120)
        results = run_bulk(job, videos, out, executor=engine, progress=False)
    finally:
        watcher.join()
        for process in frozen:
            process.resume() if process.is_running() else None
    assert_whole(results, 40)


def test_a_run_without_progress_is_given_up(cluster, checkpoint, movies, tmp_path):
    engine = RayExecutor(models=1, timeout=300, patience=8)
    refused = pytest.raises(BackendError, match=r"no shard was finished in 8 s, 1 are left; see `ray status`")
    with held_back(tmp_path / "hangs.mp4"), refused:
        run_bulk(tiny_job(checkpoint), [tmp_path / "hangs.mp4"], tmp_path / "run", executor=engine, progress=False)


def test_nodes_are_known_to_be_there_or_not(cluster):
    import ray

    from vivit_lab.bulk.ray_cluster import is_alive

    lost = cluster.nodes[-1].node_id
    assert is_alive(lost)
    cluster.kill_node()
    end = time.monotonic() + 60
    while is_alive(lost) and time.monotonic() < end:
        time.sleep(0.2)
    assert not is_alive(lost)
    assert is_alive(ray.get_runtime_context().get_node_id())
