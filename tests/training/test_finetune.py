import csv
import json
import shutil
from dataclasses import replace

import pytest
import torch

from tests.training.test_parameters import VARIANTS, variant
from tests.training.videos import CLASSES, PROCESSOR, save_tiny, write_broken, write_folders
from vivit_lab.attribution import CheferRelevance, RawAttention
from vivit_lab.errors import ConfigError, DamagedFileError, InputError
from vivit_lab.evaluation import open_data
from vivit_lab.explain import explain_video, load_pair
from vivit_lab.faithfulness import EvaluationPlan, SaCo, evaluate
from vivit_lab.training import Augmentation, classify_clips, find_clips, finetune
from vivit_lab.training.finetuning import adapt_model
from vivit_lab.training.loop import read_log

PLAIN = Augmentation.none(2)
QUICK = {"learning_rate": 5e-3, "layer_decay": 1.0, "batch_size": 4, "views": 2, "progress": False, "cpu": True}


def rows_of(path):
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return load_pair(str(save_tiny(tmp_path_factory.mktemp("tiny"), ("a", "b", "c"))))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_folders(tmp_path_factory.mktemp("videos"), each=5)


def test_it_learns_ones_own_classes_and_what_it_saves_works_everywhere(pair, folders, tmp_path):
    model, processor = pair
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = finetune(model, processor, folders, tmp_path / "run", augmentation=PLAIN, epochs=12, **QUICK)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert result.changes == ("classifier drawn anew for 3 classes (instead of 3)",)
    assert list(result.model.config.id2label.values()) == list(CLASSES)
    assert result.report.accuracy == 1.0
    assert result.training.best_accuracy == 1.0
    assert "12 clips" not in str(result.report)  # three are held back, one a class
    assert len(result.report.rows) == 3
    assert any("best after" in line for line in result.summary())
    assert "classifier drawn anew" in result._repr_html_()
    losses = [line["loss"] for line in read_log(result.last) if "loss" in line]
    assert losses[-1] < 0.7 * losses[0]
    for directory in (result.last, result.best):
        network, prepared = load_pair(str(directory))
        report = classify_clips(network, prepared, find_clips(folders), views=2, progress=False)
        assert report.accuracy >= 0.8
    assert [row["label"] for row in rows_of(result.last / "validation.csv")] == list(CLASSES)
    data = open_data(folders, network.config, prepared, stride=2)
    plan = EvaluationPlan(curves=(), sensitivity=None, infidelity=None, saco=SaCo(groups=4), sanity_clips=0)
    plan = replace(plan, only_correct=False)
    assert evaluate(network, data, [RawAttention()], plan=plan, progress=False).settings["clips_judged"] == 15
    video = next(folders.rglob("*.mp4"))
    shown = explain_video(video, network, prepared, RawAttention(), out=tmp_path / "shown", stride=2)
    assert shown.files["movie"].is_file()


def test_other_frames_and_size(pair, folders, tmp_path):
    settings = {**QUICK, "steps": 2}
    result = finetune(*pair, folders, tmp_path, num_frames=8, image_size=12, **settings)
    assert (result.model.config.num_frames, result.model.config.image_size) == (8, 12)
    assert result.changes[0] == "embed.position interpolated from 2×2×2 to 4×3×3 (t×h×w)"
    network, processor = load_pair(str(result.last))
    assert processor.crop_size == {"height": 12, "width": 12}
    assert network.config.num_frames == 8


