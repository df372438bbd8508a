"""Wilson's interval against its definition, and its coverage."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivit_lab.errors import InputError
from vivit_lab.statistics import wilson_interval


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_its_ends_are_the_shares_that_a_score_test_just_accepts(case):
    successes, count = case
    low, high = wilson_interval(successes, count)
    assert 0 <= low < high <= 1
    assert low <= successes / count <= high
    z = 1.959963984540054
    for end in (low, high):
        if 0 < end < 1:
            score = abs(successes / count - end) / math.sqrt(end * (1 - end) / count)
            assert score == pytest.approx(z, rel=1e-6)
    assert wilson_interval(count - successes, count) == pytest.approx((1 - high, 1 - low), abs=1e-12)


@pytest.mark.parametrize(
    ("successes", "count", "ends"), [(4, 4, (0.5101, 1)), (0, 10, (0, 0.2775)), (5, 10, (0.2366, 0.7634))]
)
def test_known_values(successes, count, ends):
    assert wilson_interval(successes, count) == pytest.approx(ends, abs=5e-5)


@pytest.mark.parametrize("count", [4, 6, 10, 24])
@pytest.mark.parametrize("share", [0.5, 0.7, 0.9])
def test_it_covers_near_its_level_for_few_cases(count, share):
    weights = [math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(count + 1)]
    inside = [low <= share <= high for low, high in (wilson_interval(k, count) for k in range(count + 1))]
    assert float(np.dot(weights, inside)) > 0.83  # the exact coverage; the plain interval of 4 of 4 has width 0


@pytest.mark.parametrize("case", [(1, 0), (-1, 3), (4, 3), (1.0, 3), (True, 3), (float("nan"), 3)])
def test_what_is_no_count_is_refused(case):
    with pytest.raises(InputError, match=r"wanted successes of at least one case|successes must be an integer"):
        wilson_interval(*case)
    with pytest.raises(InputError, match="level must lie between 0 and 1"):
        wilson_interval(1, 2, level=1.0)
