import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.training.videos import CLASSES, PROCESSOR, write_broken, write_folders, write_video
from vivit_lab.errors import InputError, SkippedClipWarning
from vivit_lab.training import Augmentation, LabelledClip, find_clips
from vivit_lab.training.data import RunClips, ViewClips
from vivit_lab.video import read_clip
from vivit_lab.video.read import temporal_views


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return find_clips(write_folders(tmp_path_factory.mktemp("videos"), each=2))


def run_of(clips, length=20, augmentation=None, **options):
    return RunClips(clips, CLASSES, length, 4, PROCESSOR, augmentation or Augmentation(), **options)


def test_each_epoch_has_every_clip_once_in_an_order_of_its_own(clips):
    run = run_of(clips, length=18)
    epochs = [[run.clip_of(item) for item in range(first, first + 6)] for first in (0, 6, 12)]
    assert all(sorted(epoch) == list(range(6)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert [run_of(clips, shuffle=False).clip_of(item) for item in range(8)] == [0, 1, 2, 3, 4, 5, 0, 1]
    assert [run_of(clips, seed=1).clip_of(item) for item in range(6)] != epochs[0]


def test_an_item_is_the_same_each_time_and_a_clip_another_in_each_epoch(clips):
    run = run_of(clips)
    pixels, label = run[3]
    assert pixels.shape == (4, 3, 8, 8)
    assert label == CLASSES.index(clips[run.clip_of(3)].label)
    assert torch.equal(pixels, run_of(clips)[3][0])
    again = next(item for item in range(6, 12) if run.clip_of(item) == run.clip_of(3))
    assert not torch.equal(pixels, run[again][0])


def test_the_next_clip_takes_the_place_of_one_that_cannot_be_read(clips, tmp_path):
    broken = LabelledClip(write_broken(tmp_path / "broken.mp4"), "red")
    run = run_of([clips[0], broken, clips[3]], shuffle=False, augmentation=Augmentation.none(1))
    with pytest.warns(SkippedClipWarning, match=r"broken\.mp4 cannot be read and the next clip takes its place"):
        pixels, label = run[1]
    assert torch.equal(pixels, run[2][0])
    assert label == CLASSES.index(clips[3].label)
    with pytest.warns(SkippedClipWarning), pytest.raises(InputError, match=r"none of the 1 clips to train on can be"):
        run_of([broken])[0]


def test_what_does_not_fit_is_refused(clips):
    with pytest.raises(InputError, match=r"wanted at least one clip, got none"):
        run_of([])
    with pytest.raises(InputError, match=r"labels green, red, which are not among blue, x"):
        RunClips(clips, ["blue", "x"], 4, 4, PROCESSOR, Augmentation())
    with pytest.raises(IndexError, match=r"item 20 of a run of 20 clips"):
        run_of(clips)[20]
    with pytest.raises(IndexError, match=r"item 6 of 6 clips"):
        ViewClips(clips, CLASSES, 4, PROCESSOR)[6]
    with pytest.raises(InputError, match=r"wanted frames, stride and views of at least 1"):
        ViewClips(clips, CLASSES, 4, PROCESSOR, views=0)
    with pytest.raises(InputError, match=r"0 <= start < stop; got 4, 2, 1, 3, 3"):
        temporal_views(3, 3, 4, 2, 1)


@given(st.integers(0, 20), st.integers(1, 100), st.integers(1, 12), st.integers(1, 4), st.integers(1, 6))
def test_views_are_windows_from_the_first_to_the_last(start, length, frames, stride, views):
    found = temporal_views(start, start + length, frames, stride, views)
    assert found.shape == (views, frames)
    assert start <= found.min() <= found.max() < start + length
    assert (np.diff(found[:, 0]) >= 0).all()
    span = stride * (frames - 1) + 1
    if span <= length:
        assert (np.diff(found) == stride).all()
        if views > 1:
            assert found[0, 0] == start
            assert found[-1, -1] == start + length - 1
        else:
            assert found[0, 0] - start == (length - span) // 2


def test_views_are_what_reading_each_window_gives(clips):
    data = ViewClips(clips, CLASSES, 4, PROCESSOR, stride=2, views=3)
    pixels, label = data[5]
    assert label == 2
    for view, first in zip(pixels, (0, 2, 5), strict=True):
        want = read_clip(clips[5].path, 4, 2, first, processor=PROCESSOR).pixel_values[0]
        torch.testing.assert_close(view, want, rtol=0, atol=0)


def test_a_clip_that_cannot_be_read_does_not_count(clips, tmp_path):
    broken = LabelledClip(write_broken(tmp_path / "broken.mp4"), "red")
    data = ViewClips([broken], CLASSES, 4, PROCESSOR, views=2)
    with pytest.warns(SkippedClipWarning, match=r"does not count"):
        pixels, label = data[0]
    assert (tuple(pixels.shape), label) == ((2, 4, 3, 8, 8), -1)


def test_a_file_that_changed_is_read_anew(tmp_path):
    path = write_video(tmp_path / "v.mp4", "red", frames=4)
    data = ViewClips([LabelledClip(path, "red")], CLASSES, 4, PROCESSOR, stride=1, views=2)
    before = data.read(0)
    write_video(path, "red", frames=9, seed=5)
    assert not torch.equal(data.read(0), before)
    assert not torch.equal(data.read(0)[0], data.read(0)[1])
