"""The explorer in Python: ``set_state`` acts as the browser, and what is shipped is checked against the record."""

import threading

import numpy as np
import pytest
import torch

from tests.model.tiny import TINY
from vivit_lab.attribution import AttentionRollout, CheferRelevance, InputXGradient
from vivit_lab.errors import GridError, InputError
from vivit_lab.families import VivitForVideoClassification, VivitModel
from vivit_lab.model import VivitConfig
from vivit_lab.records import record_attention
from vivit_lab.widgets import ClipExplorer


@pytest.fixture
def explorer(classifier, clip):
    return ClipExplorer(classifier, clip, threaded=False)


def heat(explorer):
    layers = explorer.record.num_layers if explorer.heat_info["layered"] else 1
    return np.frombuffer(explorer.heat, "<f4").reshape(layers, *explorer.record.grid.shape)


def row(explorer, token):
    """(layer, t, h, w), heads averaged, from the whole patterns."""
    record = explorer.record
    rows = [torch.stack([record.pattern(layer, head)[0, token] for head in range(4)]).mean(0) for layer in range(3)]
    return record.grid.unflatten(torch.stack(rows)).numpy()


def test_it_starts_with_what_cls_attends_to_in_the_last_layer(explorer):
    assert (explorer.layer, explorer.query, explorer.method, explorer.frame) == (2, 0, "attention", 0)
    np.testing.assert_allclose(heat(explorer), row(explorer, 0), rtol=1e-5)
    np.testing.assert_allclose(explorer.map.relevance[0].numpy(), heat(explorer)[2], rtol=1e-6)
    assert explorer.heat_info["query"] == 0
    assert explorer._menus["classes"][1] == "class 1"
    assert "predicts class" in explorer._menus["caption"]


def test_a_click_ships_the_rows_of_that_token_for_all_layers(explorer):
    explorer.set_state({"query": 6})
    np.testing.assert_allclose(heat(explorer), row(explorer, 6), rtol=1e-5)
    assert explorer.heat_info["query"] == 6
    assert explorer.map.target == "token (t=1, y=0, x=1)"


def test_a_preview_is_shown_until_a_token_is_locked(explorer):
    explorer.set_state({"preview": 3})
    np.testing.assert_allclose(heat(explorer), row(explorer, 3), rtol=1e-5)
    explorer.set_state({"query": 5})
    assert explorer.shown_query == 5
    explorer.set_state({"preview": 7})
    assert explorer.heat_info["query"] == 5
    explorer.set_state({"query": 0, "preview": -1})
    assert explorer.heat_info["query"] == 0


def test_direction_and_heads_change_what_is_shipped(explorer):
    explorer.set_state({"direction": "attended_by", "head": [3, 1], "query": 2})
    record = explorer.record
    exact = torch.stack([record.columns(layer, 2)[0, [1, 3], :, 0].mean(0) for layer in range(3)])
    np.testing.assert_allclose(heat(explorer), record.grid.unflatten(exact).numpy(), rtol=1e-5)
    assert explorer.head == [1, 3]
    assert "who looks at the token, mean of heads 1, 3" in explorer.heat_info["scale"]
    explorer.head = -1
    assert explorer.head == 3


def test_drawing_and_layers_ask_nothing(explorer):
    shipped = explorer.heat
    explorer.set_state(
        {"layer": 0, "alpha": 0.5, "colormap": "cividis", "normalize": "frame", "frame": 3, "view": "heat"}
    )
    assert explorer.heat is shipped
    assert explorer.layer == 0
    np.testing.assert_allclose(explorer.map.relevance[0].numpy(), heat(explorer)[0], rtol=1e-6)


def test_a_method_runs_with_its_class_and_ships_its_map(explorer, classifier, clip):
    explorer.set_state({"method": "input_x_gradient", "target": 3})
    exact = InputXGradient()(classifier, clip, 3)
    np.testing.assert_allclose(heat(explorer)[0], exact.relevance[0].numpy(), rtol=1e-5)
    assert explorer.heat_info["signed"]
    assert explorer.heat_info["query"] is None
    assert "class 3 (class 3)" in explorer.heat_info["scale"]
    assert explorer.map.target == "class 3 (class 3)"
    shipped = explorer.heat
    explorer.set_state({"head": 1, "query": 4})  # neither is this method's business
    assert explorer.heat is shipped
    explorer.set_state({"method": "attention"})
    assert explorer.heat_info["layered"]


