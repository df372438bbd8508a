"""Corruptions in time: laws of the order of frames, on pixel values and on clips."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vivit_lab.errors import InputError
from vivit_lab.interventions import FreezeFrame, ReverseFrames, ShuffleFrames
from vivit_lab.planted import PlantedConfig, planted_clip
from vivit_lab.planted.clip import normalise, stack_clips
from vivit_lab.video import Clip, Geometry

counts, seeds = st.integers(1, 12), st.integers(0, 2**31)


def numbered(frames, batch=2):
    """Pixel values whose every frame holds its own number, clip by clip."""
    number = torch.arange(batch * frames, dtype=torch.float32).reshape(batch, frames, 1, 1, 1)
    return number.expand(batch, frames, 3, 4, 6).clone()


def a_clip(frames=6, prepared=True):
    rng = np.random.default_rng(0)
    clip = Clip.from_frames(rng.integers(0, 255, (frames, 4, 6, 3), dtype=np.uint8), fps=10)
    return clip.prepared(normalise(clip.frames)[None], Geometry.identity(4, 6)) if prepared else clip


@given(counts)
def test_reversing_twice_is_the_clip_itself(count):
    pixels = numbered(count)
    once = ReverseFrames()(pixels)
    assert torch.equal(once, pixels.flip(1))
    assert torch.equal(ReverseFrames()(once), pixels)


@given(counts, seeds)
def test_a_shuffle_is_a_permutation_and_never_the_clip_itself(count, seed):
    pixels = numbered(count)
    before = pixels.clone()
    shuffled = ShuffleFrames(seed)(pixels)
    assert torch.equal(shuffled.sort(dim=1).values, pixels)
    assert count == 1 or not torch.equal(shuffled, pixels)
    assert torch.equal(shuffled, ShuffleFrames(seed)(pixels))
    assert torch.equal(ShuffleFrames(seed)(pixels[1:]), shuffled[1:])  # alone as in a batch
    assert torch.equal(pixels, before)


@given(st.integers(1, 5), st.integers(1, 4), seeds)
def test_pieces_stay_whole(pieces, length, seed):
    order = ShuffleFrames(seed, length).order(pieces * length).reshape(pieces, length)
    assert sorted(order[:, 0].tolist()) == list(range(0, pieces * length, length))
    assert torch.equal(order, order[:, :1] + torch.arange(length))


@given(counts, st.integers(-12, 11))
def test_a_frozen_clip_stands_still(count, frame):
    pixels = numbered(count)
    middle = FreezeFrame()(pixels)
    assert torch.equal(middle, pixels[:, count // 2 : count // 2 + 1].expand_as(pixels))
    if -count <= frame < count:
        assert torch.equal(FreezeFrame(frame)(pixels), pixels[:, [frame]].expand_as(pixels))
        assert torch.equal(FreezeFrame(0)(FreezeFrame(frame)(pixels)), FreezeFrame(frame)(pixels))
    else:
        with pytest.raises(InputError, match=f"does not exist in a clip of {count}"):
            FreezeFrame(frame)(pixels)


@pytest.mark.parametrize("corruption", [ReverseFrames(), ShuffleFrames(3), FreezeFrame(), FreezeFrame(-1)])
def test_a_clip_keeps_its_times_and_tells_its_frames(corruption):
    clip = a_clip()
    found = corruption(clip)
    order = corruption.order(6).numpy()
    assert np.array_equal(found.frames, clip.frames[order])
    assert np.array_equal(found.indices, clip.indices[order])
    assert np.array_equal(found.seconds, clip.seconds)
    assert torch.equal(found.pixel_values, corruption(clip.pixel_values))
    assert torch.equal(found.pixel_values[0], normalise(found.frames))
    assert corruption(a_clip(prepared=False)).pixel_values is None


def test_a_reversed_planted_clip_reverses_its_motion():
    planted = planted_clip(PlantedConfig(level=0), 2)
    pixels, _ = stack_clips([planted])
    backwards = ReverseFrames()(pixels)
    assert torch.equal(backwards[0], normalise(planted.frames[::-1].copy()))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ReverseFrames()(torch.zeros(2, 3, 4, 4)), r"wanted pixel values .* got \(2, 3, 4, 4\)"),
        (lambda: ReverseFrames()(np.zeros((1, 2, 3, 4, 4))), "got ndarray"),
        (lambda: ShuffleFrames(length=0), "length must be a positive number"),
        (lambda: ShuffleFrames(length=4)(numbered(6)), "6 frames are no whole number of pieces of 4"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
