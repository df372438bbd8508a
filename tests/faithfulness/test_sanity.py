"""Sanity checks: the model stays as it is, the stages fall in order, and each kind of method gets its own verdict."""

import itertools
import math

import numpy as np
import pytest
import torch

from tests.model.tiny import TINY, clips
from vivit_lab.attribution import AttentionRollout, CheferRelevance, GradientRollout, InputXGradient, Rise
from vivit_lab.errors import InputError
from vivit_lab.faithfulness import RandomMap, check_sanity
from vivit_lab.faithfulness.sanity import SanityResult, cascade, randomised_stages, spearman, ssim
from vivit_lab.families import VivitForVideoClassification, VivitModel
from vivit_lab.model import VivitConfig
from vivit_lab.records import CosineSimilarity, LogitDifference

STAGES = ("classifier", "ln_final", "blocks.2", "blocks.1", "blocks.0", "embed")


def make(cls=VivitForVideoClassification, **fields):
    """A model that nothing is at its initial value of."""
    model = cls(VivitConfig(**{**TINY, "num_labels": 5, **fields})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def naive_ssim(a, b, window):
    a, b = ((v - v.min()) / (v.max() - v.min()) for v in (a, b))
    size = [min(n, whole) for n, whole in zip(window, a.shape, strict=True)]
    starts = itertools.product(*(range(whole - n + 1) for n, whole in zip(size, a.shape, strict=True)))
    found = []
    for start in starts:
        box = tuple(slice(i, i + n) for i, n in zip(start, size, strict=True))
        x, y = a[box].ravel(), b[box].ravel()
        covariance = ((x - x.mean()) * (y - y.mean())).mean()
        luminance = (2 * x.mean() * y.mean() + 0.01**2) / (x.mean() ** 2 + y.mean() ** 2 + 0.01**2)
        found.append(luminance * (2 * covariance + 0.03**2) / (x.var() + y.var() + 0.03**2))
    return np.mean(found)


@pytest.mark.parametrize("shape", [(4, 5, 6), (2, 3, 2), (1, 1, 4)])
@pytest.mark.parametrize("window", [(3, 3, 3), (1, 2, 2)])
def test_ssim_is_the_plain_loop(shape, window):
    a, b = torch.randn(2, 3, *shape)
    wanted = [naive_ssim(x, y, window) for x, y in zip(a.double().numpy(), b.double().numpy(), strict=True)]
    assert ssim(a, b, window=window).tolist() == pytest.approx(wanted, abs=1e-10)


def test_ssim_of_the_same_map_is_one_whatever_its_scale():
    a = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(ssim(a, 3 * a + 2), torch.ones(2, dtype=torch.float64))
    assert (ssim(a, -a) < 0).all()
    assert ssim(a, torch.zeros_like(a)).isnan().all()


def test_ssim_refuses_what_does_not_fit():
    with pytest.raises(InputError, match="ssim wants two tensors"):
        ssim(torch.rand(1, 2, 2, 2), torch.rand(1, 2, 2, 3))
    with pytest.raises(InputError, match="three positive sizes"):
        ssim(torch.rand(1, 2, 2, 2), torch.rand(1, 2, 2, 2), window=(0, 1, 1))


def test_the_stages_go_from_the_head_down_and_hold_every_parameter():
    model = make()
    assert randomised_stages(model) == STAGES
    assert randomised_stages(make(VivitModel))[:2] == ("pooler", "ln_final")
    assert randomised_stages(make(VivitModel, num_labels=0))[-1] == "embed"
    assert randomised_stages(make(num_labels=0))[0] == "ln_final"
    before = {name: value.clone() for name, value in model.state_dict().items()}
    known = set()
    for stage, some in cascade(model):
        changed = {name for name, value in some.state_dict().items() if not torch.equal(value, before[name])}
        assert changed == {name for name in before if name.startswith((*known, stage))}
        known.add(stage)
    assert changed == set(before)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_new_weights_are_those_of_an_untrained_model_and_repeat():
    *_, (_, some) = cascade(make(), seed=3)
    *_, (_, again) = cascade(make(), seed=3)
    *_, (_, other) = cascade(make(), seed=4)
    for (name, value), same in zip(some.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(value, same), name
    std = TINY["initializer_range"]
    assert float(some.blocks[0].mlp.fc1.weight.detach().std()) == pytest.approx(std, rel=0.1)
    assert float(some.embed.position.detach().std()) == pytest.approx(std, rel=0.15)
    assert not torch.equal(some.embed.cls_token, other.embed.cls_token)
    assert bool((some.ln_final.weight == 1).all())
    assert float(some.classifier.bias.detach().abs().max()) == 0


@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_left_bit_identical(training):
    model = make().train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    check_sanity(CheferRelevance(), model, clips(2))
    assert model.training is training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_each_stage_is_the_map_of_the_randomised_model_about_the_same_class():
    model, pixels = make(), clips(2)
    found = check_sanity(InputXGradient(), model, pixels, seed=7)
    logits = model(pixels).logits
    classes = logits.argmax(dim=-1)
    assert found.method == "InputXGradient"
    assert found.stages == STAGES
    clean = InputXGradient()(model, pixels, classes).relevance.flatten(1)
    for row, (_, some) in enumerate(cascade(model, seed=7)):
        heat = InputXGradient()(some, pixels, classes).relevance
        assert found.spearman[row] == pytest.approx(spearman(clean, heat.flatten(1)).tolist(), abs=1e-9)
        assert found.magnitude[row] == pytest.approx(spearman(clean.abs(), heat.abs().flatten(1)).tolist(), abs=1e-9)
        assert found.ssim[row] == pytest.approx(ssim(clean.view_as(heat), heat).tolist(), abs=1e-9)
    second = logits.topk(2).indices[:, 1]
    swapped = InputXGradient()(model, pixels, second).relevance
    assert found.swap_spearman == pytest.approx(spearman(clean, swapped.flatten(1)).tolist(), abs=1e-9)
    assert found.swap_ssim == pytest.approx(ssim(clean.view_as(swapped), swapped).tolist(), abs=1e-9)


def test_rollout_does_not_depend_on_the_classifier_and_says_so():
    found = check_sanity(AttentionRollout(), make(), clips(2))
    assert found.spearman[0] == pytest.approx((1, 1), abs=1e-9)
    assert found.ssim[0] == pytest.approx((1, 1), abs=1e-9)
    assert found.swap_spearman == pytest.approx((1, 1), abs=1e-9)
    assert min(found.spearman[2]) < 1  # it does depend on the blocks
    assert (found.depends_on_classifier, found.depends_on_model, found.passes) == (False, True, False)
    assert "AttentionRollout does not depend on the classifier" in found.verdict
    assert "for a randomised head and for another class" in found.verdict


def test_a_control_does_not_depend_on_the_model_and_says_so():
    found = check_sanity(RandomMap(), make(), clips(2))
    assert all(value == pytest.approx(1) for row in found.spearman for value in row)
    assert (found.depends_on_model, found.depends_on_classifier) == (False, False)
    assert found.verdict.startswith("RandomMap does not depend on the model")


@pytest.mark.parametrize("method", [CheferRelevance(), GradientRollout(), InputXGradient()])
def test_gradient_methods_react_to_the_head_and_the_class(method):
    found = check_sanity(method, make(), clips(2))
    assert found.depends_on_classifier is True
    assert max(found.spearman[0]) < 1 - 1e-3
    assert found.swap_spearman is not None
    assert max(found.swap_spearman) < 1 - 1e-3


def test_a_bare_class_is_taken_as_each_method_takes_it():
    model, pixels = make(), clips(2)
    method = Rise(masks=8, cells=(2, 2, 2))
    found = check_sanity(method, model, pixels, [3, 1], other=0, stages=["classifier"], batch_size=4)
    clean, swapped = (method(model, pixels, target).relevance.flatten(1) for target in ([3, 1], 0))
    assert found.swap_spearman == pytest.approx(spearman(clean, swapped).tolist(), abs=1e-9)


def test_targets_that_are_no_class_are_fixed_on_the_given_model():
    model, pixels = make(), clips(2)
    found = check_sanity(InputXGradient(), model, pixels, LogitDifference(), stages=["classifier"])
    assert found.swap_spearman is None
    assert found.mean_swap is None
    top = model(pixels).logits.topk(2).indices
    fixed = LogitDifference(top[:, 0], top[:, 1])
    assert found.spearman == check_sanity(InputXGradient(), model, pixels, fixed, stages=["classifier"]).spearman
    backbone = make(VivitModel)
    target = CosineSimilarity(torch.randn(TINY["hidden_size"]))
    found = check_sanity(InputXGradient(), backbone, pixels, target, stages=["pooler", "embed"])
    assert found.stages == ("pooler", "embed")
    assert found.depends_on_classifier is True
    rollout = check_sanity(AttentionRollout(), backbone, pixels)
    assert "the same for a randomised head;" in rollout.verdict


def test_batches_of_clips_give_what_all_at_once_give():
    model, pixels = make(), clips(3)
    whole = check_sanity(CheferRelevance(), model, pixels)
    parts = SanityResult.merge([check_sanity(CheferRelevance(), model, part) for part in pixels.split(2)])
    for name in ("spearman", "magnitude", "ssim"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), atol=1e-5)
    np.testing.assert_allclose(parts.swap_spearman, whole.swap_spearman, atol=1e-5)
    rollout = [check_sanity(AttentionRollout(), model, pixels, lambda output: output.logits[:, 0]) for _ in range(2)]
    assert SanityResult.merge(rollout).swap_ssim is None


def result(*rows, stages=("classifier", "embed"), swap=None):
    return SanityResult("Some", stages, rows, rows, rows, swap, swap)


def test_verdicts_follow_the_numbers():
    assert "reacts to the classifier and" in result((0.5, 0.7), (0.1, -0.2), swap=(0.4, 0.6)).verdict
    assert "another class correlates by 0.50" in result((0.5, 0.7), (0.1, -0.2), swap=(0.4, 0.6)).verdict
    kept = result((0.9, 0.9), (0.8, 0.9))
    assert (kept.passes, kept.depends_on_classifier) == (False, True)
    assert "keeps much of its maps" in kept.verdict
    nan = float("nan")
    assert "gives much the opposite of its maps" in result((0.5, 0.7), (-0.6, -0.7), swap=(0.4, 0.6)).verdict
    assert "gives constant maps once all down to" in result((0.5, 0.7), (nan, nan), swap=(0.4, 0.6)).verdict
    assert "its Spearman correlation is 0.85 once all from the head down to embed is random" in kept.verdict
    nan = math.nan
    assert "gives constant maps" in result((nan, nan), (nan, nan)).verdict
    assert result((nan, 0.2), (nan, nan)).mean_spearman["classifier"] == 0.2
    assert math.isnan(result((nan, 0.2), (nan, nan)).mean_spearman["embed"])
    blind = result((1.0, 1.0), (0.1, 0.1), stages=("blocks.0", "embed"))
    assert blind.depends_on_classifier is None  # neither head nor class was tried
    assert blind.passes
    assert "reacts to the weights:" in blind.verdict
    swapped = result((1.0, 1.0), (0.1, 0.1), stages=("blocks.0", "embed"), swap=(1.0, 1.0))
    assert "the same for another class;" in swapped.verdict


def test_what_does_not_fit_is_refused():
    model, pixels = make(), clips(1)
    with pytest.raises(InputError, match=r"stages must be some of classifier, ln_final, .* got \['head'\]"):
        check_sanity(CheferRelevance(), model, pixels, stages=["head"])
    with pytest.raises(InputError, match="stages must be some of"):
        check_sanity(CheferRelevance(), model, pixels, stages=[])
    with pytest.raises(InputError, match=r"classes 0\.\.4"):
        check_sanity(CheferRelevance(), model, pixels, 9)
    with pytest.raises(InputError, match="wanted parts of one method"):
        SanityResult.merge([result((1,), (1,)), result((1,), (1,), swap=(1,))])
    with pytest.raises(InputError, match="wanted parts of one method"):
        SanityResult.merge([])
    with pytest.raises(InputError, match="spearman must hold a row for each of 2 stages"):
        result((1, 1))
    with pytest.raises(InputError, match="swap_spearman has 1 values, the stages have 2 clips"):
        result((1, 1), (1, 1), swap=(1,))