@pytest.mark.parametrize("query", [0, 5])
def test_methods_that_can_explain_a_token_do(explorer, classifier, clip, query):
    explorer.set_state({"query": query, "method": "chefer"})
    exact = CheferRelevance()(classifier, clip, queries=query if query else None)
    np.testing.assert_allclose(heat(explorer)[0], exact.relevance[0].numpy(), rtol=1e-5, atol=1e-9)


def test_the_token_that_is_asked_about_is_locked_until_it_is_let_go(explorer):
    assert not explorer.locked
    explorer.query = 5
    assert explorer.locked
    explorer.set_state({"preview": 3})
    assert explorer.heat_info["query"] == 5
    explorer.locked = False
    assert (explorer.query, explorer.heat_info["query"]) == (0, 3)
    explorer.locked = True  # nothing but CLS is asked about
    assert not explorer.locked


def test_a_click_asks_the_model_once(explorer, monkeypatch):
    asked, run = [], ClipExplorer._run

    def counted(self, task, *key):
        asked.append(key)
        return run(self, task, *key)

    monkeypatch.setattr(ClipExplorer, "_run", counted)
    explorer.set_state({"method": "rollout"})
    explorer.set_state({"query": 5, "locked": True, "preview": -1})
    assert [key[1] for key in asked] == [0, 5]
    explorer.executor.threaded = True
    asked.clear()
    with explorer.lock:  # both changes come before the model is free
        explorer.set_state({"query": 6, "locked": True, "preview": -1})
        explorer.set_state({"query": 7, "locked": True, "preview": -1})
    assert explorer.wait()
    assert explorer.heat_info["query"] == 7
    assert len(asked) == len(set(asked)) <= 2


def test_every_tubelet_of_a_model_without_cls_can_be_explained_its_middle_too(clip):
    torch.manual_seed(0)
    model = VivitForVideoClassification(VivitConfig(**TINY, num_labels=5, classifier="gap")).eval()
    explorer = ClipExplorer(model, clip, method="rollout", threaded=False)
    middle = explorer.query
    assert middle == model.config.grid.token(1, 1, 1)
    for locked, query in ((False, None), (True, middle)):
        explorer.set_state({"query": middle, "locked": locked, "preview": -1})
        exact = AttentionRollout()(model, clip, queries=query).relevance[0].numpy()
        np.testing.assert_allclose(heat(explorer)[0], exact, rtol=1e-5)
        assert explorer.heat_info["query"] == query
    explorer.query = 3
    explorer.query = middle  # another token is locked, not let go
    assert explorer.locked
    explorer.set_state({"locked": False})
    assert explorer.heat_info["query"] is None


def test_own_methods_and_settings_are_offered(classifier, clip):
    explorer = ClipExplorer(
        classifier, clip, methods={"upper": AttentionRollout(start_layer=1)}, method="upper", threaded=False
    )
    exact = AttentionRollout(start_layer=1)(explorer.record)
    np.testing.assert_allclose(heat(explorer)[0], exact.relevance[0].numpy(), rtol=1e-6)
    takes = {"takes_class": False, "takes_query": True}
    assert explorer._menus["methods"][-1] == {"name": "upper", "label": "upper", **takes, "enabled": True}


def test_a_map_that_was_computed_is_not_computed_again(classifier, clip):
    calls = []

    class Counted(AttentionRollout):
        def __call__(self, *args, **options):
            calls.append(1)
            return super().__call__(*args, **options)

    explorer = ClipExplorer(classifier, clip, methods={"counted": Counted()}, threaded=False)
    for name in ("counted", "attention", "counted"):
        explorer.method = name
    assert calls == [1]


def test_what_a_method_raises_is_shown_and_the_old_map_stays(backbone, clip):
    explorer = ClipExplorer(backbone, clip, threaded=False)
    shipped = explorer.heat
    enabled = {entry["name"]: entry["enabled"] for entry in explorer._menus["methods"]}
    assert enabled["rollout"]
    assert not enabled["chefer"]
    explorer.set_state({"method": "chefer"})
    assert "classifier" in explorer.error
    assert explorer.heat is shipped
    with pytest.raises(InputError, match=r"chefer has given no map: .*classifier"):
        explorer.map  # noqa: B018
    explorer.set_state({"method": "rollout"})
    assert explorer.error == ""
    explorer.set_state({"method": "nonsense"})
    assert "there is no method 'nonsense'; there are attention, raw, rollout" in explorer.error
    assert explorer.method == "rollout"


