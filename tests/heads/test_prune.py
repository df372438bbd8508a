import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.heads.pruning import HEADS, LABELS, LAYERS, model_of, naive_logits
from tests.model.tiny import clips
from tests.peers import needs_transformers_4
from vivit_lab.attribution import AttentionRollout, CheferRelevance, ValueNormRollout
from vivit_lab.attribution.registry import METHODS
from vivit_lab.errors import ConfigError, InputError
from vivit_lab.families import VivitForVideoClassification
from vivit_lab.heads import HeadMask, head_means, prune_heads
from vivit_lab.model import VivitConfig
from vivit_lab.records import record_attention, record_gradients

SOME = {0: [1, 2], 1: range(HEADS), 2: [0]}
MASK = HeadMask.without(SOME, LAYERS, HEADS)
subsets = st.sets(st.tuples(st.integers(0, LAYERS - 1), st.integers(0, HEADS - 1)))
quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def same_under_mask(layer, z, mask=MASK):
    return z * mask.tensor()[layer].view(1, HEADS, 1, 1)


@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_masking_pruning_and_the_eager_reference_agree(implementation, qkv_bias):
    model, pixels = model_of(attn_implementation=implementation, qkv_bias=qkv_bias), clips()
    pruned = prune_heads(model, SOME)
    with torch.no_grad():
        reference = naive_logits(model, pixels, same_under_mask)
        close(model(pixels, head_mask=MASK).logits, reference)
        close(pruned(pixels).logits, reference)
        assert (reference - model(pixels).logits).abs().max() > 0.01  # the heads matter
    assert [attention.num_heads for attention in pruned.attention_layers] == [2, 0, 3]
    assert [tuple(attention.o.weight.shape) for attention in pruned.attention_layers] == [(48, 24), (48, 0), (48, 36)]
    assert model.num_parameters() - pruned.num_parameters() == 7 * 12 * (4 * 48 + 3 * qkv_bias)


@quick
@given(subsets, subsets)
def test_pruning_composes_and_masks_keep_their_numbers(first, second):
    model, pixels = model_of(), clips(1)
    one, both = HeadMask.without(first, LAYERS, HEADS), HeadMask.without(first | second, LAYERS, HEADS)
    other = HeadMask.without(second, LAYERS, HEADS)
    with torch.no_grad():
        wanted = model(pixels, head_mask=both).logits
        pruned = prune_heads(model, one)
        close(pruned(pixels, head_mask=other).logits, wanted)
        twice = prune_heads(pruned, other)
        close(twice(pixels).logits, wanted)
        close(prune_heads(model, both)(pixels).logits, wanted)
    assert twice.config.pruned_heads == {layer: tuple(heads) for layer, heads in both.pruned.items()}
    assert HeadMask.of_model(twice.config) == both


def test_masks_of_every_shape_work_on_a_pruned_model():
    model, pixels = model_of(), clips(2)
    pruned = prune_heads(model, SOME)
    per_clip = torch.rand(LAYERS, 2, HEADS, 1, 1)
    for mask in (torch.rand(HEADS), torch.rand(LAYERS, HEADS), torch.rand(LAYERS, 1, HEADS, 1, 1), per_clip):
        full = mask if mask.ndim == 5 else mask.expand(LAYERS, HEADS).reshape(LAYERS, 1, HEADS, 1, 1)
        joined = full * MASK.tensor().view(LAYERS, 1, HEADS, 1, 1)
        with torch.no_grad():
            close(pruned(pixels, head_mask=mask).logits, model(pixels, head_mask=joined).logits)
    with pytest.raises(InputError, match=r"head_mask must be \(4,\), \(3, 4\)"):
        pruned(pixels, head_mask=torch.ones(3, 2))


def test_the_given_model_is_left_alone():
    model = model_of()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pruned = prune_heads(model, SOME, fold_mean=torch.ones(LAYERS, HEADS, 12))
    assert model.config.pruned_heads == {}
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    with torch.no_grad():
        next(iter(pruned.parameters())).zero_()
    assert model.embed.cls_token.abs().sum() > 0


def test_modes_dtypes_and_frozen_parameters_are_kept():
    model = model_of(attn_implementation="eager").to(torch.bfloat16).train()
    model.blocks[0].attn.q.weight.requires_grad_(False)
    pruned = prune_heads(model, SOME, fold_mean=torch.rand(LAYERS, HEADS, 12))
    assert pruned.training
    assert {value.dtype for value in pruned.parameters()} == {torch.bfloat16}
    assert pruned.attn_implementation == "eager"
    assert not pruned.blocks[0].attn.q.weight.requires_grad
    assert pruned.blocks[0].attn.k.weight.requires_grad


