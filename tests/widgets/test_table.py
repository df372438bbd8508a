"""The answers of an offline page against the patterns, within the error that the format states."""

import gzip

import numpy as np
import pytest
import torch

from vivit_lab.records import record_attention
from vivit_lab.widgets.clip_explorer import RowCache, layer_maps, make_table


@pytest.fixture
def rows(classifier, clip):
    return RowCache(record_attention(classifier, clip))


def unpack(table):
    """{(layer, query number): values}, written out independently of the package and of the script."""
    file, info = table
    data, found = gzip.decompress(file), {}
    for entry in info["layers"]:
        count, start = entry["count"], entry["start"]
        largest = np.frombuffer(data, "<f4", count, start)
        roots = np.frombuffer(data, np.uint8, count * 8, start + 4 * count).reshape(count, 8)
        for number in range(count):
            found[entry["layer"], number] = largest[number] * (roots[number] / 255.0) ** 2
    return found


@pytest.mark.parametrize("direction", ["attends_to", "attended_by"])
@pytest.mark.parametrize("choice", ["mean", 2, [0, 1]])
def test_all_queries_of_all_layers_where_there_is_room(rows, direction, choice):
    table = make_table(rows, 1, choice, direction, 1_000_000)
    assert table is not None
    info = table[1]
    assert info["step"] == 1
    assert [entry["layer"] for entry in info["layers"]] == [1, 0, 2]
    found = unpack(table)
    assert len(found) == 3 * 9
    for (layer, token), values in found.items():
        exact = rows.layers(token, direction, choice)[layer, 1:].numpy()
        torch.testing.assert_close(layer_maps(rows, layer, choice, direction)[token].numpy(), exact)
        assert np.abs(values - exact).max() <= 0.004 * exact.max() + 1e-7


def test_fewer_layers_then_fewer_queries_as_room_shrinks(rows):
    whole = len(make_table(rows, 2, "mean", "attends_to", 1_000_000)[0])
    less = make_table(rows, 2, "mean", "attends_to", whole - 1)
    assert [entry["layer"] for entry in less[1]["layers"]] == [2, 1]
    one = len(gzip.compress(b"")) + 100
    few = make_table(rows, 2, "mean", "attends_to", one)
    assert few[1]["step"] == 2
    assert few[1]["layers"][0]["ys"] == [0]
    assert few[1]["layers"][0]["count"] == 3
    assert len(few[0]) <= one
    assert make_table(rows, 2, "mean", "attends_to", 10) is None
