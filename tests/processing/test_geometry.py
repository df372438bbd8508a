"""A mark on the source frame is found in the pixel values where the geometry says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.processing.peer import PeerProcessor, frames_of, silence_announcements
from vivit_lab.errors import ConfigError, InputError
from vivit_lab.processing import VivitImageProcessor
from vivit_lab.video import Clip

RAW = {"do_rescale": False, "offset": False, "do_normalize": False}


@pytest.fixture(autouse=True)
def _silent(monkeypatch: pytest.MonkeyPatch) -> None:
    silence_announcements(monkeypatch)


@settings(max_examples=150)
@given(
    height=st.integers(8, 200),
    width=st.integers(8, 200),
    size=st.one_of(st.integers(8, 90), st.tuples(st.integers(8, 90), st.integers(8, 90))),
    crop=st.tuples(st.integers(8, 110), st.integers(8, 110)),
    steps=st.tuples(st.booleans(), st.booleans()),
    place=st.tuples(*[st.floats(0, 1)] * 4),
    fast=st.booleans(),
)
def test_blocks_land_where_the_geometry_says(height, width, size, crop, steps, place, fast) -> None:
    """Pixels are averages around their centre, so a block keeps its centre of mass and, scaled, its mass."""
    processor = VivitImageProcessor(size=size, crop_size=crop, do_resize=steps[0], do_center_crop=steps[1], **RAW)
    geometry = processor.geometry(height, width)
    # blur reaches one output or source pixel beyond the block, whichever is larger; keep clear of the borders by two
    reach = [2 * max(1.0, 1 / scale) for scale in geometry.scale]
    top, left, bottom, right = geometry.visible
    rows = (int(np.ceil(top + reach[0])), int(bottom - reach[0]))
    columns = (int(np.ceil(left + reach[1])), int(right - reach[1]))
    assume(rows[1] - rows[0] >= 1 and columns[1] - columns[0] >= 1)
    y0 = rows[0] + int(place[0] * (rows[1] - rows[0] - 1))
    x0 = columns[0] + int(place[1] * (columns[1] - columns[0] - 1))
    y1 = y0 + 1 + int(place[2] * (rows[1] - y0 - 1))
    x1 = x0 + 1 + int(place[3] * (columns[1] - x0 - 1))
    frame = np.zeros((1, height, width, 3), np.uint8)
    frame[0, y0:y1, x0:x1] = 255
    found = processor(frame, return_tensors="np", fast=fast).pixel_values[0, 0, 0].astype(float) / 255
    assert found.shape == geometry.model_size
    wanted = geometry.to_model((y0, x0, y1, x1))
    assume((wanted[2] - wanted[0]) * (wanted[3] - wanted[1]) >= 4)  # else the rounding to levels counts for too much
    mass = found.sum()
    centre = [(found.sum(axis=1 - axis) * (np.arange(found.shape[axis]) + 0.5)).sum() / mass for axis in (0, 1)]
    assert centre == pytest.approx([(wanted[0] + wanted[2]) / 2, (wanted[1] + wanted[3]) / 2], abs=0.3)
    sides = (wanted[2] - wanted[0], wanted[3] - wanted[1])
    # a one-pixel side is sampled at few places when it is enlarged or reduced by an odd factor
    assert mass == pytest.approx(sides[0] * sides[1], rel=0.1, abs=1.5 * sum(sides))


@pytest.mark.parametrize("size", [(240, 320), (1080, 1920), (1920, 1080), (7, 9), (33, 500), (256, 256)], ids=str)
def test_defaults_in_numbers(size: tuple[int, int]) -> None:
    """The scales and offsets of the documented path, computed by hand: 256 on the short side, truncation, floors."""
    height, width = size
    short = min(size)
    resized = (
        256 if height == short else int(256 * height / short),
        256 if width == short else int(256 * width / short),
    )
    geometry = VivitImageProcessor().geometry(*size)
    assert geometry.source_size == size
    assert geometry.model_size == (224, 224)
    assert geometry.scale == pytest.approx((resized[0] / height, resized[1] / width), rel=1e-12)
    assert geometry.offset == (-((resized[0] - 224) // 2), -((resized[1] - 224) // 2))


@pytest.mark.peer
@pytest.mark.parametrize("frame", [(5, 8), (8, 5), (5, 5), (30, 5)], ids=str)
@pytest.mark.parametrize("crop", [(10, 11), (11, 10), (6, 20)], ids=str)
def test_padding_lies_where_the_peer_puts_it(frame: tuple[int, int], crop: tuple[int, int]) -> None:
    """Every pixel of the source has its own level, and is found at its own place."""
    height, width = frame
    source = np.zeros((height, width, 3), np.uint8)
    source[..., 0] = np.arange(1, height * width + 1).reshape(height, width)
    options = {"do_resize": False, "crop_size": {"height": crop[0], "width": crop[1]}, **RAW}
    geometry = VivitImageProcessor(**options).geometry(height, width)
    peer = PeerProcessor(**options)([source], return_tensors="np")["pixel_values"][0, 0, 0]
    seen = 0
    for y in range(height):
        for x in range(width):
            row, column, *_ = (int(edge) for edge in geometry.to_model((y, x, y + 1, x + 1)))
            if 0 <= row < crop[0] and 0 <= column < crop[1]:
                assert peer[row, column] == source[y, x, 0]
                seen += 1
    assert seen == (peer > 0).sum()


def test_prepare_gives_a_clip_its_pixels_and_geometry() -> None:
    clip = Clip.from_frames(frames_of(45, 61, count=3), fps=5)
    for processor in (VivitImageProcessor(), VivitImageProcessor(size=40, crop_size=(32, 48), **RAW)):
        for fast in (False, True):
            prepared = processor.prepare(clip, fast=fast, device="cpu")
            assert prepared.geometry == processor.geometry(45, 61)
            pixels = prepared.pixel_values
            assert pixels is not None
            assert pixels.dtype == torch.float32
            assert tuple(pixels.shape) == (1, 3, 3, *prepared.geometry.model_size)
            assert torch.equal(pixels, processor(clip, return_tensors="pt", fast=fast).pixel_values.float())
            assert prepared.frames is clip.frames
    assert clip.pixel_values is None


def test_geometry_refuses_what_the_processor_refuses() -> None:
    with pytest.raises(InputError, match="at least one pixel, got 0×4"):
        VivitImageProcessor().geometry(0, 4)
    with pytest.raises(ConfigError, match="offset=True needs do_rescale=True"):
        VivitImageProcessor(do_rescale=False).geometry(4, 4)
