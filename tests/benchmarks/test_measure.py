"""The meter of the benchmarks measures what it says."""

import sys

import numpy as np
import pytest

from tests.benchmarks.measure import peak_bytes


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_peak_is_that_of_the_call_alone():
    held = np.ones(40_000_000)  # a parent larger than the child must not hide the child's peak
    setup = "import numpy as np; np.ones(30_000_000)"  # nor may what came and went before the call
    peak = peak_bytes(setup, "np.ones(10_000_000)", repeats=1)
    assert 75e6 <= peak < 100e6
    assert held[0] == 1
