"""What a part says of the heads, against its definition written as loops."""

import numpy as np
import pytest
import torch

from tests.model.naive_variants import VARIANTS
from tests.model.tiny import TINY
from vivit_lab.bulk.job import head_columns
from vivit_lab.families import VivitForVideoClassification
from vivit_lab.model import VivitConfig
from vivit_lab.records import record_attention

CASES = [{"variant": variant} for variant in VARIANTS] + [{"classifier": "gap"}]


def tiny_record(**fields):
    torch.manual_seed(4)
    model = VivitForVideoClassification(VivitConfig(**{**TINY, **fields}, num_labels=5)).eval()
    size, frames = model.config.image_size, model.config.num_frames
    return record_attention(model, torch.randn(2, frames, 3, size, size))


def naive(record, queries):
    """Entropy of a row in nats, and tubelet rows of time between query and key: loops over one head's pattern."""
    grid = record.grid
    shape = (record.batch_size, len(record.layers), record.num_heads)
    entropy, distance = np.zeros(shape), np.zeros(shape)
    for clip, layer, head in np.ndindex(*shape):
        pattern = record.pattern(layer, head)[clip].double().numpy()
        for query in queries:
            row = pattern[grid.offset + query]
            entropy[clip, layer, head] -= sum(share * np.log(share) for share in row if share > 0)
            on_tubelets = row[grid.offset :]
            away = [abs(key // (grid.h * grid.w) - query // (grid.h * grid.w)) for key in range(grid.num_tubelets)]
            distance[clip, layer, head] += (on_tubelets * away).sum() / on_tubelets.sum()
    return entropy / len(queries), distance / len(queries)


def check(record, queries, **options):
    found = head_columns(record, **options)
    for name, want in zip(("head_entropy", "head_distance"), naive(record, queries), strict=True):
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fields", CASES, ids=str)
@pytest.mark.parametrize("every", [False, True])
def test_statistics_of_heads_are_their_definition(fields, every):
    record = tiny_record(**fields)
    check(record, range(record.grid.num_tubelets), all_queries=every)


def test_a_sample_is_of_32_queries_evenly_over_the_clip():
    record = tiny_record(image_size=64, num_frames=8)
    check(record, range(1, 64, 2))
    check(record, range(64), all_queries=True)


def test_heads_that_look_everywhere_alike_or_at_one_token():
    record = tiny_record()
    grid = record.grid
    for layer in record.layers:
        record.queries[layer].zero_()
    even = head_columns(record)
    np.testing.assert_allclose(even["head_entropy"], np.log(grid.num_tokens), rtol=1e-6)
    np.testing.assert_allclose(even["head_distance"], 0.5, rtol=1e-6)  # two rows of time
    for layer in record.layers:
        record.queries[layer].fill_(1e3)
        record.keys[layer].fill_(-1.0)
        record.keys[layer][:, :, 0] = 1.0  # all on CLS: shares of tubelets underflow to 0
    sharp = head_columns(record)
    assert np.all(sharp["head_entropy"] == 0)
    assert np.all(sharp["head_distance"] == 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_statistics_are_float32_whatever_autocast_surrounds_them(dtype):
    record = tiny_record()
    alone = head_columns(record)
    with torch.autocast("cpu", dtype=dtype):
        inside = head_columns(record)
    for name, values in alone.items():
        np.testing.assert_array_equal(inside[name], values)
        assert inside[name].dtype == np.float32
