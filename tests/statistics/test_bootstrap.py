"""Intervals over clips against plain loops, and how often they hold the truth."""

import itertools
import math

import numpy as np
import pytest
import torch

from vivit_lab.errors import InputError
from vivit_lab.statistics import intervals as bootstrap
from vivit_lab.statistics.intervals import bootstrap_interval, paired_difference


def test_the_interval_is_the_plain_loop():
    values = np.random.default_rng(3).normal(size=17)
    rng = np.random.default_rng(5)
    means = [np.mean([values[i] for i in row]) for row in rng.integers(17, size=(300, 17))]
    found = bootstrap_interval(values, resamples=300, seed=5)
    assert found.mean == pytest.approx(values.mean(), abs=1e-14)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])), abs=1e-13)
    assert found.n == 17
    assert str(found) == f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"


def test_blocks_do_not_change_the_result(monkeypatch):
    values = np.random.default_rng(0).normal(size=40)
    whole = bootstrap_interval(values, resamples=100), paired_difference(values, values[::-1], resamples=100)
    monkeypatch.setattr(bootstrap, "_BLOCK", 160)
    assert whole == (bootstrap_interval(values, resamples=100), paired_difference(values, values[::-1], resamples=100))


def test_a_seed_repeats_and_another_differs():
    values = torch.randn(30)
    assert bootstrap_interval(values) == bootstrap_interval(values.tolist())
    assert bootstrap_interval(values).low != bootstrap_interval(values, seed=1).low


@pytest.mark.parametrize("draw", [lambda rng: rng.normal(size=60) + 1, lambda rng: rng.exponential(size=60)])
def test_the_interval_holds_the_true_mean_about_as_often_as_it_says(draw):
    rng = np.random.default_rng(11)
    held = [
        (found := bootstrap_interval(draw(rng), resamples=400)).low <= 1 <= found.high for _ in range(500)
    ]  # both distributions have the mean 1
    assert 0.90 <= np.mean(held) <= 0.98


def test_a_higher_level_gives_a_wider_interval():
    values = torch.randn(40)
    wide, narrow = (bootstrap_interval(values, level=level) for level in (0.99, 0.5))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_clips_without_a_value_are_left_out():
    values = [1.0, math.nan, 3.0, 2.0]
    assert bootstrap_interval(values) == bootstrap_interval([1.0, 3.0, 2.0])
    found = paired_difference(values, [0.0, 0.0, math.nan, 0.0])
    assert (found.n, found.mean) == (2, 1.5)


def test_too_few_clips_have_no_spread():
    none, one = bootstrap_interval([math.nan]), bootstrap_interval([2.0])
    assert none.n == 0
    assert math.isnan(none.mean)
    assert (one.n, one.mean) == (1, 2.0)
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    assert math.isnan(paired_difference([], []).p)


def test_a_pair_is_much_sharper_than_two_means():
    base = np.random.default_rng(0).normal(size=100) * 10
    better = base + 0.2 + np.random.default_rng(1).normal(size=100) * 0.1
    found = paired_difference(better, base)
    assert 0.1 < found.low < found.mean < found.high < 0.3
    assert found.p == pytest.approx(1 / 4001)
    turned = paired_difference(base, better)
    assert turned.mean == -found.mean
    assert turned.p == found.p


def test_few_clips_are_tested_over_all_signs():
    d = np.array([0.3, -0.1, 0.5, 0.2, 0.4])
    far = [abs(sum(s * v for s, v in zip(signs, d, strict=True))) for signs in itertools.product((1, -1), repeat=5)]
    wanted = np.mean([value >= abs(d.sum()) - 1e-9 for value in far])
    assert paired_difference(d, np.zeros(5)).p == wanted == 4 / 32


def test_random_signs_come_near_to_all_signs(monkeypatch):
    d = np.random.default_rng(2).normal(size=11) + 0.4
    exact = paired_difference(d, np.zeros(11)).p
    monkeypatch.setattr(bootstrap, "_EXACT_UP_TO", 5)
    assert paired_difference(d, np.zeros(11), resamples=20000).p == pytest.approx(exact, abs=0.015)


def test_equal_methods_do_not_differ():
    values = torch.randn(20)
    found = paired_difference(values, values)
    assert (found.mean, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_the_p_value_is_small_as_often_as_it_says():
    rng = np.random.default_rng(4)
    ps = np.array([paired_difference(rng.normal(size=25), rng.normal(size=25), resamples=300).p for _ in range(400)])
    assert 0.02 <= (ps <= 0.05).mean() <= 0.08
    assert 0.43 <= (ps <= 0.5).mean() <= 0.57


def test_bfloat16_is_read():
    assert bootstrap_interval(torch.ones(3, dtype=torch.bfloat16)).mean == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_interval(torch.rand(2, 2)), r"\(clips,\), got \(2, 2\)"),
        (lambda: bootstrap_interval([1.0, math.inf]), "holds an infinity"),
        (lambda: bootstrap_interval([1.0], level=1.0), r"level must lie in \(0, 1\)"),
        (lambda: bootstrap_interval([1.0], resamples=0), "resamples must be a positive integer"),
        (lambda: paired_difference([1.0], [1.0], resamples=True), "resamples must be a positive integer"),
        (lambda: paired_difference([1.0], [1.0, 2.0]), "got 1 and 2 values"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
