"""The factorised models: the same calls wherever a hook has the axes they want, an error elsewhere."""

import pytest
import torch

from tests.interventions.models import clips, same, small_model, snapshot
from vivit_lab.errors import GridError, InputError
from vivit_lab.interventions import ActivationPatching, AttributionPatching, Region, ablate, knock_out, patch
from vivit_lab.records import LogitDifference

VARIANTS = ["factorized_encoder", "factorized_self_attention_block", "factorized_dot_product_attention"]
TARGET = LogitDifference(1, 3)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_zeroed_head_is_a_head_mask_of_0(variant):
    model, x = small_model(variant=variant), clips()
    before = snapshot(model)
    mask = torch.ones(len(model.attention_layers), 4)
    mask[0, 1] = mask[2, 3] = 0
    change = ablate(model, heads=[(0, 1), (2, 3)])
    assert torch.allclose(change(x).logits, model(x, head_mask=mask).logits, atol=1e-6)
    assert same(before, snapshot(model))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("at", ["z", "mlp_out"])
def test_patching_and_its_first_order(variant, at):
    model, clean = small_model(variant=variant).double(), clips().double()
    corrupt = clean + 1e-4 * clips()
    truth = ActivationPatching(at=at)(model, clean, corrupt, TARGET)
    estimate = AttributionPatching(at=at)(model, clean, corrupt, TARGET)
    assert not truth.effect.isnan().any()
    error = (estimate.effect - truth.effect).abs().max()
    assert error <= 0.02 * truth.effect.abs().max() + 5e-7
    layer = int(truth.labels["layer"][-1])
    change = patch(model, clean, heads=[(layer, 0)]) if at == "z" else patch(model, clean, mlps=[layer])
    wanted = change(corrupt).logits - model(corrupt).logits
    row = truth.effect[:, -1].reshape(2, -1)[:, 0]
    assert torch.allclose(row, wanted[:, 1] - wanted[:, 3], atol=1e-6)


def test_patterns_along_one_axis_are_patched_whole():
    model, clean = small_model(variant="factorized_self_attention_block").double(), clips().double()
    corrupt = clean + 1e-4 * clips()
    truth = ActivationPatching(at="pattern")(model, clean, corrupt, TARGET)
    estimate = AttributionPatching(at="pattern")(model, clean, corrupt, TARGET)
    assert (estimate.effect - truth.effect).abs().max() <= 0.02 * truth.effect.abs().max() + 5e-7
    for method in (ActivationPatching, AttributionPatching):
        with pytest.raises(GridError, match="have no token axis of the whole grid"):
            method(at="pattern", slabs=2)(model, clean, corrupt, TARGET)


@pytest.mark.parametrize("variant", VARIANTS[1:])
def test_regions_of_models_without_cls(variant):
    model, clean, corrupt = small_model(variant=variant), clips(), clips()
    found = ActivationPatching(at="resid_pre", slabs=2)(model, clean, corrupt, TARGET)
    assert found.labels["slab"] == ["t 0", "t 1"]
    change = patch(model, clean, points=["blocks.0.hook_resid_pre"], tokens=Region(t=0))
    wanted = change(corrupt).logits - model(corrupt).logits
    assert torch.allclose(found.effect[:, 0, 0, 0], (wanted[:, 1] - wanted[:, 3]).double(), atol=1e-4)


def test_what_a_variant_lacks_is_an_error():
    frames, blocks, split = (small_model(variant=variant) for variant in VARIANTS)
    with pytest.raises(GridError, match="has 10 tokens, the token grid 9"):
        ablate(frames, tokens="cls")(clips())
    with pytest.raises(GridError, match="a factorised model's layer sees a part of the tokens"):
        knock_out(blocks, "later_to_earlier")(clips())
    with pytest.raises(InputError, match="there is no hook point"):
        knock_out(split, "later_to_earlier")
