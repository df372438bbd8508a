"""LeGrad, transition attention maps, AttCAT and value-norm rollout equal their definitions on dense patterns."""

import pytest
import torch

from tests.attribution.naive import close, dense, gradients, random_model
from tests.model.tiny import clips
from vivit_lab.attribution import AttCAT, LeGrad, TransitionAttentionMaps, ValueNormRollout, legrad, value_norm
from vivit_lab.attribution.value_norm import token_gram
from vivit_lab.errors import InputError
from vivit_lab.families import VivitModel
from vivit_lab.records import CosineSimilarity, LogitDifference, record_gradients
from vivit_lab.records import attention as record_module

METHODS = [
    LeGrad(),
    LeGrad(start_layer=-1),
    TransitionAttentionMaps(steps=5),
    TransitionAttentionMaps(start_layer=1, steps=1),
    AttCAT(),
    AttCAT(start_layer=-2),
    ValueNormRollout(),
    ValueNormRollout(start_layer=1, residual=False),
]
CLASSED = [method for method in METHODS if not method.class_agnostic]


@pytest.fixture
def model():
    return random_model()


@pytest.fixture(autouse=True)
def _uneven_blocks(monkeypatch):
    monkeypatch.setattr(record_module, "_BLOCK_BYTES", {"cpu": 4 * 9 * 4 * 4})  # four rows of nine in a block
    monkeypatch.setattr(legrad, "_ROWS", 4)
    monkeypatch.setattr(value_norm, "_TOKENS", 4)


def naive(method, model, pixels, mask, score):
    """Each method as its paper writes it, on whole matrices in float64; (batch, token)."""
    truth = dense(model, pixels, mask)
    layers = range(3)[method.start_layer :]
    attended = [share * pattern for share, pattern in zip(truth.mask, truth.patterns, strict=True)]
    if isinstance(method, LeGrad):
        total = 0
        for layer in layers:
            readout = score(truth.model.classifier(truth.model.ln_final(truth.outs[layer])[:, 0]))
            (grad,) = gradients(readout, [truth.patterns[layer]])
            total = total + grad.clamp(min=0).mean(dim=(1, 2)) / len(layers)
        return total
    if isinstance(method, TransitionAttentionMaps):
        state = attended[-1].mean(1)[:, 0]
        for layer in reversed(layers[:-1]):
            state = state + torch.einsum("bi,bij->bj", state, attended[layer].mean(1))
        grads = []
        for alpha in torch.linspace(0, 1, method.steps) if method.steps > 1 else [1.0]:
            scaled = dense(model, pixels * float(alpha), mask)
            grads.append(gradients(score(scaled.logits), scaled.patterns[-1:])[0])
        return state * torch.stack(grads).mean(0).clamp(min=0).mean(1)[:, 0]
    if isinstance(method, AttCAT):
        grads = gradients(score(truth.logits), truth.states)
        return sum(attended[layer].mean(dim=(1, 2)) * (truth.states[layer] * grads[layer]).sum(-1) for layer in layers)
    total = torch.eye(9, dtype=torch.float64).expand(len(pixels), -1, -1)
    for layer in layers:
        weight = truth.model.blocks[layer].attn.o.weight.unflatten(1, (4, -1))
        moved = torch.einsum("bhjd,mhd->bhjm", truth.values[layer], weight)
        added = torch.einsum("bhij,bhjm->bijm", attended[layer], moved)
        if method.residual:
            added = added + torch.diag_embed(truth.states[layer].mT, dim1=1, dim2=2)
        norms = added.norm(dim=-1)
        total = norms / norms.sum(-1, keepdim=True).clamp_min(1e-300) @ total
    return total[:, 0]


@pytest.mark.parametrize("kind", ["none", "layer", "clip"])
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_methods_are_their_definitions(model, method, kind):
    pixels = clips()
    mask = {"none": None, "layer": torch.rand(3, 4), "clip": torch.rand(3, 2, 4, 1, 1)}[kind]
    wanted = naive(method, model, pixels, mask, lambda logits: logits[:, 3])
    heat = method(model, pixels, None if method.class_agnostic else 3, head_mask=mask)
    close(heat.relevance.flatten(1), wanted[:, 1:])
    close(torch.tensor(heat.cls_share), wanted[:, 0])


