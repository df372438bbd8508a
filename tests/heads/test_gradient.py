import pytest
import torch
from torch.nn import functional

from tests.heads.pruning import HEADS, LABELS, LAYERS, model_of, naive_logits
from tests.model.tiny import clips
from vivit_lab.errors import InputError
from vivit_lab.heads import FisherImportance, GradientActivation, MichelImportance, clip_set, prune_heads
from vivit_lab.records import ClassLogit, LogitDifference

DATA = 5


@pytest.fixture(scope="module")
def data():
    torch.manual_seed(3)
    return clips(DATA), torch.tensor([0, 1, 2, 3, 4])


def naive_products(model, pixels, score):
    """⟨O_h, ∂y/∂O_h⟩ of every token, (clip, layer, head, token): one clip at a time, by eager autograd."""
    rows = []
    for clip, pixel in enumerate(pixels):
        contexts = {}

        def keep(layer, z, contexts=contexts):
            contexts[layer] = z
            return z

        value = score(naive_logits(model, pixel[None], keep), clip)
        gradients = torch.autograd.grad(value, [contexts[layer] for layer in range(LAYERS)])
        rows.append(torch.stack([(contexts[i] * g).sum(-1)[0] for i, g in enumerate(gradients)]).detach())
    return torch.stack(rows)


def loss(labels):
    return lambda logits, clip: functional.cross_entropy(logits, labels[clip : clip + 1])


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_all_three_are_their_definition(data, implementation):
    pixels, labels = data
    model = model_of(attn_implementation=implementation)
    products = naive_products(model, pixels, loss(labels))
    whole = products.sum(dim=-1)
    wanted = {
        MichelImportance(): whole.abs(),
        FisherImportance(): whole.square(),
        GradientActivation(): products.abs().sum(dim=-1),
        GradientActivation(reduction="signed"): -whole,  # a loss that falls without the head: it helps
    }
    for method, rows in wanted.items():
        found = method(model, data)
        torch.testing.assert_close(found.per_example, rows, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(found.values, rows.mean(dim=0), rtol=1e-3, atol=1e-6)
        assert found.target == "cross entropy of the label"
    assert all(value.grad is None for value in model.parameters())


@pytest.mark.parametrize("method", [MichelImportance, FisherImportance, GradientActivation])
def test_the_batch_size_changes_nothing(data, method):
    model = model_of()
    one, two, all_at_once = (method(batch_size=size)(model, data) for size in (1, 2, DATA))
    torch.testing.assert_close(one.per_example, all_at_once.per_example, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(two.per_example, all_at_once.per_example, rtol=1e-3, atol=1e-6)


def test_targets_are_those_of_the_hooks(data):
    pixels, _ = data
    model = model_of()
    found = MichelImportance(target=3)(model, pixels)
    wanted = naive_products(model, pixels, lambda logits, _: logits[0, 3]).sum(dim=-1).abs()
    torch.testing.assert_close(found.per_example, wanted, rtol=1e-3, atol=1e-6)
    same = MichelImportance(target=lambda output: output.logits[:, 3])(model, pixels)
    torch.testing.assert_close(same.per_example, wanted, rtol=1e-3, atol=1e-6)
    assert "class 3" in found.target
    signed = GradientActivation(target=ClassLogit(3), reduction="signed")(model, pixels)
    torch.testing.assert_close(signed.per_example.abs(), wanted, rtol=1e-3, atol=1e-6)
    assert "logit difference" in FisherImportance(target=LogitDifference())(model, pixels).unit


def test_without_labels_the_predicted_class_is_asked(data):
    pixels, _ = data
    model = model_of()
    with torch.no_grad():
        predicted = model(pixels).logits.argmax(dim=-1)
    found = MichelImportance()(model, pixels)
    assert found.target == "cross entropy of the predicted class"
    torch.testing.assert_close(found.per_example, MichelImportance()(model, (pixels, predicted)).per_example)
    assert torch.equal(found.per_example, MichelImportance()(model, clip_set(pixels, predicted.tolist())).per_example)


def test_pruned_heads_have_no_importance_and_the_others_keep_their_numbers(data):
    model = model_of()
    pruned = prune_heads(model, {0: [1], 2: range(HEADS)})
    for method in (MichelImportance(), FisherImportance(), GradientActivation()):
        found = method(pruned, data)
        gone = found.values.isnan()
        assert gone.nonzero().tolist() == [[0, 1], *([2, head] for head in range(HEADS))]
        masked = torch.ones(LAYERS, HEADS).masked_fill(gone, 0)
        ours = naive_products(
            model,
            data[0],
            lambda logits, clip: functional.cross_entropy(logits, data[1][clip : clip + 1]),
        )
        assert ours.shape == (DATA, LAYERS, HEADS, 9)
        assert len(found.ranking()) == int(masked.sum())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model, pixels: MichelImportance(target="accuracy")(model, pixels), "target='accuracy' is not known"),
        (lambda model, pixels: MichelImportance()(model, (pixels, torch.rand(DATA))), "one class for each clip"),
        (lambda model, pixels: MichelImportance(batch_size=0)(model, pixels), "batch_size must be a positive integer"),
        (lambda model, pixels: GradientActivation(reduction="mean"), "'size' or 'signed'"),
        (
            lambda model, pixels: MichelImportance(target=lambda output: output.logits.detach()[:, 0])(model, pixels),
            "by a function with a gradient",
        ),
        (lambda model, pixels: MichelImportance()(model_of(num_labels=0), pixels), "a loss wants a classifier"),
    ],
)
def test_what_cannot_be_scored_is_refused(data, call, message):
    assert LABELS == 5
    with pytest.raises(InputError, match=message):
        call(model_of(), data[0])
