"""Rank statistics: the plain definitions, also among equals."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vivit_lab.errors import InputError
from vivit_lab.statistics.ranks import average_precision, mid_ranks, roc_auc, spearman


def naive_ranks(values):
    return [sum(o < v for o in values) + (sum(o == v for o in values) + 1) / 2 for v in values]


@settings(max_examples=60)
@given(st.lists(st.integers(-3, 3), min_size=2, max_size=12), st.integers(0, 2**31))
def test_ranks_and_spearman_are_the_plain_ones(values, seed):
    other = np.random.default_rng(seed).integers(-3, 4, len(values)).tolist()
    a, b = torch.tensor([values]).double(), torch.tensor([other]).double()
    assert mid_ranks(a)[0].tolist() == naive_ranks(values)
    if len(set(values)) > 1 and len(set(other)) > 1:
        wanted = np.corrcoef(naive_ranks(values), naive_ranks(other))[0, 1]
        assert float(spearman(a, b)) == pytest.approx(wanted, abs=1e-12)
    else:
        assert spearman(a, b).isnan().all()


def test_rank_statistics_refuse_other_shapes():
    with pytest.raises(InputError, match="spearman wants two tensors"):
        spearman(torch.rand(1, 3), torch.rand(1, 4))
    for measure in (roc_auc, average_precision):
        with pytest.raises(InputError, match="boolean labels"):
            measure(torch.rand(1, 3), torch.zeros(1, 3))
