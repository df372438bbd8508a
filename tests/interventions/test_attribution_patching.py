"""Attribution patching: exact where the model is linear, first order elsewhere."""

import pytest
import torch

from tests.interventions.models import clips, same, small_model, snapshot
from vivit_lab.errors import InputError
from vivit_lab.heads import prune_heads
from vivit_lab.interventions import ActivationPatching, AttributionPatching, Region
from vivit_lab.records import LogitDifference

TARGET = LogitDifference(1, 3)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("at", ["z", "q", "v", "pattern", "resid_mid", "mlp_out"])
def test_between_two_near_clips_it_is_activation_patching(attention, direction, at):
    model, clean = small_model(attention).double(), clips(2).double()
    corrupt = clean + 1e-4 * clips(2)
    options = {"direction": direction, "at": at, "layers": [1], "slabs": [1, "cls"], "regions": {"left": Region(x=0)}}
    before = snapshot(model)
    estimate = AttributionPatching(**options)(model, clean, corrupt, TARGET)
    assert same(before, snapshot(model))
    truth = ActivationPatching(**options)(model, clean, corrupt, TARGET)
    assert estimate.labels == truth.labels
    # scores are compared in float32, whose rounding is about 1e-7 of a logit
    error = (estimate.effect - truth.effect).abs().max()
    assert error <= 0.02 * truth.effect.abs().max() + 5e-7


@pytest.mark.parametrize("at", ["z", "pattern"])
def test_a_pruned_models_heads_are_those_of_activation_patching(at):
    model, clean = prune_heads(small_model(), {1: [0, 2]}).double(), clips(2).double()
    corrupt = clean + 1e-4 * clips(2)
    estimate = AttributionPatching(at=at, layers=[1])(model, clean, corrupt, TARGET)
    truth = ActivationPatching(at=at, layers=[1])(model, clean, corrupt, TARGET)
    assert estimate.labels == truth.labels
    assert estimate.labels["head"] == ["0", "1", "2", "3"]
    assert truth.effect[:, 0, [0, 2]].isnan().all()
    assert estimate.effect[:, 0, [0, 2]].isnan().all()
    left = [table.effect[:, 0, [1, 3]] for table in (estimate, truth)]
    assert (left[0] - left[1]).abs().max() <= 0.02 * left[1].abs().max() + 5e-7


def test_the_last_layers_values_are_nearly_linear_and_so_exact():
    """Past the last pattern only LN and the MLP bend; with both of them flat the estimate is the truth."""
    model, clean, corrupt = small_model(), clips(3), clips(3)
    with torch.no_grad():
        model.blocks[2].mlp.fc2.weight.zero_()
        model.ln_final.forward = lambda x: x  # a linear end
    options = {"at": "z", "layers": [2]}
    estimate = AttributionPatching(**options)(model, clean, corrupt, TARGET)
    truth = ActivationPatching(**options)(model, clean, corrupt, TARGET)
    assert torch.allclose(estimate.effect, truth.effect, atol=1e-4)
    assert torch.allclose(estimate.normalized, truth.normalized, atol=1e-4)


def test_heads_together_and_slabs_add_up():
    model, clean, corrupt = small_model(), clips(3), clips(3)
    each = AttributionPatching(slabs=2)(model, clean, corrupt, TARGET).effect
    whole = AttributionPatching(heads="all", batch_size=2)(model, clean, corrupt, TARGET).effect
    assert torch.allclose(each.sum(dim=(2, 3, 4)), whole.flatten(1), atol=1e-4)


def test_parameters_get_no_gradient():
    model, clean, corrupt = small_model(), clips(), clips()
    AttributionPatching()(model, clean, corrupt, TARGET)
    assert all(parameter.grad is None for parameter in model.parameters())
    with torch.no_grad():
        inside = AttributionPatching()(model, clean, corrupt, TARGET)
    assert torch.equal(inside.effect, AttributionPatching()(model, clean, corrupt, TARGET).effect)


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="direction must be one of"):
        AttributionPatching(direction="both")
    with pytest.raises(InputError, match="batch_size must be"):
        AttributionPatching(batch_size=True)
