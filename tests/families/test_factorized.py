"""The factorised variants: against a naive reference, and everything that a model of one variant can do, all can."""

import copy
import json

import numpy as np
import pytest
import torch
import transformers

from tests.model.naive_variants import VARIANTS, groups, naive_logits
from tests.model.tiny import TINY
from tests.model.variants import FACTORIZED, channels_last, random_clips, variant_model
from vivit_lab.errors import ConfigError, InputError, KeyMismatchError
from vivit_lab.families import VivitForVideoClassification, VivitModel, load_model
from vivit_lab.families.vivit import fold_tokens, unfold_tokens
from vivit_lab.grid import TokenGrid
from vivit_lab.heads import prune_heads
from vivit_lab.model import VivitConfig
from vivit_lab.model.config import layer_axes, layer_layouts
from vivit_lab.records import record_attention


def as_patterns(variant, attentions):
    """What ``output_attentions`` gives for one clip, in the form of the naive reference."""
    found = []
    for layer in attentions:
        parts = [part[0].detach().numpy() for part in (layer if isinstance(layer, tuple) else (layer,))]
        if parts[0].ndim == 3:
            found.append(parts[0])
        elif variant == "factorized_encoder":
            found.append(list(parts[0].transpose(1, 0, 2, 3)))
        else:
            dense = []
            for part in parts:
                out = np.zeros((len(part), 12, 12))
                axis = "time" if part.shape[2] == 3 else "space"
                for number, group in enumerate(groups(axis, 3, 4)):
                    out[:, np.asarray(group)[:, None], group] = part[:, number]
                dense.append(out)
            found.append(np.concatenate(dense))
    return found


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("order", ["time_space", "space_time"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_and_patterns_are_those_of_the_naive_reference(variant, order, attention):
    fields = {"attention_order": order} if variant == "factorized_self_attention_block" else {}
    model, tree = variant_model(variant, fields=fields)
    model.set_attn_implementation(attention)
    pixels = random_clips()
    output = model(pixels, output_attentions=True)
    for clip, got in zip(pixels, model(pixels).logits.detach(), strict=True):
        want, patterns = naive_logits(variant, tree, channels_last(clip), order)
        np.testing.assert_allclose(got.numpy(), want, atol=1e-5)
        alone = as_patterns(variant, model(clip[None], output_attentions=True).attentions)
        for mine, theirs in zip(alone, patterns, strict=True):
            np.testing.assert_allclose(np.asarray(mine), np.asarray(theirs), atol=1e-5)
    torch.testing.assert_close(output.logits, model(pixels).logits, rtol=1e-5, atol=1e-5)


def test_a_baseline_averages_the_times():
    model, tree = variant_model("factorized_encoder", baseline=True, fields={"num_frames": 6})
    pixels = random_clips()
    for clip, got in zip(pixels, model(pixels).logits.detach(), strict=True):
        want, _ = naive_logits("factorized_encoder", tree, channels_last(clip), baseline=True)
        np.testing.assert_allclose(got.numpy(), want, atol=1e-5)
    order = torch.tensor([4, 5, 0, 1, 2, 3])  # it knows no order
    torch.testing.assert_close(model(pixels[:, order]).logits, model(pixels).logits)
    other, _ = variant_model("factorized_encoder")
    assert not torch.allclose(other(pixels[:, order]).logits, other(pixels).logits, atol=1e-3)


def test_pooling_reads_the_mean_of_all_tokens_without_cls():
    model, tree = variant_model("spacetime", fields={"variant": "spacetime"}, cls=False)
    pixels = random_clips(1)
    want, _ = naive_logits("spacetime", tree, channels_last(pixels[0]))
    np.testing.assert_allclose(model(pixels).logits[0].detach().numpy(), want, atol=1e-5)
    assert not any("cls_token" in name for name in model.state_dict())
    bare = VivitModel(VivitConfig(**TINY, classifier="gap"))
    output = bare(torch.randn(2, 4, 3, 32, 32))
    assert output.last_hidden_state.shape == (2, 8, 48)
    dense = bare.pooler.dense
    torch.testing.assert_close(output.pooler_output, torch.tanh(dense(output.last_hidden_state.mean(1))))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_head_mask_multiplies_the_heads_of_every_attention_layer(variant):
    """A mask is the same as scaling each head's part of the output projection, clip by clip and in both backends."""
    model, _ = variant_model(variant)
    pixels = random_clips()
    layers = len(model.attention_layers)
    assert layers == model.config.num_attention_layers == len(layer_axes(model.config))
    mask = torch.rand(layers, 2, 4, 1, 1)
    for attention in ("eager", "sdpa"):
        model.set_attn_implementation(attention)
        both = model(pixels, head_mask=mask).logits
        for clip in range(2):
            scaled = copy.deepcopy(model)
            with torch.no_grad():
                for layer, module in enumerate(scaled.attention_layers):
                    module.o.weight.mul_(mask[layer, clip].flatten().repeat_interleave(3))
            torch.testing.assert_close(both[clip], scaled(pixels[clip : clip + 1]).logits[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(pixels, head_mask=torch.ones(layers, 4)).logits, model(pixels).logits)
    one = torch.ones(layers, 4)
    one[-1, 0] = 0
    assert not torch.allclose(model(pixels, head_mask=one).logits, model(pixels).logits, atol=1e-4)
    masked = model(pixels, head_mask=mask, output_attentions=[0]).attentions[0]
    plain = model(pixels, output_attentions=[0]).attentions[0]
    if variant == "factorized_dot_product_attention":
        for half, (got, want) in enumerate(zip(masked, plain, strict=True)):
            torch.testing.assert_close(got, want * mask[0, :, 2 * half : 2 * half + 2, :, :, None])
    else:
        torch.testing.assert_close(masked, plain * mask[0].reshape(2, 4, *[1] * (plain.ndim - 2)))
    with pytest.raises(InputError, match=rf"head_mask must be \(4,\), \({layers}, 4\)"):
        model(pixels, head_mask=torch.ones(layers + 1, 4))


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradient_checkpointing_changes_no_gradient(variant):
    model, _ = variant_model(variant)
    pixels = random_clips()
    model.train()
    found = []
    for saving in (False, True):
        (model.gradient_checkpointing_enable if saving else model.gradient_checkpointing_disable)()
        model.zero_grad()
        model(pixels, labels=torch.tensor([1, 2])).loss.backward()
        found.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    assert all(grad.abs().max() > 0 for name, grad in found[0].items() if not name.endswith("attn.k.bias"))
    for name, grad in found[0].items():
        torch.testing.assert_close(found[1][name], grad, msg=name)


@pytest.mark.parametrize("variant", VARIANTS)
def test_hidden_states_begin_with_the_embeddings_and_end_after_the_final_norm(variant):
    model, _ = variant_model(variant)
    pixels = random_clips()
    output = model(pixels, output_hidden_states=True)
    layouts = layer_layouts(model.config, model.config.grid)
    assert len(output.hidden_states) == len(layouts) + 1
    for state, layout in zip(output.hidden_states[1:], layouts, strict=True):
        assert state.shape == (2, layout.tokens, 12)
    torch.testing.assert_close(output.hidden_states[0], model.embed(pixels))
    bare = VivitModel(model.config, add_pooling_layer=False)
    bare.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("classifier")})
    torch.testing.assert_close(bare.eval()(pixels).last_hidden_state, output.hidden_states[-1])


@pytest.mark.parametrize("variant", VARIANTS)
def test_hooks_are_named_by_their_paths_and_see_every_attention(variant):
    model, _ = variant_model(variant)
    pixels = random_clips()
    output, cache = model.run_with_cache(pixels)
    torch.testing.assert_close(output.logits, model(pixels).logits)
    for layer, layout in enumerate(layer_layouts(model.config, model.config.grid)):
        assert cache[f"blocks.{layer}.attn.hook_q"].shape == (2, layout.tokens, 4, 3)
        assert cache[f"blocks.{layer}.attn.hook_z"].shape == (2, layout.tokens, 4, 3)
        assert cache[f"blocks.{layer}.hook_resid_post"].shape == (2, layout.tokens, 12)
    halves = ("time.", "space.") if variant == "factorized_dot_product_attention" else ("",)
    wanted = [f"blocks.0.attn.{half}hook_pattern" for half in halves]
    _, cache = model.run_with_cache(pixels, names_filter=wanted)
    (pattern,) = model(pixels, output_attentions=[0]).attentions
    for name, part in zip(wanted, pattern if isinstance(pattern, tuple) else (pattern,), strict=True):
        torch.testing.assert_close(cache[name], part)
    changed = model.run_with_hooks(pixels, fwd_hooks=[(wanted[0], lambda pattern, hook: torch.zeros_like(pattern))])
    mask = torch.ones(len(model.blocks), 4)
    mask[0, : 2 if len(halves) == 2 else 4] = 0  # no pattern is no head
    torch.testing.assert_close(changed.logits, model(pixels, head_mask=mask).logits, rtol=1e-4, atol=1e-5)
    assert not model(pixels).logits.equal(changed.logits)


@pytest.mark.parametrize("variant", VARIANTS)
def test_other_frame_counts_and_sizes_resize_the_positions(variant):
    model, _ = variant_model(variant)
    for frames, size in ((4, 8), (8, 8), (6, 12), (10, 16)):
        pixels = random_clips(1, frames, size)
        with pytest.raises(InputError, match="interpolate_pos_encoding=True"):
            model(pixels)
        output = model(pixels, interpolate_pos_encoding=True, output_attentions=True)
        assert output.logits.shape == (1, 5)
        grid = TokenGrid.from_video(frames, size, size, (2, 4, 4), cls_token=model.config.grid.cls)
        record = record_attention(model, pixels, interpolate_pos_encoding=True)
        assert record.grid == grid
        assert record.rows(0, 0).shape == (1, 4, 1, grid.num_tokens)


def test_the_temporal_positions_of_a_factorised_encoder_are_resized_too():
    """Positions that are linear in time stay so; CLS keeps its own."""
    model, _ = variant_model("factorized_encoder")
    enter = model.blocks[2].enter
    with torch.no_grad():
        enter.position.zero_()
        enter.position[0, 1:] = torch.arange(3.0)[:, None]
        enter.position[0, 0] = 7
        enter.cls_token.zero_()
        enter.ln.weight.zero_()
        enter.ln.bias.zero_()
    got = enter(torch.randn(1, 6 * 5, 12), TokenGrid(6, 2, 2))[0, :, 0]
    torch.testing.assert_close(got, torch.tensor([7, 0, 0.25, 0.75, 1.25, 1.75, 2.0]))


@pytest.mark.parametrize("variant", VARIANTS)
def test_heads_can_be_pruned(variant):
    """Pruned is masked, also where the heads of a half go; saved and loaded."""
    model, _ = variant_model(variant)
    pixels = random_clips()
    gone = {0: [0], len(model.blocks) - 1: [0, 3]}
    mask = torch.ones(len(model.blocks), 4)
    for layer, heads in gone.items():
        mask[layer, heads] = 0
    pruned = prune_heads(model, gone)
    want = model(pixels, head_mask=mask).logits
    for attention in ("sdpa", "eager"):
        pruned.set_attn_implementation(attention)
        torch.testing.assert_close(pruned(pixels).logits, want, rtol=1e-4, atol=1e-5)
    got, theirs = record_attention(pruned, pixels), record_attention(model, pixels, head_mask=mask)
    for layer in gone:
        torch.testing.assert_close(got.rows(layer, [0, 3]), theirs.rows(layer, [0, 3]), rtol=1e-4, atol=1e-5)


@pytest.mark.peer
@pytest.mark.parametrize("variant", FACTORIZED)
def test_a_directory_gives_the_same_model_back_and_transformers_refuses_it(variant, tmp_path):
    model, _ = variant_model(variant)
    model.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["variant"] == variant
    assert stored["model_type"] == "vivit_lab"
    pixels = random_clips()
    for again in (load_model(tmp_path), VivitForVideoClassification.from_pretrained(tmp_path)):
        assert again.config.replace(extra={}) == model.config
        assert torch.equal(again(pixels).logits, model(pixels).logits)
    with pytest.raises(ValueError, match="vivit_lab"):
        transformers.AutoModel.from_pretrained(tmp_path)
    broken = dict(model.state_dict())
    torch.save({name: value for name, value in broken.items() if "blocks.1." not in name}, tmp_path / "part.bin")
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "part.bin").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(KeyMismatchError, match=r"missing \(\d+\): .*layer\.1"):
        load_model(tmp_path)


