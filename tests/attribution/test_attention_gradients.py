"""Methods that weigh the pattern with its gradient equal their definitions on dense patterns with autograd."""

import pytest
import torch

from tests.attribution.naive import close, dense, gradients, random_model
from tests.model.tiny import clips
from vivit_lab.attribution import AttentionGradient, CheferRelevance, GradientRollout
from vivit_lab.attribution.products import carry_products, fuse_products
from vivit_lab.errors import InputError
from vivit_lab.families import VivitModel
from vivit_lab.records import LogitDifference, Probability, record_attention, record_gradients
from vivit_lab.records import attention as record_module
from vivit_lab.records.attention import FusedRows

METHODS = [
    CheferRelevance(),
    CheferRelevance(centred=True),
    CheferRelevance(start_layer=-2),
    GradientRollout(),
    GradientRollout(0.6, residual=0.0),
    GradientRollout(start_layer=1, residual=0.2),
    AttentionGradient(),
    AttentionGradient(1, centred=True),
    AttentionGradient(0, positive=False),
]
TARGETS = {
    "class": (3, lambda logits: logits[:, 3]),
    "predicted": (None, lambda logits: logits.amax(dim=-1)),
    "difference": (LogitDifference(0, 4), lambda logits: logits[:, 0] - logits[:, 4]),
    "probability": (Probability(1), lambda logits: logits.softmax(dim=-1)[:, 1]),
    "function": (lambda output: output.logits[:, 2].tanh(), lambda logits: logits[:, 2].tanh()),
}


@pytest.fixture
def model():
    return random_model()


@pytest.fixture(autouse=True)
def _uneven_blocks(monkeypatch):
    monkeypatch.setattr(record_module, "_BLOCK_BYTES", {"cpu": 4 * 9 * 4 * 4})  # four rows of nine in a block


def naive_discard(fused, ratio):
    """Zero the lowest entries of each row that are not on the CLS key, one by one."""
    fused = fused.detach().clone()
    for row in fused.flatten(0, 1):
        for column in sorted(range(1, len(row)), key=lambda index: row[index].item())[: int(ratio * (len(row) - 1))]:
            row[column] = 0
    return fused


def naive(method, patterns, grads, queries):
    """The whole matrices, bottom up, as the papers write them."""
    if getattr(method, "centred", False):
        grads = [g - (a * g).sum(-1, keepdim=True) for a, g in zip(patterns, grads, strict=True)]
    products = [a * g for a, g in zip(patterns, grads, strict=True)]
    if isinstance(method, AttentionGradient):
        product = products[method.layer]
        total = (product.clamp(min=0) if method.positive else product).mean(1)
        return total[:, queries].mean(1)
    identity = torch.eye(9, dtype=torch.float64)
    total = identity.expand(len(patterns[0]), -1, -1)
    for product in products[method.start_layer :]:
        if isinstance(method, CheferRelevance):
            total = total + product.clamp(min=0).mean(1) @ total
        else:
            fused = naive_discard(product.mean(1).clamp(min=0), method.discard_ratio)
            mixed = method.residual * identity + (1 - method.residual) * fused
            total = (mixed / mixed.sum(-1, keepdim=True).clamp_min(1e-300)) @ total
    return total[:, queries].mean(1)


