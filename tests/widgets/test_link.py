"""Linked views move together."""

import pytest
import torch

from tests.model.tiny import TINY
from vivit_lab.errors import InputError
from vivit_lab.model.classifier import VivitModel
from vivit_lab.model.config import VivitConfig
from vivit_lab.widgets.base import LabWidget
from vivit_lab.widgets.clip_explorer import ClipExplorer
from vivit_lab.widgets.link import link_views


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


def test_views_that_cannot_be_linked_are_refused(classifier, clip):
    one = ClipExplorer(classifier, clip, threaded=False, layer=2)
    with pytest.raises(InputError, match="two or more views to link, got 1"):
        link_views(one)
    with pytest.raises(InputError, match="LabWidget has no trait 'frame'"):
        link_views(one, LabWidget(torch.nn.Linear(1, 1)))
    shallow = VivitModel(VivitConfig(**{**TINY, "num_hidden_layers": 1})).eval()
    other = ClipExplorer(shallow, clip, threaded=False)
    with pytest.raises(InputError, match="the views cannot share layer: layer 2 is not in the record"):
        link_views(one, other)
    one.frame = 3
    assert other.frame == 0