def test_folded_means_are_mean_ablation():
    model, pixels = model_of(), clips(3)
    means = head_means(model, clips(5), batch_size=2)
    pruned = prune_heads(model, SOME, fold_mean=means)

    def to_mean(layer, z):
        kept = MASK.tensor()[layer].view(1, HEADS, 1, 1)
        return z * kept + means[layer].view(1, HEADS, 1, -1) * (1 - kept)

    with torch.no_grad():
        close(pruned(pixels).logits, naive_logits(model, pixels, to_mean))


def test_means_are_the_means_of_the_contexts():
    model, pixels = model_of(), clips(5)
    seen = {}
    with torch.no_grad():
        naive_logits(model, pixels, lambda layer, z: seen.setdefault(layer, z))
    wanted = torch.stack([seen[layer].mean(dim=(0, 2)) for layer in range(LAYERS)])
    close(head_means(model, pixels, batch_size=2), wanted)
    pruned = prune_heads(model, {2: [0]})
    means = head_means(pruned, pixels)
    close(means[:2], wanted[:2])
    assert means[2, 0].abs().max() == 0


def moved_bias(model, layer, head, shift):
    """The same function, with a constant moved from the value bias to the output bias."""
    attention = model.blocks[layer].attn
    places = slice(head * attention.head_dim, (head + 1) * attention.head_dim)
    with torch.no_grad():
        attention.v.bias[places] += shift
        attention.o.bias -= attention.o.weight[:, places] @ shift
    return model


def test_mean_pruning_does_not_depend_on_where_a_constant_lies_but_zero_pruning_does():
    pixels, shift = clips(3), torch.randn(12)
    plain, moved = model_of(), moved_bias(model_of(), 1, 2, shift)
    with torch.no_grad():
        close(plain(pixels).logits, moved(pixels).logits)
        zero = [prune_heads(model, {1: [2]})(pixels).logits for model in (plain, moved)]
        mean = [
            prune_heads(model, {1: [2]}, fold_mean=head_means(model, pixels))(pixels).logits for model in (plain, moved)
        ]
    close(*mean)
    assert (zero[0] - zero[1]).abs().max() > 0.01


READING = [name for name in METHODS if name not in ("rise", "occlusion", "smooth_grad", "integrated_gradients")]


@pytest.mark.parametrize("method", READING)  # the others use nothing but forwards
def test_methods_see_a_pruned_model_as_a_masked_one(method):
    model, pixels = model_of(), clips(2)
    explain = METHODS[method]()
    pruned, masked = explain(prune_heads(model, SOME), pixels), explain(model, pixels, head_mask=MASK)
    close(pruned.relevance, masked.relevance)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_records_show_pruned_heads_as_masked_out(implementation):
    model, pixels = model_of(attn_implementation=implementation), clips(2)
    pruned = record_attention(prune_heads(model, SOME), pixels)
    masked = record_attention(model, pixels, head_mask=MASK)
    for layer in range(LAYERS):
        close(pruned.rows(layer, [0, 3]), masked.rows(layer, [0, 3]))
        close(pruned.columns(layer, [0, 3]), masked.columns(layer, [0, 3]))
        close(pruned.propagate(layer, torch.ones(2, 9)), masked.propagate(layer, torch.ones(2, 9)))
    assert pruned.pattern(1, 0).abs().max() == 0
    close(
        pruned.entropy(1), torch.full((2, HEADS, 9), 9.0).log()
    )  # before the mask, heads that are gone look everywhere
    first = record_gradients(prune_heads(model, {0: range(HEADS)}), pixels, 1)
    assert first.context_gradients[0].abs().max() == 0
    assert first.context_gradients[1].abs().max() > 0


def test_patterns_asked_for_have_the_heads_that_are_there():
    model, pixels = model_of(), clips(2)
    patterns = prune_heads(model, SOME)(pixels, output_attentions=True).attentions
    assert [tuple(pattern.shape) for pattern in patterns] == [(2, 2, 9, 9), (2, 0, 9, 9), (2, 3, 9, 9)]
    with torch.no_grad():
        whole = model(pixels, head_mask=MASK, output_attentions=True).attentions
    close(patterns[0], whole[0][:, [0, 3]])


