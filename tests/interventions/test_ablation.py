"""Ablation against head masks and hand-made forward passes, and that nothing of it stays."""

from threading import Barrier, Thread

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.interventions.models import clips, same, small_model, snapshot
from vivit_lab.errors import GridError, InputError, OutOfMemoryBudgetError
from vivit_lab.heads import HeadMask, prune_heads
from vivit_lab.interventions import Region, ablate
from vivit_lab.interventions.ablation import partners
from vivit_lab.interventions.points import Point, chosen_points, head_numbers, part_name

HEADS = [(0, 1), (2, 0), (2, 3), (-2, 2)]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_zeroed_head_is_a_head_mask_of_0(attention, dtype):
    model, x = small_model(attention).to(dtype), clips()
    mask = torch.ones(3, 4)
    for layer, head in HEADS:
        mask[layer, head] = 0
    wanted = model(x, head_mask=mask).logits
    with ablate(model, heads=HEADS):
        inside = model(x).logits
    assert (inside - wanted).abs().max() <= 1e-6
    assert torch.equal(inside, ablate(model, heads=HEADS)(x).logits)
    assert (inside - model(x).logits).abs().max() > 1e-2


def test_nothing_stays_also_after_an_exception():
    model, x = small_model(), clips()
    before, clean = snapshot(model), model(x).logits

    def fails():
        with ablate(model, heads=HEADS, mlps=[1], mode="mean", reference=x):
            model(x)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fails()
    assert same(before, snapshot(model))
    assert torch.equal(model(x).logits, clean)


def test_a_call_leaves_training_mode_as_it_was():
    model = small_model(hidden_dropout_prob=0.5).train()
    x = clips()
    before = snapshot(model)
    once, again = (ablate(model, heads=[(1, 1)])(x).logits for _ in range(2))
    assert torch.equal(once, again)  # no dropout in a call
    assert same(before, snapshot(model))


def test_mlps_attentions_and_points_are_zeroed():
    model, x = small_model(), clips()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    other = small_model()
    other.load_state_dict(state)
    with torch.no_grad():
        for module in (other.blocks[1].mlp.fc2, other.blocks[2].attn.o):
            module.weight.zero_()
            module.bias.zero_()
    wanted = other(x).logits
    assert torch.allclose(ablate(model, mlps=[1], attentions=[-1])(x).logits, wanted, atol=1e-6)
    names = ["blocks.1.hook_mlp_out", "blocks.2.hook_attn_out"]
    assert torch.allclose(ablate(model, points=names)(x).logits, wanted, atol=1e-6)


def test_a_mean_is_over_the_reference_place_by_place():
    model, x, reference = small_model(), clips(), clips(5)
    name = "blocks.1.attn.hook_z"
    _, cache = model.run_with_cache(reference, names_filter=name)
    z = cache[name]
    seen = {}

    def look(tensor, hook):
        seen["z"] = tensor.clone()

    for over, mean in (("clips", z.mean(0)), ("tokens", z.mean((0, 1)))):
        change = ablate(model, heads=[(1, 2)], mode="mean", reference=reference, over=over, batch_size=2)
        with change, model.hooks(fwd_hooks=[(name, look)]):
            model(x)
        wanted = mean[..., 2, :].expand_as(seen["z"][:, :, 2])
        assert torch.allclose(seen["z"][:, :, 2], wanted, atol=1e-6)
        _, own = model.run_with_cache(x, names_filter=name)
        assert torch.equal(seen["z"][:, :, [0, 1, 3]], own[name][:, :, [0, 1, 3]])


def test_the_mean_of_one_clip_is_itself():
    model, x = small_model(), clips(1)
    for mode in ("mean", "resample"):
        same_clip = ablate(model, heads=HEADS, mlps=[0, 2], mode=mode, reference=x)(x).logits
        assert torch.allclose(same_clip, model(x).logits, atol=1e-6)


