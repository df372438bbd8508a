"""A job is a value: what it holds, what it refuses, and when two are the same."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivit_lab.attribution import AttentionRollout, Occlusion
from vivit_lab.attribution.registry import METHODS
from vivit_lab.bulk import BulkJob
from vivit_lab.bulk.job import fingerprint_of
from vivit_lab.errors import ConfigError, InputError


def test_methods_may_be_names_or_themselves():
    job = BulkJob(methods=("ROLLOUT:head_fusion=max;start_layer=2", Occlusion(window=(1, 2, 2)), "chefer"))
    assert job.methods == ("rollout:head_fusion=max;start_layer=2", "occlusion:window=1,2,2", "chefer")
    assert job.built() == [
        ("map", AttentionRollout("max", start_layer=2)),
        ("map_occlusion", Occlusion(window=(1, 2, 2))),
        ("map_chefer", METHODS["chefer"]()),
    ]
    assert BulkJob(methods="raw").methods == ("raw",)
    twice = BulkJob(methods=("raw", "rollout", "rollout:start_layer=2"))
    assert [name for name, _ in twice.built()] == ["map", "map_rollout", "map_rollout_start_layer_2"]


@given(
    st.builds(
        BulkJob,
        model=st.sampled_from(["planted", "a/b"]),
        methods=st.lists(st.sampled_from(list(METHODS)), min_size=1, max_size=3, unique=True).map(tuple),
        target=st.none() | st.just("up"),
        sampling=st.sampled_from(["window", "uniform"]),
        stride=st.integers(1, 5),
        batch_size=st.none() | st.integers(1, 9),
        shard_size=st.integers(1, 300),
    )
)
def test_a_job_comes_back_from_json_and_hashes(job):
    again = BulkJob.from_dict(json.loads(json.dumps(job.to_dict())))
    assert again == job
    assert hash(again) == hash(job)
    assert fingerprint_of(again) == fingerprint_of(job)


def test_the_fingerprint_is_of_what_decides_the_numbers():
    plain = fingerprint_of(BulkJob(), weights="a")
    assert fingerprint_of(BulkJob(shard_size=7, revision="main"), weights="a") == plain
    for fields in ({"stride": 3}, {"methods": ("raw",)}, {"dtype": "bfloat16"}, {"sampling": "uniform"}):
        other = fingerprint_of(BulkJob(**fields), weights="a")
        assert [name for name in plain if plain[name] != other[name]] == list(fields)
    assert fingerprint_of(BulkJob(), weights="b") != plain


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"methods": ()}, "at least one method"),
        ({"methods": ("raw", "raw")}, "none twice"),
        ({"methods": ("nothing",)}, "method 'nothing' is not known"),
        ({"methods": (object(),)}, "wanted methods of the package"),
        ({"methods": ("rollout:depth=2",)}, "has no field 'depth'"),
        ({"stride": 0}, "stride must be a positive whole number"),
        ({"batch_size": 2.5}, "batch_size must be"),
        ({"shard_size": True}, "shard_size must be"),
        ({"sampling": "random"}, "choose one of window, uniform"),
        ({"dtype": "int8"}, "choose one of float32"),
        ({"autocast": "float32"}, "choose one of None, bfloat16"),
        ({"hidden_states": "all"}, "choose one of none, cls, tokens"),
    ],
)
def test_what_a_job_refuses(fields, message):
    with pytest.raises(InputError, match=message):
        BulkJob(**fields)


def test_a_later_versions_job_is_refused():
    with pytest.raises(ConfigError, match="no field colour"):
        BulkJob.from_dict({**BulkJob().to_dict(), "colour": 1})
