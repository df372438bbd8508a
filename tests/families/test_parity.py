"""Ours equals transformers (4.56.2 and 5, eager) on the same random weights, over unusual configurations."""

import pytest
import torch

from tests.model.tiny import clips, pair, peer_name
from tests.peers import TRANSFORMERS, needs_transformers_4
from vivit_lab.families import VivitModel

pytestmark = pytest.mark.peer

CONFIGS = {
    "default": {},
    "odd grid": {"image_size": 48, "num_frames": 6, "tubelet_size": [2, 16, 24]},
    "one token in time": {"num_frames": 3, "tubelet_size": [3, 8, 16]},
    "frames one by one": {"num_frames": 5, "tubelet_size": [1, 16, 16], "qkv_bias": False},
    "no bias": {"qkv_bias": False, "hidden_act": "gelu"},
    "grey": {"num_channels": 1, "num_attention_heads": 1},
    "relu": {"hidden_act": "relu", "num_labels": 1},
    "gelu_new": {"hidden_act": "gelu_new", "num_hidden_layers": 1},
    "gelu_fast": {"hidden_act": "gelu_fast", "num_attention_heads": 12},
    "quick_gelu": {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-3},
    "silu": {"hidden_act": "silu", "intermediate_size": 17},
    "no labels": {"num_labels": 0},
}


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("fields", CONFIGS.values(), ids=CONFIGS)
def test_outputs_are_the_peers(fields, implementation):
    ours, peer = pair(**fields)
    ours.set_attn_implementation(implementation)
    pixels = clips(**fields)
    with torch.no_grad():
        got = ours(pixels, output_attentions=True, output_hidden_states=True)
        fused = ours(pixels)
        want = peer(pixels, output_attentions=True, output_hidden_states=True)
    close(got.logits, want.logits)
    close(fused.logits, want.logits)
    assert len(got.hidden_states) == len(want.hidden_states)
    *middle, last = want.hidden_states
    for mine, theirs in zip(got.hidden_states, middle, strict=False):
        close(mine, theirs)
    # ours is after the final LayerNorm, as transformers 4's is; transformers 5's is before
    close(got.hidden_states[-1], last if TRANSFORMERS < 5 else ours.ln_final(last))
    for mine, theirs in zip(got.attentions, want.attentions, strict=True):
        close(mine, theirs)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "no labels"])
def test_gradients_are_the_peers(name, implementation):
    fields = {"initializer_range": 0.1, **CONFIGS[name]}
    ours, peer = pair(**fields)
    ours.set_attn_implementation(implementation)
    pixels = clips(**fields)
    labels = torch.tensor([0.5, -1.0]) if fields.get("num_labels") == 1 else torch.tensor([1, 3])
    mine, theirs = pixels.clone().requires_grad_(), pixels.clone().requires_grad_()
    loss, want = ours(mine, labels=labels).loss, peer(theirs, labels=labels).loss
    close(loss, want)
    loss.backward()
    want.backward()
    close(mine.grad, theirs.grad)
    gradients = {name: parameter.grad for name, parameter in peer.named_parameters()}
    for name, parameter in ours.named_parameters():
        close(parameter.grad, gradients[peer_name(name, classifier=True)])


@needs_transformers_4
@pytest.mark.parametrize("shape", ["heads", "layers", "hugging face"])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_a_head_mask_is_the_peers_eager_one_in_every_implementation(implementation, shape):
    ours, peer = pair()
    ours.set_attn_implementation(implementation)
    pixels = clips()
    mask = {
        "heads": torch.tensor([1.0, 0.0, 0.5, 1.0]),
        "layers": torch.rand(3, 4),
        "hugging face": torch.rand(3, 1, 4, 1, 1),
    }[shape]
    mine, theirs = mask.clone().requires_grad_(), mask.clone().requires_grad_()
    got = ours(pixels, head_mask=mine, labels=torch.tensor([0, 1]))
    want = peer(pixels, head_mask=theirs, labels=torch.tensor([0, 1]))
    close(got.logits, want.logits)
    assert (got.logits - ours(pixels).logits).abs().max() > 1e-3  # it does something
    (gradient,) = torch.autograd.grad(got.loss, mine)
    (wanted,) = torch.autograd.grad(want.loss, theirs)
    assert wanted.abs().max() > 1e-4
    close(gradient, wanted)
    with torch.no_grad():
        patterns = ours(pixels, head_mask=mask, output_attentions=True).attentions
        wanted = peer(pixels, head_mask=mask, output_attentions=True).attentions
    for mine, theirs in zip(patterns, wanted, strict=True):
        close(mine, theirs)


def test_the_bare_model_is_the_peers():
    ours, peer = pair(classifier=False)
    pixels = clips()
    with torch.no_grad():
        got, want = ours(pixels), peer(pixels)
    close(got.last_hidden_state, want.last_hidden_state)
    close(got.pooler_output, want.pooler_output)


@pytest.mark.skipif(TRANSFORMERS < 5, reason="transformers 4 has no such fields")
@pytest.mark.parametrize("act", ["relu", "sigmoid", "gelu", "linear"])
def test_the_poolers_activation_and_width_are_the_peers(act, tmp_path):
    ours, peer = pair(classifier=False, pooler_act=act, pooler_output_size=7)
    pixels = clips()
    with torch.no_grad():
        want = peer(pixels).pooler_output
        close(ours(pixels).pooler_output, want)
        peer.save_pretrained(tmp_path / "theirs")
        close(VivitModel.from_pretrained(tmp_path / "theirs")(pixels).pooler_output, want)
        ours.save_pretrained(tmp_path / "ours")
        close(type(peer).from_pretrained(tmp_path / "ours")(pixels).pooler_output, want)


@pytest.mark.parametrize(
    ("num_labels", "labels"),
    [
        (1, torch.tensor([0.3, -1.0])),
        (5, torch.tensor([4, 0])),
        (5, torch.tensor([[0.0, 1, 0, 1, 1], [1, 0, 0, 0, 0]])),
    ],
    ids=["regression", "single label", "multi label"],
)
def test_the_three_losses_are_the_peers(num_labels, labels):
    ours, peer = pair(num_labels=num_labels)
    pixels = clips()
    close(ours(pixels, labels=labels).loss, peer(pixels, labels=labels).loss)
