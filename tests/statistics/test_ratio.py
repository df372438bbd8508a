"""The interval of a ratio against a plain loop, and where there is none."""

import math

import numpy as np
import pytest

from vivit_lab.errors import InputError
from vivit_lab.statistics.intervals import bootstrap_interval, bootstrap_ratio


def test_the_interval_is_the_plain_loop():
    rng = np.random.default_rng(3)
    above, below = rng.normal(size=15) + 2, rng.normal(size=15) + 8
    drawn = np.random.default_rng(5).integers(15, size=(300, 15))
    ratios = [sum(above[i] for i in row) / sum(below[i] for i in row) for row in drawn]
    found = bootstrap_ratio(above, below, resamples=300, seed=5)
    assert found.mean == pytest.approx(above.sum() / below.sum())
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(ratios, [2.5, 97.5])), abs=1e-12)
    assert found.n == 15


def test_over_ones_it_is_the_mean():
    values = np.random.default_rng(0).normal(size=30)
    mean, ratio = bootstrap_interval(values), bootstrap_ratio(values, np.ones(30))
    assert (ratio.mean, ratio.low, ratio.high) == pytest.approx((mean.mean, mean.low, mean.high))


def test_it_holds_the_true_ratio_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    held = []
    for _ in range(300):
        below = rng.normal(size=40) + 4
        found = bootstrap_ratio(0.5 * below + rng.normal(size=40), below, resamples=300)
        held.append(found.low <= 0.5 <= found.high)
    assert 0.90 <= np.mean(held) <= 0.98


def test_a_denominator_that_may_be_zero_has_no_interval():
    below = np.random.default_rng(2).normal(size=20)
    found = bootstrap_ratio(np.ones(20), below)
    assert math.isfinite(found.mean)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    balanced = bootstrap_ratio([1.0, 1.0], [1.0, -1.0])
    assert math.isnan(balanced.mean)
    assert balanced.n == 2


def test_gaps_and_too_few():
    assert bootstrap_ratio([1.0, math.nan, 2.0], [2.0, 1.0, 4.0]).mean == 0.5
    assert bootstrap_ratio([1.0, 5.0], [2.0, math.nan]).n == 1
    one = bootstrap_ratio([3.0], [4.0])
    assert one.mean == 0.75
    assert math.isnan(one.low)
    assert bootstrap_ratio([], []).n == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_ratio([1.0], [1.0, 2.0]), "got 1 and 2 values"),
        (lambda: bootstrap_ratio([1.0], [math.inf]), "denominator holds an infinity"),
        (lambda: bootstrap_ratio([1.0], [1.0], level=2), "level must lie"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
