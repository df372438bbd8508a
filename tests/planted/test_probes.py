"""Versions of clips show the frames they should, in the order they should."""

from math import factorial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.planted.laws import SMALL
from vivit_lab.errors import InputError
from vivit_lab.planted import planted_clip
from vivit_lab.planted.clip import backwards, planted_batch, reorder, shuffled, single_frame
from vivit_lab.planted.scene import LABELS


def _numbered(count, frames):
    """Clips whose pixels are the frame's number, and a hundred for each clip before."""
    number = torch.arange(frames)[None] + 100 * torch.arange(count)[:, None]
    return number[..., None, None, None].expand(count, frames, 3, 2, 2).float()


def test_a_single_frame_is_repeated_and_may_differ_from_clip_to_clip():
    clips = _numbered(3, 5)
    torch.testing.assert_close(single_frame(clips, 4)[:, :, 0, 0, 0], torch.tensor([[4.0], [104], [204]]).expand(3, 5))
    own = single_frame(clips, torch.tensor([1, 0, 3]))
    assert own.shape == clips.shape
    assert own[:, :, 0, 0, 0].unique(dim=1).tolist() == [[1], [100], [203]]


@settings(max_examples=30)
@given(st.integers(1, 4), st.integers(1, 9), st.integers(0, 99))
def test_shuffling_permutes_the_frames_of_each_clip(count, frames, seed):
    clips = _numbered(count, frames)
    mixed = shuffled(clips, seed)
    assert mixed.shape == clips.shape
    torch.testing.assert_close(mixed.sort(dim=1).values, clips)
    torch.testing.assert_close(mixed, shuffled(clips, torch.Generator().manual_seed(seed)), rtol=0, atol=0)


def test_every_order_is_as_likely_and_clips_are_shuffled_apart():
    orders = shuffled(_numbered(1, 3).expand(6000, -1, -1, -1, -1), 0)[:, :, 0, 0, 0].long()
    counts = torch.bincount(orders @ torch.tensor([9, 3, 1])).tolist()
    seen = [count for count in counts if count]
    assert len(seen) == factorial(3)
    assert max(abs(count - 1000) for count in seen) < 5 * 29  # five standard deviations


def test_backwards_twice_is_the_clip_and_once_is_numpys():
    clips, _, drawn = planted_batch(SMALL, range(2))
    torch.testing.assert_close(backwards(backwards(clips)), clips, rtol=0, atol=0)
    shown = ((backwards(clips)[1] + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(shown, drawn[1].frames[::-1])


def test_a_planted_clip_is_a_batch_of_one():
    clip = planted_clip(SMALL, 3)
    clips = planted_batch(SMALL, [3])[0]
    for version in (single_frame, lambda *given: shuffled(*given), lambda given, _: backwards(given)):
        torch.testing.assert_close(version(clip, 2), version(clips, 2), rtol=0, atol=0)


@pytest.mark.parametrize("frame", [0, 5, 9])
def test_any_function_of_a_frame_is_right_on_one_of_eight_twins(frame):
    # the exact form of "a single frame is at chance": the eight twins are one and the same clip once they stand still
    clip = planted_clip(SMALL, 4)
    still = torch.cat([single_frame(clip.twin(label, frame), frame) for label in range(len(LABELS))])
    torch.testing.assert_close(still, still[:1].expand_as(still), rtol=0, atol=0)


def test_dtype_and_frames_are_kept_and_the_clips_are_not_changed():
    clips = _numbered(2, 4).bfloat16()
    before = clips.clone()
    version = reorder(clips, torch.tensor([3, 0]))
    assert (version.dtype, version.shape) == (torch.bfloat16, (2, 2, 3, 2, 2))
    version.zero_()
    torch.testing.assert_close(clips, before)


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (torch.tensor([0, 5]), r"each 0 … 4, got \[0, 5\]"),
        (torch.tensor([-1]), r"each 0 … 4, got \[-1\]"),
        (torch.zeros(0, dtype=torch.long), r"at least one frame, each 0 … 4, got \[\]"),
        (torch.zeros(3, 5, dtype=torch.long), r"of shape \(frames,\) or \(2, frames\), got \(3, 5\) torch\.int64"),
        (torch.zeros(5), r"got \(5,\) torch\.float32"),
    ],
)
def test_orders_that_cannot_be_are_refused(order, message):
    with pytest.raises(InputError, match=message):
        reorder(_numbered(2, 5), order)


def test_frames_that_cannot_be_are_refused():
    with pytest.raises(InputError, match=r"each 0 … 4, got"):
        single_frame(_numbered(2, 5), 5)
    with pytest.raises(InputError, match=r"frame must be an integer, or one a clip, got shape \(1, 2\)"):
        single_frame(_numbered(2, 5), torch.zeros(1, 2, dtype=torch.long))


@pytest.mark.parametrize("version", [lambda x: single_frame(x, 0), lambda x: shuffled(x, 0), backwards])
def test_what_is_no_batch_of_clips_is_refused(version):
    with pytest.raises(
        InputError, match=r"wanted clips \(batch, frames, channels, rows, columns\), got \(5, 3, 2, 2\)"
    ):
        version(torch.zeros(5, 3, 2, 2))
