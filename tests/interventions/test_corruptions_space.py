"""Corruptions of a tube, and other clips: what is inside changes, what is outside does not."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.interventions.test_corruptions import numbered
from vivit_lab.errors import GridError, InputError
from vivit_lab.faithfulness.masking import blurred_still
from vivit_lab.grid import TokenGrid
from vivit_lab.interventions import BlurTube, OtherClip, Region, SwapRegion
from vivit_lab.interventions.corruptions import blur
from vivit_lab.planted.clip import normalise
from vivit_lab.video import Clip, Geometry

GRID = TokenGrid(2, 2, 3, tubelet=(2, 4, 4))
BOX = Region(t=1, y=0, x=slice(1, 3))


def inside_box():
    inside = torch.zeros(4, 8, 12, dtype=torch.bool)
    inside[2:4, 0:4, 4:12] = True
    return inside.unsqueeze(1)


def a_clip(seed=0, size=(8, 12), frames=4, geometry=None, fps=10.0):
    clip = Clip.from_frames(np.random.default_rng(seed).integers(0, 255, (frames, *size, 3), dtype=np.uint8), fps=fps)
    return clip.prepared(normalise(clip.frames)[None], geometry or Geometry.identity(*size))


def test_a_swapped_region_is_the_other_clip_inside_and_the_clip_outside():
    one, other = torch.randn(2, 4, 3, 8, 12), torch.randn(2, 4, 3, 8, 12)
    swapped = SwapRegion(BOX, GRID, other)(one)
    inside = inside_box().expand_as(one)
    assert torch.equal(swapped[inside], other[inside])
    assert torch.equal(swapped[~inside], one[~inside])
    assert torch.equal(SwapRegion(BOX, GRID, one)(swapped), one)  # and back
    assert torch.equal(SwapRegion("tubelets", GRID, other)(one), other)
    assert torch.equal(SwapRegion(BOX, GRID, other[:1])(one[:1]), swapped[:1])


def test_a_blurred_tube_is_still_and_smooth_inside():
    pixels = torch.randn(1, 4, 3, 8, 12)
    inside = inside_box().expand_as(pixels)
    for still in (True, False):
        blurred = BlurTube(BOX, GRID, sigma=0.3, still=still)(pixels)
        assert torch.equal(blurred[~inside], pixels[~inside])
        tube = blurred[:, 2:4, :, 0:4, 4:12]
        assert torch.equal(tube[:, 0], tube[:, 1]) == still
        assert tube.std() < 0.5 * pixels[:, 2:4, :, 0:4, 4:12].std()
    whole = BlurTube("tubelets", GRID, sigma=0.1)(pixels)
    assert torch.allclose(whole, blurred_still(pixels, 0.1), atol=1e-6)  # the same blur as the baseline's


@given(st.floats(0.02, 1.0), st.integers(2, 9), st.integers(2, 9))
def test_a_blur_keeps_a_flat_picture_and_stays_between_its_ends(sigma, height, width):
    assert torch.allclose(blur(torch.full((2, 3, height, width), 0.7), sigma), torch.tensor(0.7), atol=1e-6)
    picture = torch.rand(1, height, width)
    blurred = blur(picture, sigma)
    assert picture.min() - 1e-6 <= blurred.min() <= blurred.max() <= picture.max() + 1e-6


@given(st.integers(1, 9), st.integers(1, 9))
def test_another_clip_is_aligned_by_its_share(count, there):
    found = OtherClip(numbered(there, 1))(numbered(count, 1))[0, :, 0, 0, 0]
    wanted = [round(index * (there - 1) / max(1, count - 1) + 1e-12) for index in range(count)]
    assert found[0] == 0
    assert count == 1 or found[-1] == there - 1
    assert (found - torch.tensor(wanted, dtype=torch.float32)).abs().max() <= 1  # halves go to the even frame
    assert (found.diff() >= 0).all()


def test_another_clip_is_aligned_in_seconds():
    clip, slow = a_clip(frames=4, fps=10), a_clip(1, frames=4, fps=5)
    found = OtherClip(slow)(clip)
    assert found.indices.tolist() == [0, 0, 1, 1]
    assert np.array_equal(found.frames, slow.frames[[0, 0, 1, 1]])
    assert torch.equal(found.pixel_values[0], normalise(found.frames))
    assert np.array_equal(found.seconds, clip.seconds)
    short = a_clip(1, frames=2)
    assert OtherClip(short)(clip).indices.tolist() == [0, 1, 1, 1]


def test_a_clips_frames_and_pixels_change_together():
    clip, other = a_clip(), a_clip(1)
    inside = inside_box()[:, 0].numpy()
    swapped = SwapRegion(BOX, GRID, other)(clip)
    assert np.array_equal(swapped.frames, np.where(inside[..., None], other.frames, clip.frames))
    assert torch.equal(swapped.pixel_values[0], normalise(swapped.frames))
    assert np.array_equal(swapped.indices, clip.indices)
    blurred = BlurTube(BOX, GRID, sigma=0.2)(clip)
    assert np.array_equal(blurred.frames[~inside], clip.frames[~inside])
    assert (normalise(blurred.frames) - blurred.pixel_values[0]).abs().max() <= 1 / 127.5  # uint8 is rounded


def test_a_region_is_found_in_a_larger_source():
    # twice as large, and one source pixel cut off at the left: model = 0.5 · source - 0.5
    geometry = Geometry((16, 26), (8, 12), (0.5, 0.5), (0.0, -0.5))
    clip = a_clip(size=(16, 26))
    clip = clip.prepared(torch.zeros(1, 4, 3, 8, 12), geometry)
    other = a_clip(1, size=(16, 26)).prepared(torch.ones(1, 4, 3, 8, 12), geometry)
    changed = (SwapRegion(BOX, GRID, other)(clip).frames != clip.frames).any(-1)
    wanted = np.zeros((4, 16, 26), dtype=bool)
    wanted[2:4, 0:8, 9:25] = (other.frames != clip.frames).any(-1)[2:4, 0:8, 9:25]
    assert np.array_equal(changed, wanted)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: BlurTube(BOX, GRID, sigma=0), InputError, "sigma must be positive"),
        (lambda: BlurTube(Region(t=2), GRID), GridError, "t=2 is outside"),
        (lambda: SwapRegion(Region(x=3), GRID, a_clip()), GridError, "x=3 is outside"),
        (lambda: BlurTube(BOX, GRID)(torch.zeros(1, 4, 3, 8, 8)), InputError, r"the grid covers .* \(4, 8, 12\)"),
        (lambda: OtherClip(torch.zeros(1, 4, 3, 8, 8))(torch.zeros(1, 4, 3, 8, 12)), InputError, "must be one, or 1"),
        (lambda: OtherClip(torch.zeros(3, 4, 3, 8, 8))(torch.zeros(2, 4, 3, 8, 8)), InputError, "one, or 2, of"),
        (lambda: OtherClip(torch.zeros(4, 3, 8, 8))(torch.zeros(1, 4, 3, 8, 8)), InputError, "wanted pixel values"),
        (lambda: OtherClip(torch.zeros(1, 4, 3, 8, 12))(a_clip()), InputError, "a Clip is replaced by a Clip"),
        (lambda: OtherClip(a_clip(size=(8, 8)))(a_clip()), InputError, r"\(8, 8\), this one \(8, 12\)"),
        (lambda: BlurTube(BOX, GRID)(a_clip(frames=6)), InputError, "covers 4 frames, the clip has 6"),
        (lambda: BlurTube(BOX, GRID)(a_clip(size=(8, 8))), InputError, r"prepared at the grid's \(8, 12\)"),
        (lambda: OtherClip(Clip.from_frames(a_clip().frames))(numbered(4)), InputError, "has no pixel values yet"),
    ],
)
def test_what_does_not_fit_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_clips_of_two_processors_do_not_mix():
    clip = a_clip()
    other = a_clip(1).prepared(torch.zeros(1, 4, 3, 4, 4), Geometry.identity(8, 12).resize(4, 4))
    with pytest.raises(InputError, match="prepared to different sizes"):
        OtherClip(other)(clip)
