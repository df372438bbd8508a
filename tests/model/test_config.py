"""The configuration is Hugging Face's, and refuses what no ViViT can be."""

import pytest
import transformers

from vivit_lab.errors import CheckpointWarning, ConfigError
from vivit_lab.grid import TokenGrid
from vivit_lab.model import VivitConfig

pytestmark = pytest.mark.peer


def test_defaults_are_the_peers():
    theirs = transformers.VivitConfig().to_dict()
    ours = VivitConfig().to_dict()
    for name, value in ours.items():
        if name == "id2label":
            value = {int(index): label for index, label in value.items()}
        assert value == theirs[name], name


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"num_labels": 7, "tubelet_size": [4, 8, 8]},
        {"id2label": {0: "cat", 1: "dog", 2: "eel"}, "label2id": {"cat": 0, "dog": 1, "eel": 2}},
    ],
)
def test_round_trip_with_the_peer(fields):
    theirs = transformers.VivitConfig(**fields)
    ours = VivitConfig.from_dict(theirs.to_dict())
    assert ours.num_labels == theirs.num_labels
    assert ours.id2label == theirs.id2label
    back = transformers.VivitConfig.from_dict(ours.to_dict())
    assert back.to_dict() == theirs.to_dict()
    assert VivitConfig.from_dict(ours.to_dict()) == ours


def test_grid_of_the_published_model():
    assert VivitConfig().grid == TokenGrid(16, 14, 14, (2, 16, 16))
    assert VivitConfig().head_dim == 64


def test_published_extra_fields_are_kept_and_written_back():
    config = VivitConfig.from_dict({"video_size": [32, 224, 224], "torch_dtype": "float32", "model_type": "vivit"})
    assert config.to_dict()["video_size"] == [32, 224, 224]


def test_a_saved_choice_of_attention_is_read():
    assert VivitConfig.from_dict({"_attn_implementation": "eager"}).attn_implementation == "eager"
    assert VivitConfig.from_dict({"_attn_implementation": "flex_attention"}).attn_implementation == "sdpa"
    assert VivitConfig.from_dict({"image_size": [32, 32]}).image_size == 32


def test_labels_follow_what_is_given():
    config = VivitConfig(id2label={0: "a", 1: "b", 2: "c"})
    assert (config.num_labels, config.label2id) == (3, {"a": 0, "b": 1, "c": 2})
    assert config.replace(num_labels=2).id2label == {0: "LABEL_0", 1: "LABEL_1"}
    assert config.replace(id2label={0: "x"}).num_labels == 1
    assert config.replace(num_labels=3).id2label == config.id2label


def test_classes_are_in_the_order_of_their_numbers():
    for config in (
        VivitConfig.from_dict({"id2label": {"0": "a", "2": "c", "1": "b"}}),
        VivitConfig.from_dict({"label2id": {"b": 1, "c": 2, "a": 0}}),
        VivitConfig().replace(id2label={2: "c", 1: "b", 0: "a"}),
    ):
        assert list(config.id2label.items()) == [(0, "a"), (1, "b"), (2, "c")]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 50}, "hidden_size=50 is not a multiple of num_attention_heads=12"),
        ({"hidden_act": "gelu_slow"}, "hidden_act='gelu_slow' is not known; choose one of .*gelu_fast"),
        ({"attn_implementation": "paged"}, "attn_implementation='paged' is not known"),
        ({"problem_type": "guess"}, "problem_type='guess' is not known"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be a positive integer, got 0"),
        ({"num_channels": 3.0}, "num_channels must be a positive integer"),
        ({"hidden_dropout_prob": 1.0}, r"hidden_dropout_prob must lie in \[0, 1\)"),
        ({"image_size": 225}, "make no token grid: height=225"),
        ({"num_frames": 33}, "make no token grid: frames=33"),
        ({"tubelet_size": [2, 16]}, "tubelet"),
        ({"num_labels": -1}, "num_labels must be 0 or a positive integer"),
        ({"num_labels": 3, "id2label": {0: "a"}}, "num_labels=3, but id2label names 1"),
        ({"id2label": {0: "a", 2: "b"}}, "id2label must name every class from 0 to 1"),
    ],
)
def test_impossible_fields_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        VivitConfig(**fields)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "timesformer"}, "got 'timesformer'"),
        ({"quantization_config": {"bits": 4}}, "is quantised"),
        ({"hidden_dropout_prob": "0.1"}, "hidden_dropout_prob must be a number, 0 or more, got '0.1'"),
        ({"layer_norm_eps": "1e-6"}, "layer_norm_eps must be a number"),
        ({"tubelet_size": 2}, "tubelet_size must be three integers"),
        ({"tubelet_size": [2, 16, 16.0]}, "tubelet_size must be three integers"),
        ({"image_size": [224, 112]}, "image_size must be square"),
        ({"pruned_heads": {"0": [12]}}, "pruned_heads names layer 0, heads \\[12\\]"),
    ],
)
def test_foreign_configurations_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        VivitConfig.from_dict(values)


def test_unknown_fields_of_a_file_are_kept_with_a_warning():
    with pytest.warns(
        CheckpointWarning, match=r"'hiden_size' \(did you mean 'hidden_size'\?\); kept, but without effect"
    ):
        config = VivitConfig.from_dict({"hiden_size": 48})
    assert config.to_dict()["hiden_size"] == 48
    with pytest.warns(CheckpointWarning, match="'extra'"):
        VivitConfig.from_dict({"extra": {}})
    # what transformers' own dumps carry is no surprise
    VivitConfig.from_dict(
        {"_attn_implementation_autoset": True, "_commit_hash": "abc", "gradient_checkpointing": False}
    )
    assert VivitConfig.from_dict({"label2id": {"cat": 0, "dog": 1}}).id2label == {0: "cat", 1: "dog"}


def test_a_changed_size_changes_the_video_size_too():
    config = VivitConfig.from_dict({"video_size": [32, 224, 224]}).replace(num_frames=8, image_size=64)
    assert config.to_dict()["video_size"] == [8, 64, 64]


def test_configurations_hash_and_compare():
    assert hash(VivitConfig()) == hash(VivitConfig())
    assert VivitConfig() != VivitConfig(num_labels=3)


def test_saving_and_loading_alone(tmp_path):
    config = VivitConfig(num_frames=8, id2label={0: "a", 1: "b", 2: "c"})
    config.save_pretrained(tmp_path / "new")
    assert VivitConfig.from_pretrained(tmp_path / "new") == config
    assert transformers.VivitConfig.from_pretrained(tmp_path / "new").num_frames == 8
    assert VivitConfig.from_pretrained("bundled").hidden_size == 384


def test_replace_refuses_unknown_fields():
    with pytest.raises(ConfigError, match="not a field of a ViViT configuration: 'layers'"):
        VivitConfig().replace(layers=3)