@pytest.mark.parametrize("method", CLASSED, ids=repr)
def test_other_targets(model, method):
    pixels = clips()
    wanted = naive(method, model, pixels, None, lambda logits: logits[:, 0] - logits[:, 4])
    heat = method(model, pixels, LogitDifference(0, 4))
    close(heat.relevance.flatten(1), wanted[:, 1:])
    assert heat.target == "class 0 (LABEL_0), against class 4 (LABEL_4)"
    alone = method(model, pixels[:1])
    label = int(model(pixels[:1]).logits.argmax())
    assert alone.target == f"class {label} (LABEL_{label}), predicted"
    torch.testing.assert_close(alone.relevance, method(model, pixels[:1], label).relevance)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_a_batch_is_its_clips_one_by_one(model, method):
    pixels = clips(3)
    together = method(model, pixels)
    for index in range(3):
        close(together[index].relevance, method(model, pixels[index : index + 1]).relevance.double())


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_other_sizes_modes_and_autocast(model, method):
    pixels = torch.randn(1, 6, 3, 48, 32)
    want = method(model, pixels, interpolate_pos_encoding=True)
    assert want.grid.shape == (3, 3, 2)
    model.train()
    with torch.inference_mode():
        got = method(model, pixels * 1, interpolate_pos_encoding=True)
    close(got.relevance, want.relevance.double())
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        assert method(model, pixels, interpolate_pos_encoding=True).relevance.dtype == torch.float32


def test_a_layer_reads_every_token_where_the_target_does():
    model, pixels = random_model(VivitModel), clips()
    truth = dense(model, pixels)
    total = 0
    for layer in range(3):
        score = truth.model.ln_final(truth.outs[layer]).square().mean(dim=(1, 2))
        total = total + gradients(score, [truth.patterns[layer]])[0].clamp(min=0).mean(dim=(1, 2)) / 3
    heat = LeGrad()(model, pixels, lambda output: output.last_hidden_state.square().mean(dim=(1, 2)))
    close(heat.relevance.flatten(1), total[:, 1:])


def test_a_model_without_a_classifier():
    model, pixels, embedding = random_model(VivitModel), clips(), torch.randn(48)
    for method in CLASSED:
        heat = method(model, pixels, CosineSimilarity(embedding))
        assert heat.target == "cosine similarity of the pooler output to an embedding"
        with pytest.raises(InputError, match="no classifier"):
            method(model, pixels)
    assert ValueNormRollout()(model, pixels).relevance.any()


def test_value_norm_rollout_sums_to_one_and_ignores_the_classifier(model):
    pixels = clips()
    heat = ValueNormRollout()(model, pixels, queries=[0, 4])
    total = heat.relevance.sum(dim=(1, 2, 3)) + torch.tensor(heat.cls_share)
    torch.testing.assert_close(total, torch.ones(2), rtol=0, atol=1e-5)
    assert heat.target == "mean of tokens CLS, (t=0, y=1, x=1)"
    torch.nn.init.normal_(model.classifier.weight, std=10)
    assert torch.equal(ValueNormRollout()(model, pixels, queries=[0, 4]).relevance, heat.relevance)
    wanted = sum(ValueNormRollout()(model, pixels, queries=token).relevance.double() for token in (0, 4)) / 2
    close(heat.relevance, wanted)
    nothing = ValueNormRollout(residual=False)(model, pixels, head_mask=torch.zeros(4))
    assert not nothing.relevance.any()
    with pytest.raises(InputError, match="does not depend on the class, and target=3 would be ignored"):
        ValueNormRollout()(model, pixels, 3)


def test_a_gram_matrix_for_each_token():
    values, projection = torch.randn(4, 9, 5), torch.randn(7, 4, 5)
    grams = token_gram(values, projection)
    for token in range(9):
        moved = torch.stack([projection[:, head] @ values[head, token] for head in range(4)])
        torch.testing.assert_close(grams[token], moved @ moved.T)


def test_attcat_reads_a_record_with_states(model):
    pixels = clips()
    heat = AttCAT()(model, pixels, 1)
    assert heat.signed
    assert (heat.relevance < 0).any()
    record = record_gradients(model, pixels, 1, states=True)
    torch.testing.assert_close(AttCAT()(record).relevance, heat.relevance)
    with pytest.raises(InputError, match="record has no states"):
        AttCAT()(record_gradients(model, pixels, 1))


def test_wrong_calls_are_refused(model):
    with pytest.raises(InputError, match="steps must be a positive integer, got 0"):
        TransitionAttentionMaps(steps=0)
    for kind in (LeGrad, TransitionAttentionMaps, AttCAT, ValueNormRollout):
        with pytest.raises(InputError, match="start_layer=7 is outside"):
            kind(start_layer=7)(model, clips())
    for method in (LeGrad(), TransitionAttentionMaps()):
        with pytest.raises(InputError, match="function with a gradient"):
            method(model, clips(), lambda output: output.logits.detach()[:, 0])


def test_a_progress_bar_on_request(model, capsys):
    TransitionAttentionMaps(steps=3)(model, clips(1), progress=True)
    assert "TransitionAttentionMaps" in capsys.readouterr().err
    TransitionAttentionMaps(steps=3)(model, clips(1))
    assert capsys.readouterr().err == ""
