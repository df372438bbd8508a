"""The head explorer in Python: ``set_state`` acts as the browser; what it says is checked against the model."""

import re

import numpy as np
import pytest
import torch

from vivit_lab.errors import InputError
from vivit_lab.heads import HeadMask, MichelImportance, prune_heads
from vivit_lab.widgets import ClipExplorer, HeadExplorer, link_views
from vivit_lab.widgets.head_explorer import HeadScore, given_score

LAYERS, HEADS = 3, 4


@pytest.fixture
def heads(classifier, clip):
    return HeadExplorer(classifier, clip, threaded=False)


def rows(mask):
    return [list(row) for row in mask.values]


def probabilities(model, clip, mask=None):
    with torch.no_grad():
        return model(clip.pixel_values, head_mask=mask).logits[0].softmax(dim=-1)


def test_toggled_heads_change_the_prediction_as_the_models_own_mask_does(heads, classifier, clip):
    off = HeadMask.without([(0, 1), (2, 3)], LAYERS, HEADS)
    heads.set_state({"_mask": rows(off)})
    assert heads.mask == off
    before, now = probabilities(classifier, clip), probabilities(classifier, clip, off)
    for row in heads.prediction["rows"]:
        assert row["before"] == pytest.approx(float(before[row["index"]]), abs=1e-6)
        assert row["now"] == pytest.approx(float(now[row["index"]]), abs=1e-6)
    assert [row["now"] for row in heads.prediction["rows"]] == sorted((float(p) for p in now), reverse=True)
    assert heads.prediction["heads"] == 10
    assert heads.prediction["milliseconds"] > 0
    assert heads.prediction["top_before"] == int(before.argmax())


def test_a_mask_set_in_python_reaches_the_browser_and_scales(heads, classifier, clip):
    heads.mask = np.full((LAYERS, HEADS), 0.5)
    assert heads._mask == [[0.5] * HEADS] * LAYERS
    now = probabilities(classifier, clip, HeadMask(np.full((LAYERS, HEADS), 0.5)))
    assert heads.prediction["rows"][0]["now"] == pytest.approx(float(now.max()), abs=1e-6)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"_mask": [[1, 1], [1, 1]]}, r"the mask must be \(3, 4\)"),
        ({"_mask": [[2] * HEADS] * LAYERS}, r"numbers in \[0, 1\]"),
        ({"head": 9}, "head must be one of 0..3"),
        ({"layer": 7}, "layer 7 is not in the record"),
        ({"query": 99}, "outside the sequence"),
        ({"color_by": "beauty"}, "there is no score 'beauty'; there are spatial_distance"),
    ],
)
def test_what_does_not_fit_is_shown_and_refused(heads, state, message):
    before = (heads.mask, heads.head, heads.layer, heads.query, heads.color_by)
    heads.set_state(state)
    assert re.search(message, heads.error)
    assert (heads.mask, heads.head, heads.layer, heads.query, heads.color_by) == before


def test_a_wrong_first_value_raises(classifier, clip):
    with pytest.raises(InputError, match="the mask must be"):
        HeadExplorer(classifier, clip, threaded=False, mask=[[1]])
    with pytest.raises(InputError, match=r"no trait 'colour_by': did you mean color_by"):
        HeadExplorer(classifier, clip, threaded=False, colour_by="michel")


def test_the_cells_show_where_the_query_looks(heads):
    heads.set_state({"query": 5})
    peaks = np.frombuffer(heads._peaks, "<f4").reshape(LAYERS, HEADS, 1)
    shown = peaks * (np.frombuffer(heads._maps, np.uint8).reshape(LAYERS, HEADS, -1) / 255.0) ** 2
    exact = np.stack([heads.record.rows(layer, 5)[0, :, 0, 1:].numpy() for layer in range(LAYERS)])
    assert np.abs(shown - exact).max() <= 0.004 * exact.max()


@pytest.mark.parametrize("name", ["entropy", "temporal_distance", "past_future", "michel", "confidence", "ablation"])
def test_scores_are_the_librarys(heads, name):
    heads.set_state({"color_by": name})
    assert heads.error == ""
    shown = np.frombuffer(heads._score, "<f4").reshape(LAYERS, HEADS)
    np.testing.assert_array_equal(shown, heads.score().values.numpy())
    assert heads._score_info["name"] == name
    assert np.isfinite(shown).all()


def test_michel_on_the_clip_is_michel(heads, classifier, clip):
    heads.color_by = "michel"
    torch.testing.assert_close(heads.score().values, MichelImportance()(classifier, clip, progress=False).values)


