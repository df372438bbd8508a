"""Heat lies on exactly its frames and pixels."""

import json
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.render.scenes import GEOMETRIES, GRID, make_clip, make_map, one_hot, planted_pixels, seen_pixels
from vivit_lab.attribution import AttributionMap
from vivit_lab.colormap import get_colormap
from vivit_lab.errors import GridError, InputError
from vivit_lab.grid import TokenGrid
from vivit_lab.render import heat_on_source, to_frames
from vivit_lab.render.painter import outside_text, share_outside
from vivit_lab.video import Clip, Geometry

EVERY_GEOMETRY = pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())
FIRST = next(iter(GEOMETRIES.values()))
CROPPED = GEOMETRIES["resized and cropped, landscape"]


@EVERY_GEOMETRY
def test_heat_on_source_is_the_token_at_each_pixel_centre(geometry: Geometry) -> None:
    clip, map = make_clip(geometry), make_map()
    heat = heat_on_source(clip, map)
    assert heat.dtype == np.float32
    assert heat.shape == (6, *geometry.source_size)
    tokens = map.grid.flatten(map.relevance)[0].numpy()
    height, width = geometry.source_size
    for row in range(height):
        for column in range(width):
            y, x, *_ = geometry.to_model((row + 0.5, column + 0.5, row + 0.5, column + 0.5))
            inside = 0 <= y < 32 and 0 <= x < 32
            expected = [tokens[GRID.token_at(f, y, x) - 1] if inside else np.nan for f in range(6)]
            np.testing.assert_array_equal(heat[:, row, column], expected)


@settings(max_examples=40)
@given(st.data())
def test_planted_tubelets_under_any_geometry(data: st.DataObject) -> None:
    size = st.integers(5, 40)
    geometry = Geometry.identity(data.draw(size), data.draw(size)).resize(data.draw(size), data.draw(size))
    grid = TokenGrid(2, data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5)), tubelet=(1, 4, 6))
    shift = st.integers(-3, 4)
    geometry = geometry.crop(data.draw(shift), data.draw(shift), *grid.image_size)
    assume(seen_pixels(geometry).any())
    y, x = data.draw(st.integers(0, grid.h - 1)), data.draw(st.integers(0, grid.w - 1))
    heat = heat_on_source(make_clip(geometry, 2), one_hot((1, y, x), grid))
    # a centre within rounding of an edge may fall to either side
    top, left, bottom, right = map(float, grid.pixel_box(y, x))
    edges = geometry.to_source((top, left, bottom, right))
    clear = [
        np.abs(np.arange(length)[:, None] + 0.5 - [edges[axis], edges[axis + 2]]).min(axis=1) > 1e-6
        for axis, length in enumerate(geometry.source_size)
    ]
    planted = planted_pixels(geometry, grid, y, x)[clear[0]][:, clear[1]]
    np.testing.assert_array_equal((heat[1] == 1)[clear[0]][:, clear[1]], planted)
    assert not (heat[0] > 0).any()


@EVERY_GEOMETRY
@pytest.mark.parametrize("position", [(0, 0, 0), (1, 2, 1), (2, 3, 3)])
def test_one_hot_maps_tint_their_pixels_and_no_other(geometry: Geometry, position: tuple[int, int, int]) -> None:
    clip = make_clip(geometry)
    start, stop = GRID.frame_span(position[0])
    planted, seen = planted_pixels(geometry, GRID, *position[1:]), seen_pixels(geometry)
    frames = to_frames(clip, one_hot(position))
    cold = to_frames(clip, make_map(relevance=torch.zeros(GRID.shape)))
    tinted = (frames != cold).any(axis=-1)
    for index in range(len(clip)):
        np.testing.assert_array_equal(tinted[index], planted if start <= index < stop else np.zeros_like(planted))
    # where the model saw and nothing is relevant, the source's own pixels are left
    np.testing.assert_array_equal(cold[:, seen], clip.frames[:, seen])
    peak = get_colormap("inferno").table[255]
    expected = 0.8 * peak + 0.2 * clip.frames[start:stop, planted]
    assert np.abs(frames[start:stop, planted] - expected).max(initial=0) <= 1.5


@EVERY_GEOMETRY
@pytest.mark.parametrize("layout", ["overlay", "heat"])
def test_unseen_pixels_are_grey_dark_and_never_hot(geometry: Geometry, layout: str) -> None:
    clip, unseen = make_clip(geometry), ~seen_pixels(geometry)
    hot = to_frames(clip, make_map(relevance=torch.ones(GRID.shape)), layout=layout)[:, unseen]
    cold = to_frames(clip, make_map(relevance=torch.zeros(GRID.shape)), layout=layout)[:, unseen]
    np.testing.assert_array_equal(hot, cold)
    assert np.ptp(hot, axis=-1).max(initial=0) == 0
    assert hot.max(initial=0) < 128


