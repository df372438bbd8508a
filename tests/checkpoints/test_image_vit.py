"""Reading image models: what is taken, folded, left out and refused."""

import pytest
import torch
import transformers

from tests.checkpoints.image_peers import SIZES, dino, vit
from tests.peers import file_state
from vivit_lab.checkpoints.image_vit import inflate, read_image_vit
from vivit_lab.errors import CheckpointError, CheckpointNotFoundError, ConfigError, InputError, KeyMismatchError

pytestmark = pytest.mark.peer


def test_sizes_come_from_the_weights():
    image = read_image_vit(vit(qkv_bias=False, num_channels=1).state_dict())
    assert image.grid == (3, 3)
    assert image.num_attention_heads is None
    assert image.config == {
        "hidden_size": 32,
        "num_channels": 1,
        "num_hidden_layers": 2,
        "intermediate_size": 48,
        "qkv_bias": False,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "initializer_range": 0.02,
    }


def test_settings_come_from_the_configuration(tmp_path):
    vit(hidden_act="relu", layer_norm_eps=1e-3).save_pretrained(tmp_path)
    image = read_image_vit(tmp_path)
    assert (image.config["hidden_act"], image.config["layer_norm_eps"], image.num_attention_heads) == ("relu", 1e-3, 4)


def test_a_dinov2_has_another_epsilon():
    assert read_image_vit(dino().state_dict()).config["layer_norm_eps"] == 1e-6


def test_layer_scale_is_folded_into_the_layer_before_it():
    state = file_state(dino())
    state["encoder.layer.1.layer_scale1.lambda1"] = torch.linspace(-1, 2, 32)
    folded = read_image_vit(state).tensors
    x = torch.randn(5, 32)
    weight, bias = (state[f"encoder.layer.1.attention.output.dense.{kind}"] for kind in ("weight", "bias"))
    bias.normal_()
    folded = read_image_vit(state).tensors
    wanted = torch.nn.functional.linear(x, weight, bias) * torch.linspace(-1, 2, 32)
    torch.testing.assert_close(
        torch.nn.functional.linear(x, folded["blocks.1.attn.o.weight"], folded["blocks.1.attn.o.bias"]), wanted
    )
    assert not any("scale" in name for name in folded)


def test_half_precision_is_converted_in_float32():
    assert {value.dtype for value in read_image_vit(dino().half().state_dict()).tensors.values()} == {torch.float32}


@pytest.mark.parametrize("prefix", ["", "vit.", "dinov2."])
def test_prefixes_and_what_has_no_place_are_left_out(prefix):
    state = (dino if prefix == "dinov2." else vit)().state_dict()
    extra = {"classifier.weight": torch.zeros(3, 32), "classifier.bias": torch.zeros(3)}
    image = read_image_vit({f"{prefix}{name}": value for name, value in state.items()} | extra)
    assert {name.split(".")[0] for name in image.tensors} == {"embed", "blocks", "ln_final"}


def test_a_file_of_weights_alone(tmp_path):
    dino().save_pretrained(tmp_path)
    assert read_image_vit(tmp_path / "model.safetensors").num_attention_heads is None
    with pytest.raises(CheckpointNotFoundError, match="there is no file of weights"):
        read_image_vit(tmp_path / "other.safetensors")
    (tmp_path / "config.json").unlink()
    assert read_image_vit(tmp_path).grid == (3, 3)


def test_unknown_and_missing_tensors_are_listed():
    state = file_state(vit())
    del state["layernorm.weight"], state["encoder.layer.1.output.dense.bias"]
    state |= {"embeddings.distillation_token": torch.zeros(1), "encoder.layer.0.gate.weight": torch.zeros(1)}
    with pytest.raises(KeyMismatchError) as caught:
        read_image_vit(state)
    text = str(caught.value)
    assert "Unknown tensors (2): embeddings.distillation_token, encoder.layer.0.gate.weight" in text
    assert "(2): encoder.layer.1.output.dense.bias [blocks.1.mlp.fc2.bias], layernorm.weight [ln_final.weight]" in text


def test_other_kinds_of_model_say_what_they_are(tmp_path):
    with pytest.raises(ConfigError, match="has SwiGLU layers"):
        read_image_vit(dino(use_swiglu_ffn=True).state_dict())
    registers = transformers.Dinov2WithRegistersConfig(**SIZES, mlp_ratio=2, num_register_tokens=2)
    with pytest.raises(ConfigError, match="has register tokens"):
        read_image_vit(transformers.Dinov2WithRegistersModel(registers).state_dict())
    with pytest.raises(ConfigError, match=r"has no embeddings\.cls_token.*it has conv\.weight"):
        read_image_vit({"conv.weight": torch.zeros(1)})
    with pytest.raises(InputError, match="got 'a' → int"):
        read_image_vit({"a": 1})


def test_a_grid_that_is_no_square_needs_the_configuration(tmp_path):
    model = vit(image_size=[16, 40])
    model.save_pretrained(tmp_path)
    assert read_image_vit(tmp_path).grid == (2, 5)
    with pytest.raises(CheckpointError, match="the 10 positions are no square of patches"):
        read_image_vit(model.state_dict())


@pytest.mark.parametrize("frames", [1, 2, 3, 4])
def test_a_tubelet_filter_sums_to_the_patch_filter(frames):
    weight = torch.randn(4, 3, 5, 6)
    for init in ("central_frame", "inflate"):
        torch.testing.assert_close(inflate(weight, frames, init).sum(dim=2), weight)
    central = inflate(weight, frames, "central_frame")
    assert torch.equal(central[:, :, frames // 2], weight)
    assert int(central.abs().sum(dim=(0, 1, 3, 4)).count_nonzero()) == 1
    spread = inflate(weight, frames, "inflate")
    assert torch.equal(spread, spread[:, :, :1].expand_as(spread))


def test_another_init_is_refused():
    with pytest.raises(ConfigError, match="init='random' is not known; choose 'central_frame' or 'inflate'"):
        inflate(torch.zeros(1, 1, 1, 1), 2, "random")
