"""Controls: called as methods are, reproducible, and what they say they are."""

import math
from dataclasses import asdict

import numpy as np
import pytest
import torch

from tests.model.tiny import TINY, clips
from vivit_lab.errors import GridError, InputError
from vivit_lab.faithfulness import CentreGaussian, FrameDifference, RandomMap
from vivit_lab.faithfulness.controls import CONTROLS
from vivit_lab.families import VivitForVideoClassification
from vivit_lab.model import VivitConfig
from vivit_lab.video import Clip


@pytest.fixture
def model():
    return VivitForVideoClassification(VivitConfig(**TINY, num_labels=5)).eval()


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: type(control).__name__)
def test_a_control_is_called_as_a_class_agnostic_method_is_and_ignores_the_model(control, model):
    pixels = clips(3)
    heat = control(model, pixels)
    with pytest.raises(InputError, match=f"{type(control).__name__} is class-agnostic"):
        control(model, pixels, target=2)
    assert control.class_agnostic is True
    assert (heat.method, heat.parameters) == (type(control).__name__, asdict(control))
    assert tuple(heat.relevance.shape) == (3, *model.config.grid.shape)
    assert (heat.signed, heat.target, heat.grid) == (False, None, model.config.grid)
    other = VivitForVideoClassification(VivitConfig(**TINY, num_labels=5))
    assert torch.equal(heat.relevance, control(other, pixels).relevance)


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: type(control).__name__)
def test_a_clip_has_the_same_map_in_any_batch(control, model):
    pixels = clips(3)
    whole = control(model, pixels).relevance
    for index in range(3):
        torch.testing.assert_close(control(model, pixels[index : index + 1]).relevance[0], whole[index])


def test_random_maps_differ_between_clips_and_seeds_and_are_uniform(model):
    pixels = clips(300)
    heat = RandomMap()(model, pixels).relevance
    assert torch.equal(heat, RandomMap()(model, pixels.clone()).relevance)
    assert len({tuple(row.tolist()) for row in heat.flatten(1)}) == 300
    other = RandomMap(seed=1)(model, pixels).relevance
    correlation = np.corrcoef(heat.flatten().numpy(), other.flatten().numpy())[0, 1]
    assert abs(correlation) < 4 / math.sqrt(heat.numel())
    assert float(heat.min()) >= 0
    assert float(heat.max()) < 1
    assert float(heat.mean()) == pytest.approx(0.5, abs=4 * math.sqrt(1 / 12 / heat.numel()))
    assert float(heat.var()) == pytest.approx(1 / 12, rel=0.1)


@pytest.mark.parametrize("time", [True, False])
def test_the_gaussian_is_its_formula(model, time):
    heat = CentreGaussian(sigma=0.3, time=time)(model, clips(2)).relevance
    t, h, w = heat.shape[1:]
    for i in range(t):
        for y in range(h):
            for x in range(w):
                axes = [(y, h), (x, w)] + ([(i, t)] if time else [])
                squares = sum((((place + 0.5) / size - 0.5) / 0.3) ** 2 for place, size in axes)
                assert heat[0, i, y, x].item() == pytest.approx(math.exp(-squares / 2), rel=1e-6)
    assert torch.equal(heat[0], heat[1])


def test_frame_difference_is_the_plain_loop(model):
    pixels = clips(2)
    heat = FrameDifference()(model, pixels).relevance
    frames, (depth, rows, columns) = pixels.shape[1], model.config.grid.tubelet
    for index in np.ndindex(heat.shape):
        clip, t, y, x = index
        box = (slice(None), slice(y * rows, (y + 1) * rows), slice(x * columns, (x + 1) * columns))
        pairs = [
            (pixels[clip, i + 1][box] - pixels[clip, i][box]).abs().mean()
            for i in range(frames - 1)
            if t * depth <= i < (t + 1) * depth or t * depth <= i + 1 < (t + 1) * depth
        ]
        assert heat[index].item() == pytest.approx(float(torch.stack(pairs).mean()), rel=1e-5)


def test_what_rests_has_no_frame_difference_and_what_moves_has(model):
    still = clips(1)[:, :1].expand(-1, TINY["num_frames"], -1, -1, -1).clone()
    assert FrameDifference()(model, still).relevance.abs().max() == 0
    still[:, 2:, :, :16, 16:] += 1  # between the frames 1 and 2: the border of the two tubelet rows
    heat = FrameDifference()(model, still).relevance[0]
    assert (heat > 0).nonzero().tolist() == [[0, 0, 1], [1, 0, 1]]


def test_clips_of_other_sizes_and_prepared_clips_are_taken(model):
    pixels = clips(1, num_frames=6)
    with pytest.raises(InputError, match="interpolate_pos_encoding"):
        FrameDifference()(model, pixels, interpolate_pos_encoding=False)
    assert FrameDifference()(model, pixels, interpolate_pos_encoding=True).grid.t == 3
    with pytest.raises(GridError, match="frames=5 is not a positive multiple"):
        RandomMap()(model, clips(1, num_frames=5))
    frames = np.zeros((4, 32, 32, 3), dtype=np.uint8)
    seconds = np.arange(4) / 10
    clip = Clip(frames, seconds, np.arange(4), 10.0, 0.4, path="film.mp4", pixel_values=clips(1))
    heat = RandomMap()(model, clip)
    assert heat.frame_indices == [[0, 1, 2, 3]]
    assert heat.sources is not None
    assert heat.sources[0]["path"] == "film.mp4"


def test_bfloat16_pixels_are_taken(model):
    for control in CONTROLS:
        heat = control(model, clips(1).bfloat16()).relevance
        assert heat.dtype == torch.float32
        assert bool(torch.isfinite(heat).all())


def test_a_single_frame_has_no_difference():
    model = VivitForVideoClassification(VivitConfig(**{**TINY, "num_frames": 1, "tubelet_size": [1, 16, 16]}))
    with pytest.raises(InputError, match="at least two frames"):
        FrameDifference()(model, clips(1, num_frames=1))


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan])
def test_a_gaussian_wants_a_width(sigma):
    with pytest.raises(InputError, match="sigma must be"):
        CentreGaussian(sigma=sigma)
