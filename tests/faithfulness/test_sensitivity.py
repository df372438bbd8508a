"""Sensitivity-n against numpy's correlation of sums and falls that are computed one set at a time."""

import numpy as np
import pytest
import torch
from beartype import beartype
from jaxtyping import jaxtyped

from tests.faithfulness.laws_perturb import GRID, UNITS, logits_without, wide_clips, wide_model
from vivit_lab.attribution import AttributionMap
from vivit_lab.errors import GridError, InputError
from vivit_lab.faithfulness import SensitivityN
from vivit_lab.faithfulness.masking import CleanClips, Readings, SubsetFalls, random_subsets
from vivit_lab.faithfulness.measures import correlation


@pytest.fixture
def model():
    return wide_model()


@pytest.fixture
def clips(model):
    return CleanClips.of(model, wide_clips(), 2)


def additive(values, clean=3.0, sizes=(2, 6)):
    """Falls of a model that is a sum over its tubelets, (batch, tubelet)."""
    removed = random_subsets(sizes, 30, UNITS, 0, range(len(values)))
    falls = torch.einsum("bksn,bn->bks", removed.double(), values.double())
    clean = torch.full((len(values),), clean)
    return SubsetFalls(removed, sizes, Readings(clean, None), Readings(clean[:, None] - falls.flatten(1), None), GRID)


@pytest.mark.parametrize("baseline", ["mean", "drop"])
def test_sensitivity_agrees_with_its_definition(model, baseline):
    pixels, relevance = wide_clips(), torch.randn(2, *GRID.shape)
    measure = SensitivityN(sizes=(0.04, 0.5), subsets=6, baseline=baseline, quantity="probability")
    clips = CleanClips.of(model, pixels, 2)
    falls = measure.sample(clips, batch_size=5)
    assert falls.sizes == (1, 12)
    got = measure.each_size(falls, relevance)
    for clip in range(2):
        clean = model(pixels[clip : clip + 1]).logits.softmax(-1)[0, 2].detach()
        for size in range(2):
            sums, fallen = [], []
            for gone in falls.removed[clip, size]:
                probability = logits_without(model, pixels[clip], ~gone, baseline).softmax(-1)[2]
                fallen.append(float(clean - probability))
                sums.append(float(relevance[clip].flatten()[gone].sum()))
            assert float(got[clip, size]) == pytest.approx(np.corrcoef(sums, fallen)[0, 1], abs=1e-4)
    torch.testing.assert_close(measure.compare(falls, relevance), got.mean(dim=1))
    torch.testing.assert_close(measure(model, pixels, relevance, 2), got.mean(dim=1), atol=1e-4, rtol=1e-4)


def test_a_sum_is_explained_by_its_terms():
    values = torch.randn(2, UNITS)
    falls, heat = additive(values), values.reshape(2, *GRID.shape)
    measure = SensitivityN()
    torch.testing.assert_close(measure.each_size(falls, heat), torch.ones(2, 2))
    torch.testing.assert_close(measure.each_size(falls, 1e-6 * heat), torch.ones(2, 2))
    torch.testing.assert_close(measure.each_size(falls, heat + 5), torch.ones(2, 2))
    torch.testing.assert_close(measure.each_size(falls, -heat), -torch.ones(2, 2))
    assert measure.each_size(falls, torch.full_like(heat, 0.1)).tolist() == [[0, 0], [0, 0]]
    assert float(measure.compare(falls, torch.randn(2, *GRID.shape)).abs().max()) < 0.9


def test_the_sets_are_uniform_seeded_and_each_clips_own():
    sets = random_subsets([3, 12], 400, UNITS, 0, [5, 6])
    assert sets.shape == (2, 2, 400, UNITS)
    assert sets[:, 0].sum(dim=-1).unique().tolist() == [3]
    assert sets[:, 1].sum(dim=-1).unique().tolist() == [12]
    share = sets.double().mean(dim=2)
    for size, chance in enumerate((1 / 8, 1 / 2)):
        assert float((share[:, size] - chance).abs().max()) < 5 * (chance * (1 - chance) / 400) ** 0.5
    assert not torch.equal(sets[0], sets[1])
    assert torch.equal(random_subsets([3, 12], 400, UNITS, 0, [6])[0], sets[1])
    assert not torch.equal(random_subsets([3, 12], 400, UNITS, 1, [6])[0], sets[1])


def test_many_maps_share_the_falls(model, clips):
    passes = []
    model.blocks[0].register_forward_pre_hook(lambda module, given: passes.append(len(given[0])))
    measure = SensitivityN(sizes=(0.2,), subsets=4)
    falls = measure.sample(clips, batch_size=4)
    assert sum(passes) == 2 * 4
    heat = torch.randn(2, *GRID.shape)
    assert torch.equal(measure.compare(falls, heat), measure.measure(clips, heat, batch_size=4))
    assert torch.equal(
        measure.compare(falls, heat), measure.compare(falls, AttributionMap(heat, GRID, "T", signed=True))
    )
    assert sum(passes) == 4 * 4
    assert len(falls) == 2


def test_correlation_has_numpys_values_and_annotated_shapes():
    first, second = torch.randn(3, 2, 9).double(), torch.randn(3, 2, 9).double()
    got = jaxtyped(typechecker=beartype)(correlation)(first, second)
    for row in range(3):
        for size in range(2):
            assert float(got[row, size]) == pytest.approx(np.corrcoef(first[row, size], second[row, size])[0, 1])
    flat = torch.zeros(1, 9).double()
    assert correlation(flat, flat).tolist() == [0]


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        ("subsets must be an integer from 2", {"subsets": 1}),
        ("subsets must be an integer from 2", {"subsets": 0}),
        ("sizes must be (fractions|several numbers)", {"sizes": ()}),
        ("sizes must be (fractions|several numbers)", {"sizes": 0.5}),
        ("sizes must be (fractions|several numbers)", {"sizes": (0.5, 1.0)}),
        ("quantity='loss' is not known", {"quantity": "loss"}),
        ("seed must be an integer", {"seed": 1.5}),
    ],
)
def test_wrong_fields_are_named(message, fields):
    with pytest.raises(InputError, match=message):
        SensitivityN(**fields)


def test_wrong_maps_are_named():
    falls, measure = additive(torch.randn(2, UNITS)), SensitivityN()
    with pytest.raises(InputError, match="1 maps for 2 clips"):
        measure.compare(falls, torch.ones(1, *GRID.shape))
    with pytest.raises(GridError, match="relevance must be"):
        measure.compare(falls, torch.ones(2, 3, 4, 2))
    with pytest.raises(InputError, match="has no probability"):
        SensitivityN(quantity="probability").compare(falls, torch.ones(2, *GRID.shape))
