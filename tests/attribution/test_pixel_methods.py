"""Methods that only call the model: their definitions written as loops, their laws, and Captum's numbers."""

import captum.attr
import pytest
import torch

from tests.attribution.naive import close, random_model
from tests.model.tiny import clips
from vivit_lab.attribution import InputXGradient, IntegratedGradients, Occlusion, Rise, SmoothGrad
from vivit_lab.attribution.forwards import baseline_pixels, tubelet_sum
from vivit_lab.attribution.integrated_gradients import quadrature
from vivit_lab.attribution.rise import random_masks
from vivit_lab.errors import InputError
from vivit_lab.families import VivitModel
from vivit_lab.records import ClassLogit, CosineSimilarity, LogitDifference, Probability

METHODS = [
    InputXGradient(),
    IntegratedGradients(6, "mean"),
    IntegratedGradients(5, 0.5, "riemann_trapezoid"),
    SmoothGrad(5),
    SmoothGrad(5, times_input=False),
    Occlusion(baseline="mean"),
    Occlusion((2, 1, 2), (1, 1, 1)),
    Rise(7, (2, 3, 3)),
]
BATCHED = [method for method in METHODS if not isinstance(method, InputXGradient)]


@pytest.fixture
def model():
    return random_model()


def tubelets(pixels):
    """Sum each tubelet of the tiny grid (2 frames, 16×16 pixels), one by one."""

    def part(t, y, x):
        return pixels[:, 2 * t : 2 * t + 2, :, 16 * y : 16 * y + 16, 16 * x : 16 * x + 16].sum(dim=(1, 2, 3, 4))

    return torch.stack([part(t, y, x) for t in (0, 1) for y in (0, 1) for x in (0, 1)], dim=-1).view(-1, 2, 2, 2)


def test_tubelet_sums_keep_place_and_time(model):
    pixels = clips()
    torch.testing.assert_close(tubelet_sum(pixels, model.config.grid), tubelets(pixels), rtol=1e-4, atol=1e-4)


def logits_of(model, mask=None):
    return lambda pixels: model(pixels, head_mask=mask).logits


@pytest.mark.parametrize("masked", [False, True])
def test_input_x_gradient_agrees_with_captum(model, masked):
    pixels, mask = clips(), torch.rand(3, 4) if masked else None
    want = captum.attr.InputXGradient(logits_of(model, mask)).attribute(pixels.clone().requires_grad_(), target=3)
    got = InputXGradient()(model, pixels, 3, head_mask=mask)
    close(got.relevance, tubelets(want).detach().double())
    assert got.signed


@pytest.mark.parametrize("baseline", [0.0, 0.5, "mean"])
@pytest.mark.parametrize("rule", ["gausslegendre", "riemann_trapezoid"])
def test_integrated_gradients_agree_with_captum(model, rule, baseline):
    pixels = clips()
    start = baseline_pixels(pixels, baseline)
    method = captum.attr.IntegratedGradients(logits_of(model))
    want = method.attribute(pixels, baselines=start, target=3, n_steps=9, method=rule)
    if rule == "riemann_trapezoid":
        want = want * 9 / 8  # Captum's weights sum to 1 - 1/steps
    got = IntegratedGradients(9, baseline, rule)(model, pixels, 3, batch_size=4)
    close(got.relevance, tubelets(want).detach().double())