def test_pooled_spacetime_is_saved_as_ours(tmp_path):
    model, _ = variant_model("spacetime", fields={"variant": "spacetime"}, cls=False)
    model.save_pretrained(tmp_path)
    again = load_model(tmp_path)
    assert again.config.classifier == "gap"
    pixels = random_clips()
    assert torch.equal(again(pixels).logits, model(pixels).logits)


def test_the_configuration_of_spacetime_is_what_it_was():
    assert not {"variant", "classifier", "num_temporal_layers", "attention_order"} & set(VivitConfig().to_dict())
    assert VivitConfig().to_dict()["model_type"] == "vivit"


WRONG = [
    ({"variant": "model_5"}, "variant='model_5' is not known; choose one of spacetime, factorized_encoder"),
    ({"attention_order": "space"}, "attention_order='space' is not known"),
    ({"classifier": "max"}, "classifier='max' is not known"),
    ({"variant": FACTORIZED[1], "classifier": "token"}, "has no CLS token"),
    ({"variant": FACTORIZED[2], "classifier": "token"}, "has no CLS token"),
    ({"variant": FACTORIZED[0], "classifier": "gap"}, "hands the CLS token of each time on"),
    ({"spatial_only_baseline": True}, "is a factorized_encoder without temporal layers"),
    ({"variant": FACTORIZED[2], "num_attention_heads": 3}, "num_attention_heads=3 is odd"),
    ({"num_temporal_layers": 0}, "num_temporal_layers must be a positive integer"),
    ({"num_labels": 5, "label_groups": {"noun": 3, "verb": 3}}, "must add up to num_labels=5"),
    ({"variant": FACTORIZED[1], "pruned_heads": {6: [0]}}, "layers 0..5"),
]


