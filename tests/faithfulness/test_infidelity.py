"""Infidelity against its definition, Captum's number, and a search for the best factor."""

import captum.metrics
import pytest
import torch
from beartype import beartype
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import jaxtyped

from tests.faithfulness.laws_perturb import GRID, UNITS, mean_clip, painted, wide_clips, wide_model
from vivit_lab.errors import InputError
from vivit_lab.faithfulness import Infidelity
from vivit_lab.faithfulness.masking import CleanClips
from vivit_lab.faithfulness.measures import unexplained_share


@pytest.fixture
def model():
    return wide_model()


def spread(values):
    """Give each pixel of clips an equal share of its tubelet's value (batch, t, h, w)."""
    depth, rows, columns = GRID.tubelet
    parts = values.repeat_interleave(depth, 1).repeat_interleave(rows, 2).repeat_interleave(columns, 3)
    return parts.unsqueeze(2).expand(-1, -1, 3, -1, -1) / (depth * rows * columns * 3)


@pytest.mark.parametrize("normalised", [False, True])
def test_infidelity_agrees_with_captum(model, normalised):
    """Captum is given the same sets, as masks over pixels, and the map spread evenly over each tubelet's pixels."""
    pixels = wide_clips()
    measure = Infidelity(sizes=(0.2, 0.5), subsets=4, normalised=normalised)
    clips = CleanClips.of(model, pixels, 2)
    falls = measure.sample(clips)
    removed = falls.removed.flatten(1, 2)
    # a map that is partly right, so that Captum's factor is positive too
    fallen = falls.falls("score").flatten(1)
    right = torch.einsum("bsn,bs->bn", removed.double(), fallen - fallen.mean(1, keepdim=True)).float()
    relevance = (right + 0.1 * torch.randn(2, UNITS) + fallen.mean().float() / 10).reshape(2, *GRID.shape)
    relevance = relevance * torch.sign((falls.sums(relevance).flatten(1) * fallen).sum(1)).float().view(2, 1, 1, 1)

    def perturb(repeated):
        assert len(repeated) == 2 * removed.shape[1]  # clip by clip
        gone = removed.flatten(0, 1)
        covered = [painted(clip, mean_clip(clip), ~each) for clip, each in zip(repeated, gone, strict=True)]
        inside = torch.stack([spread(each.reshape(1, *GRID.shape).float())[0] for each in gone])
        return inside * (GRID.tubelet[0] * GRID.tubelet[1] * GRID.tubelet[2] * 3), torch.stack(covered)

    want = captum.metrics.infidelity(
        lambda given: model(given).logits,
        perturb,
        pixels,
        spread(relevance),
        target=2,
        n_perturb_samples=removed.shape[1],
        normalize=normalised,
    )
    got = measure.compare(falls, relevance)
    if normalised:  # Captum scales the map but leaves the unit in
        want = want / fallen.square().mean(dim=1)
    torch.testing.assert_close(got, want.detach().float(), atol=1e-4, rtol=1e-3)


numbers = st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=1, max_size=9)


@settings(deadline=None, max_examples=100)
@given(numbers)
def test_no_factor_explains_more(pairs):
    sums, falls = (torch.tensor([column]).double() for column in zip(*pairs, strict=True))
    got = float(unexplained_share(sums, falls))
    power = float(falls.square().mean())
    if power == 0 or float(sums.abs().max()) == 0:
        assert got == 1
        return
    errors = [float((beta * sums - falls).square().mean()) / power for beta in torch.linspace(0, 90, 2001).tolist()]
    assert 0 <= got <= min(errors) + 1e-9
    beta = max(0.0, float((sums * falls).sum() / sums.square().sum()))
    assert got == pytest.approx(float((beta * sums - falls).square().mean()) / power, abs=1e-9)


def test_what_explains_all_and_nothing():
    sums = torch.randn(2, 30).double()
    assert unexplained_share(sums, 7 * sums).tolist() == pytest.approx([0, 0], abs=1e-12)
    assert unexplained_share(sums, -sums).tolist() == [1, 1]  # the wrong way
    assert unexplained_share(0 * sums, sums).tolist() == [1, 1]


def test_the_scale_of_a_map_counts_only_where_not_normalised(model):
    pixels, relevance = wide_clips(), torch.rand(2, *GRID.shape)
    clips = CleanClips.of(model, pixels)
    measure, paper = Infidelity(subsets=5), Infidelity(subsets=5, normalised=False)
    falls = measure.sample(clips, batch_size=16)
    torch.testing.assert_close(measure.compare(falls, 1e-4 * relevance), measure.compare(falls, relevance))
    sums, fallen = falls.sums(relevance).flatten(1), falls.falls("score").flatten(1)
    torch.testing.assert_close(paper.compare(falls, relevance), (sums - fallen).square().mean(1).float())
    zero = paper.compare(falls, 0 * relevance)
    torch.testing.assert_close(zero, fallen.square().mean(1).float())
    likely = Infidelity(subsets=5, normalised=False, quantity="probability").compare(falls, 0 * relevance)
    torch.testing.assert_close(likely, falls.falls("probability").flatten(1).square().mean(1).float())


def test_a_call_samples_and_compares(model):
    pixels, relevance = wide_clips(), torch.rand(2, *GRID.shape)
    measure = Infidelity(sizes=[0.3], subsets=3, baseline="drop", seed=4)
    falls = measure.sample(CleanClips.of(model, pixels, 1))
    assert torch.equal(measure(model, pixels, relevance, 1), measure.compare(falls, relevance))
    assert measure.sizes == (0.3,)


def test_shapes_are_as_annotated():
    checked = jaxtyped(typechecker=beartype)(unexplained_share)
    assert checked(torch.randn(3, 4).double(), torch.randn(3, 4).double()).shape == (3,)


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        ("sizes must be fractions", {"sizes": (0,)}),
        ("subsets must be an integer from 2", {"subsets": 1}),
        ("quantity='odds' is not known", {"quantity": "odds"}),
        ("baseline='grey' is not known", {"baseline": "grey"}),
    ],
)
def test_wrong_fields_are_named(message, fields):
    with pytest.raises(InputError, match=message):
        Infidelity(**fields)
