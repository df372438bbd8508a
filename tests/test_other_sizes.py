"""Clips of another size or length than the model was trained on: everything takes them, with resized positions."""

import json
import warnings

import numpy as np
import pytest
import torch

import vivit_lab as lab
from tests.bulk.tiny_bulk import tiny_run, write_clips
from tests.model.tiny import TINY
from vivit_lab.attribution import AttentionRollout, RawAttention
from vivit_lab.bulk import job as stages
from vivit_lab.bulk import render_clips
from vivit_lab.cli import main
from vivit_lab.errors import BackendError, ResizedPositionsWarning
from vivit_lab.evaluation import open_data
from vivit_lab.explain import explain_video, load_pair, prepared_grid
from vivit_lab.faithfulness import EvaluationPlan, evaluate
from vivit_lab.families import VivitForVideoClassification, VivitModel
from vivit_lab.heads import clip_set
from vivit_lab.heads.motion import motion_of
from vivit_lab.interventions import AblationEffects
from vivit_lab.model import VivitConfig
from vivit_lab.planted import PlantedConfig, planted_report, read_planted, write_planted
from vivit_lab.planted.scene import LABELS
from vivit_lab.processing import VivitImageProcessor
from vivit_lab.records import CosineSimilarity, OwnEmbedding
from vivit_lab.records.targets import bind_target
from vivit_lab.video import read_clip


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A model of 32×32 pixels, and a processor that makes 32×48."""
    directory = tmp_path_factory.mktemp("wide")
    torch.manual_seed(0)
    VivitForVideoClassification(VivitConfig(**TINY, num_labels=8)).save_pretrained(directory)
    crop = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 48}}
    VivitImageProcessor.trained_range(**crop).save_pretrained(directory)
    return directory


@pytest.fixture
def resized():
    """Where it is said that positions are resized, which it is once for each model and size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResizedPositionsWarning)
        yield


def test_a_processor_of_another_size_is_taken_and_said_so(wide, video):
    model, processor = load_pair(str(wide))
    assert prepared_grid(model.config, processor).shape == (2, 2, 3)
    clip = read_clip(video, 4, processor=processor)
    with pytest.warns(ResizedPositionsWarning, match=r"32×32 pixels, the clip has 4 of 32×48"):
        assert lab.record_attention(model, clip).grid.shape == (2, 2, 3)


def test_a_query_lies_on_the_grid_of_the_clip(wide, video, tmp_path, resized):
    model, processor = load_pair(str(wide))
    result = explain_video(video, model, processor, RawAttention(), out=tmp_path, queries=[(1, 1, 2)], sheet=True)
    assert result.map.relevance.shape == (1, 2, 2, 3)
    assert result.map.target == "token (t=1, y=1, x=2)"
    want = RawAttention()(result.record, queries=[2 * 2 * 3])  # the last of the clip; the model's own has 8
    torch.testing.assert_close(result.map.relevance, want.relevance)
    with pytest.raises(lab.errors.GridError, match=r"x=3 is outside the grid \(2, 2, 3\)"):
        explain_video(video, model, processor, RawAttention(), out=tmp_path, queries=[(0, 0, 3)])