@pytest.mark.parametrize("kind", ["none", "layer", "clip"])
@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("queries", [None, [0, 3, 3]], ids=str)
def test_methods_are_their_definitions(model, method, queries, kind):
    pixels = clips()
    mask = {"none": None, "layer": torch.rand(3, 4), "clip": torch.rand(3, 2, 4, 1, 1)}[kind]
    truth = dense(model, pixels, mask)
    grads = gradients(truth.logits[:, 3], truth.patterns)
    wanted = naive(method, truth.patterns, grads, queries or [0])
    heat = method(model, pixels, 3, queries=queries, head_mask=mask)
    close(heat.relevance.flatten(1), wanted[:, 1:])
    close(torch.tensor(heat.cls_share), wanted[:, 0])


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("method", [CheferRelevance(), GradientRollout(), AttentionGradient(1)], ids=repr)
def test_every_kind_of_target(model, method, name):
    pixels = clips()
    target, score = TARGETS[name]
    truth = dense(model, pixels)
    wanted = naive(method, truth.patterns, gradients(score(truth.logits), truth.patterns), [0])
    close(method(model, pixels, target).relevance.flatten(1), wanted[:, 1:])


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_a_record_gives_the_same_map(model, method):
    pixels = clips()
    from_model, from_record = method(model, pixels, 2), method(record_gradients(model, pixels, 2))
    torch.testing.assert_close(from_model.relevance, from_record.relevance)
    assert from_model.metadata() == from_record.metadata()


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_a_batch_is_its_clips_one_by_one(model, method):
    pixels = clips(3)
    together = method(model, pixels)
    for index in range(3):
        alone = method(model, pixels[index : index + 1])
        close(together[index].relevance, alone.relevance.double())


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_eager_attention_and_autocast_change_nothing(model, method):
    pixels = clips()
    want = method(model, pixels, 3).relevance
    record = record_gradients(model, pixels, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(method(record).relevance, want)
    model.set_attn_implementation("eager")
    close(method(model, pixels, 3).relevance, want.double())


def shift_value_bias(model):
    """Move a constant from the output bias into the value bias: no output of the model changes."""
    with torch.no_grad():
        for block in model.blocks:
            shift = torch.randn_like(block.attn.v.bias)
            block.attn.v.bias += shift
            block.attn.o.bias -= block.attn.o.weight @ shift


@pytest.mark.parametrize(
    "method",
    [CheferRelevance(centred=True), AttentionGradient(1, centred=True), AttentionGradient(0, False, centred=True)],
    ids=repr,
)
def test_centred_relevance_does_not_see_the_gauge(model, method):
    pixels = clips()
    plain = type(method)(**{**vars(method), "centred": False})
    logits = model(pixels).logits
    before, plain_before = method(model, pixels, 1).relevance, plain(model, pixels, 1).relevance
    shift_value_bias(model)
    torch.testing.assert_close(model(pixels).logits, logits, rtol=1e-4, atol=1e-4)
    close(method(model, pixels, 1).relevance, before.double(), 1e-4)
    moved = (plain(model, pixels, 1).relevance - plain_before).abs().max()
    assert moved > 0.05 * plain_before.abs().max()  # and the relevance of the paper does see it


def test_another_class_gives_another_map(model):
    pixels = clips()
    for method in METHODS:
        one, other = method(model, pixels, 0).relevance, method(model, pixels, 1).relevance
        assert (one - other).abs().max() > 1e-3 * one.abs().max()
        assert not method.class_agnostic


def test_a_gradient_rollout_sums_to_one_with_cls(model):
    for method in (GradientRollout(), GradientRollout(0.5)):
        heat = method(model, clips(), 3)
        total = heat.relevance.sum(dim=(1, 2, 3)) + torch.tensor(heat.cls_share)
        torch.testing.assert_close(total, torch.ones(2), rtol=0, atol=1e-5)


def test_every_clip_of_a_mixed_batch_says_its_own_class(model):
    pixels = clips(3)
    together = CheferRelevance()(model, pixels, [4, 0, 2], queries=[0])
    assert together.targets == [f"class {label} (LABEL_{label}); read from token CLS" for label in (4, 0, 2)]
    assert together[1].target == "class 0 (LABEL_0); read from token CLS"
    predicted = CheferRelevance()(model, pixels)
    for clip in range(3):
        assert predicted[clip].target == CheferRelevance()(model, pixels[clip : clip + 1]).target


def test_a_map_says_what_was_explained(model):
    pixels = clips(1)
    heat = CheferRelevance()(model, pixels)
    label = int(model(pixels).logits.argmax())
    assert heat.target == f"class {label} (LABEL_{label}), predicted"
    assert (heat.method, heat.parameters) == ("CheferRelevance", {"centred": False, "start_layer": 0})
    assert (heat.scale, heat.signed) == ("relevance to the logit", False)
    assert heat.cls_share is not None
    read = CheferRelevance()(model, pixels, Probability(1), queries=[0, 2])
    assert read.target == "probability of class 1 (LABEL_1); read from mean of tokens CLS, (t=0, y=0, x=1)"
    assert read.scale == "relevance to the probability"
    signed = AttentionGradient(positive=False)(model, pixels, 1)
    assert signed.signed
    assert (signed.relevance < 0).any()


def test_no_positive_product_carries_nothing(model):
    pixels, nothing = clips(), torch.zeros(4)
    assert not GradientRollout(residual=0.0)(model, pixels, 1, head_mask=nothing).relevance.any()
    assert not CheferRelevance()(model, pixels, 1, head_mask=nothing).relevance.any()


def test_other_sizes_are_explained_on_their_own_grid(model):
    larger = torch.randn(1, 6, 3, 48, 32)
    for method in METHODS:
        assert method(model, larger, 1, interpolate_pos_encoding=True).grid.shape == (3, 3, 2)


def test_models_without_a_classifier(model):
    backbone, pixels = random_model(VivitModel), clips()

    def energy(output):
        return output.last_hidden_state.square().mean(dim=(1, 2))

    heat = CheferRelevance()(backbone, pixels, energy, queries=range(9))
    assert heat.target.startswith("energy(output); read from mean of tokens CLS")
    truth = dense(backbone, pixels)
    score = truth.model.ln_final(truth.outs[-1]).square().mean(dim=(1, 2))
    wanted = naive(CheferRelevance(), truth.patterns, gradients(score, truth.patterns), list(range(9)))
    close(heat.relevance.flatten(1), wanted[:, 1:])


def test_many_queries_go_in_blocks(model, monkeypatch):
    record = record_gradients(model, clips(), 1)
    want = CheferRelevance()(record, queries=[0, 3]).relevance
    monkeypatch.setattr("vivit_lab.attribution.products._FEW", 1)
    torch.testing.assert_close(CheferRelevance()(record, queries=[0, 3]).relevance, want)
    product = torch.tensor([[[1.0, -2.0]], [[-3.0, 4.0]]])
    for clamp, wanted in (("before", [0.5, 2.0]), ("after", [0.0, 1.0]), ("never", [-1.0, 1.0])):
        assert fuse_products(product.clone(), 0, clamp=clamp).tolist() == [wanted]
    weights = torch.rand(2, 9)
    kept = carry_products(record, 1, weights, FusedRows.carry, clamp="never", only=range(9))
    torch.testing.assert_close(carry_products(record, 1, weights, FusedRows.carry, clamp="never"), kept)


def test_wrong_calls_are_refused(model):
    record = record_gradients(model, clips(), layers=[2])
    for method in (CheferRelevance(), GradientRollout(), AttentionGradient()):
        with pytest.raises(InputError, match="pixel_values is missing"):
            method(model)
        with pytest.raises(InputError, match="a record holds its own clips, target, head mask and grid"):
            method(record, target=3)
        with pytest.raises(InputError, match=r"needs gradients, .* record_gradients\(model, pixel_values, target\)"):
            method(record_attention(model, clips()))
        with pytest.raises(InputError, match="outside the sequence of 9 tokens"):
            method(model, clips(), queries=[9])
    for method in (CheferRelevance(start_layer=3), GradientRollout(start_layer=-4)):
        with pytest.raises(InputError, match=r"start_layer=-?\d is outside the model's layers 0..2"):
            method(model, clips())
    with pytest.raises(InputError, match="layer 1 is not in the record"):
        CheferRelevance()(record)
    with pytest.raises(InputError, match=r"layers must be"):
        AttentionGradient(5)(model, clips())
    for settings in ({"discard_ratio": 1.0}, {"residual": -0.1}):
        with pytest.raises(InputError, match=r"must lie in \[0, 1\)"):
            GradientRollout(**settings)
