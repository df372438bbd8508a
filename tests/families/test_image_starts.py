"""Every variant started from an image model: on any clip it is the image model of each time, averaged over time."""

import pytest
import torch
from torch.nn import functional

from tests.checkpoints.image_peers import vit
from tests.families.test_from_image import convert, perturbed, static
from tests.model.variants import FACTORIZED
from tests.peers import file_state
from vivit_lab.errors import ConfigError

pytestmark = pytest.mark.peer

EPS = 1e-12


@pytest.fixture(scope="module")
def peer():
    torch.manual_seed(0)
    return perturbed(vit(layer_norm_eps=EPS))


def start(peer, variant, **options):
    return convert(peer, **{"variant": variant, "num_frames": 6, "num_labels": 0, **options})


def plain(peer, frame, *, cls=True, own_only=0):
    """The image ViT written out from its state dict: (batch, token, d_model) before the final LayerNorm, and that.

    Without ``cls`` it runs on its patches alone; the first ``own_only`` heads see their own patch only.
    """
    state = file_state(peer)

    def linear(x, name):
        return functional.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(x, name):
        return functional.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], EPS)

    patches, position = "embeddings.patch_embeddings.projection", state["embeddings.position_embeddings"]
    x = functional.conv2d(frame, state[f"{patches}.weight"], state[f"{patches}.bias"], stride=8).flatten(2).mT
    x = (
        torch.cat((state["embeddings.cls_token"].expand(len(x), -1, -1), x), 1) + position
        if cls
        else x + position[:, 1:]
    )
    for layer in range(2):
        name = f"encoder.layer.{layer}"
        h = norm(x, f"{name}.layernorm_before")
        q, k, v = (
            linear(h, f"{name}.attention.attention.{part}").unflatten(-1, (4, -1)).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        pattern = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        pattern[:, :own_only] = torch.eye(pattern.shape[-1])
        x = x + linear((pattern @ v).transpose(1, 2).flatten(2), f"{name}.attention.output.dense")
        h = functional.gelu(linear(norm(x, f"{name}.layernorm_after"), f"{name}.intermediate.dense"))
        x = x + linear(h, f"{name}.output.dense")
    return x, norm(x, "layernorm")


def summary(model, pixels):
    with torch.no_grad():
        return model(pixels).logits  # num_labels=0: what a classifier would read


def tubelet_frames(pixels):
    """The frames that a central-frame filter sees, one a time: (batch, t, channel, height, width)."""
    return pixels[:, 1::2]


def test_the_reference_is_the_image_model(peer):
    frame = torch.randn(2, 3, 24, 24)
    with torch.no_grad():
        torch.testing.assert_close(plain(peer, frame)[1], peer(frame).last_hidden_state, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("order", ["time_space", "space_time"])
def test_factorised_self_attention_is_the_pooled_image_model_averaged_over_time(peer, order):
    model = start(peer, FACTORIZED[1], attention_order=order)
    pixels = torch.randn(2, 6, 3, 24, 24)
    want = torch.stack([plain(peer, frame, cls=False)[1].mean(1) for frame in tubelet_frames(pixels).unbind(1)]).mean(0)
    torch.testing.assert_close(summary(model, pixels), want, rtol=1e-5, atol=1e-5)


def test_a_factorised_encoder_without_temporal_layers_is_the_average_of_the_image_model(peer):
    model = start(peer, FACTORIZED[0], spatial_only_baseline=True)
    pixels = torch.randn(2, 6, 3, 24, 24)
    with torch.no_grad():
        frames = [peer(frame).last_hidden_state[:, 0] for frame in tubelet_frames(pixels).unbind(1)]
    torch.testing.assert_close(summary(model, pixels), torch.stack(frames).mean(0), rtol=1e-5, atol=1e-5)


def test_a_factorised_encoder_reads_the_mean_of_the_normalised_image_vectors(peer):
    model = start(peer, FACTORIZED[0], num_temporal_layers=2)
    pixels = torch.randn(2, 6, 3, 24, 24)
    vectors = [plain(peer, frame)[0][:, 0] for frame in tubelet_frames(pixels).unbind(1)]
    mean = torch.stack([functional.layer_norm(x, x.shape[-1:], eps=EPS) for x in vectors]).mean(0)
    state = file_state(peer)
    want = functional.layer_norm(mean, mean.shape[-1:], state["layernorm.weight"], state["layernorm.bias"], EPS)
    torch.testing.assert_close(summary(model, pixels), want, rtol=1e-4, atol=1e-5)
    frame = torch.randn(2, 3, 24, 24)
    with torch.no_grad():
        still = peer(frame).last_hidden_state[:, 0]
    torch.testing.assert_close(summary(model, static(frame, 6)), still, rtol=1e-4, atol=1e-5)


def test_factorised_dot_products_of_a_static_clip_see_their_own_patch_along_time(peer):
    model = start(peer, FACTORIZED[2])
    frame = torch.randn(2, 3, 24, 24)
    want = plain(peer, frame, cls=False, own_only=2)[1].mean(1)
    torch.testing.assert_close(summary(model, static(frame, 6)), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", FACTORIZED[:2])
def test_every_parameter_can_learn_from_the_start(peer, variant):
    """Zeroing more than the output projection would leave a branch without any gradient for good."""
    model = start(peer, variant, num_labels=3, num_temporal_layers=2).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pixels = torch.randn(4, 6, 3, 24, 24)
    moved = {name: torch.zeros(()) for name, _ in model.named_parameters()}
    for _ in range(3):
        optimizer.zero_grad()
        model(pixels, labels=torch.tensor([0, 1, 2, 1])).loss.backward()
        optimizer.step()
        for name, parameter in model.named_parameters():
            moved[name] = torch.maximum(moved[name], parameter.grad.abs().max())
    still = [name for name, most in moved.items() if not most > 0]
    assert not [name for name in still if not name.endswith("attn.k.bias")]


@pytest.mark.parametrize("variant", FACTORIZED)
@pytest.mark.parametrize("init", ["central_frame", "inflate", "random"])
def test_the_filter_starts_in_all_three_ways(peer, variant, init):
    model = start(peer, variant, init=init)
    weight, image = (
        model.embed.projection.weight.detach(),
        peer.state_dict()["embeddings.patch_embeddings.projection.weight"],
    )
    if init == "random":
        assert 0.5 < float(weight.std() / model.config.initializer_range) < 2
    else:
        torch.testing.assert_close(weight.sum(2), image)


@pytest.mark.parametrize("variant", FACTORIZED[:2])
def test_a_temporal_attention_can_be_drawn_anew(peer, variant):
    model, still = start(peer, variant, temporal_init="random"), start(peer, variant)
    pixels = torch.randn(1, 6, 3, 24, 24)
    assert not torch.allclose(summary(model, pixels), summary(still, pixels), atol=1e-3)
    spatial = "blocks.1.attn.o.weight" if variant == FACTORIZED[1] else "blocks.0.attn.o.weight"
    assert torch.equal(model.state_dict()[spatial], still.state_dict()[spatial])


@pytest.mark.parametrize("variant", FACTORIZED)
def test_positions_are_tiled_and_resized(peer, variant):
    model = start(peer, variant, image_size=40)
    position = model.embed.position
    if variant == FACTORIZED[0]:
        assert position.shape == (1, 26, 32)
        assert not model.blocks[2].enter.position.any()
    else:
        times = position.unflatten(1, (3, 25))
        assert torch.equal(times[:, 0], times[:, 2])


def test_starts_that_mean_nothing_are_refused(peer):
    with pytest.raises(ConfigError, match="init='zero' is not known"):
        start(peer, FACTORIZED[0], init="zero")
    with pytest.raises(ConfigError, match="temporal_init='zero' is not known"):
        start(peer, FACTORIZED[0], temporal_init="zero")
    for variant in ("spacetime", FACTORIZED[2]):
        with pytest.raises(ConfigError, match="temporal_init='random' has no effect"):
            start(peer, variant, temporal_init="random")