def test_hooks_see_the_heads_that_are_there():
    pruned = prune_heads(model_of(), SOME)
    _, cache = pruned.run_with_cache(clips(2))
    assert cache["z", 0].shape == (2, 9, 2, 12)
    assert pruned.attention_layers[0].kept_heads == (0, 3)


def test_a_pruned_model_trains():
    pruned = prune_heads(model_of(), SOME).train()
    pruned(clips(2), labels=torch.tensor([0, 1])).loss.backward()
    assert all(value.grad is not None for value in pruned.parameters() if value.numel())
    assert pruned.blocks[1].attn.o.bias.grad.abs().max() > 0


@needs_transformers_4
@pytest.mark.peer
@pytest.mark.parametrize("heads", [{0: [1, 2], 2: [0]}, SOME, {0: range(HEADS)}], ids=["some", "layer", "first"])
def test_files_are_ours_and_the_peers(heads, tmp_path):
    pixels, pruned = clips(2), prune_heads(model_of(), heads)
    pruned.save_pretrained(tmp_path)
    again = VivitForVideoClassification.from_pretrained(tmp_path)
    assert again.config.pruned_heads == pruned.config.pruned_heads
    assert again.num_parameters() == pruned.num_parameters()
    with torch.no_grad():
        assert torch.equal(again(pixels).logits, pruned(pixels).logits)
        for attention in ("eager", "sdpa"):
            peer = transformers.VivitForVideoClassification.from_pretrained(tmp_path, attn_implementation=attention)
            close(peer.eval()(pixels).logits, pruned(pixels).logits)
    kept = prune_heads(again, {2: [1]})  # what was read can be pruned further
    assert kept.config.pruned_heads[2] == (*dict(heads).get(2, ()), 1)


@needs_transformers_4
@pytest.mark.peer
def test_what_the_peer_pruned_is_read(tmp_path):
    torch.manual_seed(0)
    config = model_of().config
    peer = transformers.VivitForVideoClassification(
        transformers.VivitConfig(**{key: value for key, value in config.to_dict().items() if key != "model_type"})
    ).eval()
    peer.prune_heads({0: [0, 3], 2: [1]})
    peer.save_pretrained(tmp_path)
    ours = VivitForVideoClassification.from_pretrained(tmp_path)
    assert ours.config.pruned_heads == {0: (0, 3), 2: (1,)}
    with torch.no_grad():
        pixels = clips(2)
        close(ours(pixels).logits, peer(pixels).logits)


def test_a_configuration_round_trips_and_refuses_heads_there_are_not():
    config = model_of().config.replace(pruned_heads={2: [3, 1, 1], 0: [], 1: range(HEADS)})
    assert config.pruned_heads == {1: (0, 1, 2, 3), 2: (1, 3)}
    assert VivitConfig.from_dict(config.to_dict()) == config
    assert config.to_dict()["pruned_heads"] == {"1": [1, 2, 3], "2": [1, 3]}
    assert "pruned_heads" not in model_of().config.to_dict()
    for wrong in ({3: [0]}, {0: [4]}, {0: [-1]}):
        with pytest.raises(ConfigError, match="pruned_heads names layer"):
            config.replace(pruned_heads=wrong)


@pytest.mark.parametrize(
    ("heads", "options", "message"),
    [
        ({3: [0]}, {}, r"no head \(3, 0\)"),
        (HeadMask.ones(2, 2), {}, r"\(2, 2\) \(layers, heads\), the model has \(3, 4\)"),
        (HeadMask([[0.5] * HEADS] * LAYERS), {}, "scales heads cannot be pruned"),
        ([(0, 1)], {}, "wanted a HeadMask or layer → heads, got list"),
        (SOME, {"fold_mean": torch.ones(3, 4, 5)}, r"\(layers, heads, d_head\) \(3, 4, 12\), got \(3, 4, 5\)"),
    ],
)
def test_what_cannot_be_pruned_is_refused(heads, options, message):
    with pytest.raises(InputError, match=message):
        prune_heads(model_of(), heads, **options)


def test_rollouts_and_relevance_run_on_a_model_without_any_attention():
    model, pixels = model_of(), clips(1)
    bare = prune_heads(model, HeadMask.ones(LAYERS, HEADS).invert())
    with torch.no_grad():
        close(bare(pixels).logits, model(pixels, head_mask=torch.zeros(HEADS)).logits)
    for method in (AttentionRollout(), ValueNormRollout(), CheferRelevance()):
        close(method(bare, pixels).relevance, method(model, pixels, head_mask=torch.zeros(HEADS)).relevance)
    assert LABELS == bare.config.num_labels
