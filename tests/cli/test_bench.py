"""``vivit-lab bench`` as a user runs it, on tiny shapes."""

import json

import pytest

from vivit_lab.bench import suites, tasks
from vivit_lab.bench.decode import write_test_movie
from vivit_lab.cli import main

TINY = [
    word
    for field in ("num_hidden_layers=1", "hidden_size=32", "num_attention_heads=4", "intermediate_size=32",
                  "num_frames=4", "image_size=32", "tubelet_size=2,16,16")
    for word in ("--config", field)
]  # fmt: skip


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(suites, "run_task", lambda task, workload, **more: getattr(tasks, task)(workload, **more))


def run(*arguments):
    return main([str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("words", "rows"),
    [
        (("inference", "--batch", "1", "--batch", "3", "--dtype", "float32", "--steps", "1"), 2),
        (("training", "--steps", "1"), 1),
        (("attention", "--backend", "sdpa", "--backend", "math", "--steps", "1", "--backward"), 2),
        (("rollout", "--steps", "1", "--dtype", "bfloat16"), 3),
        (("cost",), 4),
    ],
    ids=lambda words: words[0] if isinstance(words, tuple) else "",
)
def test_each_table_prints_and_is_written(words, rows, tmp_path, capsys):
    out = tmp_path / "table.json"
    assert run("bench", *words, *TINY, "--device", "cpu", "--out", out) == 0
    printed = capsys.readouterr().out
    stored = json.loads(out.read_text())
    assert stored["bench"] == words[0]
    assert len(stored["rows"]) == rows
    assert stored["title"] in printed
    assert stored["machine"]["processor"] in printed
    assert str(out) in printed
    assert run("bench", *words, *TINY, "--device", "cpu", "--json") == 0
    assert json.loads(capsys.readouterr().out)["settings"] == stored["settings"]


def test_the_shape_of_a_model_is_taken(checkpoint, capsys):
    assert run("bench", "rollout", "--model", checkpoint, "--steps", "1", "--json", "--batch", "2") == 0
    settings = json.loads(capsys.readouterr().out)["settings"]
    assert (settings["hidden_size"], settings["image_size"], settings["batch"]) == (48, 32, 2)


def test_decode_reads_a_file_of_ones_own(tmp_path, capsys):
    movie = write_test_movie(tmp_path / "m.mp4", 40, (32, 48), progress=False)
    assert run("bench", "decode", "--video", movie, "--frames", "4", "--stride", "1", "--steps", "1", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["settings"]["frames"] == 40
    assert [row["same_frames"] for row in told["rows"]] == [True] * 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("training", "--batch", "1", "--batch", "2"), "bench training takes one --dtype and one --batch"),
        (("rollout", "--config", "hidden_size=big"), "--config wants name=number"),
        (("rollout", "--config", "flop=3"), "flop"),
        (("attention", "--backend", "fast", *TINY), "backends fast are not known"),
        (("inference", "--dtype", "int3", *TINY), "int3"),
    ],
)
def test_wrong_wishes_are_one_line(words, message, capsys):
    assert run("bench", *words) == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
