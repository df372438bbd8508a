import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vivit_lab.errors import ConfigError
from vivit_lab.processing import VivitImageProcessor
from vivit_lab.training import Augmentation
from vivit_lab.training.augment import jitter_colours

PROCESSOR = VivitImageProcessor.trained_range(size={"shortest_edge": 20}, crop_size={"height": 16, "width": 16})
FRAMES = np.random.default_rng(0).integers(0, 256, (5, 40, 60, 3), dtype=np.uint8)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_nothing_drawn_is_what_the_processor_does():
    want = PROCESSOR(FRAMES, fast=True).pixel_values[0]
    torch.testing.assert_close(Augmentation.none()(FRAMES, rng(), PROCESSOR), want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "processor",
    [
        PROCESSOR,
        VivitImageProcessor.trained_range(size={"height": 16, "width": 16}, do_center_crop=False),
        VivitImageProcessor.imagenet(do_resize=False, crop_size={"height": 16, "width": 16}),
    ],
    ids=["crop", "squash", "as it is"],
)
@pytest.mark.parametrize("options", [{}, {"resized_crop": (0.1, 1.0)}], ids=["scale", "box"])
def test_the_result_fits_the_model_and_follows_the_generator(seed, processor, options):
    augmentation = Augmentation(**options)
    first = augmentation(FRAMES, rng(seed), processor)
    assert first.shape == (5, 3, 16, 16)
    assert first.dtype == torch.float32
    low, high = processor.value_range
    assert low - 1e-5 <= float(first.min()) <= float(first.max()) <= high + 1e-5
    assert torch.equal(first, augmentation(FRAMES, rng(seed), processor))
    assert not torch.equal(first, augmentation(FRAMES, rng(seed + 100), processor))


def test_one_draw_serves_all_frames():
    still = np.repeat(FRAMES[:1], 5, axis=0)
    varied = Augmentation(grey=0.5)(still, rng(3), PROCESSOR)
    assert torch.equal(varied, varied[:1].expand_as(varied))


def test_a_flip_is_a_mirror_image_and_as_frequent_as_asked():
    plain = Augmentation.none()
    mirrored = replace(plain, flip=1.0)(FRAMES, rng(), PROCESSOR)
    assert torch.equal(mirrored, plain(FRAMES, rng(), PROCESSOR).flip(-1))
    half, whole = replace(plain, flip=0.3), plain(FRAMES, rng(), PROCESSOR)
    share = np.mean([not torch.equal(half(FRAMES, rng(seed), PROCESSOR), whole) for seed in range(200)])
    assert 0.2 < share < 0.4


def test_random_crops_are_parts_of_the_resized_frame_and_reach_its_corners():
    crop = replace(Augmentation.none(), random_crop=True)
    whole = PROCESSOR(FRAMES, fast=True, do_center_crop=False).pixel_values[0]  # 20 × 30
    places = set()
    for seed in range(150):
        part = crop(FRAMES, rng(seed), PROCESSOR)
        found = [
            (top, left)
            for top in range(5)
            for left in range(15)
            if torch.allclose(whole[..., top : top + 16, left : left + 16], part, atol=1e-6)
        ]
        assert found
        places.update(found)
    assert {top for top, _ in places} == set(range(5))
    assert {left for _, left in places} == set(range(15))


def test_scaling_never_leaves_less_than_the_crop():
    shrunk = Augmentation(scale=(0.1, 0.1), colour=0.0, grey=0.0, flip=0.0)
    want = PROCESSOR(FRAMES, fast=True, size={"height": 16, "width": 16}, do_center_crop=False).pixel_values[0]
    torch.testing.assert_close(shrunk(FRAMES, rng(), PROCESSOR), want, rtol=0, atol=1e-6)


def test_a_whole_box_is_the_whole_frame():
    whole = replace(Augmentation.none(), resized_crop=(1.0, 1.0), aspect=(1.5, 1.5))
    want = PROCESSOR(FRAMES, fast=True, size={"height": 16, "width": 16}, do_center_crop=False).pixel_values[0]
    torch.testing.assert_close(whole(FRAMES, rng(), PROCESSOR), want, rtol=0, atol=1e-6)


