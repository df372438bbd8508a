"""Caches of every variant: saved and loaded, cut by places, and their readouts where the residual stream is one sum."""

import pytest
import torch

from tests.model.variants import FACTORIZED, random_clips, variant_model
from vivit_lab.errors import InputError
from vivit_lab.model import ActivationCache

VARIANTS = ("spacetime", *FACTORIZED)
ENCODER, BLOCK, DOT = FACTORIZED


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_cache_comes_back_from_its_file(variant, tmp_path):
    model, _ = variant_model(variant)
    _, cache = model.run_with_cache(random_clips())
    cache.save(tmp_path / "cache.safetensors")
    again = ActivationCache.load(tmp_path / "cache.safetensors", model)
    assert list(again) == sorted(cache)
    assert all(torch.equal(again[name], cache[name]) for name in cache)
    assert again.grid == cache.grid == model.config.grid
    last = ("result", len(model.blocks) - 1)
    torch.testing.assert_close(again[last], cache[last])


@pytest.mark.parametrize("variant", ["spacetime", BLOCK, DOT])
def test_parts_and_streams_sum_to_what_enters_the_final_norm(variant):
    model, _ = variant_model(variant)
    output, cache = model.run_with_cache(random_clips())
    final = cache["resid_post", len(model.blocks) - 1]
    torch.testing.assert_close(cache.decompose_resid().sum(0), final, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(cache.accumulated_resid()[-1], final)
    parts, labels = cache.decompose_resid(return_labels=True)
    mlps = [label for label in labels if label.endswith("mlp_out")]
    assert len(mlps) == model.config.num_hidden_layers  # model 3 has one a pair of attentions
    heads = cache.stack_head_results(incl_remainder=True)
    torch.testing.assert_close(heads.sum(0), final, rtol=1e-4, atol=1e-5)
    assert len(heads) == 4 * len(model.blocks) + 1
    torch.testing.assert_close(cache.logit_lens().pooled[-1], output.logits.detach(), rtol=1e-4, atol=1e-5)
    assert len(parts) == len(labels)


@pytest.mark.parametrize("variant", ["spacetime", BLOCK, DOT])
def test_places_are_cut_out_of_every_tensor(variant):
    model, _ = variant_model(variant)
    _, cache = model.run_with_cache(random_clips())
    cut = cache.at(t=[0, 2], y=1, x=0)
    tokens = [model.config.grid.token(t, 1, 0) for t in (0, 2)]
    for name, tensor in cache.items():
        assert torch.equal(cut[name], tensor[:, tokens]), name


def test_a_factorised_encoder_has_one_sum_a_stage():
    model, _ = variant_model(ENCODER)
    _, cache = model.run_with_cache(random_clips())
    for layer in (0, 1):
        parts = cache.decompose_resid(layer)
        torch.testing.assert_close(parts.sum(0), cache["resid_pre", layer], rtol=1e-4, atol=1e-5)
    for read in (cache.decompose_resid, cache.accumulated_resid, cache.stack_head_results, cache.logit_lens):
        with pytest.raises(InputError, match="residual stream has other tokens in other layers"):
            read()


@pytest.mark.parametrize("names", [None, "blocks.0.hook_resid_post", "blocks.3.hook_resid_post"])
def test_places_of_a_factorised_encoder_are_not_taken_for_those_of_the_grid(names):
    """Token 1 + t·h·w + … of the grid is another one in a layer in which each time has a CLS of its own."""
    model, _ = variant_model(ENCODER)
    _, cache = model.run_with_cache(random_clips(), names_filter=names)
    for cut in ({"t": 1}, {"cls": True}):
        with pytest.raises(
            InputError, match=r"wants tensors over the 13 tokens of the grid, .* is over (15|4): a layer"
        ):
            cache.at(**cut)
