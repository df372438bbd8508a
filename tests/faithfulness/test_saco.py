"""SaCo against the definition's double loop."""

import pytest
import torch
from beartype import beartype
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import jaxtyped

from tests.faithfulness.laws_perturb import GRID, UNITS, logits_without, wide_clips, wide_model
from vivit_lab.errors import InputError
from vivit_lab.faithfulness import SaCo
from vivit_lab.faithfulness.masking import CleanClips
from vivit_lab.faithfulness.measures import salience_coefficient
from vivit_lab.families import VivitModel
from vivit_lab.records import CosineSimilarity


def naive_coefficient(relevance, falls):
    """The paper's algorithm over groups sorted by falling relevance."""
    pairs = sorted(zip(relevance, falls, strict=True), key=lambda pair: -pair[0])
    score, total = 0.0, 0.0
    for i in range(len(pairs)):
        for j in range(i + 1, len(pairs)):
            weight = pairs[i][0] - pairs[j][0]
            score += weight if pairs[i][1] >= pairs[j][1] else -weight
            total += weight
    return score / total


def coefficient(relevance, falls):
    return float(salience_coefficient(torch.tensor([relevance]).double(), torch.tensor([falls]).double()))


groups = st.lists(st.tuples(st.integers(-50, 50), st.integers(-50, 50)), min_size=2, max_size=8)


@settings(deadline=None, max_examples=100)
@given(groups.filter(lambda pairs: len({first for first, _ in pairs}) > 1))
def test_the_coefficient_is_the_double_loop(pairs):
    relevance, falls = [float(first) for first, _ in pairs], [float(second) for _, second in pairs]
    assert coefficient(relevance, falls) == pytest.approx(naive_coefficient(relevance, falls), abs=1e-12)


def test_perfect_and_reversed_orders():
    relevance, falls = [4.0, 3.0, 1.0, -2.0], [0.9, 0.5, 0.2, -0.1]
    assert coefficient(relevance, falls) == pytest.approx(1)
    assert coefficient(relevance, falls[::-1]) == pytest.approx(-1)
    assert coefficient(relevance[::-1], falls[::-1]) == pytest.approx(1)  # the groups' order is not what counts
    assert coefficient([1.0, 1.0, 1.0], [0.3, 0.1, 0.2]) == 0  # claims nothing
    assert coefficient([0.1 + 1e-12, 0.1], [0.1, 0.2]) == 0  # rounding is no claim


@pytest.mark.parametrize("baseline", ["mean", "drop"])
@pytest.mark.parametrize("quantity", ["probability", "score"])
@pytest.mark.parametrize("count", [6, 5])  # equal groups of 4; groups of 5 and 4
def test_saco_agrees_with_its_definition(baseline, quantity, count):
    model, pixels, relevance = wide_model(), wide_clips(), torch.randn(2, *GRID.shape)
    got = SaCo(groups=count, baseline=baseline, quantity=quantity)(model, pixels, relevance, 2, batch_size=3)
    for clip in range(2):
        values = relevance[clip].flatten()
        order, salience, falls = values.argsort(descending=True), [], []
        clean = logits_without(model, pixels[clip], torch.ones(UNITS, dtype=torch.bool), baseline)
        sizes = [part.numel() for part in torch.arange(UNITS).tensor_split(count)]
        for group in order.split(sizes):
            keep = torch.ones(UNITS, dtype=torch.bool)
            keep[group] = False
            logits = logits_without(model, pixels[clip], keep, baseline)
            if quantity == "probability":
                falls.append(float(clean.softmax(-1)[2] - logits.softmax(-1)[2]))
            else:
                falls.append(float(clean[2] - logits[2]))
            salience.append(float(values[group].mean()) if count == 5 else float(values[group].sum()))
        assert float(got[clip]) == pytest.approx(naive_coefficient(salience, falls), abs=1e-5)


def test_the_groups_that_know_the_falls_are_faithful():
    """With groups of one tubelet, the map of the falls themselves is perfectly ordered, and its negative reversed."""
    model, pixels = wide_model(), wide_clips()
    clips = CleanClips.of(model, pixels, 1)
    keep = ~torch.eye(UNITS, dtype=torch.bool).expand(2, -1, -1)
    falls = (clips.clean.score[:, None] - clips.read(keep, "mean", batch_size=8).score).reshape(2, *GRID.shape)
    measure = SaCo(groups=UNITS, quantity="score")
    torch.testing.assert_close(measure.measure(clips, falls, batch_size=8), torch.ones(2))
    torch.testing.assert_close(measure.measure(clips, 3 * falls, batch_size=8), torch.ones(2))
    torch.testing.assert_close(measure.measure(clips, -falls, batch_size=8), -torch.ones(2))


def test_scale_shift_and_constant_maps():
    model, pixels, relevance = wide_model(), wide_clips(), torch.rand(2, *GRID.shape)
    clips = CleanClips.of(model, pixels)
    measure = SaCo(groups=5)  # groups of unequal size
    want = measure.measure(clips, relevance)
    torch.testing.assert_close(measure.measure(clips, 1e-6 * relevance), want)
    torch.testing.assert_close(measure.measure(clips, relevance + 2), want, atol=1e-5, rtol=1e-5)
    assert measure.measure(clips, torch.full_like(relevance, 0.1)).tolist() == [0, 0]
    assert measure.measure(clips, torch.zeros_like(relevance)).tolist() == [0, 0]


def test_targets_without_a_probability():
    model, pixels, relevance = wide_model(kind=VivitModel), wide_clips(), torch.rand(2, *GRID.shape)
    target = CosineSimilarity(torch.randn(48))
    assert SaCo()(model, pixels, relevance, target).shape == (2,)
    with pytest.raises(InputError, match="has no probability; ask for 'score'"):
        SaCo(quantity="probability")(model, pixels, relevance, target)


def test_shapes_are_as_annotated():
    checked = jaxtyped(typechecker=beartype)(salience_coefficient)
    assert checked(torch.randn(3, 4).double(), torch.randn(3, 4).double()).shape == (3,)


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        ("groups must be at least 2", {"groups": 1}),
        ("groups must be an integer", {"groups": 2.5}),
        ("quantity='loss' is not known; choose one of auto, probability, score", {"quantity": "loss"}),
        ("baseline='black' is not known", {"baseline": "black"}),
    ],
)
def test_wrong_fields_are_named(message, fields):
    with pytest.raises(InputError, match=message):
        SaCo(**fields)


def test_more_groups_than_tubelets():
    with pytest.raises(InputError, match="groups=25 is more than the 24 tubelets"):
        SaCo(groups=25)(wide_model(), wide_clips(), torch.rand(2, *GRID.shape))
