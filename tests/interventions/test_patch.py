"""Patching by hand: identities, parts, and what is refused."""

import pytest
import torch

from tests.interventions.models import clips, small_model
from vivit_lab.errors import InputError
from vivit_lab.interventions import Region, patch


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_patching_everything_gives_the_source(attention):
    model, clean, corrupt = small_model(attention), clips(), clips()
    wanted = model(clean).logits
    stream = patch(model, clean, points=["blocks.0.hook_resid_pre"])
    parts = patch(model, clean, attentions=range(3), mlps=range(3), points=["blocks.0.hook_resid_pre"])
    last = patch(model, clean, points=["blocks.2.hook_resid_post"], tokens="cls")  # the classifier reads CLS alone
    for change in (stream, parts, last):
        assert torch.allclose(change(corrupt).logits, wanted, atol=1e-5)
    assert not torch.allclose(model(corrupt).logits, wanted, atol=1e-2)


@pytest.mark.parametrize("part", ["z", "q", "k", "v", "pattern", "attn_scores", "result"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_patching_a_clip_with_itself_changes_nothing(part, dtype):
    model, x = small_model().to(dtype), clips()
    change = patch(model, x, heads=[(0, 1), (2, 3)], part=part, tokens=Region(t=0, cls=True))
    # naming scores, patterns or results changes how a layer is computed, not what
    names = [f"blocks.{layer}.attn.hook_{part}" for layer in (0, 2)]
    looked_at = model.run_with_hooks(x, fwd_hooks=[(names, lambda tensor, hook: tensor.clone())]).logits
    assert torch.equal(change(x).logits, looked_at)
    assert torch.allclose(looked_at, model(x).logits, atol=1e-5 if dtype == torch.float32 else 0.1)


def test_a_cache_is_a_source_and_one_clip_stands_for_all():
    model, clean, corrupt = small_model(), clips(1), clips(3)
    _, cache = model.run_with_cache(clean, names_filter="blocks.1.attn.hook_v")
    by_cache = patch(model, cache, heads=[(1, 1)], part="v")(corrupt).logits
    assert torch.allclose(by_cache, patch(model, clean, heads=[(1, 1)], part="v")(corrupt).logits, atol=1e-6)
    each = [patch(model, clean, heads=[(1, 1)], part="v")(corrupt[row : row + 1]).logits for row in range(3)]
    assert torch.allclose(by_cache, torch.cat(each), atol=1e-5)


def test_pattern_and_values_together_are_the_context():
    model, clean, corrupt = small_model(), clips(), clips()
    both = patch(model, clean, heads=[(1, 2)], part="pattern") & patch(model, clean, heads=[(1, 2)], part="v")
    assert torch.allclose(both(corrupt).logits, patch(model, clean, heads=[(1, 2)])(corrupt).logits, atol=1e-5)


def test_what_does_not_fit_is_refused():
    model, x = small_model(), clips()
    with pytest.raises(InputError, match=r"no activations of blocks\.1\.hook_mlp_out"):
        patch(model, {}, mlps=[1])
    with pytest.raises(InputError, match="one for all rows or one for each"):
        patch(model, clips(3), mlps=[1])(x)
    with pytest.raises(InputError, match="wanted pixel_values"):
        patch(model, "clean.mp4", mlps=[1])
