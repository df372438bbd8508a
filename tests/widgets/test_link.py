"""Linked views move together."""

import pytest
import torch

from tests.model.tiny import TINY
from vivit_lab.errors import InputError
from vivit_lab.families import VivitModel
from vivit_lab.model import VivitConfig
from vivit_lab.widgets import ClipExplorer, link_views
from vivit_lab.widgets.base import LabWidget


def test_views_share_frame_layer_head_and_query(classifier, clip):
    left = ClipExplorer(classifier, clip, threaded=False, layer=1)
    right = ClipExplorer(classifier, clip, threaded=False, direction="attended_by")
    links = link_views(left, right)
    assert right.layer == 1
    right.set_state({"frame": 2, "query": 5, "head": 3})
    assert (left.frame, left.query, left.head) == (2, 5, 3)
    assert left.heat_info["query"] == right.heat_info["query"] == 5
    assert (left.direction, right.direction) == ("attends_to", "attended_by")
    assert left._group == right._group != ""
    for link in links:
        link.unlink()
    left.frame = 0
    assert right.frame == 2


@pytest.fixture
def pooled():
    """A model without CLS."""
    torch.manual_seed(0)
    return VivitModel(VivitConfig(**TINY, classifier="gap")).eval()


def test_what_is_locked_in_one_view_is_in_all(classifier, pooled, clip):
    for model in (classifier, pooled):
        left = ClipExplorer(model, clip, threaded=False)
        right = ClipExplorer(model, clip, threaded=False, direction="attended_by")
        home = left.query
        link_views(left, right)
        for one, other in ((left, right), (right, left)):
            one.set_state({"query": 5, "locked": True, "preview": -1})  # a click
            assert (other.query, other.locked) == (5, True)
            other.set_state({"query": home, "locked": False, "preview": -1})  # Escape
            assert (one.query, one.locked, other.locked) == (home, False, False)
            one.locked = True
            assert one.locked == other.locked == (model is pooled)
            assert one.error == other.error == ""
            other.locked = False
            assert not one.locked


def test_views_that_cannot_be_linked_are_refused(classifier, pooled, clip):
    one = ClipExplorer(classifier, clip, threaded=False, layer=2)
    with pytest.raises(InputError, match="two or more views to link, got 1"):
        link_views(one)
    mean = ClipExplorer(pooled, clip, threaded=False)
    with pytest.raises(InputError, match=r"cannot share query: .*link them by traits=\('frame', 'layer', 'head'\)"):
        link_views(one, mean)
    assert link_views(one, mean, traits=("frame", "layer", "head"))
    with pytest.raises(InputError, match="LabWidget has no trait 'frame'"):
        link_views(one, LabWidget(torch.nn.Linear(1, 1)))
    shallow = VivitModel(VivitConfig(**{**TINY, "num_hidden_layers": 1})).eval()
    other = ClipExplorer(shallow, clip, threaded=False)
    with pytest.raises(InputError, match="the views cannot share layer: layer 2 is not in the record"):
        link_views(one, other)
    one.frame = 3
    assert other.frame == 0
