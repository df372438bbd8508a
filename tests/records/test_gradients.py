"""A record of gradients is what autograd gives on the dense patterns, and leaves no trace in the model."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from beartype import beartype
from jaxtyping import jaxtyped

from tests.attribution.naive import close, dense, gradients, random_model
from tests.model.tiny import clips
from vivit_lab.errors import InputError, OutOfMemoryBudgetError
from vivit_lab.model import attention as attention_module
from vivit_lab.records import GradientRecord, record_attention, record_gradients
from vivit_lab.records import attention as record_module
from vivit_lab.records import gradients as gradients_module
from vivit_lab.records.values import record_values


@pytest.fixture
def model():
    return random_model()


@pytest.fixture(params=["kernel", "public sdpa", "eager", "blocks of one row"])
def _way(request, monkeypatch, model):
    if request.param == "public sdpa":
        monkeypatch.setattr(attention_module, "fused_attention_with_lse", lambda q, k, v, scale: None)
    elif request.param == "eager":
        model.set_attn_implementation("eager")
    elif request.param == "blocks of one row":
        monkeypatch.setattr(record_module, "_BLOCK_BYTES", {"cpu": 1})


def mask_of(kind):
    return {"none": None, "layer": torch.rand(3, 4), "clip": torch.rand(3, 2, 4, 1, 1)}[kind]


@pytest.fixture
def _checked_gradients(monkeypatch):
    method = jaxtyped(typechecker=beartype)(GradientRecord.gradient_rows)
    monkeypatch.setattr(GradientRecord, "gradient_rows", method)


@pytest.mark.usefixtures("_way", "_checked_gradients")
@pytest.mark.parametrize("kind", ["none", "layer", "clip"])
def test_gradients_are_those_of_the_dense_patterns(model, kind):
    pixels, mask = clips(), mask_of(kind)
    truth = dense(model, pixels, mask)
    wanted = gradients(truth.logits[:, 3], truth.patterns + truth.states)
    record = record_gradients(model, pixels, 3, head_mask=mask, states=True)
    close(record.scores, truth.logits[:, 3])
    everything = range(9)
    for layer, (pattern, gradient) in enumerate(zip(truth.patterns, wanted[:3], strict=True)):
        centre = (pattern * gradient).sum(-1)
        close(record.centres[layer], centre)
        close(record.gradient_rows(layer, everything), gradient)
        close(record.gradient_rows(layer, [0, -1], centred=True), (gradient - centre.unsqueeze(-1))[:, :, [0, 8]])
        close(record.states[layer], truth.states[layer])
        close(record.state_gradients[layer], wanted[3 + layer])
        close(record.rows(layer, everything, masked=False), pattern)
        for clip in range(2):
            for centred in (False, True):
                blocks = [
                    (rows, p.clone(), g.clone()) for rows, p, g in record.gradient_blocks(layer, clip, centred=centred)
                ]
                assert [row for rows, _, _ in blocks for row in range(9)[rows]] == list(everything)
                shift = centre[clip].unsqueeze(-1) if centred else 0
                close(torch.cat([p for _, p, _ in blocks], dim=1), pattern[clip])
                close(torch.cat([g for _, _, g in blocks], dim=1), gradient[clip] - shift)


def test_away_from_a_cpu_the_centre_is_subtracted(model, monkeypatch):
    record = record_gradients(model, clips(), 3)
    want = [g.clone() for _, _, g in record.gradient_blocks(1, 0, centred=True)]
    monkeypatch.setattr(GradientRecord, "device", torch.device("meta"))
    for module in (record_module, gradients_module):
        monkeypatch.setattr(module, "full_precision", lambda device: torch.autocast("cpu", enabled=False))
    got = [g.clone() for _, _, g in record.gradient_blocks(1, 0, centred=True)]
    torch.testing.assert_close(got, want)


def test_the_same_record_serves_what_needs_no_gradient(model):
    pixels = clips()
    plain, rich = record_attention(model, pixels), record_gradients(model, pixels)
    torch.testing.assert_close(rich.rows(1, [0, 3]), plain.rows(1, [0, 3]))
    torch.testing.assert_close(rich.output.logits, plain.output.logits)
    assert not rich.output.logits.requires_grad
    assert not any(part.requires_grad for store in (rich.queries, rich.values, rich.lse) for part in store.values())
    assert rich.nbytes == plain.nbytes + 3 * 2 * (2 * 9 * 48 + 4 * 9) * 4
    assert rich.provenance == plain.provenance


def test_values_and_states_without_gradients(model):
    pixels, mask = clips(), torch.rand(3, 4)
    truth = dense(model, pixels, mask)
    record = record_values(model, pixels, layers=[0, -1], head_mask=mask)
    assert record.layers == [0, 2]
    for layer in record.layers:
        close(record.values[layer], truth.values[layer])
        close(record.states[layer], truth.states[layer])
    assert record.output.hidden_states is None
    assert record.final_state is None
    last = record_values(model, pixels, layers=[1], head_mask=mask, final_state=True)
    close(last.final_state, truth.outs[-1])
    assert last.nbytes == 2 * (9 * 48 * 5 + 9 * 4) * 4
    assert record.nbytes == 2 * 2 * (9 * 48 * 4 + 9 * 4) * 4


def test_only_what_is_asked_for_is_kept_and_computed(model):
    pixels = clips()
    whole, top = record_gradients(model, pixels), record_gradients(model, pixels, layers=[-1])
    assert (whole.layers, top.layers, whole.states) == ([0, 1, 2], [2], {})
    torch.testing.assert_close(top.gradient_rows(2, 0), whole.gradient_rows(2, 0))
    with pytest.raises(InputError, match="layer 1 is not in the record"):
        top.gradient_rows(1, 0)
    # where the classifier reads CLS, no other row of the last layer has a gradient
    assert not top.context_gradients[2][:, :, 1:].any()


@pytest.mark.parametrize("states", [False, True])
def test_the_model_is_left_as_it_was(model, states):
    model.train()
    model.blocks[1].eval()
    model.blocks[0].mlp.fc1.weight.requires_grad_(False)
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    asking = [parameter.requires_grad for parameter in model.parameters()]
    pixels = clips().requires_grad_()
    record_gradients(model, pixels, states=states)
    with pytest.raises(InputError, match="class must be one of"):
        record_gradients(model, pixels, 17, states=states)
    assert pixels.grad is None
    assert pixels.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [parameter.requires_grad for parameter in model.parameters()] == asking
    assert [module.training for module in model.modules()] == modes
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_the_surrounding_gradient_mode_does_not_matter(model, around):
    pixels = clips()
    want = record_gradients(model, pixels, 1).gradient_rows(0, [0, 5])
    with around():
        got = record_gradients(model, pixels * 1, 1, states=True).gradient_rows(0, [0, 5])
    torch.testing.assert_close(got, want)


def test_a_masked_out_head_has_no_gradient(model):
    mask = torch.tensor([1.0, 0.0, 1.0, 1.0])
    record = record_gradients(model, clips(), head_mask=mask)
    for layer in range(3):
        assert not record.context_gradients[layer][:, 1].any()
        assert record.context_gradients[layer][:, 0].any()
    nothing = record_gradients(model, clips(), head_mask=torch.zeros(4))
    assert not nothing.gradient_rows(0, range(9)).any()


def test_half_precision_is_read_in_float32(model):
    pixels = clips()
    want = record_gradients(model, pixels, 2).gradient_rows(1, [0, 3])
    record = record_gradients(model.to(torch.bfloat16), pixels, 2)
    assert record.context_gradients[1].dtype == torch.bfloat16
    got = record.gradient_rows(1, [0, 3])
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want, rtol=0.1, atol=0.05 * float(want.abs().max()))


def test_threads_take_gradients_of_one_model_at_once(model):
    inputs = [clips() for _ in range(2)]
    want = [record_gradients(model, pixels, 1).gradient_rows(0, 0) for pixels in inputs]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda index: record_gradients(model, inputs[index % 2], 1).gradient_rows(0, 0), range(40)))
    for index, rows in enumerate(got):
        torch.testing.assert_close(rows, want[index % 2])
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_what_cannot_be_explained_is_refused(model, monkeypatch):
    with pytest.raises(InputError, match="does not depend on the model's output by a function with a gradient"):
        record_gradients(model, clips(), lambda output: output.logits.detach()[:, 0])
    with pytest.raises(InputError, match=r"layers must be a list of some of 0\.\.2"):
        record_gradients(model, clips(), layers=[5])
    record = record_gradients(model, clips())
    monkeypatch.setattr("vivit_lab.memory.free_bytes", lambda device: 10)
    with pytest.raises(OutOfMemoryBudgetError, match="2 rows of gradients for 2 clips of 9 tokens"):
        record.gradient_rows(0, [1, 2])
