"""Samplers of frame indices: the documentation's formula, seeds, and short videos."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivit_lab.errors import InputError, ShortClipWarning
from vivit_lab.video import sample_frame_indices, uniform_frame_indices


@given(st.integers(1, 40), st.integers(1, 8), st.integers(1, 1000), st.integers(0, 2**31))
def test_same_draw_as_the_documentation(clip_len, rate, extra, seed):
    length = clip_len * rate + extra
    legacy = np.random.RandomState(seed)
    end = legacy.randint(int(clip_len * rate), length)
    begin = end - int(clip_len * rate)
    expected = np.clip(np.linspace(begin, end, num=clip_len), begin, end - 1).astype(np.int64)
    again = np.random.RandomState(seed)
    assert np.array_equal(sample_frame_indices(clip_len, rate, length, generator=again), expected)


@given(st.integers(1, 40), st.floats(0.1, 8), st.integers(1, 400), st.integers(0, 2**31))
def test_always_frames_of_the_video_in_order(clip_len, rate, length, seed):
    if int(clip_len * rate) < 1:
        with pytest.raises(InputError, match="is empty: wanted a rate above 0"):
            sample_frame_indices(clip_len, rate, length, generator=seed)
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        indices = sample_frame_indices(clip_len, rate, length, generator=seed)
    assert indices.shape == (clip_len,)
    assert indices.dtype == np.int64
    assert 0 <= indices[0] <= indices[-1] < length
    assert np.all(np.diff(indices) >= 0)
    assert bool(caught) == (int(clip_len * rate) > length)


def test_seed_and_generator_repeat():
    one = sample_frame_indices(8, 4, 300, generator=5)
    assert np.array_equal(one, sample_frame_indices(8, 4, 300, generator=5))
    assert np.array_equal(one, sample_frame_indices(8, 4, 300, generator=np.random.default_rng(5)))
    source = np.random.default_rng(5)
    drawn = {int(sample_frame_indices(8, 4, 300, generator=source)[0]) for _ in range(20)}
    assert len(drawn) > 10
    assert len({int(sample_frame_indices(8, 4, 10_000)[0]) for _ in range(20)}) > 10


def test_every_place_is_reached():
    ends = {int(sample_frame_indices(2, 2, 8, generator=seed)[-1]) for seed in range(200)}
    assert ends == {3, 4, 5, 6}  # as in the documentation: the window's end is drawn below the video's length


def test_short_video_is_spread_and_said():
    with pytest.warns(ShortClipWarning, match=r"has 20 frames, and 8 frames · rate 4 span 32.*whole video instead$"):
        indices = sample_frame_indices(8, 4, 20, generator=0)
    assert (indices[0], indices[-1], len(set(indices.tolist()))) == (0, 19, 8)
    with pytest.warns(ShortClipWarning, match="27 of its frames are repetitions"):
        indices = sample_frame_indices(32, 1, 5, generator=0)
    assert sorted(set(indices.tolist())) == [0, 1, 2, 3, 4]


def test_video_as_long_as_the_window_needs_no_warning():
    assert sample_frame_indices(8, 4, 32, generator=0)[[0, -1]].tolist() == [0, 31]


@given(st.integers(1, 60), st.integers(1, 500))
def test_uniform_indices_are_the_middles_of_equal_parts(clip_len, length):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        indices = uniform_frame_indices(clip_len, length)
    assert bool(caught) == (clip_len > length)
    assert np.array_equal(indices, np.floor((np.arange(clip_len) + 0.5) * length / clip_len + 1e-9))
    assert indices.dtype == np.int64
    assert np.array_equal(np.bincount(indices, minlength=length) > 0, np.ones(length)) or clip_len < length
    # symmetric up to the floor: as much room before the first frame as after the last
    assert abs(indices[0] - (length - 1 - indices[-1])) <= 1


def test_uniform_of_a_short_video_warns():
    with pytest.warns(ShortClipWarning, match="has 3 frames, the clip 5; 2 of its frames are repetitions"):
        assert uniform_frame_indices(5, 3).tolist() == [0, 0, 1, 2, 2]


@pytest.mark.parametrize("sample", [lambda *sizes: sample_frame_indices(sizes[0], 1, sizes[1]), uniform_frame_indices])
@pytest.mark.parametrize(("clip_len", "length", "name"), [(0, 5, "clip_len"), (5, 0, "seg_len"), (5, 2.5, "seg_len")])
def test_sizes_must_be_positive_integers(sample, clip_len, length, name):
    with pytest.raises(InputError, match=f"{name} must be a positive integer"):
        sample(clip_len, length)