def test_given_scores_come_first_and_are_checked(classifier, clip):
    importance = MichelImportance()(classifier, clip, progress=False)
    heads = HeadExplorer(
        classifier, clip, threaded=False, scores={"many clips": importance, "mine": -torch.eye(4)[:3]}, color_by="mine"
    )
    assert heads._menus["scores"][0] == {"name": "many clips", "label": "many clips", "group": "Given"}
    assert heads._score_info["signed"]
    with pytest.raises(InputError, match=r"a score of \(3, 4\)"):
        HeadExplorer(classifier, clip, threaded=False, scores={"mine": torch.ones(2, 2)})
    named = HeadExplorer(classifier, clip, threaded=False, scores={"michel": torch.zeros(3, 4)}, color_by="michel")
    assert not named.score().values.any()  # what is given goes before the package's own of that name
    ready = HeadScore(torch.ones(3, 4), "apples")
    assert given_score(ready, (3, 4)) is ready


def test_a_score_that_fails_is_shown_once_and_the_prediction_goes_on(heads):
    def fail():
        raise InputError("no such thing here")

    object.__setattr__(heads.sources["fisher"], "compute", fail)
    heads.set_state({"color_by": "fisher"})
    assert heads.error == "no such thing here"
    with pytest.raises(InputError, match="fisher is not computed: no such thing here"):
        heads.score()
    heads.error = ""
    heads.mask = HeadMask.without([(1, 1)], LAYERS, HEADS)
    assert heads.error == ""  # a switch does not compute it again
    assert heads.prediction["heads"] == 11


def test_cancelling_leaves_the_score_until_it_is_chosen_again(heads):
    heads._scores.pop("entropy")
    heads.on_cancel({})
    assert "entropy" in heads._given_up
    heads.color_by = "michel"
    heads.color_by = "entropy"
    assert heads.score().unit.startswith("entropy of the row")


def test_the_pruned_model_computes_what_the_mask_gives(heads, classifier, clip):
    heads.mask = HeadMask.without([(0, 0), (1, 2)], LAYERS, HEADS)
    masked = probabilities(classifier, clip, heads.mask)
    heads._on_message(heads, {"type": "prune"}, [])
    assert "10 heads" in heads.status
    torch.testing.assert_close(probabilities(heads.pruned_model, clip), masked, atol=1e-5, rtol=1e-5)
    heads.mask = np.full((LAYERS, HEADS), 0.5)
    heads._on_message(heads, {"type": "prune"}, [])
    assert "scales heads" in heads.error


def test_heads_of_a_pruned_model_stay_off(classifier, clip):
    heads = HeadExplorer(prune_heads(classifier, {1: [0]}), clip, threaded=False)
    assert heads._menus["gone"] == [[1, 0]]
    heads.mask = np.ones((LAYERS, HEADS))
    assert heads.mask.pruned == {1: [0]}
    assert heads.prediction["heads"] == 11


def test_a_model_without_classes_tells_how_far_its_embedding_moved(backbone, clip):
    heads = HeadExplorer(backbone, clip, threaded=False, color_by="michel")
    assert heads.error == ""
    (row,) = heads.prediction["rows"]
    assert row["now"] == pytest.approx(row["before"])
    heads.mask = np.zeros((LAYERS, HEADS))
    assert heads.prediction["rows"][0]["now"] < row["before"]
    assert heads.prediction["kind"] == "embedding"


def test_it_moves_with_a_clip_explorer(heads, classifier, clip):
    explorer = ClipExplorer(classifier, clip, threaded=False, layer=0)
    link_views(explorer, heads, traits=("frame", "layer", "head", "query"))
    assert (heads.layer, heads.head) == (0, 0)  # "mean" is no head
    heads.set_state({"layer": 1, "head": 2, "frame": 3})
    assert (explorer.layer, explorer.head, explorer.frame) == (1, 2, 3)
    explorer.set_state({"head": "max"})
    assert (heads.head, explorer.head, explorer.error) == (2, "max", "")


def test_the_newest_switch_wins_and_runs_in_the_background(classifier, clip):
    heads = HeadExplorer(classifier, clip)
    for layer, head in np.ndindex(LAYERS, HEADS):
        heads.mask = HeadMask.without([(layer, head)], LAYERS, HEADS)
    assert heads.wait()
    now = probabilities(classifier, clip, HeadMask.without([(2, 3)], LAYERS, HEADS))
    assert heads.prediction["rows"][0]["now"] == pytest.approx(float(now.max()), abs=1e-6)
    assert not heads.busy
    assert heads.score() is not None
    heads.close()


def test_it_shows_itself_without_a_kernel(heads):
    text = heads._repr_html_()
    assert "12 of 12" in text
    assert "class" in text
    page = heads.to_html()
    assert "Heads ·" in page
    assert heads.offline_state()["live"] is False
