"""Ablation effects against one `ablate` a place, and the causal temporal score against its definition."""

import pytest
import torch

from tests.interventions.models import clips, same, small_model, snapshot
from vivit_lab.errors import InputError
from vivit_lab.heads import prune_heads
from vivit_lab.interventions import AblationEffects, CausalTemporalScore, FreezeFrame, ShuffleFrames, ablate
from vivit_lab.interventions.ablation import partners
from vivit_lab.records import ClassLogit


def logit(output, index):
    return output.logits[:, index].double()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(("mode", "over"), [("zero", "clips"), ("mean", "clips"), ("mean", "tokens")])
def test_every_place_is_one_ablation(attention, mode, over):
    model, x, reference = small_model(attention), clips(5), clips(3)
    reference = None if mode == "zero" else reference
    before = snapshot(model)
    found = AblationEffects(mode=mode, over=over, batch_size=2)(model, x, 2, reference=reference)
    assert same(before, snapshot(model))
    assert found.dims == ("layer", "head", "slab", "region")
    for layer in range(3):
        for head in (0, 3):
            change = ablate(model, heads=[(layer, head)], mode=mode, over=over, reference=reference)
            wanted = logit(change(x), 2) - logit(model(x), 2)
            assert torch.allclose(found.effect[:, layer, head, 0, 0], wanted, atol=1e-4)


def test_clips_are_their_own_reference_and_partners_do_not_depend_on_the_batch():
    model, x = small_model(), clips(5)
    one, other = (AblationEffects(mode="resample", seed=2, batch_size=size)(model, x, 0) for size in (2, 5))
    assert torch.allclose(one.effect, other.effect, atol=1e-4)
    _, cache = model.run_with_cache(x[partners(5, 5, 2)], names_filter="blocks.1.attn.hook_z")
    source = cache["blocks.1.attn.hook_z"]

    def swap(tensor, hook):
        changed = tensor.clone()
        changed[:, :, 3] = source[:, :, 3]
        return changed

    output = model.run_with_hooks(x, fwd_hooks=[("blocks.1.attn.hook_z", swap)])
    wanted = logit(output, 0) - logit(model(x), 0)
    assert torch.allclose(one.effect[:, 1, 3, 0, 0], wanted, atol=1e-4)


def test_a_pruned_models_table_has_the_numbers_heads_were_born_with():
    model, x = prune_heads(small_model(), {0: [0, 2], 1: range(4)}), clips(3)
    found = AblationEffects(mode="zero")(model, x, 2)
    assert found.labels["head"] == ["0", "1", "2", "3"]
    effect = found.effect[..., 0, 0]
    assert effect[:, 0, [0, 2]].isnan().all()
    assert effect[:, 1].isnan().all()
    for layer, head in [(0, 1), (0, 3), (2, 0)]:
        wanted = logit(ablate(model, heads=[(layer, head)])(x), 2) - logit(model(x), 2)
        assert torch.allclose(effect[:, layer, head], wanted, atol=1e-4)
    assert {(row["layer"], row["head"]) for row in found.rows() if row["layer"] != "2"} == {("0", "1"), ("0", "3")}


@pytest.mark.parametrize("mode", ["mean", "resample"])
def test_one_clip_is_no_reference_for_itself(mode):
    model, x = small_model(), clips(1)
    by = AblationEffects(mode=mode)
    for method in (by, CausalTemporalScore(by)):
        with pytest.raises(InputError, match=f"mode='{mode}' replaces what a single clip .* reference="):
            method(model, x)
        assert method(model, x, reference=clips(3)).effect.abs().max() > 0
    assert AblationEffects(over="tokens")(model, x).effect.abs().max() > 0
    assert AblationEffects(mode="zero")(model, x).effect.abs().max() > 0


def test_mlps_and_slabs():
    model, x = small_model(), clips(2)
    found = AblationEffects(at="mlp_out", mode="zero", slabs=2)(model, x)
    assert found.dims == ("layer", "slab", "region")
    classes = model(x).logits.argmax(-1)
    change = ablate(model, mlps=[1], tokens="cls")
    wanted = (change(x).logits - model(x).logits).gather(1, classes[:, None])[:, 0].double()
    assert torch.allclose(found.effect[:, 1, 2, 0], wanted, atol=1e-4)
    assert found.what == "ablated − intact, logit"


@pytest.mark.parametrize("mode", ["zero", "mean"])
def test_the_causal_temporal_score_is_its_definition(mode):
    model, x = small_model(), clips(3)
    found = CausalTemporalScore(AblationEffects(mode=mode))(model, x)
    classes = model(x).logits.argmax(-1)  # the moving clip's class, for its still as well

    def loss(pixels):
        reference = {} if mode == "zero" else {"reference": pixels}
        change = ablate(model, heads=[(1, 2)], mode=mode, **reference)
        return (model(pixels).logits - change(pixels).logits).gather(1, classes[:, None])[:, 0].double()

    wanted = loss(x) - loss(FreezeFrame()(x))
    assert torch.allclose(found.effect[:, 1, 2, 0, 0], wanted, atol=1e-4)
    assert found.method == "CausalTemporalScore"
    assert found.parameters["ablation"].startswith("AblationEffects(")


def test_a_still_clip_scores_nothing():
    model, x = small_model(), FreezeFrame()(clips(3))
    found = CausalTemporalScore()(model, x, ClassLogit(1))
    assert found.effect.abs().max() == 0
    moving = CausalTemporalScore(still=ShuffleFrames(1))(model, clips(3), ClassLogit(1))
    assert moving.effect.abs().max() > 0


def test_what_does_not_fit_is_refused():
    model, x = small_model(), clips()
    with pytest.raises(InputError, match="mode is one of zero, mean, resample"):
        AblationEffects(mode="noise")
    with pytest.raises(InputError, match="batch_size"):
        AblationEffects(batch_size=0)
    with pytest.raises(InputError, match="takes no reference clips"):
        AblationEffects(mode="zero")(model, x, reference=x)
    with pytest.raises(InputError, match="at is one of"):
        AblationEffects(at="head")(model, x)
