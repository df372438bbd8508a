"""The numbers of every method and result on every variant are those that are stored; files saved earlier still load."""

import numpy as np
import pytest

from tests.unchanged import calls, numbers
from tests.unchanged.make import STORED


@pytest.fixture(scope="module")
def bench():
    return calls.Bench(STORED)


@pytest.fixture(scope="module")
def stored():
    return numbers.read(STORED / "numbers.npz")


def check(stored, group, found):
    lines = numbers.compare(stored.get(group, {}), found)
    assert not lines, f"{len(lines)} of {group} are not as they were:\n" + "\n".join(lines[:20])


@pytest.mark.parametrize("group", calls.GROUPS)
def test_results_are_as_they_were(group, bench, stored):
    check(stored, group, calls.GROUPS[group](bench))


@pytest.mark.parametrize("method", calls.methods())
def test_maps_are_as_they_were(method, bench, stored):
    check(stored, f"maps {method}", calls.maps(bench, method))


def test_a_bulk_run_is_as_it_was(bench, stored, tmp_path):
    check(stored, "bulk", calls.bulk(bench, tmp_path / "run"))


def test_every_group_that_is_stored_is_compared(stored):
    assert set(stored) == {*calls.GROUPS, *(f"maps {method}" for method in calls.methods()), "bulk"}


@pytest.mark.parametrize("count", [10, 1000])
def test_a_change_is_seen(count):
    values = np.random.default_rng(0).standard_normal(count)
    old, worst = numbers.kept(values), np.abs(values).max()
    assert numbers.compare({"a": old}, [("a", values + 1e-8 * worst)]) == []
    for changed in (values + 1e-3 * worst, values * (1 + 1e-3), np.roll(values, 1), np.append(values, 0.0)):
        assert len(numbers.compare({"a": old}, [("a", changed)])) == 1
    assert numbers.compare({"a": old}, [("a", "refused")]) == ["a: was numbers, is refused"]
    assert "no number is stored" in numbers.compare({"a": old}, [("a", values), ("b", values)])[0]
    assert numbers.compare({"a": old}, []) == ["a: is not made any more"]
