"""Where the clips of an evaluation come from, and what is written."""

import csv
import json

import numpy as np
import pytest
import torch

from vivit_lab.attribution import AttentionRollout, Occlusion, RawAttention, Rise
from vivit_lab.cli import main
from vivit_lab.errors import GridError, InputError
from vivit_lab.evaluation import PlantedClips, Videos, all_methods, methods_by_name, open_data, write_report
from vivit_lab.faithfulness import EvaluationPlan, Perturbation, evaluate
from vivit_lab.faithfulness.evaluation import label_of
from vivit_lab.families import VivitForVideoClassification
from vivit_lab.grid import TokenGrid
from vivit_lab.model import VivitConfig
from vivit_lab.planted import PlantedConfig, write_planted
from vivit_lab.planted.clip import planted_batch
from vivit_lab.planted.scene import LABELS
from vivit_lab.processing import VivitImageProcessor

CONFIG = VivitConfig(
    image_size=32, num_frames=8, tubelet_size=(2, 8, 8), hidden_size=12, num_hidden_layers=2, num_attention_heads=2,
    intermediate_size=16, id2label=dict(enumerate(LABELS)), initializer_range=0.3,
)  # fmt: skip
PROCESSOR = VivitImageProcessor.trained_range(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
SMALL = PlantedConfig(frames=8, size=32, split="test", level=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("movies")
    write_planted(path, SMALL, 4, exact=True, counterfactuals=("reverse",), progress=False)
    return path


def test_planted_clips_come_with_their_evidence():
    data = open_data("planted:1", CONFIG, PROCESSOR, count=5)
    assert len(data) == 5
    assert data.describe() == {"kind": "planted", "count": 5, **SMALL.to_dict()}
    batch = data.batch([1, 4])
    pixels, labels, clips = planted_batch(SMALL, [1, 4])
    torch.testing.assert_close(batch.pixel_values, pixels)
    assert batch.labels.tolist() == labels.tolist()
    np.testing.assert_allclose(batch.mask[1], clips[1].token_mask(CONFIG.grid))
    np.testing.assert_allclose(batch.window[0], clips[0].token_window(CONFIG.grid))
    assert batch.names == ["planted-00001", "planted-00004"]
    assert len(open_data("planted", CONFIG, PROCESSOR)) == 256
    named = open_data("planted:level=0,split=validation,seed=3", CONFIG, PROCESSOR, count=1)
    assert named.config == PlantedConfig(frames=8, size=32, level=0, split="validation", seed=3)


def test_written_planted_movies_give_the_same_as_drawn_ones(folder):
    data = open_data(folder, CONFIG, PROCESSOR)
    assert len(data) == 4  # counterfactuals are other clips
    ours, drawn = data.batch([0, 3]), open_data("planted:1", CONFIG, PROCESSOR, count=4).batch([0, 3])
    torch.testing.assert_close(ours.pixel_values, drawn.pixel_values, rtol=0, atol=1e-6)
    assert ours.labels.tolist() == drawn.labels.tolist()
    torch.testing.assert_close(ours.mask, drawn.mask)
    torch.testing.assert_close(ours.window, drawn.window)


def test_planted_clips_are_prepared_as_the_model_wants_them(folder):
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    processor = VivitImageProcessor.imagenet(**size)
    drawn = open_data("planted:1", CONFIG, processor, count=4)
    ours = open_data(folder, CONFIG, processor).batch([0, 3]).pixel_values
    torch.testing.assert_close(drawn.batch([0, 3]).pixel_values, ours, rtol=0, atol=1e-5)
    assert drawn.describe() != open_data("planted:1", CONFIG, PROCESSOR, count=4).describe()


def test_any_folder_of_videos_and_any_table_will_do(folder, tmp_path):
    clips = folder / "clips"
    plain = open_data(clips, CONFIG, PROCESSOR, count=3)
    assert len(plain) == 3
    batch = plain.batch([0, 1])
    assert batch.labels is None
    assert batch.mask is None
    assert batch.pixel_values.shape == (2, 8, 3, 32, 32)
    first, second = sorted(path for path in clips.iterdir() if path.suffix == ".mp4")[:2]
    assert len(open_data(first, CONFIG, PROCESSOR)) == 1
    table = tmp_path / "mine.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label"], [first, "up-left"], [second, "2"]])
    labelled = open_data(table, CONFIG, PROCESSOR)
    assert labelled.batch([0, 1]).labels.tolist() == [LABELS.index("up-left"), 2]
    assert labelled.describe()["labels"] == [LABELS.index("up-left"), 2]
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([["\ufeffpath"], [first]])  # as Excel writes it
    assert open_data(table, CONFIG, PROCESSOR).batch([0]).labels is None