@pytest.mark.parametrize(("fields", "message"), WRONG)
def test_impossible_configurations_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        VivitConfig(**{**TINY, **fields})


def test_a_variant_has_its_own_classifier_when_it_is_chosen():
    config = VivitConfig(**TINY)
    assert config.classifier == "token"
    pooled = config.replace(variant=FACTORIZED[1])
    assert (pooled.classifier, pooled.grid.cls, pooled.num_attention_layers) == ("gap", False, 6)
    assert pooled.replace(variant="spacetime").grid.cls
    order = [layer_axes(pooled.replace(attention_order=order))[:2] for order in ("time_space", "space_time")]
    assert order == [("time", "space"), ("space", "time")]


@pytest.mark.parametrize("axis", ["time", "space"])
def test_folding_puts_the_tokens_of_a_group_side_by_side(axis):
    tokens = torch.arange(12.0).reshape(1, 1, 12, 1)
    folded = fold_tokens(tokens, axis, 3)
    assert folded[0, 0, :, :, 0].int().tolist() == groups(axis, 3, 4)
    assert torch.equal(unfold_tokens(folded, axis), tokens)
    with pytest.raises(InputError, match="12 tokens are not 5 times"):
        fold_tokens(tokens, axis, 5)


@pytest.mark.parametrize("variant", FACTORIZED)
def test_half_precision_dropout_and_compilation_without_sizes_written_in(variant):
    model, _ = variant_model(variant)
    pixels = random_clips(1)
    want = model(pixels).logits
    half = copy.deepcopy(model).to(torch.bfloat16)
    assert half(pixels).logits.dtype == torch.bfloat16
    torch.testing.assert_close(half(pixels).logits.float(), want, rtol=0.1, atol=0.1)
    exported = torch.export.export(model, (pixels,)).module()
    torch.testing.assert_close(exported(pixels).logits, want, rtol=1e-4, atol=1e-5)
    config = model.config.replace(hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5)
    noisy = VivitForVideoClassification(config).train()
    noisy.load_state_dict(model.state_dict())
    assert not torch.equal(noisy(pixels).logits, noisy(pixels).logits)
    torch.testing.assert_close(noisy.eval()(pixels).logits, want)


