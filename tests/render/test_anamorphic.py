"""What is drawn of pixels that are not square has the shape that a player shows."""

import io
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from tests.render.scenes import GRID, make_clip, make_map, one_hot
from tests.render.test_movie import decode
from vivit_lab.errors import InputError
from vivit_lab.render import contact_sheet, heat_on_source, render_movie, to_frames
from vivit_lab.video import Geometry
from vivit_lab.widgets.frames import ship_clip

CROPPED = Geometry.identity(90, 80).resize(36, 32).crop(2, 0, 32, 32)
CASES = pytest.mark.parametrize(
    ("aspect", "size"), [(Fraction(2), (90, 160)), (Fraction(1, 3), (270, 80)), (Fraction(59, 54), (90, 87))]
)


def wide_clip(aspect, geometry=CROPPED):
    return replace(make_clip(geometry), pixel_aspect=aspect)


@CASES
def test_a_displayed_clip_is_stretched_along_one_axis(aspect, size):
    clip = wide_clip(aspect)
    ramp = np.add.outer(np.arange(90.0), np.arange(80.0))
    clip.frames[:] = ramp[None, :, :, None].astype(np.uint8)
    shown = clip.displayed()
    assert shown.size == size
    assert shown.pixel_values is clip.pixel_values
    centres = [(np.arange(new) + 0.5) * old / new - 0.5 for new, old in zip(size, (90, 80), strict=True)]
    inside = [(place >= 0) & (place <= old - 1) for place, old in zip(centres, (90, 80), strict=True)]
    difference = shown.frames[0, :, :, 0] - np.add.outer(*centres)
    assert np.abs(difference[inside[0]][:, inside[1]]).max() <= 1
    assert shown.geometry.visible == pytest.approx(
        [edge * new / old for edge, new, old in zip(CROPPED.visible, size * 2, (90, 80) * 2, strict=True)]
    )


@CASES
def test_frames_and_movies_have_the_displayed_size(tmp_path, aspect, size):
    clip, map = wide_clip(aspect), make_map()
    assert to_frames(clip, map).shape == (6, *size, 3)
    movie, *_ = decode(render_movie(clip, map, tmp_path / "out.mp4", colorbar=False, strip=False))
    assert movie.shape == (6, size[0] + size[0] % 2, size[1] + size[1] % 2, 3)
    np.testing.assert_array_equal(to_frames(clip, map), to_frames(clip.displayed(), map))


def test_heat_lies_where_the_model_saw_it():
    clip, hot = wide_clip(Fraction(2)), one_hot((0, 1, 2))
    stored = heat_on_source(clip, hot)[0] == 1  # on the stored pixels
    drawn = to_frames(clip, hot)[0] != to_frames(clip, make_map(relevance=np.zeros(GRID.shape)))[0]
    np.testing.assert_array_equal(drawn.any(axis=-1), stored.repeat(2, axis=1))


@CASES
def test_sheets_and_widgets_show_the_same_shape(aspect, size):
    clip = wide_clip(aspect)
    shipped = ship_clip(clip, GRID, longest=1000)
    first = Image.open(io.BytesIO(shipped.frames[: shipped.ends[0]]))
    assert (first.height, first.width) == size == (shipped.facts["height"], shipped.facts["width"])
    assert contact_sheet(clip, make_map()).size == contact_sheet(clip.displayed(), make_map()).size


def test_square_pixels_are_not_touched():
    clip = make_clip(CROPPED)
    assert clip.displayed() is clip


@pytest.mark.parametrize("aspect", [Fraction(0), Fraction(-1)])
def test_a_pixel_aspect_is_above_zero(aspect):
    with pytest.raises(InputError, match="a clip's pixel_aspect must be above 0"):
        wide_clip(aspect)
    with pytest.raises(InputError, match="height must be a positive integer, got 0"):
        CROPPED.of_resized_source(0, 5)