def test_the_frames_of_a_crop_have_a_hatch_that_differs_from_dimming() -> None:
    clip = make_clip(CROPPED)
    clip.frames[:] = 100
    unseen = to_frames(clip, make_map())[0][~seen_pixels(CROPPED)][:, 0]
    assert len(np.unique(unseen)) == 2


@EVERY_GEOMETRY
def test_side_by_side_is_the_frame_and_its_overlay(geometry: Geometry) -> None:
    clip, map = make_clip(geometry), make_map()
    both, width = to_frames(clip, map, layout="side_by_side"), geometry.source_size[1]
    assert both.shape == (6, geometry.source_size[0], 2 * width + 8, 3)
    np.testing.assert_array_equal(both[:, :, :width], clip.frames)
    np.testing.assert_array_equal(both[:, :, -width:], to_frames(clip, map))


def test_heat_layout_is_the_colormap_of_the_heat() -> None:
    clip, map = make_clip(CROPPED), make_map()
    heat, seen = heat_on_source(clip, map), seen_pixels(CROPPED)
    low, high = map.limits
    expected = get_colormap("viridis").apply((heat[:, seen] - low) / (high - low))
    drawn = to_frames(clip, map, layout="heat", colormap="viridis")[:, seen]
    assert np.abs(drawn.astype(int) - expected).max() <= 3  # a value on the border of two levels


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_constant_alpha_blends_everywhere(alpha: float) -> None:
    clip, map, seen = make_clip(CROPPED), make_map(), seen_pixels(CROPPED)
    heat = to_frames(clip, map, layout="heat")
    frames = to_frames(clip, map, alpha=alpha)
    expected = (1 - alpha) * clip.frames[:, seen].astype(float) + alpha * heat[:, seen]
    assert np.abs(frames[:, seen] - expected).max() <= 1.5


def test_opacity_grows_with_heat() -> None:
    clip = make_clip(FIRST)
    clip.frames[:] = 128
    ramp = torch.arange(48.0).reshape(GRID.shape)
    frames = to_frames(clip, make_map(relevance=ramp), colormap="magma")
    change = np.abs(frames.astype(int) - 128).max(axis=-1)
    corners = change[::2, ::8, ::8].reshape(-1)
    assert corners[0] == 0
    # by then magma's colours have left the frame's grey far behind
    assert corners[-1] > 80
    assert corners[:8].max() < 25


def test_clip_scale_compares_frames_and_frame_scale_does_not() -> None:
    clip = make_clip(FIRST)
    relevance = torch.rand(GRID.shape)
    relevance[1] *= 0.01
    map = make_map(relevance=relevance)
    by_clip = to_frames(clip, map, layout="heat")
    by_frame = to_frames(clip, map, layout="heat", normalize="frame")
    hottest = get_colormap("inferno").table[255]
    assert by_clip[2:4].max() < 30
    for frames in by_frame:
        assert (frames == hottest).all(axis=-1).any()


def test_limits_make_clips_comparable() -> None:
    clip, wide = make_clip(FIRST), make_map()
    half = make_map(relevance=wide.relevance[0] / 2)
    shared = [to_frames(clip, map, layout="heat", limits=(0, 1)) for map in (wide, half)]
    single = [to_frames(clip, map, layout="heat") for map in (wide, half)]
    np.testing.assert_array_equal(single[0], single[1])
    assert shared[0].mean() > shared[1].mean() + 10


@pytest.mark.parametrize("signed", [False, True])
def test_percentile_is_the_limits_that_end_there(signed: bool) -> None:
    clip = make_clip(FIRST)
    relevance = torch.rand(GRID.shape) - (0.7 if signed else 0)
    map = make_map(relevance=relevance, signed=signed)
    end = float(np.percentile(np.abs(relevance.double().numpy()), 90))
    frames = to_frames(clip, map, percentile=90)
    np.testing.assert_array_equal(frames, to_frames(clip, map, limits=(-end if signed else 0, end)))
    assert (frames != to_frames(clip, map)).any()


def test_signed_relevance_is_centred_at_zero() -> None:
    clip = make_clip(FIRST)
    relevance = torch.zeros(GRID.shape)
    relevance[0, 0, 0], relevance[0, 3, 3] = 1.0, -0.5
    frames = to_frames(clip, make_map(relevance=relevance, signed=True))
    np.testing.assert_array_equal(frames[0, :8, 8:], clip.frames[0, :8, 8:])
    heat = to_frames(clip, make_map(relevance=relevance, signed=True), layout="heat")
    table = get_colormap("coolwarm").table
    assert heat[0, 0, 0].tolist() == table[255].tolist()
    assert heat[0, 31, 31].tolist() == table[64].tolist()  # half way down to -1, not the scale's end
    assert heat[0, 0, 31].tolist() == table[128].tolist()