@pytest.mark.parametrize("baseline", [0.0, "mean"])
def test_integrated_gradients_are_complete(model, baseline):
    pixels = clips()
    with torch.no_grad():
        gap = (model(pixels).logits - model(baseline_pixels(pixels, baseline)).logits)[:, 2]
    heat = IntegratedGradients(200, baseline)(model, pixels, 2, batch_size=50)
    torch.testing.assert_close(heat.relevance.sum(dim=(1, 2, 3)), gap, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("rule", ["gausslegendre", "riemann_trapezoid"])
def test_a_quadrature_integrates_what_it_must(rule):
    points, weights = map(torch.tensor, quadrature(rule, 5))
    assert points.min() >= 0
    assert points.max() <= 1
    degree = 9 if rule == "gausslegendre" else 1
    for power in range(degree + 1):
        torch.testing.assert_close((weights * points**power).sum(), torch.tensor(1 / (power + 1)))


@pytest.mark.parametrize("times_input", [False, True])
def test_smooth_grad_agrees_with_captum_on_the_same_noise(model, monkeypatch, times_input):
    pixels = clips(1)
    noise = 0.2 * float(pixels.max() - pixels.min())
    generator = torch.Generator().manual_seed(3)
    draws = torch.stack([torch.randn(pixels.shape[1:], generator=generator) for _ in range(6)])
    monkeypatch.setattr(torch, "normal", lambda mean, std: mean + std * draws)
    inner = captum.attr.Saliency(logits_of(model))
    want = captum.attr.NoiseTunnel(inner).attribute(
        pixels.clone().requires_grad_(), nt_type="smoothgrad", nt_samples=6, stdevs=noise, target=1, abs=False
    )
    got = SmoothGrad(6, 0.2, times_input, seed=3)(model, pixels, 1, batch_size=4)
    close(got.relevance, tubelets(want * pixels if times_input else want.abs()).detach().double())
    assert got.signed == times_input


def test_smooth_grad_without_noise_is_the_gradient(model):
    pixels = clips()
    smooth = SmoothGrad(3, 0.0, times_input=True)(model, pixels, 1)
    close(smooth.relevance, InputXGradient()(model, pixels, 1).relevance.double())


@pytest.mark.parametrize(
    ("window", "stride"), [((1, 1, 1), None), ((2, 1, 2), (1, 1, 1)), ((1, 2, 1), (1, 2, 1)), ((2, 2, 2), (2, 1, 1))]
)
def test_occlusion_agrees_with_captum(model, window, stride):
    pixels = torch.randn(2, 6, 3, 48, 48)  # a grid of three, so that boxes also end before the edge
    size = {"interpolate_pos_encoding": True}
    steps = stride or window
    want = captum.attr.Occlusion(lambda versions: model(versions, **size).logits).attribute(
        pixels,
        sliding_window_shapes=(2 * window[0], 3, 16 * window[1], 16 * window[2]),
        strides=(2 * steps[0], 3, 16 * steps[1], 16 * steps[2]),
        baselines=0.25,
        target=3,
    )
    got = Occlusion(window, stride, 0.25)(model, pixels, 3, batch_size=5, **size)
    close(got.relevance, want[:, ::2, 0, ::16, ::16].double())


def test_occlusion_with_a_box_that_leaves_the_grid(model):
    pixels, size = torch.randn(1, 6, 3, 48, 48), {"interpolate_pos_encoding": True}
    got = Occlusion((2, 3, 3))(model, pixels, 3, **size).relevance[0]
    for place, frames in ((slice(0, 2), slice(0, 4)), (slice(2, 3), slice(4, 6))):
        covered = pixels.clone()
        covered[:, frames] = 0
        with torch.no_grad():
            drop = (model(pixels, **size).logits - model(covered, **size).logits)[0, 3]
        torch.testing.assert_close(got[place], drop.expand_as(got[place]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", [None, 2, ClassLogit(2)], ids=str)
def test_rise_is_its_definition(model, target):
    pixels = clips()
    method = Rise(9, (2, 3, 3), 0.4, 0.25, seed=5)
    got = method(model, pixels, target, batch_size=4)
    generator = torch.Generator().manual_seed(5)
    masks = random_masks(9, (2, 3, 3), (4, 32, 32), 0.4, generator)
    with torch.no_grad():
        classes = model(pixels).logits.argmax(-1) if target is None else torch.tensor([2, 2])
        total = torch.zeros(2, 2, 2, 2)
        for mask in masks:
            logits = model(pixels * mask[:, None] + 0.25 * (1 - mask[:, None])).logits
            values = logits if isinstance(target, ClassLogit) else logits.softmax(-1)
            share = tubelets(mask[None, :, None]) / (2 * 16 * 16)
            total += values[[0, 1], classes].view(2, 1, 1, 1) * share / (9 * 0.4)
    close(got.relevance, total.double())
    assert got.signed == isinstance(target, ClassLogit)
    assert got.target.startswith("class" if got.signed else "probability of")


def test_masks_are_smooth_fair_and_reach_everywhere():
    masks = random_masks(400, (2, 3, 4), (5, 32, 30), 0.3, torch.Generator().manual_seed(0))
    assert masks.shape == (400, 5, 32, 30)
    assert (masks.min(), masks.max()) == (0, 1)
    assert masks.mean().item() == pytest.approx(0.3, abs=0.02)
    assert (masks.mean(dim=0) - 0.3).abs().max() < 0.12  # no pixel is favoured
    assert masks.diff(dim=-1).abs().max() < 0.2  # a cell is eight pixels wide
    assert masks[0].std(dim=0).max() > 0.05  # masks change over time


@pytest.mark.parametrize("method", BATCHED, ids=repr)
def test_batches_change_nothing(model, method):
    pixels = clips(3)
    whole = method(model, pixels, batch_size=100)
    for size in (1, 3):
        close(method(model, pixels, batch_size=size).relevance, whole.relevance.double())


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_a_batch_is_its_clips_one_by_one_also_with_masks(model, method):
    pixels, mask = clips(3), torch.rand(3, 3, 4, 1, 1)
    together = method(model, pixels, head_mask=mask)
    for clip in range(3):
        alone = method(model, pixels[clip : clip + 1], head_mask=mask[:, clip : clip + 1])
        close(together[clip].relevance, alone.relevance.double())


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_the_class_is_that_of_the_clean_clip(model, method):
    pixels = clips(3)
    classes = model(pixels).logits.argmax(dim=-1)
    close(method(model, pixels).relevance, method(model, pixels, classes).relevance.double())


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_modes_and_parameters_are_left_as_they_were(model, method):
    pixels = clips()
    want = method(model, pixels, 1).relevance
    model.train()
    with torch.inference_mode():
        got = method(model, pixels * 1, 1)
    close(got.relevance, want.double())
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert not pixels.requires_grad
    assert not method.class_agnostic


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_targets_without_a_classifier(method):
    model, pixels = random_model(VivitModel), clips()
    heat = method(model, pixels, CosineSimilarity(torch.randn(48)))
    assert heat.target == "cosine similarity of the pooler output to an embedding"
    with pytest.raises(InputError, match="no classifier"):
        method(model, pixels)


@pytest.mark.parametrize("method", [SmoothGrad(4), Rise(5, (2, 2, 2))], ids=repr)
def test_the_seed_decides(model, method):
    pixels, kind = clips(1), type(method)
    other = kind(**{**vars(method), "seed": 1})
    assert torch.equal(method(model, pixels).relevance, method(model, pixels).relevance)
    assert not torch.equal(method(model, pixels).relevance, other(model, pixels).relevance)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    method(model, pixels)
    assert torch.equal(torch.get_rng_state(), before)


def test_maps_say_what_they_are(model):
    pixels = clips(1)
    heat = Occlusion((1, 2, 2))(model, pixels, LogitDifference(1, 2))
    assert heat.parameters == {"window": [1, 2, 2], "stride": None, "baseline": 0.0}
    assert heat.scale == "fall of the logit difference when covered"
    assert heat.target == "class 1 (LABEL_1), against class 2 (LABEL_2)"
    assert heat.model_id == "VivitForVideoClassification"
    assert heat.provenance["attn_implementation"] == "sdpa"
    assert Rise(3)(model, pixels, Probability(1)).scale == "mean probability where kept"


@pytest.mark.parametrize("method", BATCHED, ids=repr)
def test_a_progress_bar_on_request(model, capsys, method):
    method(model, clips(1), progress=True)
    assert type(method).__name__ in capsys.readouterr().err
    method(model, clips(1), progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IntegratedGradients(steps=0), "steps must be a positive integer, got 0"),
        (lambda: IntegratedGradients(rule="simpson"), "rule='simpson' is not known; choose one of gausslegendre"),
        (lambda: IntegratedGradients(1, rule="riemann_trapezoid"), "wants at least 2 steps, got 1"),
        (lambda: IntegratedGradients(baseline="blur"), "baseline='blur' is not known; give a number"),
        (lambda: IntegratedGradients(baseline=True), "baseline must be a finite number, got True"),
        (lambda: SmoothGrad(samples=2.5), "samples must be a positive integer, got 2.5"),
        (lambda: SmoothGrad(noise=-1), "noise must be a fraction of the clip's range, 0 or more; got -1"),
        (lambda: SmoothGrad(noise=float("nan")), "got nan"),
        (lambda: Occlusion(window=2), r"window must be 3 numbers, got 2"),
        (lambda: Occlusion(window=None), "window must be three sizes"),
        (lambda: Occlusion(stride=(1, 0, 1)), r"stride\[1\] must be a positive integer, got 0"),
        (lambda: Occlusion((1, 2, 1), (1, 3, 1)), "is larger than window .1, 2, 1.: tubelets would be left out"),
        (lambda: Rise(masks=True), "masks must be a positive integer"),
        (lambda: Rise(cells=(2, 2)), "cells must be 3 numbers"),
        (lambda: Rise(cells=(2, 2, 0)), r"cells\[2\] must be a positive integer"),
        (lambda: Rise(keep=1.0), r"keep must lie in \(0, 1\), got 1.0"),
    ],
)
def test_wrong_settings_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_wrong_calls_are_refused(model):
    for method in BATCHED:
        with pytest.raises(InputError, match="batch_size must be a positive integer, got 0"):
            method(model, clips(), batch_size=0)
    with pytest.raises(InputError, match=r"window \(3, 1, 1\) is larger than the grid \(2, 2, 2\)"):
        Occlusion((3, 1, 1))(model, clips())
    for method in (InputXGradient(), IntegratedGradients(2), SmoothGrad(2)):
        with pytest.raises(InputError, match="does not depend on the output by a function with a gradient"):
            method(model, clips(), lambda output: output.logits.detach()[:, 0])
