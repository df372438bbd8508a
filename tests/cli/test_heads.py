import json
import re

import pytest
import torch

from vivit_lab.cli import main
from vivit_lab.families import VivitForVideoClassification
from vivit_lab.heads import HeadImportance, HeadMask, HeadStatistics, PruningCurves


def run(*arguments):
    return main(["heads", *map(str, arguments)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory, video):
    """Three copies of a video are three files of one clip each, of different frames by their length."""
    out = tmp_path_factory.mktemp("videos")
    for index in range(2):
        (out / f"{index}.mp4").write_bytes(video.read_bytes())
    return out


def test_importance(checkpoint, folder, tmp_path, capsys):
    out = tmp_path / "deep" / "scores.safetensors"
    common = ("importance", "--model", checkpoint, "--data", folder, "--out", out)
    assert run(*common) == 0
    printed = capsys.readouterr().out
    assert "layer  2" in printed
    assert "rank stability" in printed
    assert str(out) in printed
    assert HeadImportance.load(out).shape == (3, 4)
    assert run(*common, "--method", "confidence", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["method"] == "ConfidenceImportance"
    assert len(told["ranking"]) == 12
    assert len(told["low"]) == 3


def test_numbers_stand_apart_and_have_their_intervals(checkpoint, folder, tmp_path, capsys, monkeypatch):
    values = torch.tensor([[0.00352, -0.000534, 1234567.0, -1e-12]] * 3)
    scores = HeadImportance(torch.stack([values, values * 1.5]), "Test")
    monkeypatch.setattr("vivit_lab.cli.heads._method", lambda *_: lambda *_, **options: scores)
    assert run("importance", "--model", checkpoint, "--data", folder, "--out", tmp_path / "scores.safetensors") == 0
    lines = capsys.readouterr().out.splitlines()
    cells = [line.split() for line in lines if line.startswith("layer") and "head" not in line]
    assert [[float(cell) for cell in row[2:]] for row in cells] == [[0.0044, -0.000667, 1.54e6, -1.25e-12]] * 3
    named = [line for line in lines if re.fullmatch(r"layer +\d head +\d  \S+ \[\S+, \S+\]", line)]
    assert len(named) == 10
    assert named[0].endswith("  1.54e+06 [1.23e+06, 1.85e+06]")


def test_prune_by_list_mask_and_share(checkpoint, folder, tmp_path, capsys):
    out = tmp_path / "small"
    assert run("prune", "--model", checkpoint, "--out", out, "--heads", "0:1,2;2:0,1,2,3", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["pruned_heads"] == {"0": [1, 2], "2": [0, 1, 2, 3]}
    assert told["parameters"][1] < told["parameters"][0]
    assert VivitForVideoClassification.from_pretrained(out).config.pruned_heads == {0: (1, 2), 2: (0, 1, 2, 3)}
    assert (out / "preprocessor_config.json").is_file()
    HeadMask.without([(1, 1)], 3, 4).save(tmp_path / "mask.json")
    assert run("prune", "--model", checkpoint, "--out", out, "--mask", tmp_path / "mask.json") == 0
    assert "8% of the heads removed" in capsys.readouterr().out
    data = ("--data", folder, "--fold-mean", "--json")
    assert run("prune", "--model", checkpoint, "--out", out, "--share", "0.5", *data) == 0
    pruned = json.loads(capsys.readouterr().out)["pruned_heads"]
    assert sum(len(row) for row in pruned.values()) == 6


def test_stats(checkpoint, folder, tmp_path, capsys):
    out = tmp_path / "stats.safetensors"
    assert run("stats", "--model", checkpoint, "--data", folder, "--out", out) == 0
    printed = capsys.readouterr().out
    assert "same_place, × uniform" in printed
    assert "HeadKinds(" in printed
    assert HeadStatistics.load(out).shape == (3, 4)
    assert run("stats", "--model", checkpoint, "--data", folder, "--out", out, "--queries", "0", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["kinds"]) == 3
    assert "following" in told["lifts"]


def test_curve_on_planted_clips(tmp_path, capsys):
    out = tmp_path / "study"
    options = ("--clips", "4", "--random", "0", "--shares", "0.5", "--out", out)
    assert run("curve", "--data", "planted:0", *options) == 0
    printed = capsys.readouterr().out
    assert "least important first" in printed
    assert str(out / "curves.png") in printed
    assert PruningCurves.load(out / "curves.json").settings["evaluation_clips"] == 2
    assert run("curve", "--data", "planted:0", *options, "--json") == 0  # from the points that are there
    told = json.loads(capsys.readouterr().out)
    assert {row["series"] for row in told["rows"]} == {"least important first", "most important first"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("prune", "--out", "x"), "give exactly one of --heads, --mask and --share"),
        (("prune", "--out", "x", "--heads", "0;1"), "wants 'layer:head,head;layer:head'"),
        (("prune", "--out", "x", "--heads", "9:0"), "there is no head (9, 0)"),
        (("importance", "--method", "magic", "--clips", "1"), "there is no importance 'magic'"),
        (("curve", "--shares", "half"), "--shares wants numbers and commas"),
    ],
)
def test_errors_are_one_line(arguments, message, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    assert run(*arguments) == 1
    assert message in capsys.readouterr().err
