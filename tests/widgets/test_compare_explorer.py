"""The comparison in Python: both maps are the methods' own, whatever differs between the sides."""

import numpy as np
import pytest
import torch

from tests.model.tiny import TINY
from vivit_lab.attribution import AttentionRollout, CheferRelevance
from vivit_lab.errors import InputError
from vivit_lab.families import VivitForVideoClassification
from vivit_lab.heads import HeadMask
from vivit_lab.interventions import ReverseFrames
from vivit_lab.model import VivitConfig
from vivit_lab.statistics.ranks import spearman
from vivit_lab.widgets import CompareExplorer, Side


def heat(compare, side):
    return np.frombuffer(getattr(compare, f"{side}_heat"), "<f4").reshape(2, 2, 2)


def test_two_methods(classifier, clip):
    compare = CompareExplorer.of_methods(classifier, clip, "rollout", "chefer", threaded=False)
    left, right = AttentionRollout()(classifier, clip), CheferRelevance()(classifier, clip)
    np.testing.assert_allclose(heat(compare, "left"), left.relevance[0], rtol=1e-6)
    np.testing.assert_allclose(heat(compare, "right"), right.relevance[0], rtol=1e-5)
    assert compare.info["left"]["title"] == "AttentionRollout"
    assert compare.info["right"]["says"].startswith("predicts class")
    assert compare.info["spearman"] == pytest.approx(
        float(spearman(left.relevance.flatten(1), right.relevance.flatten(1)))
    )
    compare.set_state({"right_method": "input_x_gradient", "target": 2})
    assert compare.info["right"]["signed"]
    assert "class 2" in compare.info["right"]["target"]
    assert compare.info["left"]["target"] == "CLS"  # class-agnostic: the class does not touch it


def test_masked_against_full(classifier, clip):
    mask = HeadMask.without([(0, 0), (2, 1)], 3, 4)
    compare = CompareExplorer.of_masks(classifier, clip, mask, method="chefer", threaded=False)
    assert compare.info["left"]["title"] == "all heads"
    assert compare.info["right"]["title"] == "10 heads on"
    wanted = CheferRelevance()(classifier, clip, head_mask=mask).relevance[0]
    np.testing.assert_allclose(heat(compare, "right"), wanted, rtol=1e-5)
    compare.right_mask = HeadMask.ones(3, 4)
    assert compare.right_mask is None
    np.testing.assert_allclose(heat(compare, "right"), heat(compare, "left"), rtol=1e-6)


def test_two_clips_and_two_models(classifier, clip):
    other = ReverseFrames()(clip)
    compare = CompareExplorer.of_clips(classifier, clip, other, "chefer", threaded=False)
    assert [compare.info[side]["title"] for side in ("left", "right")] == ["left clip", "right clip"]
    assert len(compare._right_frames)
    torch.manual_seed(1)
    second = VivitForVideoClassification(VivitConfig(**{**TINY, "tubelet_size": [1, 16, 16]}, num_labels=5)).eval()
    models = CompareExplorer.of_models(classifier, second, clip, "rollout", threaded=False)
    assert models.info["spearman"] is None  # 2×2×2 and 4×2×2 tubelets
    assert len(models.right_heat) == 4 * 16
    assert "VivitForVideoClassification" in models.info["left"]["title"]


def test_labels_stand_above_the_sides(classifier, clip):
    sides = Side(classifier, clip, label="before"), Side(classifier, clip, label="after")
    compare = CompareExplorer(*sides, threaded=False)
    assert [compare.info[side]["title"] for side in ("left", "right")] == ["before", "after"]
    assert not len(compare._right_frames)  # one clip is shipped once


class NoMask:
    """A method that takes no mask."""

    class_agnostic = True

    def __call__(self, model, clip):
        return AttentionRollout()(model, clip)


def test_what_does_not_fit_is_said(classifier, clip):
    compare = CompareExplorer.of_methods(
        classifier, clip, "rollout", "plain", methods={"plain": NoMask()}, threaded=False
    )
    assert compare.error == ""
    compare.right_mask = HeadMask.without([(0, 0)], 3, 4)
    assert "NoMask takes no head mask" in compare.error
    compare.set_state({"left_method": "nothing"})
    assert "there is no method 'nothing'" in compare.error
    with pytest.raises(InputError, match=r"the mask must be \(3, 4\)"):
        CompareExplorer.of_masks(classifier, clip, HeadMask.ones(2, 2), threaded=False)
    with pytest.raises(InputError, match="a head mask wants"):
        CompareExplorer(Side(classifier, clip), Side(classifier, clip), threaded=False, right_mask="all")


def test_it_runs_in_the_background_and_shows_itself(classifier, clip):
    compare = CompareExplorer.of_methods(classifier, clip, "rollout", "smooth_grad")
    assert compare.wait()
    assert compare.error == ""
    assert "SmoothGrad" in compare._repr_html_()
    assert "AttentionRollout against SmoothGrad" in compare.to_html()
    compare.frame = 99
    assert compare.frame == 3
    compare.close()
