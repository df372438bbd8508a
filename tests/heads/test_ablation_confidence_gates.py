import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.heads.pruning import HEADS, LAYERS, model_of, naive_logits
from tests.heads.test_prune import moved_bias
from tests.model.tiny import TINY, clips
from vivit_lab.errors import InputError
from vivit_lab.families import VivitModel
from vivit_lab.heads import (
    ConfidenceImportance,
    GradientActivation,
    L0Gates,
    MichelImportance,
    SingleHeadAblation,
    head_means,
    prune_heads,
)
from vivit_lab.heads.gates import gate_open, hard_concrete
from vivit_lab.heads.importance import bind_measure
from vivit_lab.interventions.ablation import partners
from vivit_lab.model import VivitConfig
from vivit_lab.records import OwnEmbedding


@pytest.fixture(scope="module")
def data():
    torch.manual_seed(3)
    return clips(5), torch.tensor([0, 1, 2, 3, 4])


def contexts_of(model, pixels):
    seen = {}
    with torch.no_grad():
        naive_logits(model, pixels, lambda layer, z: seen.setdefault(layer, z))
    return seen


@pytest.mark.parametrize("mode", ["zero", "mean", "resample"])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_each_head_is_replaced_alone(data, mode, implementation):
    pixels, labels = data
    model = model_of(attn_implementation=implementation)
    seen, means = contexts_of(model, pixels), head_means(model, pixels)
    order = partners(5, 5, seed=4)
    assert sorted(order.tolist()) == [0, 1, 2, 3, 4]
    assert not (order == torch.arange(5)).any()

    def loss(layer=None, head=None):
        def edit(at, z):
            if at != layer:
                return z
            z = z.clone()
            z[:, head] = {"zero": 0, "mean": means[layer, head], "resample": seen[layer][order][:, head]}[mode]
            return z

        with torch.no_grad():
            return functional.cross_entropy(naive_logits(model, pixels, edit), labels, reduction="none")

    wanted = torch.stack([torch.stack([loss(i, h) for h in range(HEADS)], dim=1) for i in range(LAYERS)], dim=1)
    wanted = wanted - loss()[:, None, None]
    for size in (2, 5):
        found = SingleHeadAblation(mode, batch_size=size, seed=4)(model, data)
        torch.testing.assert_close(found.per_example, wanted, rtol=1e-4, atol=1e-5)
    assert found.signed
    absolute = SingleHeadAblation(mode, absolute=True, seed=4)(model, data)
    torch.testing.assert_close(absolute.per_example, wanted.abs(), rtol=1e-4, atol=1e-5)
    assert not absolute.signed


def test_mean_ablation_does_not_depend_on_where_a_constant_lies_but_zero_does(data):
    shift = torch.randn(12)
    plain, moved = model_of(), moved_bias(model_of(), 1, 2, shift)
    for mode, same in (("mean", True), ("resample", True), ("zero", False)):
        a, b = (SingleHeadAblation(mode)(model, data).per_example for model in (plain, moved))
        assert torch.allclose(a, b, atol=1e-4) == same, mode


def test_a_target_of_which_more_is_better_is_turned(data):
    model, pixels = model_of(), data[0]
    found = SingleHeadAblation("zero", target=2)(model, pixels)
    mask = torch.ones(LAYERS, HEADS)
    mask[1, 3] = 0
    with torch.no_grad():
        lost = model(pixels).logits[:, 2] - model(pixels, head_mask=mask).logits[:, 2]
    torch.testing.assert_close(found.per_example[:, 1, 3], lost, rtol=1e-4, atol=1e-5)


def test_it_works_on_pruned_models_and_other_reference_clips(data):
    model = model_of()
    pruned = prune_heads(model, {1: [0, 2]})
    found = SingleHeadAblation("zero")(pruned, data)
    both = prune_heads(model, {1: [0, 2, 3]})
    with torch.no_grad():
        change = functional.cross_entropy(both(data[0]).logits, data[1], reduction="none")
        change -= functional.cross_entropy(pruned(data[0]).logits, data[1], reduction="none")
    torch.testing.assert_close(found.per_example[:, 1, 3], change, rtol=1e-4, atol=1e-5)
    assert found.values[1].isnan().tolist() == [True, False, True, False]
    other = SingleHeadAblation("mean", reference=clips(3))(model, data)
    assert not torch.allclose(other.per_example, SingleHeadAblation("mean")(model, data).per_example)
    assert SingleHeadAblation("resample", reference=clips(1))(model, clips(1)).per_example.abs().max() > 0
    with pytest.raises(InputError, match="wants two clips at least"):
        SingleHeadAblation("resample")(model, clips(1))
    with pytest.raises(InputError, match="mode='half' is not known"):
        SingleHeadAblation("half")


def test_confidence_is_the_mean_largest_weight(data):
    model, pixels = model_of(), data[0]
    with torch.no_grad():
        patterns = torch.stack(model(pixels, output_attentions=True).attentions, dim=1)
    found = ConfidenceImportance(batch_size=2)(model, pixels)
    torch.testing.assert_close(found.per_example, patterns.amax(dim=-1).mean(dim=-1), rtol=1e-4, atol=1e-5)
    without = ConfidenceImportance(exclude_cls=True)(model, pixels)
    torch.testing.assert_close(without.per_example, patterns[..., 1:].amax(dim=-1).mean(dim=-1), rtol=1e-4, atol=1e-5)
    assert ConfidenceImportance()(prune_heads(model, {0: [1]}), pixels).values[0].isnan().tolist() == [0, 1, 0, 0]


