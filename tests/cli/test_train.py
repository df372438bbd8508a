"""``vivit-lab train`` as a user runs it, and as a user kills it."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from tests.training.videos import save_tiny, write_broken, write_folders
from vivit_lab.bench.measure import one_thread
from vivit_lab.cli import main
from vivit_lab.families import VivitForVideoClassification
from vivit_lab.training.loop import read_log


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"), ("a", "b"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_folders(tmp_path_factory.mktemp("videos"), each=4)


def run(*arguments):
    return main([str(argument) for argument in arguments])


def test_train_then_predict(tiny, folders, tmp_path, capsys):
    out = tmp_path / "run"
    code = run(
        "train", "--data", folders, "--model", tiny, "--out", out, "--epochs", "10", "--batch-size", "4",
        "--learning-rate", "5e-3", "--layer-decay", "1", "--views", "2", "--cpu", "--set", "flip=0",
        "--set", "colour=0", "--set", "grey=0", "--set", "stride=1,2", "--set", "scale=.9,1.1",
    )  # fmt: skip
    assert code == 0
    printed = capsys.readouterr().out
    assert "classifier drawn anew for 3 classes (instead of 2)" in printed
    assert f"best: {out / 'best'}" in printed
    stored = json.loads((out / "finetune.json").read_text())["augmentation"]
    assert (stored["flip"], stored["stride"], stored["scale"]) == (0, [1, 2], [0.9, 1.1])
    video = folders / "green" / "1.mp4"
    assert run("predict", video, "--model", out / "best", "--json") == 0
    assert json.loads(capsys.readouterr().out)["classes"][0]["label"] == "green"
    assert run("render", video, "--model", out, "--method", "raw", "--out", tmp_path, "--json") == 0
    capsys.readouterr()


def test_json_tells_all(tiny, folders, tmp_path, capsys):
    broken = write_broken(folders / "red" / "broken.mp4")
    common = ("train", "--data", folders, "--model", tiny, "--steps", "2", "--batch-size", "2", "--views", "1", "--cpu")
    assert run(*common, "--out", tmp_path / "run", "--json", "--freeze-backbone") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["model"] == str(tmp_path / "run")
    assert (told["steps"], len(told["skipped"])) == (2, 1)
    assert 0 <= told["accuracy"] <= 1
    assert run(*common, "--out", tmp_path / "strict", "--json", "--on-error", "raise") == 1
    assert "cannot be read" in json.loads(capsys.readouterr().out)["error"]
    broken.unlink()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("flop=1", "--set wants name=value with a field of training or augmentation"),
        ("flip", "--set wants name=value"),
        ("flip=often", "--set flip wants such as auto, got 'often'"),
        ("flip=2", "flip must be a probability, 0 … 1, got 2"),
        ("optimizer=lamb", "optimizer='lamb' is not known; choose one of adamw, sgd"),
    ],
)
def test_wrong_settings_are_one_line(tiny, folders, tmp_path, capsys, setting, message):
    assert run("train", "--data", folders, "--model", tiny, "--out", tmp_path / "run", "--set", setting) == 1
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--set", "num_workers=2"), "--set num_workers is an option of its own; give --workers alone"),
        (("--set", "seed=3"), "--set seed is an option of its own; give --seed alone"),
        (("--batch-size", "2", "--set", "batch_size=4"), "--set batch_size is an option of its own; give --batch-size"),
        (("--epochs", "2", "--steps", "3"), "give epochs or steps, not both"),
        (("--epochs", "2", "--set", "steps=3"), "give epochs or steps, not both"),
    ],
)
def test_what_is_given_both_ways_is_refused(tiny, folders, tmp_path, capsys, options, message):
    assert run("train", "--data", folders, "--model", tiny, "--out", tmp_path / "run", "--cpu", *options) == 1
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


STEPS = 24


def arguments(tiny, folders, out):
    return [
        "train", "--data", folders, "--model", tiny, "--out", out, "--steps", STEPS, "--batch-size", 2, "--views", 2,
        "--cpu", "--seed", 3, "--resume", "--json", "--set", "checkpoint_every=3", "--set", "evaluate_every=4",
        "--set", "log_every=1", "--set", "mixup=0.3", "--set", "stochastic_depth=0.2", "--set", "keep_checkpoints=1",
    ]  # fmt: skip


def start(tiny, folders, out):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    words = [sys.executable, "-m", "vivit_lab", *map(str, arguments(tiny, folders, out))]
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def steps_done(out):
    log = out / "log.jsonl"
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith("\n")), default=0)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="kill -9 is a POSIX signal")
def test_a_run_that_is_killed_at_random_ends_bit_for_bit_as_one_that_is_not(tiny, folders, tmp_path, capsys):
    whole, cut, chance = tmp_path / "whole", tmp_path / "cut", random.Random()
    with one_thread():
        assert run(*arguments(tiny, folders, whole)) == 0
    killed = []
    for low, high in ((1, 9), (10, 18)):
        process, goal = start(tiny, folders, cut), chance.randint(low, high)
        while process.poll() is None and steps_done(cut) < goal:
            time.sleep(0.002)
        time.sleep(chance.random() * 0.05)  # somewhere in a step, an evaluation or the writing of a checkpoint
        process.send_signal(signal.SIGKILL)
        _, said = process.communicate()
        assert process.returncode == -signal.SIGKILL, f"it was over before it could be killed: {said}"
        killed.append(steps_done(cut))
    with one_thread():
        assert run(*arguments(tiny, folders, cut)) == 0
    capsys.readouterr()
    for name in (".", "best"):
        first, second = (VivitForVideoClassification.from_pretrained(path / name) for path in (whole, cut))
        for key, value in first.state_dict().items():
            assert torch.equal(second.state_dict()[key], value), (name, key, killed)
    logs = [
        [{key: value for key, value in line.items() if "second" not in key} for line in read_log(path)]
        for path in (whole, cut)
    ]
    assert logs[0] == logs[1], killed
    assert (whole / "validation.csv").read_text() == (cut / "validation.csv").read_text()