def test_resampling_everything_gives_the_partners_output():
    model, x = small_model(), clips(4)
    everything = {"attentions": range(3), "mlps": range(3), "points": ["blocks.0.hook_resid_pre"]}
    order = partners(4, 4, seed=3)
    found = ablate(model, **everything, mode="resample", reference=x, seed=3, batch_size=3)(x).logits
    assert torch.allclose(found, model(x).logits[order], atol=1e-5)
    other = ablate(model, **everything, mode="resample", reference=x, seed=4)(x).logits
    assert not torch.allclose(found, other)


@given(st.integers(2, 40), st.integers(0, 1000))
def test_no_clip_is_its_own_partner_and_all_are_somebodys(count, seed):
    found = partners(count, count, seed)
    assert sorted(found.tolist()) == list(range(count))
    assert not (found == torch.arange(count)).any()
    assert torch.equal(found, partners(count, count, seed))
    other = partners(count + 1, count, seed)
    assert len(other) == count + 1
    assert 0 <= other.min() <= other.max() < count


def test_tokens_alone_are_ablated_in_the_residual_stream():
    model, x = small_model(), clips()
    region = Region(t=1, x=slice(0, 1))
    inside = region.mask(model.config.grid)
    for layer in (0, 2):
        name = f"blocks.{layer}.hook_resid_pre"
        _, cache = model.run_with_cache(x, names_filter=name)
        stream = cache[name].clone()
        stream[:, inside] = 0
        wanted = model.run_with_hooks(stream, start_at_layer=layer).logits
        assert torch.allclose(ablate(model, tokens=region, layer=layer)(x).logits, wanted, atol=1e-6)


def test_heads_at_some_tokens_only():
    model, x = small_model(), clips()
    name = "blocks.2.attn.hook_z"
    with ablate(model, heads=[(2, 1)], tokens="cls"):
        _, cache = model.run_with_cache(x, names_filter=name)
    _, own = model.run_with_cache(x, names_filter=name)
    assert not cache[name][:, 0, 1].any()
    assert torch.equal(cache[name][:, 1:], own[name][:, 1:])
    parts = ablate(model, heads=[(1, 1)], tokens="cls") & ablate(model, heads=[(1, 1)], tokens="tubelets")
    assert torch.allclose(parts(x).logits, ablate(model, heads=[(1, 1)])(x).logits, atol=1e-6)


def test_gradients_flow_through_what_is_left():
    model, x = small_model(), clips().requires_grad_()
    ablate(model, heads=[(0, 0)])(x).logits.sum().backward()
    assert x.grad.abs().sum() > 0


def test_interpolated_positions_want_their_grid():
    model, x = small_model(), torch.randn(2, 4, 3, 48, 32)
    grid = model.grid_of(x, True)
    change = ablate(model, heads=[(1, 0)], tokens=Region(y=2), grid=grid)
    assert change(x, interpolate_pos_encoding=True).logits.shape == (2, 5)
    with pytest.raises(GridError, match="has 13 tokens, the token grid 9"):
        ablate(model, heads=[(1, 0)], tokens="cls")(x, interpolate_pos_encoding=True)
    with pytest.raises(InputError, match="the reference clips gave"):
        ablate(model, heads=[(1, 0)], mode="mean", reference=clips())(x, interpolate_pos_encoding=True)


@pytest.mark.parametrize("head", [(0, 1), (0, 3), (1, 2), (2, 0)])
def test_a_pruned_models_heads_keep_their_numbers(head):
    x = clips()
    pruned = prune_heads(small_model(), {0: [0], 1: [1, 3]})
    wanted = pruned(x, head_mask=HeadMask.without([head], 3, 4)).logits
    assert (ablate(pruned, heads=[head])(x).logits - wanted).abs().max() <= 1e-6
    assert (wanted - pruned(x).logits).abs().max() > 1e-3
    name = f"blocks.{head[0]}.attn.hook_z"
    assert torch.equal(ablate(pruned, points=[Point(name, head[1:])])(x).logits, ablate(pruned, heads=[head])(x).logits)


def test_a_pruned_head_is_refused():
    pruned = prune_heads(small_model(), {0: [0, 2]})
    assert head_numbers(pruned.attention_layers[0]) == (1, 3)
    with pytest.raises(InputError, match=r"blocks.0.attn.hook_z has the heads \[1, 3\] left, \[0\] were pruned"):
        ablate(pruned, heads=[(0, 0), (0, 1)])
    with pytest.raises(InputError, match=r"has heads 0\.\.3, got \[4\]"):
        ablate(pruned, heads=[(0, 4)])


