"""Perturbation curves against curves made by painting pixels and masking tokens one clip and one step at a time."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faithfulness.laws_perturb import GRID, UNITS, logits_without, mean_clip, painted, wide_clips, wide_model
from vivit_lab.attribution import AttributionMap
from vivit_lab.errors import GridError, InputError
from vivit_lab.faithfulness import Perturbation
from vivit_lab.faithfulness.masking import (
    CleanClips,
    Readings,
    baseline_clips,
    blurred_still,
    rank_units,
    tubelet_relevance,
)
from vivit_lab.faithfulness.measures import OrderCurves, PerturbationCurves
from vivit_lab.families import VivitModel
from vivit_lab.model import VivitConfig
from vivit_lab.model.config import VARIANTS
from vivit_lab.records import ClassLogit, CosineSimilarity, LogitDifference, Probability
from vivit_lab.records.targets import bind_target


@pytest.fixture
def model():
    return wide_model()


@pytest.fixture
def pixels():
    return wide_clips()


@pytest.fixture
def relevance():
    return torch.randn(2, *GRID.shape)


def naive_masks(relevance, region, count, order):
    """Which tubelets of one clip (t, h, w) are kept when ``count`` units went in an order; no two units are equal."""
    if region == "time":
        values = {(t,): float(relevance[t].sum()) for t in range(GRID.t)}
    elif region == "space":
        values = {(y, x): float(relevance[:, y, x].sum()) for y in range(GRID.h) for x in range(GRID.w)}
    else:
        places = [(t, y, x) for t in range(GRID.t) for y in range(GRID.h) for x in range(GRID.w)]
        values = {place: float(relevance[place]) for place in places}
    gone = sorted(values, key=values.__getitem__, reverse=order == "morf")[:count]
    keep = torch.ones(GRID.shape, dtype=torch.bool)
    for unit in gone:
        keep[unit if region != "space" else (slice(None), *unit)] = False
    return keep.flatten()


@pytest.mark.parametrize("baseline", ["mean", "drop"])
@pytest.mark.parametrize(("region", "units"), [("space_time", 24), ("time", 4), ("space", 6)])
def test_curves_agree_with_their_definition(model, pixels, relevance, region, units, baseline):
    measure = Perturbation(region=region, baseline=baseline, steps=4)
    curves = measure(model, pixels, relevance, batch_size=5)
    counts = [round(step * units / 4) for step in range(5)]
    assert torch.allclose(curves.fractions, torch.tensor(counts) / units)
    for clip in range(2):
        chosen = int(model(pixels).logits[clip].argmax())
        for order in ("morf", "lerf"):
            keep = [naive_masks(relevance[clip], region, count, order) for count in counts]
            logits = torch.stack([logits_without(model, pixels[clip], each, baseline) for each in keep])
            score, probability = logits[:, chosen], logits.softmax(-1)[:, chosen]
            torch.testing.assert_close(getattr(curves, f"{order}_score")[clip], score, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(getattr(curves, f"{order}_probability")[clip], probability, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_painting_tokens_is_painting_pixels(variant, pixels):
    model = wide_model(variant=variant)
    keep = torch.rand(2, 3, UNITS) < 0.5
    clips = CleanClips.of(model, pixels, 1)
    torch.testing.assert_close(clips.clean.score, model(pixels).logits[:, 1].detach(), atol=1e-5, rtol=1e-4)
    for baseline in ("blur", "mean"):
        blank = baseline_clips(pixels, baseline, 0.1)
        read = clips.read(keep, baseline, batch_size=4).score
        for clip in range(2):
            versions = torch.stack([painted(pixels[clip], blank[clip], each) for each in keep[clip]])
            torch.testing.assert_close(read[clip], model(versions).logits[:, 1].detach(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("baseline", ["mean", "drop"])
def test_insertion_is_revealing_the_most_relevant_first(model, pixels, relevance, baseline):
    curves = Perturbation(baseline=baseline, steps=6)(model, pixels, relevance)
    fractions, insertion = curves.probability.insertion_curve
    want = []
    for clip in range(2):
        chosen = int(model(pixels).logits[clip].argmax())
        best = relevance[clip].flatten().argsort(descending=True)
        values = []
        for revealed in range(0, UNITS + 1, 4):
            keep = torch.zeros(UNITS, dtype=torch.bool)
            keep[best[:revealed]] = True
            values.append(logits_without(model, pixels[clip], keep, baseline).softmax(-1)[chosen])
        want.append(torch.stack(values))
    torch.testing.assert_close(fractions, torch.linspace(0, 1, 7))
    torch.testing.assert_close(insertion, torch.stack(want), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(curves.insertion, torch.trapezoid(torch.stack(want), fractions), atol=1e-5, rtol=1e-4)


def test_areas_are_trapezoids():
    fractions = torch.tensor([0.0, 0.25, 1.0])
    curves = OrderCurves(fractions, torch.tensor([[1.0, 0.5, 0.0]]), torch.tensor([[1.0, 0.9, 0.1]]))
    deletion = 0.25 * 0.75 + 0.75 * 0.25
    assert float(curves.morf_auc) == pytest.approx(deletion) == float(curves.deletion)
    insertion = 0.25 * 0.95 + 0.75 * 0.5
    assert float(curves.lerf_auc) == pytest.approx(insertion) == float(curves.insertion)
    assert float(curves.srg) == pytest.approx(insertion - deletion)


def test_a_map_and_its_negative_swap_their_curves(model, pixels, relevance):
    measure = Perturbation(steps=5)
    curves, other = measure(model, pixels, relevance), measure(model, pixels, -relevance)
    torch.testing.assert_close(curves.morf_score, other.lerf_score)
    torch.testing.assert_close(curves.srg, -other.srg)
    assert torch.equal(measure(model, pixels, 7 * relevance).srg, curves.srg)  # only the order counts


def test_both_orders_begin_clean_and_end_empty(model, pixels, relevance):
    for baseline in ("blur", "mean", "drop"):
        curves = Perturbation(baseline=baseline, steps=3)(model, pixels, relevance)
        logits = model(pixels).logits.detach()
        for line in (curves.morf_score, curves.lerf_score):
            torch.testing.assert_close(line[:, 0], logits.max(dim=1).values, atol=1e-5, rtol=1e-5)
        assert torch.equal(curves.morf_score[:, -1], curves.lerf_score[:, -1])
        assert curves.fractions[0] == 0
        assert curves.fractions[-1] == 1


def test_the_best_map_has_the_best_gain(model, pixels):
    """The map that knows how far the target falls without each tubelet gains more than random maps do."""
    clips = CleanClips.of(model, pixels, 2)
    alone = torch.ones(2, UNITS, UNITS, dtype=torch.bool)
    alone[:, range(UNITS), range(UNITS)] = False
    falls = clips.clean.score[:, None] - clips.read(alone, "mean", batch_size=24).score
    measure = Perturbation(baseline="mean")
    good = measure.measure(clips, falls.reshape(2, *GRID.shape)).score.srg
    random = torch.stack([measure.measure(clips, torch.randn(2, *GRID.shape)).score.srg for _ in range(5)])
    assert bool((good > 0).all())
    assert bool((good > random.mean(dim=0)).all())


@pytest.mark.parametrize("region", ["space_time", "time", "space"])
def test_each_pass_through_the_blocks_is_needed(model, pixels, relevance, region):
    rows = []
    model.blocks[0].register_forward_pre_hook(lambda module, given: rows.append(len(given[0])))
    embedded = []
    model.embed.register_forward_pre_hook(lambda module, given: embedded.append(len(given[0])))
    curves = Perturbation(region=region, steps=4, baseline="mean")(model, pixels, relevance, batch_size=4)
    points = len(curves.fractions)
    assert sum(rows) == 2 * (1 + 2 * (points - 2) + 1)  # clean once, both orders' inner points, empty once
    assert max(rows) <= 4
    assert embedded == [2, 2]  # the clips and their baselines


def test_steps_are_whole_units(model, pixels, relevance):
    curves = Perturbation(region="time", steps=20, baseline="drop")(model, pixels, relevance)
    assert curves.fractions.tolist() == [0, 0.25, 0.5, 0.75, 1]
    curves = Perturbation(steps=7, baseline="drop")(model, pixels, relevance)
    assert torch.equal((curves.fractions * UNITS).round() / UNITS, curves.fractions)
    assert len(curves.fractions) == 8


def test_a_clip_does_not_depend_on_its_batch(model, relevance):
    pixels, ties = wide_clips(), torch.zeros(2, *GRID.shape)
    measure = Perturbation(steps=4, baseline="drop", seed=3)
    both = measure.measure(CleanClips.of(model, pixels, numbers=[7, 9]), ties)
    alone = measure.measure(CleanClips.of(model, pixels[1:], numbers=[9]), ties[1:], batch_size=1)
    torch.testing.assert_close(both.morf_score[1:], alone.morf_score, atol=1e-5, rtol=1e-5)
    other = measure.measure(CleanClips.of(model, pixels[1:], numbers=[7]), ties[1:])
    assert not torch.allclose(other.morf_score, alone.morf_score)


def test_ties_have_no_place():
    zeros = torch.zeros(400, UNITS, dtype=torch.float64)
    ranks = rank_units(zeros, 0, range(400)).double()
    assert float((ranks.mean(dim=0) - (UNITS - 1) / 2).abs().max()) < 5 * UNITS / math.sqrt(12 * 400)
    assert torch.equal(ranks, rank_units(zeros, 0, range(400)).double())
    assert not torch.equal(ranks, rank_units(zeros, 1, range(400)).double())


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(-2, 2), min_size=1, max_size=12), st.integers(0, 99))
def test_ranks_are_an_order_from_the_most_relevant(values, seed):
    row = torch.tensor([values], dtype=torch.float64)
    ranks = rank_units(row, seed, [4])[0].tolist()
    assert sorted(ranks) == list(range(len(values)))
    ordered = [values[ranks.index(place)] for place in range(len(values))]
    assert ordered == sorted(values, reverse=True)


def test_targets_and_their_probability(model, pixels, relevance):
    def of(target, which=model):
        return Perturbation(steps=2, baseline="drop")(which, pixels, relevance, target)

    logit, probability = of(ClassLogit([3, 1])), of(Probability([3, 1]))
    torch.testing.assert_close(logit.morf_probability, probability.morf_score)
    torch.testing.assert_close(probability.morf_probability, probability.morf_score)
    assert (logit.unit, probability.unit, logit.quantity) == ("logit", "probability", "probability")
    assert torch.equal(of([3, 1]).morf_score, logit.morf_score)
    bound = bind_target(ClassLogit([3, 1]), model(pixels), model.config)
    assert torch.equal(of(bound).morf_probability, logit.morf_probability)
    assert torch.equal(of(None).morf_score, of(model(pixels).logits.argmax(-1)).morf_score)
    for target in (LogitDifference(1, 2), lambda output: output.logits[:, 0]):
        curves = of(target)
        assert curves.probability is None
        assert curves.quantity == "score"
        assert torch.equal(curves.srg, curves.score.srg)
    headless = wide_model(kind=VivitModel)
    curves = of(CosineSimilarity(torch.randn(48)), headless)
    assert curves.probability is None
    assert curves.morf_auc.shape == curves.lerf_auc.shape == curves.deletion.shape == (2,)


def test_models_without_probabilities(pixels, relevance):
    curves = Perturbation(steps=2)(wide_model(num_labels=1), pixels, relevance)
    assert curves.probability is None
    several = wide_model(problem_type="multi_label_classification")
    curves = Perturbation(steps=2, baseline="drop")(several, pixels, relevance, 2)
    torch.testing.assert_close(curves.morf_probability, curves.morf_score.sigmoid())
    regression = wide_model(problem_type="regression")
    assert Perturbation(steps=2)(regression, pixels, relevance, 2).probability is None


def test_a_blurred_still_does_not_move(pixels):
    still = blurred_still(pixels, 0.1)
    assert still.shape == pixels.shape
    assert torch.equal(still, still[:, :1].expand_as(still))
    torch.testing.assert_close(still, blurred_still(pixels.flip(1), 0.1), atol=1e-6, rtol=1e-5)
    assert float(still.diff(dim=-1).abs().max()) < 0.1 * float(pixels.mean(dim=1).diff(dim=-1).abs().max())


@pytest.mark.parametrize("sigma", [0.02, 0.1, 1.0])
def test_a_blur_is_a_gaussian_whose_weights_sum_to_one(pixels, sigma):
    got, frame = blurred_still(pixels, sigma)[1, 3, 2].double(), pixels[1].mean(dim=0)[2].double()
    size = len(frame)
    place = [[math.exp(-0.5 * ((i - j) / (sigma * size)) ** 2) for j in range(size)] for i in range(size)]
    weights = torch.tensor([[value / sum(row) for value in row] for row in place]).double()
    torch.testing.assert_close(got, torch.einsum("ij,jk,lk->il", weights, frame, weights), atol=1e-5, rtol=1e-4)


def test_the_mean_is_each_clips_own(pixels):
    want = torch.stack([mean_clip(clip) for clip in pixels])
    torch.testing.assert_close(baseline_clips(pixels, "mean", 0.1), want, atol=1e-6, rtol=1e-4)


def test_maps_heads_modes_and_dtypes(model, pixels, relevance):
    measure = Perturbation(steps=2, baseline="mean")
    want = measure(model, pixels, relevance)
    assert len(want) == 2
    heat = AttributionMap(relevance, GRID, "Test", signed=True)
    assert torch.equal(measure(model, pixels, heat).srg, want.srg)
    model.train()
    assert torch.equal(measure(model, pixels, relevance, progress=False).srg, want.srg)
    assert model.training
    with torch.inference_mode():
        again = pixels.clone()
        assert torch.equal(measure(model, again, relevance).srg, want.srg)
    masks = torch.rand(3, 2, 4, 1, 1)
    clips = CleanClips.of(model.eval(), pixels, 1, head_mask=masks)
    full = model(pixels, head_mask=masks).logits[:, 1].detach()
    torch.testing.assert_close(clips.clean.score, full, atol=1e-5, rtol=1e-5)
    every = torch.ones(2, 3, UNITS, dtype=torch.bool)
    torch.testing.assert_close(clips.read(every, "drop").score, full[:, None].expand(2, 3), atol=1e-5, rtol=1e-5)
    half = measure(model.to(torch.bfloat16), pixels.bfloat16(), relevance)
    assert half.morf_score.dtype == torch.float32


def test_other_sizes_with_resized_positions(model):
    pixels = wide_clips()[:, :4]
    heat = torch.randn(2, 2, 3, 2)
    curves = Perturbation(steps=3, baseline="blur")(model, pixels, heat, interpolate_pos_encoding=True)
    want = model(pixels, interpolate_pos_encoding=True).logits.max(dim=1).values.detach()
    torch.testing.assert_close(curves.morf_score[:, 0], want, atol=1e-5, rtol=1e-5)


class Bar:
    done = 0

    def update(self, count):
        self.done += count


def test_the_bar_counts_versions(model, pixels, relevance, capsys):
    bar = Bar()
    CleanClips.of(model, pixels).read(torch.rand(2, 5, UNITS) < 0.5, "drop", batch_size=3, bar=bar)
    assert bar.done == 10
    Perturbation(steps=3, baseline="drop")(model, pixels, relevance, progress=True)
    shown = capsys.readouterr().err
    assert "Perturbation space_time, drop" in shown
    assert "/10" in shown


@pytest.mark.parametrize(
    ("message", "make"),
    [
        ("region='frames' is not known", lambda: Perturbation(region="frames")),
        ("baseline='black' is not known; choose one of blur, mean, drop", lambda: Perturbation(baseline="black")),
        ("steps must be a positive integer", lambda: Perturbation(steps=0)),
        ("blur_sigma must be (positive|a finite number) and finite", lambda: Perturbation(blur_sigma=0)),
        ("blur_sigma must be (positive|a finite number)", lambda: Perturbation(blur_sigma=math.inf)),
        ("seed must be an integer from 0", lambda: Perturbation(seed=-1)),
        ("seed must be an integer from 0", lambda: Perturbation(seed=True)),
        ("paints no pixels", lambda: baseline_clips(wide_clips(), "drop", 0.1)),
        ("curves must be", lambda: OrderCurves(torch.ones(3), torch.ones(2, 3), torch.ones(2, 4))),
        ("both orders or of neither", lambda: half_curves()),
        ("quantity='loss' is not known", lambda: Readings(torch.ones(1), None).of("loss")),
        ("has no probability", lambda: Readings(torch.ones(1), None).of("probability")),
        ("3 maps for 2 clips", lambda: tubelet_relevance(torch.ones(3, *GRID.shape), 2, GRID)),
        ("NaN or infinity", lambda: tubelet_relevance(torch.full((2, *GRID.shape), math.nan), 2, GRID)),
    ],
)
def test_wrong_arguments_are_named(message, make):
    with pytest.raises(InputError, match=message):
        make()


def half_curves():
    line = torch.ones(2, 3)
    return PerturbationCurves(torch.ones(3), line, line, line, None, "class 0", "logit", "time", "mean")


def test_wrong_calls_are_named(model, pixels, relevance):
    clips = CleanClips.of(model, pixels)
    with pytest.raises(GridError, match=r"relevance must be \(batch, 4, 3, 2\)"):
        Perturbation()(model, pixels, relevance.flatten(1))
    with pytest.raises(InputError, match="batch_size must be a positive integer"):
        Perturbation()(model, pixels, relevance, batch_size=0)
    with pytest.raises(InputError, match="numbers must be 2 integers"):
        CleanClips.of(model, pixels, numbers=[1])
    with pytest.raises(InputError, match="numbers must be 2 integers"):
        CleanClips.of(model, pixels, numbers=[1, -1])
    for keep in (
        torch.ones(2, 0, UNITS, dtype=torch.bool),
        torch.ones(2, 3, UNITS),
        torch.ones(1, 3, UNITS, dtype=torch.bool),
        torch.ones(2, UNITS, dtype=torch.bool),
    ):
        with pytest.raises(InputError, match="keep must be boolean"):
            clips.read(keep, "mean")
    with pytest.raises(InputError, match="is not known"):
        clips.read(torch.ones(2, 1, UNITS, dtype=torch.bool), "black")
    headless = wide_model(kind=VivitModel)
    with pytest.raises(InputError, match="no classifier"):
        Perturbation()(headless, pixels, relevance)
    bound = bind_target(1, model(pixels), VivitConfig(num_labels=5))
    with pytest.raises(InputError, match="bound to 2 clips"):
        Perturbation()(model, pixels[:1], relevance[:1], bound)
