"""Localisation: every measure against a plain loop, exact among ties, and at chance for a map that says nothing."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vivit_lab.attribution import AttributionMap
from vivit_lab.errors import InputError
from vivit_lab.faithfulness import localise
from vivit_lab.faithfulness.localisation import MEASURES, Localisation
from vivit_lab.grid import TokenGrid


def naive_auc(scores, labels):
    """Every pair of a positive and a negative."""
    positive = [score for score, label in zip(scores, labels, strict=True) if label]
    negative = [score for score, label in zip(scores, labels, strict=True) if not label]
    if not positive or not negative:
        return math.nan
    wins = sum((p > n) + 0.5 * (p == n) for p in positive for n in negative)
    return wins / (len(positive) * len(negative))


def naive_ap(scores, labels):
    """Walk down the distinct thresholds."""
    if all(labels) or not any(labels):
        return math.nan
    total, before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        kept = [label for score, label in zip(scores, labels, strict=True) if score >= threshold]
        recall, precision = sum(kept) / sum(labels), sum(kept) / len(kept)
        total += (recall - before) * precision
        before = recall
    return total


def naive_pointing(scores, labels):
    if all(labels) or not any(labels):
        return math.nan
    best = [label for score, label in zip(scores, labels, strict=True) if score == max(scores)]
    return sum(best) / len(best)


def naive_energy(scores, labels):
    """``scores`` are positive parts already."""
    if all(labels) or not any(labels):
        return math.nan
    if sum(scores) == 0:
        return sum(labels) / len(labels)
    return sum(score for score, label in zip(scores, labels, strict=True) if label) / sum(scores)


def naive_measures(relevance, evidence, rows):
    """One clip: (t, h, w) numbers, (t, h, w) and (t,) booleans."""
    t, h, w = relevance.shape
    cells = [(i, y, x) for i in range(t) for y in range(h) for x in range(w)]
    places = [(y, x) for y in range(h) for x in range(w)]
    positive = relevance.clip(min=0)
    joint = [evidence[cell] for cell in cells]
    footprint = [any(evidence[i, y, x] for i in range(t)) for y, x in places]
    window = list(rows)
    over_time = [sum(relevance[i, y, x] for i in range(t)) for y, x in places]
    over_space = [sum(relevance[i, y, x] for y, x in places) for i in range(t)]
    found = {
        "spatial_pointing": naive_pointing(over_time, footprint),
        "temporal_pointing": naive_pointing(over_space, window),
        "joint_pointing": naive_pointing([relevance[cell] for cell in cells], joint),
        "spatial_energy": naive_energy([sum(positive[i, y, x] for i in range(t)) for y, x in places], footprint),
        "temporal_energy": naive_energy([sum(positive[i, y, x] for y, x in places) for i in range(t)], window),
        "joint_energy": naive_energy([positive[cell] for cell in cells], joint),
        "joint_ap": naive_ap([relevance[cell] for cell in cells], joint),
        "spatial_ap": naive_ap(over_time, footprint),
        "spatial_auc": naive_auc(over_time, footprint),
        "when_auc": naive_auc(over_space, window),
    }
    for view, inside in (("spatial", footprint), ("temporal", window), ("joint", joint)):
        share = sum(inside) / len(inside)
        found[f"{view}_energy_ratio"] = found[f"{view}_energy"] / share if share else math.nan
    return found


# whole numbers: sums are exact, so that ties are the same ties in any order of summation
def whole_numbers(rng, shape, spread):
    return rng.integers(-spread, spread + 1, shape).astype(np.float64)


@settings(max_examples=60)
@given(st.integers(0, 2**31), st.integers(0, 4), st.floats(0, 1))
def test_every_measure_is_the_plain_loop(seed, spread, chance):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 4, 3))
    relevance = whole_numbers(rng, (3, *shape), spread)
    evidence = rng.random((3, *shape)) < chance
    window = rng.random((3, shape[0])) < chance
    found = localise(torch.from_numpy(relevance), evidence.astype(np.float32), window.astype(np.float32))
    assert set(found.values) == set(found.chance) == set(MEASURES)
    for clip in range(3):
        wanted = naive_measures(relevance[clip], evidence[clip], window[clip])
        for name in MEASURES:
            assert float(found[name][clip]) == pytest.approx(wanted[name], abs=1e-12, nan_ok=True), name


def scene():
    """Evidence in the middle rows of one corner."""
    mask = torch.zeros(1, 4, 3, 3)
    mask[0, 1:3, 0, :2] = 1
    return mask, torch.tensor([[0.0, 1, 1, 0]])


def test_the_evidence_itself_is_a_perfect_map():
    mask, window = scene()
    found = localise(mask, mask, window)
    for name in MEASURES:
        if not name.endswith("ratio"):
            assert float(found[name]) == 1, name
    assert float(found["joint_energy_ratio"]) == pytest.approx(36 / 4)
    assert float(found["temporal_energy_ratio"]) == pytest.approx(2)
    assert float(found["spatial_energy_ratio"]) == pytest.approx(9 / 2)


@pytest.mark.parametrize("level", [-2.0, 0.0, 5.0])
def test_a_constant_map_gets_exactly_the_chance_level(level):
    mask, window = scene()
    found = localise(torch.full((1, 4, 3, 3), level), mask, window)
    for name in MEASURES:
        assert float(found[name]) == pytest.approx(float(found.chance[name]), abs=1e-15), name
    share = {"spatial": 2 / 9, "temporal": 1 / 2, "joint": 4 / 36}
    for view, wanted in share.items():
        assert float(found[f"{view}_pointing"]) == float(found[f"{view}_energy"]) == pytest.approx(wanted)
        assert float(found[f"{view}_energy_ratio"]) == pytest.approx(1)
    assert float(found["joint_ap"]) == pytest.approx(share["joint"])
    assert float(found["spatial_ap"]) == pytest.approx(share["spatial"])
    assert float(found["spatial_auc"]) == float(found["when_auc"]) == 0.5


def test_the_reversed_map_has_the_mirrored_auc():
    mask, window = scene()
    relevance = torch.randn(1, 4, 3, 3)
    one, other = localise(relevance, mask, window), localise(-relevance, mask, window)
    for name in ("when_auc", "spatial_auc"):
        assert float(one[name]) == pytest.approx(1 - float(other[name]))


def test_ranking_keeps_the_sign_and_energy_leaves_it_out():
    mask, window = scene()
    relevance = torch.where(mask > 0, 1.0, -3.0)
    found = localise(relevance, mask, window)
    assert float(found["joint_energy"]) == 1
    assert float(found["joint_ap"]) == 1
    spread = relevance.clone()
    spread[0, 0, 2, 2] = 4  # the largest, outside; its row sums to less than the window's rows still
    found = localise(spread, mask, window)
    assert float(found["joint_energy"]) == pytest.approx(4 / 8)
    assert float(found["joint_pointing"]) == 0
    assert float(found["temporal_pointing"]) == 1


def test_clips_without_both_classes_have_no_value():
    relevance = torch.rand(2, 2, 2, 2)
    mask = torch.stack((torch.zeros(2, 2, 2), torch.ones(2, 2, 2)))
    found = localise(relevance, mask, torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
    assert all(found[name].isnan().all() for name in MEASURES if not name.startswith(("when", "temporal")))
    assert found["when_auc"].isnan().tolist() == [True, False]
    assert math.isnan(found.mean()["joint_ap"])
    assert found.mean()["when_auc"] == float(found["when_auc"][1])


def test_coverage_counts_relative_to_the_most_covered_tubelet():
    mask = torch.tensor([0.04, 0.01, 0.009, 0.0]).reshape(1, 4, 1, 1)
    relevance = torch.tensor([4.0, 3.0, 2.0, 1.0]).reshape(1, 4, 1, 1)
    for threshold, share in ((0.25, 2 / 4), (0.2, 3 / 4), (1.0, 1 / 4)):
        assert float(localise(relevance, mask, threshold=threshold).chance["joint_ap"]) == pytest.approx(share)


def test_without_a_window_the_rows_with_evidence_are_it():
    mask, window = scene()
    relevance = torch.randn(1, 4, 3, 3)
    assert torch.equal(localise(relevance, mask)["when_auc"], localise(relevance, mask, window)["when_auc"])


def test_a_map_is_taken_as_its_relevance_and_batches_join():
    relevance = torch.rand(3, 2, 2, 2)
    mask = (torch.rand(3, 2, 2, 2) > 0.5).float()
    map_ = AttributionMap(relevance, TokenGrid(2, 2, 2), method="Test")
    whole = localise(map_, mask)
    joined = Localisation.cat([localise(map_[:1], mask[:1]), localise(map_[1:], mask[1:])])
    assert len(whole) == len(joined) == 3
    for name in MEASURES:
        torch.testing.assert_close(whole[name], joined[name], equal_nan=True, rtol=0, atol=0)
        torch.testing.assert_close(whole.chance[name], joined.chance[name], equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"relevance": torch.rand(2, 2, 2)}, r"relevance must be \(batch, t, h, w\)"),
        ({"relevance": torch.full((1, 2, 2, 2), math.nan)}, "must be finite"),
        ({"mask": torch.zeros(1, 2, 2, 3)}, r"mask must be \(batch, t, h, w\) = \(1, 2, 2, 2\)"),
        ({"mask": torch.full((1, 2, 2, 2), 1.5)}, "mask must hold fractions"),
        ({"window": torch.zeros(1, 3)}, r"window must be \(batch, t\) = \(1, 2\)"),
        ({"window": torch.full((1, 2), math.nan)}, "window must hold fractions"),
        ({"threshold": 0.0}, r"threshold must lie in \(0, 1\]"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    arguments = {"relevance": torch.rand(1, 2, 2, 2), "mask": torch.zeros(1, 2, 2, 2), "window": torch.zeros(1, 2)}
    with pytest.raises(InputError, match=message):
        localise(**{**arguments, **change})


def test_unknown_measures_and_empty_parts_are_refused():
    with pytest.raises(InputError, match=r"no measure 'iou'; there are spatial_pointing"):
        localise(torch.rand(1, 2, 2, 2), torch.zeros(1, 2, 2, 2))["iou"]
    with pytest.raises(InputError, match="at least one"):
        Localisation.cat([])
