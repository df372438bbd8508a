"""False-discovery control against the plain definition, and how often it is right."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivit_lab.errors import InputError
from vivit_lab.statistics.ranks import benjamini_hochberg

levels = st.floats(0, 1, allow_subnormal=False)


@given(st.lists(levels, min_size=1, max_size=30))
def test_q_is_the_smallest_level_at_which_the_step_up_procedure_keeps_a_finding(values):
    p = np.array(values)
    q = benjamini_hochberg(p)
    ordered = np.sort(p)
    for alpha in [*q, 0.05, 0.5]:
        fits = [i + 1 for i in range(len(p)) if ordered[i] <= (i + 1) / len(p) * alpha * (1 + 1e-12)]
        kept = p <= ordered[max(fits) - 1] if fits else np.zeros(len(p), dtype=bool)
        assert np.array_equal(kept, q <= alpha * (1 + 1e-12))
    assert (q >= p).all()
    assert (q <= 1).all()


def test_shape_order_and_gaps():
    p = np.array([[0.01, np.nan], [0.04, 0.03]])
    assert benjamini_hochberg(p) == pytest.approx(np.array([[0.03, np.nan], [0.04, 0.04]]), nan_ok=True)
    assert np.isnan(benjamini_hochberg(np.full(3, np.nan))).all()


def test_the_share_of_false_findings_is_held():
    rng = np.random.default_rng(0)
    false = []
    for _ in range(400):
        p = rng.uniform(size=100)
        p[:20] = rng.beta(0.05, 1, size=20)  # twenty true effects
        kept = benjamini_hochberg(p) <= 0.1
        false.append(kept[20:].sum() / max(1, kept.sum()))
    assert np.mean(false) <= 0.1


@pytest.mark.parametrize("wrong", [[-0.1], [0.2, 1.5]])
def test_what_is_no_probability_is_refused(wrong):
    with pytest.raises(InputError, match=r"p-values lie in \[0, 1\]"):
        benjamini_hochberg(np.array(wrong))
