"""The command line as a user runs it: output, files, exit codes, one-line errors."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import vivit_lab
from vivit_lab.attribution import AttributionMap
from vivit_lab.cli import main
from vivit_lab.families import VivitForVideoClassification
from vivit_lab.processing import VivitImageProcessor
from vivit_lab.video import read_clip


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")


def run(*arguments):
    return main([str(argument) for argument in arguments])


def test_render_writes_a_movie_for_each_video(checkpoint, video, tmp_path, capsys):
    other = tmp_path / "other.mp4"
    other.write_bytes(video.read_bytes())
    out = tmp_path / "out"
    assert run("render", video, other, "--model", checkpoint, "--out", out, "--sheet", "--map") == 0
    printed = capsys.readouterr().out
    for stem in ("moving", "other"):
        for suffix in ("mp4", "png", "safetensors"):
            path = out / f"{stem}_attention_rollout.{suffix}"
            assert path.exists()
            assert str(path) in printed


def test_render_takes_method_settings_query_and_drawing(checkpoint, video, tmp_path, capsys):
    code = run(
        "render", video, "-m", checkpoint, "--method", "rollout", "--set", "start_layer=2", "--set", "head_fusion=max",
        "--query", "1,0,1", "--out", tmp_path / "x.mp4", "--map", "--layout", "side_by_side", "--colormap", "viridis",
        "--alpha", "0.5", "--normalize", "frame", "--zoom", "2", "--stride", "1", "--start", "0.5s", "--json",
    )  # fmt: skip
    assert code == 0
    told = json.loads(capsys.readouterr().out)
    (entry,) = told["videos"]
    assert entry["files"] == {"movie": str(tmp_path / "x.mp4"), "map": str(tmp_path / "x.safetensors")}
    assert entry["map"]["parameters"]["start_layer"] == 2
    assert entry["map"]["target"] == "token (t=1, y=0, x=1)"
    assert entry["map"]["frame_indices"] == [[5, 6, 7, 8]]
    assert AttributionMap.load(tmp_path / "x.safetensors").metadata() == entry["map"]
    assert read_clip(tmp_path / "x.mp4").size[0] >= 96


def test_render_explains_a_class(checkpoint, video, tmp_path, capsys):
    common = ("render", video, "-m", checkpoint, "--out", tmp_path, "--json")
    assert run(*common, "--method", "chefer", "--target", "LABEL_3", "--set", "centred=true") == 0
    (entry,) = json.loads(capsys.readouterr().out)["videos"]
    assert entry["files"]["movie"].endswith("moving_chefer_relevance.mp4")
    assert entry["map"]["target"] == "class 3 (LABEL_3)"
    assert entry["map"]["parameters"]["centred"] is True
    assert run(*common, "--method", "occlusion", "--target", "3", "--set", "window=1,2,2", "--colormap", "RdBu_r") == 0
    (entry,) = json.loads(capsys.readouterr().out)["videos"]
    assert entry["map"]["signed"]
    assert entry["map"]["parameters"]["window"] == [1, 2, 2]


def test_every_method_is_named_in_the_help(capsys):
    from vivit_lab.attribution.registry import METHODS

    assert run("render", "--help") == 0
    words = capsys.readouterr().out.replace("│", " ").replace(",", " ").replace(".", " ").split()
    assert set(METHODS) <= set(words)


def test_a_random_start_follows_the_seed(checkpoint, video, tmp_path, capsys):
    def start(seed):
        run("render", video, "-m", checkpoint, "--out", tmp_path, "--start", "random", "--seed", seed, "--json")
        return json.loads(capsys.readouterr().out)["videos"][0]["map"]["frame_indices"][0][0]

    starts = [start(seed) for seed in range(6)]
    assert start(0) == starts[0]
    assert len(set(starts)) > 1
    assert all(0 <= first <= 16 for first in starts)


def test_predict_prints_and_tells_the_classes(checkpoint, video, capsys):
    assert run("predict", video, "--model", checkpoint, "--top", 3) == 0
    table = capsys.readouterr().out
    assert run("predict", video, "--model", checkpoint, "--top", 3, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    model = VivitForVideoClassification.from_pretrained(checkpoint)
    processor = VivitImageProcessor.from_pretrained(checkpoint)
    with torch.no_grad():
        logits = model(read_clip(video, 4, 1, processor=processor).pixel_values).logits[0]
    want = logits.argsort(descending=True)[:3].tolist()
    assert [row["index"] for row in told["classes"]] == want
    assert told["frames"]["indices"] == [0, 1, 2, 3]
    for row in told["classes"]:
        assert row["label"] in table
        assert row["logit"] == pytest.approx(float(logits[row["index"]]), abs=1e-5)


def test_info_of_models_and_videos(checkpoint, video, capsys):
    assert run("info", checkpoint) == 0
    printed = capsys.readouterr().out
    for fact in ("VivitForVideoClassification", "4 frames of 32×32", "2×2×2 + CLS = 9", "LABEL_0"):
        assert fact in printed
    assert run("info", video, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["frames"], told["height"], told["width"], told["codec"]) == (20, 48, 80, "h264")
    assert {"palette", "matrix", "color_range", "transfer", "primaries", "hdr", "field_order"} <= set(told)
    assert (told["pixel_aspect"], told["display_size"], told["matrix"]) == ("1", [48, 80], "bt709")
    assert run("info", "bundled", "--json") == 0
    assert json.loads(capsys.readouterr().out)["classes"] == "none (no classifier)"


def test_info_of_a_folder_of_pictures_and_of_a_model_that_has_one(checkpoint, tmp_path, capsys):
    for number in range(3):
        Image.new("RGB", (40, 30)).save(tmp_path / f"{number}.png")
    assert run("info", tmp_path, "--json") == 0
    printed = capsys.readouterr()
    assert "warning: " in printed.err
    assert "25 frames a second are assumed" in printed.err
    told = json.loads(printed.out)
    assert (told["container"], told["frames"], told["height"], told["width"]) == ("folder", 3, 30, 40)
    model = tmp_path / "model"
    shutil.copytree(checkpoint, model)
    Image.new("RGB", (40, 30)).save(model / "card-1.png")
    assert run("info", model, "--json") == 0
    assert json.loads(capsys.readouterr().out)["class"] == "VivitForVideoClassification"


def test_the_demo_names_its_files_and_says_what_they_show(tmp_path, capsys):
    assert run("demo", "--out", tmp_path) == 0
    printed = capsys.readouterr().out
    assert "knows no motion and no classes" in printed
    names = [Path(line.split(": ", 1)[1]) for line in printed.splitlines()[-3:]]
    assert [path.suffix for path in names] == [".mp4", ".png", ".safetensors"]
    assert all(path.parent == tmp_path and path.stat().st_size > 1000 for path in names)
    heat = AttributionMap.load(names[2])
    assert heat.grid.shape == (8, 16, 16)
    assert heat.model_id == "bundled"
    # the CLS token of this model looks at the dog, which fills the middle, more than at the rest
    share = heat.relevance[0, :, 3:13, 2:12].sum() / heat.relevance.sum()
    assert share > 1.3 * (10 * 10) / (16 * 16)
    assert run("demo", "--out", tmp_path, "--json") == 0
    assert set(json.loads(capsys.readouterr().out)["files"]) == {"movie", "sheet", "map"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("render", "VIDEO", "VIDEO", "-m", "MODEL"), "error: some videos have the same name"),
        (("info", "nowhere.mp4"), r"error: .*nowhere\.mp4"),
        (("predict", "VIDEO", "-m", "bundled"), "error: bundled has no classifier, so it predicts nothing"),
        (("render", "missing.mp4", "-m", "MODEL"), r"error: .*missing\.mp4"),
        (("render", "VIDEO", "-m", "MODEL", "--method", "magic"), "error: method 'magic' is not known"),
        (
            ("render", "VIDEO", "-m", "MODEL", "--method", "chefer", "--target", "dog"),
            "error: the model has no class 'dog'",
        ),
        (
            ("render", "VIDEO", "-m", "MODEL", "--method", "chefer", "--target", "9"),
            "error: a target class must be one of",
        ),
        (("render", "VIDEO", "-m", "MODEL", "--target", "1"), "error: AttentionRollout is class-agnostic"),
        (
            ("render", "VIDEO", "-m", "bundled", "--method", "chefer"),
            "error: CheferRelevance explains a class, but bundled has no classifier",
        ),
        (("render", "VIDEO", "-m", "MODEL", "--set", "start_layer"), "error: --set wants name=value"),
        (("render", "VIDEO", "-m", "MODEL", "--query", "1,x"), "error: --query wants t,y,x"),
        (("render", "VIDEO", "-m", "MODEL", "--start", "soon"), "error: --start wants a frame"),
        (
            ("render", "VIDEO", "VIDEO", "-m", "MODEL", "--out", "one.mp4"),
            "error: --out one.mp4 names one file, so that 2 videos",
        ),
        (("info", "./nowhere"), "error: .*nowhere"),
        (("predict", "VIDEO", "-m", "MODEL", "--device", "quantum"), "error: device 'quantum' cannot be used"),
        (("predict", "VIDEO", "-m", "MODEL", "--dtype", "int3"), "error: .*int3"),
    ],
)
def test_errors_are_one_line_and_exit_with_1(arguments, message, checkpoint, video, capsys, tmp_path, monkeypatch):
    import re

    monkeypatch.chdir(tmp_path)
    names = {"VIDEO": video, "MODEL": checkpoint}
    assert run(*(names.get(argument, argument) for argument in arguments)) == 1
    error = capsys.readouterr().err.strip()
    assert re.match(message, error.splitlines()[-1])
    assert "Traceback" not in error


def test_json_is_printed_also_for_an_error(checkpoint, tmp_path, capsys):
    assert run("render", tmp_path / "none.mp4", "-m", checkpoint, "--json") == 1
    assert "none.mp4" in json.loads(capsys.readouterr().out)["error"]


def test_debug_shows_the_trace(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        run("render", tmp_path / "nothing.mp4", "-m", "bundled", "--debug")


def test_one_bad_video_does_not_stop_the_others(checkpoint, video, tmp_path, capsys):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"not a video at all")
    assert run("render", bad, video, "-m", checkpoint, "--out", tmp_path, "--json") == 1
    told = json.loads(capsys.readouterr().out)["videos"]
    assert "bad.mp4" in told[0]["error"]
    assert Path(told[1]["files"]["movie"]).exists()


def test_warnings_are_one_line(checkpoint, video, tmp_path, capsys):
    assert run("render", video, "-m", checkpoint, "--out", tmp_path, "--stride", "10") == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(lines) == 1
    assert "the last 2 repeat frame 10" in lines[0]


def test_wrong_usage_exits_with_2_and_interruption_with_130(capsys, monkeypatch, tmp_path):
    assert run("render") == 2
    assert run("no-such-command") == 2
    assert run("predict", "x.mp4", "-m", "bundled", "--top", "0") == 2
    assert run("predict", "x.mp4") == 2
    capsys.readouterr()

    def interrupt(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("vivit_lab.explain.load_pair", interrupt)
    assert run("demo", "--out", tmp_path) == 130


def test_installed_as_a_program_and_a_module():
    environment = {**os.environ, "PYTHONPATH": str(Path(vivit_lab.__file__).parent.parent)}
    for module in ("vivit_lab", "vivit_lab.cli"):
        command = [sys.executable, "-m", module, "--version"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        assert done.stdout.strip() == vivit_lab.__version__
    assert run("--version") == 0


def test_text_in_brackets_is_text(checkpoint, video, tmp_path, capsys, monkeypatch):
    """Neither help nor a label is taken for the markup of a terminal."""
    monkeypatch.setenv("COLUMNS", "160")
    assert run("bulk", "run", "--help") == 0
    assert "(extra [ray])" in capsys.readouterr().out
    model = VivitForVideoClassification.from_pretrained(checkpoint)
    names = {index: f"[red]danger {index}[/red]" for index in range(model.config.num_labels)}
    VivitForVideoClassification(model.config.replace(id2label=names)).save_pretrained(tmp_path)
    VivitImageProcessor.from_pretrained(checkpoint).save_pretrained(tmp_path)
    assert run("predict", video, "--model", tmp_path) == 0
    assert "[red]danger 0[/red]" in capsys.readouterr().out
