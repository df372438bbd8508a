"""A ViViT started from an image model does on a static clip what the image model does on its frame."""

import pytest
import torch
from torch.nn import functional

from tests.checkpoints.image_peers import dino, vit
from tests.peers import TRANSFORMERS, file_state
from vivit_lab.errors import ConfigError
from vivit_lab.families import VivitForVideoClassification, VivitModel, vivit_from_image_model

pytestmark = pytest.mark.peer

INITS = ["central_frame", "inflate"]
PEERS = {"vit": vit, "dinov2": dino}


def perturbed(peer):
    """Move every parameter from its initial value, so that nothing is right by being zero or one."""
    with torch.no_grad():
        for name, parameter in peer.named_parameters():
            parameter.add_(torch.randn_like(parameter) * (0.3 if "lambda" in name else 0.1))
    return peer


def convert(peer, **options):
    options = {"num_frames": 2, "image_size": 24, "num_attention_heads": 4, "layer_norm_eps": 1e-12, **options}
    return vivit_from_image_model(peer.state_dict(), **options)


def static(frame, frames):
    return frame[:, None].expand(-1, frames, -1, -1, -1)


@pytest.mark.parametrize("tubelet", [1, 2, 3])
@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("kind", PEERS)
def test_one_tubelet_in_time_is_the_image_model(kind, init, tubelet):
    peer = perturbed(PEERS[kind](layer_norm_eps=1e-12))
    model = convert(peer, num_frames=tubelet, tubelet_frames=tubelet, init=init)
    frame = torch.randn(2, 3, 24, 24)
    with torch.no_grad():
        ours = model(static(frame, tubelet)).last_hidden_state
        theirs = peer(frame).last_hidden_state
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", PEERS)
def test_positions_are_resized_as_the_image_model_does(kind):
    peer = perturbed(PEERS[kind](layer_norm_eps=1e-12))
    model = convert(peer, image_size=40)
    frame = torch.randn(1, 3, 40, 40)
    options = {"interpolate_pos_encoding": True} if kind == "vit" else {}
    with torch.no_grad():
        ours, theirs = model(static(frame, 2)).last_hidden_state, peer(frame, **options).last_hidden_state
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def seen_many_times(peer, frame, times, heads=4):
    """The image ViT if every patch stood in its sequence ``times`` times: a patch's score gains log(times).

    Written from the state dict alone, in the plainest form.
    """
    state = file_state(peer)

    def linear(x, name):
        return functional.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(x, name):
        return functional.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-12)

    patches = "embeddings.patch_embeddings.projection"
    x = (
        functional.conv2d(frame, state[f"{patches}.weight"], state[f"{patches}.bias"], stride=8)
        .flatten(2)
        .transpose(1, 2)
    )
    x = (
        torch.cat((state["embeddings.cls_token"].expand(len(x), -1, -1), x), 1)
        + state["embeddings.position_embeddings"]
    )
    bonus = torch.full((x.shape[1],), float(times)).log()
    bonus[0] = 0
    for i in range(2):
        layer = f"encoder.layer.{i}"
        y = norm(x, f"{layer}.layernorm_before")
        q, k, v = (
            linear(y, f"{layer}.attention.attention.{part}").unflatten(-1, (heads, -1)).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        pattern = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + bonus).softmax(-1)
        x = x + linear((pattern @ v).transpose(1, 2).flatten(2), f"{layer}.attention.output.dense")
        y = linear(norm(x, f"{layer}.layernorm_after"), f"{layer}.intermediate.dense")
        x = x + linear(functional.gelu(y), f"{layer}.output.dense")
    return norm(x, "layernorm")


