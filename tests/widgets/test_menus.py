"""What the explorer's controls offer."""

import pytest

from vivit_lab.attribution.registry import METHODS
from vivit_lab.records import record_attention
from vivit_lab.widgets.clip_explorer import arguments_of, is_agnostic, make_menus


@pytest.mark.parametrize("has_classes", [True, False])
def test_every_method_is_offered_and_those_of_a_class_need_a_classifier(classifier, backbone, clip, has_classes):
    model = classifier if has_classes else backbone
    methods = {name: kind() for name, kind in METHODS.items()}
    menus = make_menus(model, record_attention(model, clip), methods)
    assert [entry["name"] for entry in menus["methods"]] == ["attention", *METHODS]
    for entry in menus["methods"][1:]:
        method = methods[entry["name"]]
        assert entry["enabled"] == (has_classes or is_agnostic(method))
        assert entry["takes_class"] != is_agnostic(method)
        assert entry["takes_query"] == ("queries" in arguments_of(method))
    assert len(menus["classes"]) == (5 if has_classes else 0)
    assert ("predicts" in menus["caption"]) == has_classes
    assert (menus["layers"], menus["heads"]) == (3, 4)