def test_two_threads_in_one_intervention_leave_each_others_alone():
    model, x = small_model(), clips()
    change, clean = ablate(model, heads=HEADS), model(x).logits
    wanted, found = change(x).logits, {}
    turn = Barrier(2, timeout=20)

    def first():
        with change:
            model(x)
            turn.wait()
            turn.wait()  # the second has entered
        found["after the first left"] = model(x).logits
        turn.wait()

    def second():
        turn.wait()
        with change:
            turn.wait()
            turn.wait()  # the first has left
            found["the second is still in"] = model(x).logits

    threads = [Thread(target=work) for work in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(found["after the first left"], clean)
    assert torch.equal(found["the second is still in"], wanted)
    assert torch.equal(model(x).logits, clean)


def test_memory_is_wanted_for_what_is_kept_only(monkeypatch):
    model, reference = small_model(), clips(5)
    monkeypatch.setattr("vivit_lab.memory.free_bytes", lambda device: 10)
    options = {"heads": [(1, 2)], "reference": reference, "batch_size": 2}
    assert ablate(model, **options, mode="mean")(clips()).logits.isfinite().all()  # a running sum
    with pytest.raises(OutOfMemoryBudgetError, match=r"1 hook points of 5 clips needs .* take fewer clips"):
        ablate(model, **options, mode="resample")


def test_words_and_names():
    model = small_model()
    text = repr(ablate(model, heads=[(1, 2), (1, 0)], mlps=[0]))
    wanted = "zero ablation of blocks.0.hook_mlp_out, blocks.1.attn.hook_z [0, 2] at all tokens"
    assert text == f"Intervention({wanted})"
    assert head_numbers(model.attention_layers[0]) == (0, 1, 2, 3)
    assert part_name(model, -1, "resid_post") == "blocks.2.hook_resid_post"
    assert part_name(model, "blocks.1.attn", "q") == "blocks.1.attn.hook_q"
    assert chosen_points(model, heads=[("blocks.1.attn", 3)]) == [Point("blocks.1.attn.hook_z", (3,))]
    assert chosen_points(model, points=["blocks.1.attn.hook_q"]) == [Point("blocks.1.attn.hook_q")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing was named"),
        ({"heads": [(3, 0)]}, r"layer 3 does not exist: wanted 0\.\.2"),
        ({"heads": [(0, 4)]}, r"has heads 0\.\.3, got \[4\]"),
        ({"heads": [3]}, r"\(layer, head\) pairs, got 3"),
        ({"heads": [(True, 0)]}, "layer True does not exist"),
        ({"mlps": [-4]}, "layer -4 does not exist"),
        ({"points": ["blocks.0.hook_residual"]}, "blocks.0.hook_residual"),
        ({"points": [Point("blocks.0.hook_mlp_out", (1,))]}, "has no heads to choose from"),
        ({"mlps": [0], "points": ["blocks.0.hook_mlp_out"]}, "is asked for twice"),
        ({"heads": [(0, 0)], "mode": "median"}, "mode is one of zero, mean, resample"),
        ({"heads": [(0, 0)], "mode": "mean"}, "wants reference clips"),
        ({"heads": [(0, 0)], "reference": torch.zeros(1, 4, 3, 32, 32)}, "takes no reference"),
        ({"heads": [(0, 0)], "over": "layers"}, "over one of clips, tokens"),
        ({"heads": [(0, 0)], "batch_size": 0}, "batch_size must be a positive integer"),
        ({"tokens": "cls", "layer": 3}, "layer 3 does not exist"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        ablate(small_model(), **options)


def test_an_unknown_part_is_refused():
    with pytest.raises(InputError, match="there is no part 'o'"):
        part_name(small_model(), 0, "o")


def test_interventions_on_two_models_are_not_joined():
    one, other = small_model(), small_model()
    with pytest.raises(InputError, match="two models cannot be joined"):
        ablate(one, heads=[(0, 0)]) & ablate(other, heads=[(0, 0)])
