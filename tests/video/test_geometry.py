"""Laws of the path from source pixels to model pixels: it can be undone, and its steps compose."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivit_lab.errors import InputError
from vivit_lab.video import Geometry

SIZES = st.integers(1, 500)
OFFSETS = st.integers(-100, 100)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("resize"), SIZES, SIZES),
        st.tuples(st.just("crop"), OFFSETS, OFFSETS, SIZES, SIZES),
        st.tuples(st.just("pad"), st.integers(0, 50), st.integers(0, 50), st.integers(0, 50), st.integers(0, 50)),
    ),
    max_size=5,
)
BOXES = st.tuples(*[st.floats(-1000, 1000)] * 4)


def apply(geometry, steps):
    for name, *arguments in steps:
        geometry = getattr(geometry, name)(*arguments)
    return geometry


@given(SIZES, SIZES, STEPS, BOXES)
def test_to_source_undoes_to_model(height, width, steps, box):
    geometry = apply(Geometry.identity(height, width), steps)
    scale = max(1.0, *(abs(value) for value in (*geometry.offset, *geometry.scale)), 1 / min(geometry.scale))
    np.testing.assert_allclose(geometry.to_source(geometry.to_model(box)), box, atol=1e-9 * scale**2)


@given(SIZES, SIZES, STEPS)
def test_each_step_does_to_edges_what_it_does_to_pixels(height, width, steps):
    geometry = Geometry.identity(height, width)
    top, left, bottom, right = 0.0, 0.0, float(height), float(width)  # where the source's edges lie now
    size = (height, width)
    for name, *step in steps:
        geometry = apply(geometry, [(name, *step)])
        if name == "resize":
            down, across = step[0] / size[0], step[1] / size[1]
            top, left, bottom, right, size = (
                top * down,
                left * across,
                bottom * down,
                right * across,
                (step[0], step[1]),
            )
        elif name == "crop":
            top, left, bottom, right = top - step[0], left - step[1], bottom - step[0], right - step[1]
            size = (step[2], step[3])
        else:
            top, left, bottom, right = top + step[0], left + step[1], bottom + step[0], right + step[1]
            size = (size[0] + step[0] + step[2], size[1] + step[1] + step[3])
        assert geometry.model_size == size
        edges = geometry.to_model((0.0, 0.0, float(height), float(width)))
        np.testing.assert_allclose(edges, (top, left, bottom, right), rtol=1e-9, atol=1e-6)


def test_centre_crop_of_a_wide_frame():
    geometry = Geometry.identity(360, 640).resize(224, 398).crop(0, 87, 224, 224)
    top, left, bottom, right = geometry.visible
    assert (top, bottom) == (0, 360)
    assert left == pytest.approx(87 * 640 / 398)
    assert right == pytest.approx((87 + 224) * 640 / 398)
    assert geometry.to_source((0, 0, 16, 16)) == pytest.approx((0, left, 16 * 360 / 224, left + 16 * 640 / 398))


def test_padding_is_not_visible():
    geometry = Geometry.identity(10, 20).pad(5, 0, 5, 4)
    assert geometry.model_size == (20, 24)
    assert geometry.visible == (0, 0, 10, 20)
    assert geometry.to_source((0, 0, 5, 20)) == (-5, 0, 0, 20)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Geometry.identity(0, 5), "height must be a positive integer, got 0"),
        (lambda: Geometry.identity(5, 5).resize(5, 0), "width must be a positive integer, got 0"),
        (lambda: Geometry.identity(5, 5).crop(0, 0, -1, 5), "height must be a positive integer, got -1"),
    ],
)
def test_sizes_must_be_positive(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_fields_survive_json():
    geometry = Geometry.identity(48, 64).resize(30, 40).crop(3, -2, 24, 44)
    fields = json.loads(json.dumps(geometry.to_dict()))
    assert Geometry(**{name: tuple(value) for name, value in fields.items()}) == geometry
