"""The widgets on every variant of the model: what they ship is the model's own, on the whole grid of the clip."""

import numpy as np
import pytest
import torch

from tests.model.tiny import TINY
from vivit_lab.attribution import AttentionRollout, CheferRelevance
from vivit_lab.families import VivitForVideoClassification
from vivit_lab.heads import HeadMask, MichelImportance
from vivit_lab.model import VivitConfig
from vivit_lab.model.config import VARIANTS
from vivit_lab.processing import VivitImageProcessor
from vivit_lab.records import logit_lens
from vivit_lab.render import contact_sheet, render_movie, to_frames
from vivit_lab.video import Clip, read_frames
from vivit_lab.widgets import ClipExplorer, CompareExplorer, HeadExplorer, LogitLensStrip, Workbench


@pytest.fixture(params=VARIANTS)
def model(request):
    torch.manual_seed(0)
    return VivitForVideoClassification(VivitConfig(**TINY, variant=request.param, num_labels=5)).eval()


def test_switched_heads_change_the_prediction_as_the_models_mask_does(model, clip):
    layers = len(model.blocks)
    heads = HeadExplorer(model, clip, threaded=False)
    off = HeadMask.without([(0, 1), (layers - 1, 3)], layers, 4)
    heads.set_state({"_mask": [list(row) for row in off.values]})
    assert heads.mask == off
    with torch.no_grad():
        now = model(clip.pixel_values, head_mask=off).logits[0].softmax(dim=-1)
    for row in heads.prediction["rows"]:
        assert row["now"] == pytest.approx(float(now[row["index"]]), abs=1e-6)
    heads.set_state({"color_by": "michel", "layer": layers - 1, "head": 2})
    assert heads.error == ""


def test_scores_of_the_head_grid_are_the_methods(model, clip):
    heads = HeadExplorer(model, clip, threaded=False, color_by="michel")
    score = MichelImportance()(model, clip)
    assert heads.error == ""
    np.testing.assert_allclose(heads.score().values.numpy(), score.values.numpy(), rtol=1e-3)


@pytest.mark.parametrize("method", ["rollout", "chefer", "gradient_rollout"])
def test_the_explorer_shows_the_methods_own_map_and_is_exported(model, clip, method, tmp_path):
    explorer = ClipExplorer(model, clip, threaded=False, method=method)
    assert explorer.error == ""
    kind = {"rollout": AttentionRollout(), "chefer": CheferRelevance()}.get(method)
    if kind is not None:
        shown = np.frombuffer(explorer.heat, "<f4").reshape(2, 2, 2)
        np.testing.assert_allclose(shown, kind(model, clip).relevance[0].numpy(), rtol=1e-4)
    explorer.save_html(tmp_path / "clip.html")
    assert (tmp_path / "clip.html").stat().st_size > 10_000


def test_two_maps_are_compared_and_masks_too(model, clip):
    compare = CompareExplorer.of_methods(model, clip, "rollout", "chefer", threaded=False)
    left = np.frombuffer(compare.left_heat, "<f4").reshape(2, 2, 2)
    np.testing.assert_allclose(left, AttentionRollout()(model, clip).relevance[0], rtol=1e-5)
    mask = HeadMask.without([(0, 0)], len(model.blocks), 4)
    masked = CompareExplorer.of_masks(model, clip, mask, method="chefer", threaded=False)
    right = np.frombuffer(masked.right_heat, "<f4").reshape(2, 2, 2)
    np.testing.assert_allclose(right, CheferRelevance()(model, clip, head_mask=mask).relevance[0], rtol=1e-4)


def test_the_workbench_opens_every_tab_or_says_why_not(model, video, tmp_path):
    model.save_pretrained(tmp_path)
    size = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}
    VivitImageProcessor.trained_range(**size).save_pretrained(tmp_path)
    bench = Workbench(threaded=False, checkpoint=str(tmp_path), clip_name=str(video), stride=1)
    for number, name in enumerate(bench._boxes):
        bench.tabs.selected_index = number
        lens = name == "Logit lens" and model.config.variant == "factorized_encoder"
        assert bench.panel.error.startswith("the residual stream has other tokens" if lens else "") is True
        assert lens or bench.panel.error == ""
    assert {"Explore", "Heads", "Compare"} <= set(bench.views)
    assert all(getattr(view, "error", "") == "" for view in bench.views.values())
    bench.close()


def test_the_strip_of_the_lens_is_the_lenss(model, clip):
    if model.config.variant == "factorized_encoder":
        pytest.skip("its residual stream is not one sum, and the lens says so")
    lens = logit_lens(model, clip)
    shipped = np.frombuffer(LogitLensStrip(lens)._strips, "<f4").reshape(5, len(lens.labels), 2)
    np.testing.assert_allclose(shipped[2], lens.strip(2)[:, 0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", [AttentionRollout(), CheferRelevance()], ids=lambda method: type(method).__name__)
def test_a_movie_of_the_map_is_the_drawn_frames(model, clip: Clip, method, tmp_path):
    heat = method(model, clip)
    path = render_movie(clip, heat, tmp_path / "map.mp4", crf=1)
    drawn = to_frames(clip, heat, colorbar=True, strip=True)
    height, width = drawn.shape[1:3]
    frames = read_frames(path, range(len(drawn))).frames[:, :height, :width]
    assert np.abs(frames.astype(int) - drawn).mean() < 6  # noise, and colours at half resolution
    assert contact_sheet(clip, heat).size[0] > 100
