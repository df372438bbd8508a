"""Steering vectors against plain means, and what adding them does."""

import pytest
import torch

from tests.interventions.models import clips, same, small_model, snapshot
from vivit_lab.errors import GridError, InputError
from vivit_lab.interventions import Region, SteeringVector, steer, steering_vector

POINT = "blocks.1.hook_resid_post"


def activations(model, x, name=POINT):
    return model.run_with_cache(x, names_filter=name)[1][name]


def test_the_vector_is_the_plain_difference_of_means():
    model, some, others = small_model(), clips(5), clips(3)
    region = Region(t=0, y=1)
    inside = region.mask(model.config.grid)
    one, other = activations(model, some), activations(model, others)
    whole = steering_vector(model, some, others, POINT, batch_size=2)
    assert torch.allclose(whole.vector, one.mean((0, 1)) - other.mean((0, 1)), atol=1e-6)
    part = steering_vector(model, some, others, POINT, tokens=region)
    assert torch.allclose(part.vector, one[:, inside].mean((0, 1)) - other[:, inside].mean((0, 1)), atol=1e-6)
    each = steering_vector(model, some, others, POINT, tokens=region, per_token=True)
    wanted = (one.mean(0) - other.mean(0)) * inside.unsqueeze(1)
    assert torch.allclose(each.vector, wanted, atol=1e-6)
    assert each.clips == (5, 3)


def test_a_running_mean_wants_no_room_for_all_clips(monkeypatch):
    model, some, others = small_model(), clips(5), clips(3)
    wanted = steering_vector(model, some, others, POINT, batch_size=2).vector
    monkeypatch.setattr("vivit_lab.memory.free_bytes", lambda device: 10)
    assert torch.equal(steering_vector(model, some, others, POINT, batch_size=2).vector, wanted)


@pytest.mark.parametrize("point", [POINT, "blocks.2.attn.hook_v", "blocks.0.hook_mlp_out"])
def test_a_clip_plus_the_difference_is_the_other_clip(point):
    model, one, other = small_model(), clips(1), clips(1)
    vector = steering_vector(model, one, other, point, per_token=True)
    with steer(model, vector):
        found = activations(model, other, point)  # a cache sees what earlier hooks left
    assert torch.allclose(found, activations(model, one, point), atol=1e-5)
    if point == POINT:
        steered = steer(model, vector)(other).logits
        assert torch.allclose(steered, model(one).logits, atol=1e-5)


def test_coefficient_tokens_and_arithmetic():
    model, x = small_model(), clips()
    before = snapshot(model)
    vector = steering_vector(model, clips(), clips(), POINT)
    assert torch.equal(steer(model, vector, 0.0)(x).logits, model(x).logits)
    double = steer(model, vector, 2.0)(x).logits
    assert torch.allclose(double, steer(model, 2 * vector)(x).logits, atol=1e-6)
    assert torch.allclose(double, (steer(model, vector) & steer(model, vector))(x).logits, atol=1e-5)
    back = steer(model, vector) & steer(model, -vector)
    assert torch.allclose(back(x).logits, model(x).logits, atol=1e-5)
    assert vector.unit.norm == pytest.approx(1)
    with steer(model, vector, tokens="cls"):
        stream = activations(model, x)
    own = activations(model, x)
    assert torch.equal(stream[:, 1:], own[:, 1:])
    assert torch.allclose(stream[:, 0], own[:, 0] + vector.vector, atol=1e-6)
    assert same(before, snapshot(model))


def test_a_plain_tensor_in_half_precision():
    model, x = small_model().to(torch.bfloat16), clips()
    direction = torch.randn(48)
    assert not torch.equal(steer(model, direction, 3.0, point=POINT)(x).logits, model(x).logits)


def test_words():
    vector = SteeringVector(torch.tensor([3.0, 4.0]), POINT, (2, 1))
    assert repr(vector) == f"SteeringVector({POINT}, 2, length 5, 2 clips less 1, read at all tokens)"
    model = small_model()
    text = repr(steer(model, torch.ones(48), -2, point=POINT, tokens="cls"))
    assert text == f"Intervention(-2 × a vector at {POINT}, added to the CLS token)"


def test_what_does_not_fit_is_refused():
    model, x = small_model(), clips()
    with pytest.raises(InputError, match="steer wants to know where"):
        steer(model, torch.ones(48))
    with pytest.raises(InputError, match=r"must be \(48,\) or \(9, 48\), got \(7,\)"):
        steer(model, torch.ones(7), point=POINT)(x)
    with pytest.raises(InputError, match="holds no vector a token"):
        steering_vector(model, x, x, "blocks.0.attn.hook_pattern")
    with pytest.raises(InputError, match="holds no vector a token"):
        steer(model, torch.ones(1), point="blocks.0.ln1.hook_scale")
    with pytest.raises(InputError, match="there is no hook point"):
        steering_vector(model, x, x, "blocks.9.hook_resid_post")
    with pytest.raises(InputError, match="has no direction"):
        steering_vector(model, x, x, POINT).unit  # noqa: B018
    with pytest.raises(GridError, match="tokens do not fit"):
        steering_vector(model, x, x, POINT, grid=model.grid_of(torch.zeros(1, 4, 3, 48, 32), True))
