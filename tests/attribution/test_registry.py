"""Methods, settings and classes as they are typed."""

import dataclasses
import inspect

import pytest
import torch

import vivit_lab
from tests.attribution.naive import random_model
from tests.model.tiny import clips
from vivit_lab.attribution import (
    AttentionGradient,
    AttentionRollout,
    AttributionMap,
    CheferRelevance,
    IntegratedGradients,
    Occlusion,
    RawAttention,
)
from vivit_lab.attribution.registry import METHODS, class_by_name, make_method
from vivit_lab.errors import InputError
from vivit_lab.faithfulness.controls import CONTROLS
from vivit_lab.model import VivitConfig

SHORT = {"transition": {"steps": "2"}, "integrated_gradients": {"steps": "2"}, "smooth_grad": {"samples": "2"},
         "rise": {"masks": "2"}}  # fmt: skip
AGNOSTIC = {"raw", "rollout", "value_norm"}


def test_every_method_of_the_package_has_a_name():
    exported = {kind for name in vivit_lab.__all__ if isinstance(kind := getattr(vivit_lab, name), type)}
    controls = {type(control) for control in CONTROLS}
    assert set(METHODS.values()) == {kind for kind in exported if hasattr(kind, "class_agnostic")} - controls
    assert len(METHODS) == 14
    assert {name for name, kind in METHODS.items() if kind.class_agnostic} == AGNOSTIC


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_called_alike(name, tmp_path):
    model, pixels = random_model(), clips()
    method = make_method(name, SHORT.get(name))
    assert list(inspect.signature(method).parameters)[:3] == ["model", "pixel_values", "target"]
    heat = method(model, pixels, None)
    assert heat.grid.shape == (2, 2, 2)
    assert heat.relevance.any()
    heat.save(tmp_path / "map.safetensors")
    loaded = AttributionMap.load(tmp_path / "map.safetensors")
    assert loaded.metadata() == heat.metadata()
    assert ("class-agnostic" in METHODS[name].__doc__.lower()) == (name in AGNOSTIC)
    if name in AGNOSTIC:
        with pytest.raises(InputError, match="does not depend on the class, and target=1 would be ignored"):
            method(model, pixels, 1)
        assert heat.targets is None
    else:
        predicted = model(pixels).logits.argmax(dim=-1)
        assert len(heat.targets) == 2
        assert all(f"class {label} (" in text for label, text in zip(predicted.tolist(), heat.targets, strict=True))
        torch.testing.assert_close(method(model, pixels, predicted).relevance, heat.relevance)


def test_methods_by_name():
    assert make_method("rollout") == AttentionRollout()
    settings = {"start_layer": "8", "head_fusion": "max", "discard_ratio": "0.5"}
    assert make_method("AttentionRollout", settings) == AttentionRollout("max", 0.5, start_layer=8)
    assert make_method("raw", {"head": "none", "layer": "-2"}) == RawAttention(layer=-2)
    assert make_method("raw", {"head": "3"}) == RawAttention(head=3)
    assert make_method("Chefer", {"centred": "TRUE"}) == CheferRelevance(centred=True)
    assert make_method("attention_gradient", {"positive": "no"}) == AttentionGradient(positive=False)
    sizes = {"window": "2,2,1", "stride": "(1, 2, 1)", "baseline": "mean"}
    assert make_method("occlusion", sizes) == Occlusion((2, 2, 1), (1, 2, 1), "mean")
    assert make_method("occlusion", {"stride": "none"}) == Occlusion()
    assert make_method("integrated_gradients", {"baseline": "0.5"}) == IntegratedGradients(baseline=0.5)


def test_every_field_can_be_typed():
    for name, kind in METHODS.items():
        for field in dataclasses.fields(kind):
            text = str(field.default).strip("()")
            assert make_method(name, {field.name: text}) == kind(), f"{name}.{field.name}"


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("gradcam", {}, "method 'gradcam' is not known; choose one of raw, rollout, gradient_rollout, chefer"),
        ("raw", {"depth": "1"}, "RawAttention has no field 'depth'; it has layer, head_fusion, head"),
        ("input_x_gradient", {"depth": "1"}, "InputXGradient has no field 'depth'; it has none"),
        ("rollout", {"start_layer": "top"}, "AttentionRollout's start_layer wants int, got 'top'"),
        ("rollout", {"residual": "half"}, "residual wants float, got 'half'"),
        ("raw", {"head": "all"}, r"head wants int \| None, got 'all'"),
        ("chefer", {"centred": "maybe"}, "centred wants true or false, got 'maybe'"),
        ("occlusion", {"window": "2,2"}, "window wants three whole numbers t,h,w, got '2,2'"),
    ],
)
def test_methods_that_do_not_exist_are_refused(name, settings, message):
    with pytest.raises(InputError, match=message):
        make_method(name, settings)


def test_classes_by_index_and_label():
    config = VivitConfig(id2label={0: "running", 1: "Long Jump", 2: "same", 3: "Same"})
    assert [class_by_name(text, config) for text in ("1", " 0 ", "-1", "long jump", "Running ")] == [1, 0, -1, 1, 0]
    with pytest.raises(InputError, match=r"no class 'runing' \(it has 4 classes\): did you mean 'running'\?"):
        class_by_name("runing", config)
    with pytest.raises(InputError, match=r"no class 'xyz' \(it has 4 classes\): Give a label, or an index from 0"):
        class_by_name("xyz", config)
    with pytest.raises(InputError, match="several classes are called 'same': 2, 3; give the index of one"):
        class_by_name("same", config)
    with pytest.raises(InputError, match="it has no classifier"):
        class_by_name("run", VivitConfig(num_labels=0))