def test_logits_of_several_classifiers_are_told_apart():
    config = VivitConfig(**TINY, num_labels=5, label_groups={"verb": 2, "noun": 3})
    model = VivitForVideoClassification(config)
    logits = torch.arange(10.0).reshape(2, 5)
    parts = model.split_logits(logits)
    assert list(parts) == ["verb", "noun"]
    assert torch.equal(torch.cat(list(parts.values()), -1), logits)
    with pytest.raises(ConfigError, match="one group of classes"):
        VivitForVideoClassification(VivitConfig(**TINY)).split_logits(logits)


def test_attentions_that_do_not_fit_are_counted_along_their_axis(monkeypatch):
    """The patterns of a factorised model are small, and are not refused for the size of joint ones."""
    from vivit_lab.families import vivit as encoder

    asked = {}
    models = {variant: variant_model(variant)[0] for variant in VARIANTS}  # which asks for memory too

    def note(wanted, device, what, instead):
        asked[variant] = wanted

    monkeypatch.setattr(encoder, "require_bytes", note)
    for variant, model in models.items():
        output = model(random_clips(1), output_attentions=True)
        parts = [part for layer in output.attentions for part in (layer if isinstance(layer, tuple) else (layer,))]
        kept = sum(part.numel() * 4 for part in parts)
        assert kept < asked[variant] <= 4 * kept, variant