def test_grey_has_no_colour():
    grey = replace(Augmentation.none(), grey=1.0)(FRAMES, rng(), PROCESSOR)
    torch.testing.assert_close(grey, grey[:, :1].expand_as(grey))


LEVELS = torch.rand(3, 3, 4, 5) * 255


def test_colours_left_alone_stay():
    torch.testing.assert_close(jitter_colours(LEVELS, 0.0, 1.0, 1.0, 0.0), LEVELS)
    torch.testing.assert_close(jitter_colours(LEVELS, 0.0, 1.0, 1.0, 1.0), LEVELS, rtol=0, atol=0.1)  # a whole turn


def test_each_change_of_colour_is_what_it_says():
    mild = 100 + 0.2 * LEVELS
    torch.testing.assert_close(jitter_colours(mild, 10.0, 1.0, 1.0, 0.0), mild + 10)
    mean = mild.mean(dim=(-2, -1), keepdim=True)
    torch.testing.assert_close(jitter_colours(mild, 0.0, 1.0, 0.5, 0.0), (mild + mean) / 2)
    grey = jitter_colours(mild, 0.0, 0.0, 1.0, 0.0)
    torch.testing.assert_close(grey, grey[:, :1].expand_as(grey))
    assert float(jitter_colours(LEVELS, 200.0, 1.0, 1.0, 0.0).max()) <= 255


@given(st.floats(-0.5, 0.5))
def test_a_turn_of_hue_keeps_greys_and_is_undone_by_the_turn_back(hue):
    grey = torch.full((1, 3, 2, 2), 90.0)
    torch.testing.assert_close(jitter_colours(grey, 0.0, 1.0, 1.0, hue), grey, rtol=0, atol=0.2)
    mild = 110 + 0.1 * LEVELS
    back = jitter_colours(jitter_colours(mild, 0.0, 1.0, 1.0, hue), 0.0, 1.0, 1.0, -hue)
    torch.testing.assert_close(back, mild, rtol=0, atol=0.2)


@given(st.integers(0, 30), st.integers(1, 80), st.integers(1, 16), st.integers(1, 5), st.integers(0, 3), st.integers())
def test_windows_lie_inside_the_stretch(start, length, count, low, more, seed):
    augmentation = Augmentation(stride=(low, low + more))
    frames = augmentation.frame_indices(start, start + length, count, rng(abs(seed)))
    assert frames.shape == (count,)
    assert start <= frames.min() <= frames.max() < start + length
    steps = np.diff(frames)
    inside = frames[1:] < start + length - 1
    assert (steps >= 0).all()
    assert len(set(steps[inside].tolist())) <= 1  # one stride; at the end the last frame repeats
    if (low + more) * (count - 1) + 1 <= length and count > 1:
        assert low <= steps[0] <= low + more
        assert len(set(steps.tolist())) == 1


def test_the_window_is_anywhere_or_in_the_middle():
    starts = {int(Augmentation().frame_indices(0, 20, 4, rng(seed))[0]) for seed in range(300)}
    assert starts == set(range(14))
    assert Augmentation.none().frame_indices(0, 20, 4, rng())[0] == 6


def test_it_is_stored_as_json_and_built_again():
    augmentation = Augmentation(resized_crop=(0.5, 1.0), flip=0.0)
    assert Augmentation(**augmentation.to_dict()) == augmentation
    assert set(augmentation.to_dict()) == {item.name for item in fields(Augmentation)}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("stride", (0, 2), r"stride must be two numbers, the lower first, of 1 … inf; got \(0, 2\)"),
        ("stride", (1.5, 2), r"stride.0. must be an integer"),
        ("stride", 2, r"stride must be 2 numbers"),
        ("scale", (2.0, 1.0), r"scale must be two numbers, the lower first"),
        ("aspect", (1.0, math.nan), r"aspect\[1\] must be a finite number"),
        ("resized_crop", (0.5, 1.5), r"resized_crop must be two numbers, the lower first, of 1e-06 … 1"),
        ("flip", 1.5, r"flip must be a probability, 0 … 1, got 1\.5"),
        ("hue", -0.1, r"hue must lie in 0 … 1"),
        ("random_start", 1, r"random_start must be True or False, got 1"),
    ],
)
def test_wrong_fields_are_refused(field, value, message):
    with pytest.raises(ConfigError, match=message):
        Augmentation(**{field: value})