def test_bilinear_is_the_naive_blend_of_four_neighbours() -> None:
    clip, map = make_clip(CROPPED), make_map()
    heat = heat_on_source(clip, map, interpolation="bilinear")
    values = map.relevance[0].numpy()
    for row, column in np.argwhere(seen_pixels(CROPPED)):
        box = CROPPED.to_model((row + 0.5, column + 0.5, row + 0.5, column + 0.5))
        y, x = np.clip(box[0] / 8 - 0.5, 0, 3), np.clip(box[1] / 8 - 0.5, 0, 3)
        y0, x0 = min(int(y), 2), min(int(x), 2)
        v = values[:, y0 : y0 + 2, x0 : x0 + 2]
        top, bottom = (v[:, k, 0] * (1 - x + x0) + v[:, k, 1] * (x - x0) for k in (0, 1))
        np.testing.assert_allclose(heat[::2, row, column], top * (1 - y + y0) + bottom * (y - y0), rtol=1e-5)
    assert np.isnan(heat[:, ~seen_pixels(CROPPED)]).all()


def test_bilinear_keeps_to_the_tubelets_frames() -> None:
    clip = make_clip(FIRST)
    frames = to_frames(clip, one_hot((1, 1, 1)), interpolation="bilinear")
    np.testing.assert_array_equal(frames[:2], clip.frames[:2])
    np.testing.assert_array_equal(frames[4:], clip.frames[4:])
    assert (frames[2, 4:20, 4:20] != clip.frames[2, 4:20, 4:20]).any(axis=-1).mean() > 0.9


def test_the_clip_is_not_changed() -> None:
    clip = make_clip(CROPPED)
    before = clip.frames.copy()
    to_frames(clip, make_map(), layout="side_by_side", colorbar=True, strip=True)
    np.testing.assert_array_equal(clip.frames, before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layout": "beside"}, "layout must be one of .*'side_by_side'.* got 'beside'"),
        ({"normalize": "video"}, "normalize must be 'clip' or 'frame', got 'video'"),
        ({"interpolation": "cubic"}, "interpolation must be 'nearest' or 'bilinear', got 'cubic'"),
        ({"colormap": "jet"}, "no colormap 'jet'"),
        ({"colormap": "coolwarm"}, "wanted a sequential colormap"),
        ({"alpha": 1.5}, r"alpha must lie in \[0, 1\].* got 1.5"),
        ({"alpha": 0.5, "layout": "heat"}, "alpha has no effect"),
        ({"limits": (1, 0)}, r"two finite numbers \(low, high\) with low < high, got \(1, 0\)"),
        ({"limits": (0, float("inf"))}, r"limits\[1\] must be a finite number, got inf"),
        ({"limits": (0, 1, 2)}, "limits must be 2 numbers"),
        ({"limits": (0, 1), "normalize": "frame"}, "give only one"),
        ({"percentile": 0}, r"percentile must be a number in \(0, 100\], got 0"),
        ({"percentile": 100.1}, r"percentile must be a number in \(0, 100\], got 100.1"),
        ({"percentile": float("nan")}, "percentile must be a finite number, got nan"),
        ({"percentile": True}, "percentile must be a finite number, got True"),
        ({"percentile": "99"}, "percentile must be a finite number, got '99'"),
        ({"percentile": 99, "limits": (0, 1)}, "percentile=99 and limits both say where the colour scale ends"),
        ({"percentile": 99, "normalize": "frame"}, "percentile=99 and normalize='frame' both say where"),
    ],
)
def test_wrong_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        to_frames(make_clip(FIRST), make_map(), **arguments)


def test_limits_of_signed_relevance_are_symmetric() -> None:
    map = make_map(relevance=-torch.rand(GRID.shape), signed=True)
    with pytest.raises(InputError, match=r"must be \(-m, m\).*got \(-1.0, 2.0\)"):
        to_frames(make_clip(FIRST), map, limits=(-1, 2))
    assert to_frames(make_clip(FIRST), map, limits=(-2, 2)).shape == (6, 32, 32, 3)


