"""What is shipped of a clip: frames that are the clip's, and places that are the renderer's."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from vivit_lab.errors import GridError, InputError
from vivit_lab.grid import TokenGrid
from vivit_lab.render.painter import source_place
from vivit_lab.video import Clip, Geometry
from vivit_lab.widgets.frames import display_geometry, ship_clip

GRID = TokenGrid(2, 2, 2)


def decode(shipped):
    starts = [0, *shipped.ends[:-1]]
    return [
        np.asarray(Image.open(io.BytesIO(shipped.frames[start:end])))
        for start, end in zip(starts, shipped.ends, strict=True)
    ]


def test_small_frames_are_shipped_as_they_are_with_the_renderers_places(clip):
    shipped = ship_clip(clip, GRID)
    place = source_place(clip.geometry, GRID)
    assert shipped.facts["visible"] == list(place.visible)
    assert shipped.facts["rows"] == place.rows.tolist()
    assert shipped.facts["columns"] == place.columns.tolist()
    assert (shipped.facts["height"], shipped.facts["width"]) == clip.size
    assert shipped.facts["times"] == clip.seconds.tolist()
    assert shipped.facts["spans"] == [[0.0, 0.4], [0.4, 0.6]]
    assert [frame.shape for frame in decode(shipped)] == [(*clip.size, 3)] * 4


def test_a_smooth_frame_survives_the_jpeg():
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[None, :, None] * 3, (4, 48, 64, 3)).copy()
    clip = replace(Clip.from_frames(ramp), geometry=Geometry.identity(48, 64).crop(8, 16, 32, 32))
    for frame, source in zip(decode(ship_clip(clip, GRID)), ramp, strict=True):
        assert np.abs(frame.astype(int) - source).max() <= 3


def test_large_frames_shrink_and_each_shown_pixel_takes_the_token_below_it():
    geometry = Geometry.identity(900, 1600).resize(36, 64).crop(2, 16, 32, 32)
    shown = display_geometry(geometry, 640)
    assert shown.source_size == (360, 640)
    large, small = source_place(geometry, GRID), source_place(shown, GRID)
    for axis, (big, little) in enumerate(((large.rows, small.rows), (large.columns, small.columns))):
        centres = (np.arange(len(little)) + small.visible[axis] + 0.5) * 2.5
        where = np.floor(centres).astype(int) - large.visible[axis]
        inside = (where >= 0) & (where < len(big))
        assert inside.mean() > 0.99
        # a centre may fall on the border of two tokens, where either may be right
        assert np.mean(big[where[inside]] == little[inside]) > 0.98


def test_frames_shrink_further_until_they_fit():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (4, 320, 320, 3), dtype=np.uint8)
    clip = replace(Clip.from_frames(frames), geometry=Geometry.identity(320, 320).resize(32, 32))
    whole = ship_clip(clip, GRID)
    less = ship_clip(clip, GRID, most_bytes=len(whole.frames) // 2)
    assert len(less.frames) <= len(whole.frames) // 2
    assert less.facts["width"] < 320
    assert decode(less)[0].shape == (less.facts["height"], less.facts["width"], 3)


def test_what_does_not_fit_is_refused(clip):
    with pytest.raises(InputError, match=r"the clip was not prepared.*processor\.prepare"):
        ship_clip(replace(clip, geometry=None), GRID)
    with pytest.raises(GridError, match=r"the model sees 6 frames of 32×32 pixels, the clip was prepared as 4"):
        ship_clip(clip, TokenGrid(3, 2, 2))


def test_pixel_values_alone_have_no_frames_to_show():
    with pytest.raises(InputError, match=r"wanted a clip .*, got Tensor: .* pass processor\.prepare\(clip\)"):
        ship_clip(torch.zeros(1, 4, 3, 16, 16), GRID)