def test_the_reference_above_is_the_image_model_when_patches_stand_once():
    peer, frame = perturbed(vit()), torch.randn(2, 3, 24, 24)
    with torch.no_grad():
        torch.testing.assert_close(seen_many_times(peer, frame, 1), peer(frame).last_hidden_state, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("t", [2, 5])
def test_many_tubelets_in_time_are_the_image_model_that_sees_each_patch_as_often(t, init):
    peer = perturbed(vit())
    model = convert(peer, num_frames=2 * t, init=init)
    frame = torch.randn(2, 3, 24, 24)
    with torch.no_grad():
        ours = model(static(frame, 2 * t)).last_hidden_state
        theirs = seen_many_times(peer, frame, t)
        plain = peer(frame).last_hidden_state
    torch.testing.assert_close(ours[:, 0], theirs[:, 0], rtol=1e-5, atol=1e-5)
    for copy in ours[:, 1:].unflatten(1, (t, -1)).unbind(1):
        torch.testing.assert_close(copy, theirs[:, 1:], rtol=1e-5, atol=1e-5)
    assert (ours[:, 0] - plain[:, 0]).abs().max() > 1e-3  # which is not the plain image model


@pytest.mark.parametrize("init", INITS)
def test_time_is_not_seen(init):
    model = convert(perturbed(dino()), num_frames=6, init=init)
    clip = torch.randn(1, 3, 3, 24, 24).repeat_interleave(2, dim=1)  # both frames of a tubelet are equal
    with torch.no_grad():
        forth, back = model(clip).last_hidden_state, model(clip.flip(1)).last_hidden_state
    torch.testing.assert_close(back[:, 0], forth[:, 0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        back[:, 1:].unflatten(1, (3, 9)).flip(1), forth[:, 1:].unflatten(1, (3, 9)), rtol=1e-5, atol=1e-5
    )


def test_the_central_frame_alone_is_seen():
    model = convert(perturbed(vit()), num_frames=3, tubelet_frames=3, init="central_frame")
    clip = torch.randn(1, 3, 3, 24, 24)
    with torch.no_grad():
        before = model(clip).last_hidden_state
        others = clip.clone()
        others[:, [0, 2]] = 9.0
        assert torch.equal(model(others).last_hidden_state, before)


def test_the_class_follows_the_labels():
    bare = convert(vit())
    assert isinstance(bare, VivitModel)
    assert bare.pooler is None
    assert not bare.training
    classifier = convert(vit(), num_labels=7)
    assert isinstance(classifier, VivitForVideoClassification)
    assert classifier.config.num_labels == 7
    assert classifier.classifier.weight.any()
    assert isinstance(convert(vit(), num_labels=0).classifier, torch.nn.Identity)


def test_a_directory_tells_the_heads_and_the_name(tmp_path):
    dino().save_pretrained(tmp_path)
    model = vivit_from_image_model(tmp_path, image_size=24, num_frames=4, dtype="bfloat16", hidden_act="relu")
    assert model.config.num_attention_heads == 4
    assert model.config.hidden_act == "relu"
    assert model.dtype == torch.bfloat16
    assert model.name_or_path == str(tmp_path)
    model.save_pretrained(tmp_path / "video")
    back = VivitModel.from_pretrained(tmp_path / "video", add_pooling_layer=False, dtype="auto")
    assert all(torch.equal(value, back.state_dict()[name]) for name, value in model.state_dict().items())


def test_weights_alone_do_not_tell_the_heads():
    with pytest.raises(ConfigError, match="pass num_attention_heads"):
        vivit_from_image_model(vit().state_dict(), image_size=24)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 25}, "height=25 is not a positive multiple"),
        ({"num_frames": 3}, "frames=3 is not a positive multiple"),
        ({"init": "zeros"}, "init='zeros' is not known"),
        ({"hiden_size": 3}, "did you mean 'hidden_size'"),
        ({"dtype": "int8"}, "dtype='int8' is not a dtype"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        convert(vit(), **options)


@pytest.mark.slow
def test_the_real_image_model_is_reproduced(shared_file):
    """The bundled model's source, full size: one tubelet of two equal frames against the peer."""
    import transformers
    from safetensors.torch import load_file

    path = shared_file("weights/dinov2_vits14_fp16.safetensors")
    config = transformers.Dinov2Config(hidden_size=384, num_attention_heads=6, image_size=518, use_mask_token=False)
    peer = transformers.Dinov2Model(config).eval()
    renames = {
        f"attention.{new}_proj": f"attention.attention.{old}"
        for new, old in zip("qkv", ("query", "key", "value"), strict=True)
    }
    state = {}
    for name, value in load_file(path).items():
        for new, old in {**renames, "attention.o_proj": "attention.output.dense"}.items() if TRANSFORMERS < 5 else ():
            name = name.replace(new, old)
        state[name] = value.float()
    peer.load_state_dict(state)
    model = vivit_from_image_model(path, num_frames=2, init="inflate", num_attention_heads=6)
    frame = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        ours, theirs = model(static(frame, 2)).last_hidden_state, peer(frame).last_hidden_state
    assert (ours - theirs).norm() / theirs.norm() < 5e-6