@pytest.mark.parametrize("draw", [heat_on_source, to_frames])
def test_a_map_of_something_else_is_refused(draw: Callable) -> None:
    clip, map = make_clip(FIRST), make_map()
    batch = AttributionMap(map.relevance.repeat(2, 1, 1, 1), GRID, "raw")
    with pytest.raises(InputError, match=r"got a batch of 2: pick one with map\[i\]"):
        draw(clip, batch)
    with pytest.raises(InputError, match=r"not prepared.*processor.prepare\(clip\)"):
        draw(Clip.from_frames(clip.frames), map)
    with pytest.raises(GridError, match="covers 24×32 model pixels, but the clip was prepared at 32×32"):
        draw(clip, make_map(TokenGrid(3, 3, 4, tubelet=(2, 8, 8))))
    with pytest.raises(GridError, match="covers 8 frames, the clip has 6"):
        draw(clip, make_map(TokenGrid(4, 4, 4, tubelet=(2, 8, 8))))
    with pytest.raises(InputError, match=r"frames \[0, 1, … 5\] \(6\), the clip holds \[0, 3, … 15\] \(6\)"):
        draw(clip, make_map(frame_indices=[[0, 1, 2, 3, 4, 5]]))
    draw(clip, make_map(frame_indices=[clip.indices.tolist()]))


@pytest.mark.parametrize("draw", [heat_on_source, to_frames])
def test_a_map_of_other_pixels_is_refused(draw: Callable) -> None:
    """Same size, same frames: only the map's own word tells the two apart."""
    clip = make_clip(CROPPED)
    source = {"path": clip.path, "geometry": CROPPED.to_dict()}
    draw(clip, make_map(sources=[source]))
    draw(clip, make_map(sources=json.loads(json.dumps([source]))))
    elsewhere = Geometry.identity(45, 80).resize(36, 64).crop(2, 15, 32, 32).to_dict()
    with pytest.raises(InputError, match=r"cut from their frames by .*-15.*, the clip's by .*-16.*: give the clip"):
        draw(clip, make_map(sources=[{**source, "geometry": elsewhere}]))
    with pytest.raises(
        InputError, match=r"of the file cat.mp4, the clip is of .*dog.mp4: give the clip .*replace\(clip"
    ):
        draw(clip, make_map(sources=[{**source, "path": "cat.mp4"}]))
    with pytest.raises(InputError, match=r"of the file None, the clip is of .*dog.mp4"):
        draw(clip, make_map(sources=[{**source, "path": None}]))


@EVERY_GEOMETRY
def test_share_outside_is_counted_on_the_models_pixels(geometry: Geometry) -> None:
    map = make_map(relevance=torch.rand(GRID.shape) - 0.5, signed=True)
    # each model pixel cut into 16×16 points
    points = (np.arange(32 * 16) + 0.5) / 16
    height, width = geometry.source_size
    top, left, bottom, right = geometry.to_model((0.0, 0.0, float(height), float(width)))
    outside = ~(((points >= top) & (points < bottom))[:, None] & ((points >= left) & (points < right))[None])
    sizes = map.relevance[0].abs().double().sum(dim=0).numpy().repeat(128, axis=0).repeat(128, axis=1)
    assert share_outside(geometry, map) == pytest.approx(sizes[outside].sum() / sizes.sum(), abs=2e-3)


def test_share_outside_and_when_it_is_worth_saying() -> None:
    geometry = Geometry.identity(16, 32).pad(0, 0, 16, 0)
    share = lambda size: torch.tensor([1 - size, 0, 0, size])[None, :, None].expand(3, 4, 4)  # noqa: E731
    for size, text in ((0.0, ""), (0.0004, ""), (0.0006, "0.1 % of"), (0.25, "25.0 % of the relevance lies outside")):
        map = make_map(relevance=share(size))
        assert share_outside(geometry, map) == pytest.approx(size, abs=1e-6)
        assert outside_text(geometry, map).startswith(text)
        assert bool(outside_text(geometry, map)) is bool(text)
    assert share_outside(geometry, make_map(relevance=torch.zeros(GRID.shape))) == 0


def test_short_lists_of_frames_are_named_in_full() -> None:
    grid = TokenGrid(1, 4, 4, tubelet=(2, 8, 8))
    with pytest.raises(InputError, match=r"frames \[7, 8\], the clip holds \[0, 3\]"):
        to_frames(make_clip(FIRST, 2), make_map(grid, frame_indices=[[7, 8]]))


def test_a_crop_beside_the_frame_is_refused() -> None:
    geometry = Geometry.identity(20, 20).crop(40, 0, 32, 32)
    with pytest.raises(InputError, match="saw the centre of no pixel of the source frame"):
        to_frames(make_clip(geometry), make_map())


def test_drawing_needs_no_media_library() -> None:
    code = (
        "import sys\n"
        "import vivit_lab.render.overlay, vivit_lab.render.sheet\n"
        "print(sorted({'av', 'matplotlib', 'tqdm'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "av" not in result.stdout
    assert "matplotlib" not in result.stdout