def test_the_newest_of_many_requests_is_what_is_shown(classifier, clip):
    explorer = ClipExplorer(classifier, clip)
    started, go = threading.Event(), threading.Event()
    whole = explorer.rows.layers

    def slow(token, *args):
        if token == 1:
            started.set()
            assert go.wait(20)
        return whole(token, *args)

    explorer.rows.layers = slow
    explorer.set_state({"query": 1})
    assert started.wait(20)
    for token in (2, 3, 4):
        explorer.set_state({"query": token})
    go.set()
    assert explorer.wait(20)
    assert explorer.heat_info["query"] == 4
    np.testing.assert_allclose(heat(explorer), row(explorer, 4), rtol=1e-5)


def test_returning_to_what_is_shown_drops_the_request_on_its_way(classifier, clip):
    explorer = ClipExplorer(classifier, clip)
    started, go = threading.Event(), threading.Event()
    whole = explorer.rows.layers

    def slow(token, *args):
        started.set()
        assert go.wait(20)
        return whole(token, *args)

    explorer.rows.layers = slow
    explorer.set_state({"preview": 5})
    assert started.wait(20)
    explorer.set_state({"preview": -1})
    go.set()
    assert explorer.wait(20)
    assert explorer.heat_info["query"] == 0


def test_a_model_without_cls_starts_in_the_middle_of_the_clip(clip):
    model = VivitModel(VivitConfig(**TINY, classifier="gap")).eval()
    explorer = ClipExplorer(model, clip, threaded=False)
    assert explorer.query == explorer.record.grid.token(1, 1, 1)
    assert heat(explorer).shape == (3, 2, 2, 2)
    np.testing.assert_allclose(heat(explorer), row(explorer, 7), rtol=1e-5)
    explorer.set_state({"query": 0})
    assert explorer.map.target == "token (t=0, y=0, x=0)"


@pytest.mark.parametrize(
    "variant", ["factorized_encoder", "factorized_self_attention_block", "factorized_dot_product_attention"]
)
def test_factorised_models_are_shown_on_their_whole_grid(clip, variant):
    model = VivitModel(VivitConfig(**TINY, variant=variant)).eval()
    explorer = ClipExplorer(model, clip, threaded=False, query=3)
    record = explorer.record
    exact = torch.stack([record.rows(layer, 3)[0, :, 0].mean(0) for layer in record.layers])
    np.testing.assert_allclose(heat(explorer), record.grid.unflatten(exact).numpy(), rtol=1e-5)
    explorer.set_state({"direction": "attended_by"})
    assert explorer.error == ""
    assert len(explorer.offline_state()["_table_info"]["layers"]) == record.num_layers


@pytest.mark.parametrize(
    ("traits", "message"),
    [
        ({"layer": 3}, "layer 3 is not in the record"),
        ({"query": 9}, "token"),
        ({"head": 4}, "head must be one of"),
        ({"colormap": "jet"}, "no colormap 'jet'"),
        ({"normalize": "row"}, "normalize"),
        ({"alpha": 1.5}, "alpha"),
        ({"direction": "up"}, "direction"),
        ({"laier": 1}, "did you mean layer"),
    ],
)
def test_first_values_that_do_not_fit_are_refused(classifier, clip, traits, message):
    with pytest.raises(InputError, match=message):
        ClipExplorer(classifier, clip, threaded=False, **traits)


def test_clips_that_do_not_fit_are_refused(classifier, clip):
    from dataclasses import replace

    with pytest.raises(InputError, match="prepare"):
        ClipExplorer(classifier, replace(clip, pixel_values=None, geometry=None))
    record = record_attention(classifier, clip)
    short = replace(clip, frames=clip.frames[:2], seconds=clip.seconds[:2], indices=clip.indices[:2])
    with pytest.raises(GridError, match="the clip was prepared as 2 frames"):
        ClipExplorer(classifier, short, record=record)
    both = record_attention(classifier, [clip, clip])
    with pytest.raises(InputError, match="record of one clip"):
        ClipExplorer(classifier, clip, record=both)


def test_a_frame_outside_the_clip_is_the_nearest_one(explorer):
    explorer.frame = 99
    assert explorer.frame == 3
    explorer.frame = -4
    assert explorer.frame == 0


def test_the_model_is_left_as_it_was(classifier, clip):
    classifier.train()
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    explorer = ClipExplorer(classifier, clip, threaded=False, method="chefer")
    assert explorer.error == ""
    assert classifier.training
    assert all(module.training for module in classifier.modules())
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())
    assert not any(block._forward_pre_hooks for block in classifier.blocks)