def test_what_is_no_data_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"there is no .*nowhere: wanted a folder of videos or of class folders"):
        open_data(tmp_path / "nowhere", CONFIG, PROCESSOR)
    with pytest.raises(InputError, match=r"holds no video \(\.3gp, \.avi"):
        open_data(tmp_path, CONFIG, PROCESSOR)
    with pytest.raises(InputError, match=r"wanted 'planted:LEVEL' or .*; got 'colour=3'"):
        open_data("planted:colour=3", CONFIG, PROCESSOR)
    (tmp_path / "table.csv").write_text("file,label\na.mp4,up\n")
    with pytest.raises(InputError, match=r"wants a header with the column path"):
        open_data(tmp_path / "table.csv", CONFIG, PROCESSOR)
    with pytest.raises(InputError, match="at least one planted clip, got 0"):
        PlantedClips(PlantedConfig(), 0, CONFIG.grid)
    with pytest.raises(GridError, match="height=48 is not a positive multiple of the tubelet's 32"):
        PlantedClips(PlantedConfig(), 4, TokenGrid(4, 1, 1, (4, 32, 32)))
    with pytest.raises(InputError, match=r"wanted at least one video"):
        Videos([], PROCESSOR, CONFIG)
    with pytest.raises(InputError, match=r"a label for each of 1 videos, got 2"):
        Videos([tmp_path / "a.mp4"], PROCESSOR, CONFIG, labels=["up", "down"])


def test_methods_by_name():
    assert len(all_methods()) == 15
    assert [label_of(method) for method in methods_by_name("raw, rollout:start_layer=1;head_fusion=max")] == [
        "RawAttention",
        "AttentionRollout(head_fusion='max', start_layer=1)",
    ]
    boxes = methods_by_name("occlusion:window=2,2,2;baseline=mean,rise:cells=2,3,3,raw")
    assert boxes == [Occlusion((2, 2, 2), baseline="mean"), Rise(cells=(2, 3, 3)), RawAttention()]
    assert methods_by_name("ALL") == all_methods()
    assert methods_by_name("rollout") == [AttentionRollout()]
    for wrong in ("", "raw,raw"):
        with pytest.raises(InputError, match=r"wanted different methods"):
            methods_by_name(wrong)
    with pytest.raises(InputError, match=r"method 'heat' is not known"):
        methods_by_name("heat")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    VivitForVideoClassification(CONFIG).save_pretrained(path)
    PROCESSOR.save_pretrained(path)
    return path


def test_the_command_judges_a_checkpoint_on_a_folder_and_goes_on_where_it_was(directory, folder, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["evaluate", "--model", str(directory), "--data", str(folder), "--methods", "raw,chefer", "--every-clip"]
    command += ["--out", str(out), "--sanity", "1", "--json"]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["files"]) == {"json", "csv", "html", "intervals", "curves"}
    assert all((out / name).stat().st_size > 500 for name in ("report.json", "report.csv", "report.html", "curves.png"))
    assert found["settings"]["clips_judged"] == 4
    assert any("RawAttention does not depend on the classifier" in line for line in found["verdicts"])
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "http://" not in page.replace("http://www.w3.org", "")
    before = (out / "parts" / "part-00000.json").stat().st_mtime_ns
    assert main([*command[:-1]]) == 0
    assert (out / "parts" / "part-00000.json").stat().st_mtime_ns == before
    shown = capsys.readouterr().out
    assert "joint_ap ↑" in shown
    assert "srg_time_drop" not in shown  # the table on a terminal is short; the files have all
    assert main([*command, "--methods", "raw"]) == 1
    assert "holds the parts of a run with other methods" in json.loads(capsys.readouterr().out)["error"]


def test_a_report_is_written_without_matplotlib_too(directory, tmp_path, monkeypatch):
    model = VivitForVideoClassification.from_pretrained(directory)
    plan = EvaluationPlan((Perturbation(baseline="drop", steps=2),), None, None, None, 0, only_correct=False)
    report = evaluate(model, open_data("planted:0", CONFIG, PROCESSOR, count=2), methods_by_name("raw"), plan=plan)
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert set(write_report(report, tmp_path)) == {"json", "csv", "html"}