def test_the_command_line_renders_and_classifies_it(wide, video, tmp_path, capsys):
    with warnings.catch_warnings(record=True):
        assert main(["render", str(video), "--model", str(wide), "--out", str(tmp_path), "--query", "0,0,2"]) == 0
        assert main(["predict", str(video), "--model", str(wide), "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    model, processor = load_pair(str(wide))
    pixels = read_clip(video, 4, processor=processor).pixel_values
    best = model(pixels, interpolate_pos_encoding=True).logits.argmax().item()
    assert told["classes"][0]["index"] == best


def test_a_bulk_run_stores_and_draws_maps_of_the_clips_size(wide, tmp_path, resized):
    paths = write_clips(tmp_path / "clips", 3, size=(36, 60))
    results = tiny_run(wide, tmp_path / "clips", tmp_path / "run", batch_size=None)
    assert results.status().errors == 0
    model, processor = load_pair(str(wide))
    for number, path in enumerate(paths):
        got = results.map(number)
        assert got.grid.shape == (2, 2, 3)
        want = AttentionRollout()(lab.record_attention(model, read_clip(path, 4, processor=processor)))
        torch.testing.assert_close(got.relevance, want.relevance, rtol=2e-3, atol=1e-6)
    assert results.mean_map().grid.shape == (2, 2, 3)
    page = render_clips(results, tmp_path / "page", count=1, progress=False)
    assert list(page.parent.rglob("*.mp4"))


def test_a_clip_of_another_size_than_the_runs_fails_alone_and_in_words(wide, tmp_path, resized):
    load_pair(str(wide))[0].save_pretrained(tmp_path / "model")
    uncropped = VivitImageProcessor.trained_range(size={"shortest_edge": 32}, do_center_crop=False)
    uncropped.save_pretrained(tmp_path / "model")
    write_clips(tmp_path / "both", 2, size=(36, 36))
    (wider,) = write_clips(tmp_path / "wide", 1, size=(36, 72))
    wider.rename(tmp_path / "both" / "wider.mp4")
    results = tiny_run(tmp_path / "model", tmp_path / "both", tmp_path / "run")
    (failed,) = results.failures()
    assert "wider" in failed["path"]
    want = "prepared as 4 frames of 32×64 pixels, and the run stores maps of 4 frames of 32×32: give the model a proc"
    assert want in failed["error"]
    assert results.map(0).grid.shape == (2, 2, 2)
    write_clips(tmp_path / "all", 4, size=(36, 72))
    with pytest.raises(BackendError, match=r"failed on all 4 clips .* the run stores maps of 4 frames of 32×32"):
        tiny_run(tmp_path / "model", tmp_path / "all", tmp_path / "none")


def test_a_batch_of_larger_clips_is_smaller(monkeypatch):
    config, gpu = VivitConfig(num_labels=5), torch.device("cuda")
    monkeypatch.setattr(stages, "free_bytes", lambda device: 1 << 34)
    sizes = [stages.find_batch_size(config, gpu, config.grid.resized(32, side, side)) for side in (112, 224, 448)]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3
    assert sizes[1] == stages.find_batch_size(config, gpu)


def test_planted_clips_of_another_size_and_length_are_evaluated(wide, tmp_path, resized):
    model, processor = load_pair(str(wide))
    data = open_data("planted:size=48,frames=8,level=1", model.config, processor, count=2)
    batch = data.batch([0, 1])
    assert (batch.pixel_values.shape, batch.mask.shape) == ((2, 8, 3, 48, 48), (2, 4, 3, 3))
    plan = EvaluationPlan(sanity_clips=1, only_correct=False).for_model(model)
    report = evaluate(model, data, [RawAttention()], plan=plan, progress=False)
    assert report.settings["clips_judged"] == 2
    assert {"joint_ap", "srg", "saco"} <= set(report.metrics)
    model.classifier.bias.data[batch.labels[0]] += 1000  # so that it names the first clip rightly
    plan = EvaluationPlan(sanity_clips=0).for_model(model)
    right = evaluate(model, data, [RawAttention()], plan=plan, progress=False)
    assert right.settings["clips_seen"] == 2
    assert right.settings["clips_judged"] == 1 + int(batch.labels[0] == batch.labels[1])
    assert motion_of(data, clip_set(data), model.config.grid).shape == (2, 36, 4)
    rates = planted_report(model, data.config, count=2, progress=False)
    assert 0 <= rates["rates"]["accuracy"]["rate"] <= 1


@pytest.mark.parametrize("frames", [8, 16])
def test_the_truth_of_written_movies_lies_where_the_processor_put_it(wide, tmp_path, frames):
    config = PlantedConfig(frames=frames, size=48, split="test", level=1)
    write_planted(tmp_path, config, 2, exact=True, progress=False)
    shape = load_pair(str(wide))[0].config.replace(id2label=dict(enumerate(LABELS)))
    sizes = {"size": {"shortest_edge": 96}, "crop_size": {"height": 64, "width": 96}}
    doubled = VivitImageProcessor.trained_range(**sizes)
    batch = open_data(tmp_path, shape, doubled).batch([0, 1])
    assert batch.pixel_values.shape == (2, 4, 3, 64, 96)
    for number, truth in enumerate(read_planted(tmp_path)):
        mask = truth.mask[:4].repeat(2, 1).repeat(2, 2)[:, 16:80].astype(np.float32)  # twice as large, the middle rows
        want = mask.reshape(2, 2, 4, 16, 6, 16).mean((1, 3, 5))
        np.testing.assert_allclose(batch.mask[number], want, atol=1e-6)
        inside = [float(truth.window[0] <= frame < truth.window[1]) for frame in range(4)]
        np.testing.assert_allclose(batch.window[number], np.reshape(inside, (2, 2)).mean(1))
    padded = VivitImageProcessor.trained_range(do_resize=False, crop_size={"height": 64, "width": 64})
    mask = open_data(tmp_path, shape, padded).batch([0]).mask[0]
    truth = np.pad(read_planted(tmp_path)[0].mask[:4], ((0, 0), (8, 8), (8, 8)))
    np.testing.assert_allclose(mask, truth.reshape(2, 2, 4, 16, 4, 16).mean((1, 3, 5)), atol=1e-6)


def test_motion_is_estimated_on_the_grid_of_the_clips(wide, tmp_path):
    model, processor = load_pair(str(wide))
    write_clips(tmp_path / "clips", 2, size=(36, 60))
    data = open_data(tmp_path / "clips", model.config, processor)
    assert motion_of(data, clip_set(data), model.config.grid).shape == (2, 12, 2)


def test_saco_has_no_more_groups_than_the_model_has_tubelets(wide):
    model, _ = load_pair(str(wide))
    assert EvaluationPlan().for_model(model).saco.groups == 8
    one = VivitModel(VivitConfig(**{**TINY, "num_frames": 2, "image_size": 16}))
    assert EvaluationPlan().for_model(one).saco is None


@pytest.mark.parametrize("shape", [(4, 32, 32), (6, 32, 48)])
def test_the_embedding_of_a_mean_of_frames_is_that_of_the_clips_grid(shape, resized):
    fields = {**TINY, "variant": "factorized_encoder", "spatial_only_baseline": True}
    model = VivitModel(VivitConfig(**fields), add_pooling_layer=False).eval()
    frames, height, width = shape
    pixels = torch.randn(2, frames, 3, height, width)
    output = model(pixels, interpolate_pos_encoding=True)
    places = height * width // 256
    frame_tokens = output.last_hidden_state.reshape(2, frames // 2, places + 1, -1)
    want = frame_tokens[:, :, 0].mean(1)
    bound = bind_target(OwnEmbedding(), output, model.config)
    torch.testing.assert_close(bound(output), want.norm(dim=-1))
    other = torch.randn(want.shape[1])
    close = bind_target(CosineSimilarity(other), output, model.config)(output)
    torch.testing.assert_close(close, torch.nn.functional.cosine_similarity(want, other[None]))
    assert output.to_tuple() == (output.last_hidden_state,)
    effects = AblationEffects("z", mode="zero")(model, pixels, OwnEmbedding())  # of outputs put together
    assert bool(effects.effect.isfinite().all())
    assert np.isfinite(RawAttention()(model, pixels).relevance.numpy()).all()