@pytest.mark.peer
def test_a_table_with_splits_and_stretches_trains_a_model_that_transformers_loads(pair, folders, tmp_path):
    import transformers

    lines = ["path,label,split,start,end"]
    for name in ("blue", "red"):  # two classes of three, and parts of the videos
        lines += [f"{folders / name / f'{number}.mp4'},{name},train,0.1,0.9" for number in range(4)]
        lines += [f"{folders / name / '4.mp4'},{name},val,,", f"{folders / name / '3.mp4'},{name},test,,"]
    table = tmp_path / "clips.csv"
    table.write_text("\n".join(lines) + "\n")
    result = finetune(*pair, table, tmp_path / "run", augmentation=PLAIN, epochs=15, **QUICK)
    assert result.changes == ("classifier drawn anew for 2 classes (instead of 3)",)
    assert [(row.label, row.predicted) for row in result.report.rows] == [("blue", "blue"), ("red", "red")]
    stored = json.loads((tmp_path / "run" / "finetune.json").read_text())
    assert (stored["training"]["clips"], stored["validation"]["clips"]) == (8, 2)
    network, _ = load_pair(str(result.best))
    peer = transformers.VivitForVideoClassification.from_pretrained(result.best).eval()
    assert peer.config.id2label == {0: "blue", 1: "red"}
    pixels = torch.randn(2, 4, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(peer(pixels).logits, network(pixels).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_fine_tuned_continued_and_explained(name, folders, tmp_path):
    """Other classes, frames and size; continued from its checkpoint, it ends bit for bit the same."""
    settings = {**QUICK, "num_frames": 8, "image_size": 12, "steps": 4, "checkpoint_every": 2, "stochastic_depth": 0.2}
    start = adapt_model(variant(name), ("a", "b"))[0]
    whole = finetune(start, PROCESSOR, folders, tmp_path / "whole", augmentation=PLAIN, **settings)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for written in ("model.safetensors", "training.json", "validation.csv"):
        (tmp_path / "cut" / written).unlink()
    again = finetune(start, PROCESSOR, folders, tmp_path / "cut", augmentation=PLAIN, resume=True, **settings)
    for key, value in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[key], value), key
    network, processor = load_pair(str(whole.best))
    assert (network.config.variant, network.config.num_frames, network.config.image_size) == (name, 8, 12)
    assert list(network.config.id2label.values()) == list(CLASSES)
    options = {"out": tmp_path / "shown", "target": "red", "stride": 1}
    shown = explain_video(folders / "red" / "0.mp4", network, processor, CheferRelevance(), **options)
    assert shown.map.grid.shape == (4, 3, 3)
    assert shown.files["movie"].is_file()


def test_clips_that_cannot_be_read_are_listed_and_change_nothing_else(pair, folders, tmp_path):
    settings = {**QUICK, "steps": 3, "seed": 2}
    good = finetune(*pair, folders, tmp_path / "good", **settings)
    broken = tmp_path / "broken"
    shutil.copytree(folders, broken)
    write_broken(broken / "red" / "zz.mp4")
    result = finetune(*pair, broken, tmp_path / "run", **settings)
    for name, value in good.model.state_dict().items():
        assert torch.equal(result.model.state_dict()[name], value)
    (row,) = rows_of(result.last / "skipped.csv")
    assert row["path"].endswith("zz.mp4")
    assert row["label"] == "red"
    assert row["error"]
    assert any("1 clips cannot be read" in line for line in result.summary())
    with pytest.raises(InputError, match=r"1 of 16 clips cannot be read, the first .*zz\.mp4"):
        finetune(*pair, broken, tmp_path / "raise", on_error="raise", **settings)


def test_a_continued_run_must_be_the_same_run(pair, folders, tmp_path):
    settings = {**QUICK, "steps": 4, "checkpoint_every": 2}
    finetune(*pair, folders, tmp_path, **settings)
    with pytest.raises(InputError, match=r"holds a training run: continue it"):
        finetune(*pair, folders, tmp_path, **settings)
    with pytest.raises(ConfigError, match=r"mixup: 0\.0 then, 0\.5 now"):
        finetune(*pair, folders, tmp_path, resume=True, mixup=0.5, **settings)
    fewer = find_clips(folders)[:-1]
    with pytest.raises(ConfigError, match=r"cannot continue: other training, validation, augmentation"):
        finetune(*pair, fewer, tmp_path, augmentation=replace(PLAIN, flip=1.0), resume=True, **settings)
    settings_file = tmp_path / "finetune.json"
    kept = settings_file.read_text()
    settings_file.write_text(kept[:20])
    with pytest.raises(DamagedFileError, match=r"finetune\.json is damaged .* put back a copy of it"):
        finetune(*pair, folders, tmp_path, resume=True, **settings)
    settings_file.write_text(kept)
    video = fewer[0].path
    content = video.read_bytes()
    video.write_bytes(content + bytes(1))
    with pytest.raises(ConfigError, match=rf"1 videos have changed since it began: {video}; put the old ones back"):
        finetune(*pair, folders, tmp_path, resume=True, **settings)
    video.write_bytes(content)
    again = finetune(*pair, folders, tmp_path, resume=True, **settings)
    assert again.training.steps == 4
    assert json.loads((tmp_path / "finetune.json").read_text())["classes"] == list(CLASSES)


def test_without_validation_there_is_one_model(pair, folders, tmp_path):
    result = finetune(*pair, folders, tmp_path, validation=0, **{**QUICK, "steps": 1})
    assert result.report is None
    assert result.best == result.last == tmp_path
    assert not (tmp_path / "best").exists()
    assert "accuracy" not in " ".join(result.summary())


def test_everything_of_the_paper_at_once(pair, folders, tmp_path):
    more = {"mixup": 0.3, "stochastic_depth": 0.3, "label_smoothing": 0.2, "accumulate": 2, "freeze_layers": 1}
    settings = {**QUICK, "steps": 2, "layer_decay": 0.7, "gradient_checkpointing": True, "mixed_precision": "bf16"}
    result = finetune(*pair, folders, tmp_path, preset="something_something_v2", **settings, **more)
    assert result.config.optimizer == "sgd"
    assert not result.config.rescale_kept
    start, _ = pair
    assert torch.equal(result.model.blocks[0].mlp.fc1.weight, start.blocks[0].mlp.fc1.weight)
    assert not torch.equal(result.model.blocks[1].mlp.fc1.weight, start.blocks[1].mlp.fc1.weight)


def test_wrong_wishes_are_refused(pair, tmp_path):
    with pytest.raises(InputError, match=r"on_error must be 'skip' or 'raise', got 'ignore'"):
        finetune(*pair, [], tmp_path, on_error="ignore")
    write_broken(tmp_path / "data" / "red" / "1.mp4")
    with pytest.raises(InputError, match=r"1 of 1 clips cannot be read"):
        finetune(*pair, tmp_path / "data", tmp_path / "run", progress=False)
    assert PROCESSOR == pair[1]
