"""Names of tensors, and which goes where."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.checkpoints.version_5 import version_5
from tests.model.tiny import TINY, file_name
from vivit_lab.checkpoints.huggingface import both_names, foreign_name, match_tensors, own_name
from vivit_lab.errors import KeyMismatchError
from vivit_lab.families import VivitForVideoClassification, VivitModel
from vivit_lab.model import VivitConfig


def shapes(classifier=True, **fields):
    kind = VivitForVideoClassification if classifier else VivitModel
    model = kind(VivitConfig(**{**TINY, "num_labels": 5, **fields}))
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


@pytest.mark.parametrize("prefixed", [True, False])
@pytest.mark.parametrize("classifier", [True, False])
def test_names_go_there_and_back(classifier, prefixed):
    for own in shapes(classifier):
        foreign = foreign_name(own, prefixed=prefixed)
        assert foreign == file_name(own, classifier=prefixed)
        assert own_name(foreign) == own_name(version_5(foreign)) == own_name(own) == own


def test_the_two_versions_differ_where_they_should():
    assert version_5("vivit.encoder.layer.3.output.dense.bias") == "vivit.layers.3.mlp.fc2.bias"
    assert own_name("vivit.layers.3.attention.o_proj.weight") == "blocks.3.attn.o.weight"
    assert own_name("vivit.encoder.layer.11.attention.output.dense.weight") == "blocks.11.attn.o.weight"


NOT_OURS = ["", "head.weight", "encoder.layer.x.output.dense.bias", "encoder.layer.0.gate.weight"]
NOT_OURS += ["encoder.layer.0.output.dense", "blocks.0.attn.qkv.weight", "vivit.vivit.layernorm.weight"]


@pytest.mark.parametrize("name", NOT_OURS)
def test_other_names_are_not_guessed(name):
    assert own_name(name) is None


def test_an_unknown_parameter_cannot_be_written():
    with pytest.raises(KeyMismatchError, match=r"'blocks\.0\.adapter\.weight' has no name in Hugging Face's ViViT"):
        foreign_name("blocks.0.adapter.weight", prefixed=False)


def found(wanted, prefixed=True):
    return {foreign_name(name, prefixed=prefixed): shape for name, shape in wanted.items()}


def match(have, want, **options):
    return match_tensors(have, want, origin="somewhere", model="VivitModel", **options)


@given(st.randoms())
def test_all_that_matches_is_used_in_any_order(random):
    wanted = shapes()
    names = list(found(wanted))
    random.shuffle(names)
    plan = match({name: found(wanted)[name] for name in names}, wanted)
    assert plan.sources == {own_name(name): name for name in names}
    assert plan.describe("somewhere", "VivitModel") == ""


def test_a_bare_checkpoint_leaves_the_classifier_fresh_and_drops_the_pooler():
    plan = match(found(shapes(classifier=False), prefixed=False), shapes())
    assert plan.fresh == ("classifier.weight", "classifier.bias")
    assert plan.dropped == ("pooler.dense.weight", "pooler.dense.bias")
    message = plan.describe("somewhere", "VivitForVideoClassification")
    assert "newly initialised: classifier.weight, classifier.bias" in message
    assert "not used: pooler.dense.weight, pooler.dense.bias" in message


def test_all_that_differs_is_listed():
    wanted = shapes()
    have = found(wanted)
    del have["vivit.layernorm.weight"], have["vivit.encoder.layer.2.output.dense.bias"]
    have |= {"vivit.extra": (1,), "vivit.encoder.layer.9.output.dense.bias": (48,)}
    have["vivit.embeddings.position_embeddings"] = (1, 99, 48)
    have["vivit.embeddings.cls_token"] = (1, 48)
    with pytest.raises(KeyMismatchError) as caught:
        match(have, wanted)
    text = str(caught.value)
    assert (
        "missing (2): encoder.layer.2.output.dense.bias [blocks.2.mlp.fc2.bias], layernorm.weight [ln_final.weight]"
        in text
    )
    assert "unexpected (2): vivit.extra, vivit.encoder.layer.9.output.dense.bias [blocks.9.mlp.fc2.bias]" in text
    assert "other shape (2): embeddings.cls_token [embed.cls_token] (checkpoint (1, 48), model (1, 1, 48))" in text
    assert "embeddings.position_embeddings [embed.position] (checkpoint (1, 99, 48), model (1, 9, 48))" in text
    assert "interpolate_pos_encoding=True" in text


def test_long_lists_are_not_shortened():
    wanted = shapes()
    with pytest.raises(KeyMismatchError) as caught:
        match({}, wanted)
    assert all(foreign_name(name, prefixed=False) in str(caught.value) for name in wanted if "classifier" not in name)


def test_a_head_of_another_size_is_refused_or_drawn_anew():
    have, want = found(shapes(num_labels=400)), shapes(num_labels=5)
    with pytest.raises(
        KeyMismatchError, match=r"classifier\.weight \(checkpoint \(400, 48\), model \(5, 48\)\)"
    ) as caught:
        match(have, want)
    assert "pass ignore_mismatched_sizes=True" in str(caught.value)
    plan = match(have, want, ignore_mismatched_sizes=True)
    assert set(plan.fresh) == {"classifier.weight", "classifier.bias"} == set(want) - set(plan.sources)
    assert "another shape: classifier.weight (checkpoint (400, 48), model (5, 48))" in plan.describe("x", "y")


def test_a_body_of_another_size_is_always_refused():
    have = found(shapes())
    have["vivit.layernorm.bias"] = (7,)
    with pytest.raises(KeyMismatchError, match=r"other shape \(1\): layernorm\.bias \[ln_final\.bias\] \(checkpoint"):
        match(have, shapes(), ignore_mismatched_sizes=True)


def test_a_tensor_under_two_names_is_refused():
    have = found(shapes()) | {"layernorm.weight": (48,)}
    with pytest.raises(KeyMismatchError, match=r"there twice \(1\): vivit\.layernorm\.weight and layernorm\.weight"):
        match(have, shapes())


def test_a_message_names_a_tensor_as_the_file_does_and_then_as_we_do():
    wanted = shapes()
    for own in wanted:
        foreign = file_name(own, classifier=False)
        assert both_names(own) == (foreign if foreign == own else f"{foreign} [{own}]")
    assert both_names("classifier.weight") == "classifier.weight"
    with pytest.raises(KeyMismatchError, match=r"unexpected \(1\): blocks\.9\.ln1\.bias$"):
        match(found(wanted) | {"blocks.9.ln1.bias": (48,)}, wanted)