def test_hard_concrete_gates_have_the_chances_that_their_formula_tells():
    log_alpha = torch.tensor([-3.0, -1.0, 0.0, 2.0])
    noise = torch.rand(200_000, 4, generator=torch.Generator().manual_seed(0))
    gates = hard_concrete(log_alpha, noise)
    assert gates.min() == 0
    assert gates.max() == 1
    torch.testing.assert_close((gates > 0).float().mean(dim=0), gate_open(log_alpha), rtol=0, atol=0.005)
    assert hard_concrete(torch.tensor([-9.0, 9.0])).tolist() == [0, 1]
    assert torch.isfinite(hard_concrete(log_alpha, torch.tensor([[0.0], [1.0]]))).all()


def test_gates_close_on_heads_that_do_nothing():
    model = model_of()
    with torch.no_grad():  # all but head 1 of layer 0 and head 2 of layer 2 write nothing
        for layer, block in enumerate(model.blocks):
            keep = torch.zeros(48)
            for head in {0: [1], 2: [2]}.get(layer, []):
                keep[head * 12 : head * 12 + 12] = 8
            block.attn.o.weight *= keep
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pixels = clips(4)
    gates = L0Gates(steps=60, batch_size=4, sparsity=None, penalty=0.5, runs=2, target=_size(model, pixels))
    found = gates(model, pixels)
    assert {tuple(pair) for pair in found.ranking()[:2]} == {(0, 1), (2, 2)}
    assert found.rows == "run"
    assert len(found) == 2
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(value.grad is None and value.requires_grad for value in model.parameters())
    assert torch.equal(found.per_example, gates(model, pixels).per_example)


def _size(model, pixels):
    """Minus the distance of the logits to those of the untouched model, for the clips of a step in their order."""
    with torch.no_grad():
        wanted = model(pixels).logits
    return lambda output: -(torch.cdist(output.logits, wanted).amin(dim=1))


@pytest.mark.parametrize("target", ["loss", None])
def test_gates_ask_about_the_class_of_the_model_without_gates(target):
    model, pixels = model_of(), clips(6)
    with torch.no_grad():
        classes = model(pixels).logits.argmax(dim=-1)
    options = {"steps": 20, "runs": 1, "penalty": 5.0, "batch_size": 4, "start": 0.0}
    found = L0Gates(target, **options)(model, pixels)
    told = L0Gates("loss" if target else _logit_of(model, pixels, classes), **options)(model, (pixels, classes))
    torch.testing.assert_close(found.per_example, told.per_example)


def _logit_of(model, pixels, classes):
    """The logit of the class of each clip of a step, in the order in which the steps draw clips."""
    generator, steps = torch.Generator().manual_seed(0), []
    for _ in range(20):
        places = torch.randperm(6, generator=generator)[:4]
        torch.rand((LAYERS, 4, HEADS), generator=generator)
        steps.append(classes[places])
    drawn = iter(steps)
    return lambda output: output.logits.gather(1, next(drawn).unsqueeze(1)).squeeze(1)


def test_gates_of_a_model_without_classes_are_bound_to_the_clean_clips(monkeypatch):
    seen = []

    def spy(target, output, batch, model):
        with torch.no_grad():
            seen.append(torch.equal(output.pooler_output, model(batch.pixel_values).pooler_output))
        return bind_measure(target, output, batch, model)

    monkeypatch.setattr("vivit_lab.heads.gates.bind_measure", spy)
    found = L0Gates(OwnEmbedding(), steps=4, runs=1, start=0.0)(VivitModel(VivitConfig(**TINY)).eval(), clips(3))
    assert found.shape == (LAYERS, HEADS)
    assert seen == [True] * 4


def test_a_wanted_sparsity_is_reached(data):
    found = L0Gates(steps=80, sparsity=0.5, penalty=20.0, runs=1, batch_size=5)(model_of(), data)
    assert abs(float(found.values.mean()) - 0.5) < 0.1
    pruned = L0Gates(steps=2, runs=1, batch_size=2)(prune_heads(model_of(), {0: [2]}), data)
    assert pruned.values.isnan().nonzero().tolist() == [[0, 2]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "steps must be a positive integer"),
        ({"runs": 1.5}, "runs must be a positive integer"),
        ({"sparsity": 1.0}, r"sparsity must lie in \[0, 1\)"),
        ({"penalty": -1}, "penalty must not be negative"),
        ({"learning_rate": 0}, "learning_rate above 0"),
    ],
)
def test_fields_out_of_range_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        L0Gates(**fields)


def test_small_heads_are_ranked_as_ablation_ranks_them(data):
    model = model_of()
    with torch.no_grad():  # so small a part of each head that removing it is a first-order change
        for block in model.blocks:
            block.attn.o.weight *= 1e-3
    truth = SingleHeadAblation("zero")(model, data)
    linear = GradientActivation(reduction="signed")(model, data)
    torch.testing.assert_close(linear.per_example, truth.per_example, rtol=0.2, atol=2e-6)
    size = SingleHeadAblation("zero", absolute=True)(model, data)
    assert MichelImportance()(model, data).spearman(size) > 0.9
    assert np.isfinite(truth.p_values().numpy()).all()
