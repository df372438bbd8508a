"""Text fits, numbers are the scale's, and the time strip keeps true time."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from tests.render.scenes import GRID, make_clip, make_map
from vivit_lab.attribution import AttributionMap
from vivit_lab.grid import TokenGrid
from vivit_lab.render import legend, to_frames
from vivit_lab.render.legend import (
    DARK,
    Legend,
    TimeStrip,
    clip_end,
    describe,
    ellipsize,
    font,
    format_seconds,
    line_height,
    make_legend,
    printable,
    row_spans,
    shown_frames,
    text_width,
    wrap,
)
from vivit_lab.render.painter import heat_scale
from vivit_lab.video import Clip, Geometry

SQUARE = Geometry.identity(32, 32)
VARIABLE = [1.0, 1.5, 1.6, 1.7, 2.7, 2.8]
LONG = {
    "method": "AMethodOfAVeryLongNameWithoutAnySpaceThatDoesNotFitIntoOneLineOfASmallPicture",
    "parameters": {f"parameter_{number}": "value" * number for number in range(20)},
    "target": "a class with a very long name, " * 10,
    "model_id": "somebody/some-model-with-a-long-name" * 4,
    "scale": "what these numbers are, in words, " * 12,
}


def legend_of(clip: Clip, map: AttributionMap, width: int = 640, **choices) -> Legend:
    bars = {"colorbar": choices.pop("colorbar", True), "strip": choices.pop("strip", True)}
    legend = make_legend(clip, map, heat_scale(map, **choices), width, **bars)
    assert legend is not None
    return legend


def strip_of(legend: Legend) -> TimeStrip:
    assert legend.strip is not None
    return legend.strip


def glyph(character: str) -> bytes:
    """Return what the font draws for a character."""
    image = Image.new("L", (24, 24))
    ImageDraw.Draw(image).text((2, 2), character, font=font(14), fill=255)
    return image.tobytes()


# --- text -------------------------------------------------------------------------------------------------------------


@given(st.text(max_size=60))
def test_printable_text_has_only_glyphs_of_the_font(text: str) -> None:
    missing = glyph("\uffff")
    for character in printable(text).replace(" ", ""):
        assert glyph(character) != missing
    assert printable(printable(text)) == printable(text)


def test_printable_spells_what_the_font_lacks() -> None:
    assert printable("16×14×14 – é\nÅ → 中 … ≥ ·") == "16x14x14 - e A -> ? … >= ·"


@given(st.text(st.characters(codec="ascii"), max_size=200), st.integers(10, 400), st.integers(1, 5))
def test_wrapped_lines_fit_and_lose_nothing_unsaid(text: str, room: int, most: int) -> None:
    face = font(13)
    lines = wrap(text, face, room, most)
    assert len(lines) <= most
    # narrower than any letter, a line still takes one
    assert all(text_width(line, face) <= room or len(line) == 1 for line in lines)
    if lines and "…" not in lines[-1]:
        assert "".join(lines).replace(" ", "") == printable(text).replace(" ", "")


def test_wrap_keeps_words_whole() -> None:
    face = font(13)
    assert wrap("one two three", face, text_width("one two", face), 3) == ["one two", "three"]
    assert wrap("", face, 100, 3) == []


def test_ellipsize() -> None:
    face = font(13)
    assert ellipsize("short", face, 100) == "short"
    cut = ellipsize("a rather long text", face, 60)
    assert cut.endswith("…")
    assert text_width(cut, face) <= 60
    assert ellipsize("wide", face, 2) == ""


# --- legend -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{}, LONG], ids=["short", "long"])
@pytest.mark.parametrize("width", [64, 360, 640, 1920])
@pytest.mark.parametrize("choices", [{}, {"normalize": "frame"}, {"limits": (1.2345678e-30, 0.012345678)}])
def test_nothing_is_cut_off(fields: dict, width: int, choices: dict) -> None:
    clip, map = make_clip(SQUARE, seconds=VARIABLE), make_map(**fields)
    legend = legend_of(clip, map, width, **choices)
    pad = line_height(legend.face) // 2
    for index in range(len(clip)):
        drawn = legend.draw(index)
        assert drawn.shape == (legend.base.height, max(width, 360), 3)
        for margin in (drawn[: pad - 2], drawn[1 - pad :], drawn[:, : pad - 1], drawn[:, 1 - pad :]):
            assert (margin == DARK.background).all()


@settings(max_examples=30)
@given(st.floats(1e-30, 1e30), st.floats(1e-9, 1e9), st.booleans())
def test_numbers_of_any_size_do_not_touch(size: float, ratio: float, signed: bool) -> None:
    relevance = torch.full(GRID.shape, 0.5)
    limits = (-size, size) if signed else (size, size * (1 + ratio))
    scale = heat_scale(make_map(relevance=relevance, signed=signed), limits=limits)
    room = 360 - line_height(font(12))
    widths = [text_width(label, font(12)) for label in scale.labels(0)]
    ends = max(widths[0], widths[-1])
    middle = widths[1] if len(widths) == 3 else 0
    assert ends <= (room - middle) / 2 - 4


def test_the_scale_says_what_it_is_shared_by() -> None:
    map = make_map()
    assert heat_scale(map).kind == "one scale for the clip"
    assert heat_scale(map, normalize="frame").kind == "per frame scale"
    assert heat_scale(map, limits=(0, 1)).kind == "fixed scale"


def test_printed_numbers_are_the_limits_and_say_what_lies_beyond() -> None:
    relevance = torch.linspace(0, 2, 48).reshape(GRID.shape)
    map = make_map(relevance=relevance)
    assert heat_scale(map).labels(0) == ("0", "2")
    assert heat_scale(map, limits=(0.5, 4)).labels(0) == ("<= 0.5", "4")
    assert heat_scale(map, limits=(-1, 1)).labels(0) == ("-1", ">= 1")
    assert heat_scale(map, normalize="frame").labels(1) == ("0.6809", "1.319")
    signed = make_map(relevance=relevance - 1.5, signed=True)
    assert heat_scale(signed).labels(0) == ("-1.5", "0", "1.5")


@pytest.mark.parametrize(
    ("percentile", "name"),
    [
        (99, "99th"),
        (99.0, "99th"),
        (99.5, "99.5th"),
        (91, "91st"),
        (92, "92nd"),
        (93, "93rd"),
        (11, "11th"),
        (12, "12th"),
    ],
)
def test_a_scale_to_a_percentile_says_so(percentile: float, name: str) -> None:
    scale = heat_scale(make_map(), percentile=percentile)
    assert scale.kind == f"one scale for the clip, to its {name} percentile"


def test_ends_of_a_scale_to_a_percentile() -> None:
    values = torch.arange(48.0).reshape(GRID.shape)
    assert heat_scale(make_map(relevance=values), percentile=50).labels(0) == ("0", ">= 23.5")
    assert heat_scale(make_map(relevance=values), percentile=100).labels(0) == ("0", "47")
    signed = make_map(relevance=-values, signed=True)
    assert heat_scale(signed, percentile=50).labels(0) == ("<= -23.5", "0", "23.5")


def test_a_percentile_of_zero_makes_way_for_the_largest() -> None:
    relevance = torch.zeros(GRID.shape)
    relevance[1, 2, 3] = 3
    scale = heat_scale(make_map(relevance=relevance), percentile=90)
    assert (scale.kind, scale.labels(0)) == ("one scale for the clip", ("0", "3"))
    nothing = heat_scale(make_map(relevance=torch.zeros(GRID.shape)), percentile=90)
    assert (nothing.kind, nothing.labels(0)) == ("one scale for the clip", ("0", "1"))


def test_relevance_on_padding_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    padded, drawn = Geometry.identity(16, 32).pad(0, 0, 16, 0), []
    real = legend.draw_lines
    monkeypatch.setattr(
        legend, "draw_lines", lambda image, lines, *rest: drawn.extend(lines) or real(image, lines, *rest)
    )
    even = torch.ones(GRID.shape)
    legend_of(make_clip(padded), make_map(relevance=even))
    assert "50.0 % of the relevance lies outside the frame" in drawn
    drawn.clear()
    legend_of(make_clip(SQUARE), make_map(relevance=even))
    assert drawn
    assert not any("outside" in line for line in drawn)


def test_numbers_move_only_with_a_scale_per_frame() -> None:
    clip, map = make_clip(SQUARE), make_map()
    fixed = legend_of(clip, map, strip=False)
    moving = legend_of(clip, map, strip=False, normalize="frame")
    np.testing.assert_array_equal(fixed.draw(0), fixed.draw(5))
    np.testing.assert_array_equal(moving.draw(0), moving.draw(1))
    assert (moving.draw(0) != moving.draw(2)).any()


def test_describe() -> None:
    map = make_map(parameters={"residual": 0.5, "discard": None}, target="class 3", model_id="a/b")
    assert describe(map) == ("AttentionRollout(residual=0.5, discard=None)", "target: class 3 · model: a/b")
    assert describe(make_map(parameters={})) == ("AttentionRollout", "")


def test_the_colour_bar_is_the_colormap() -> None:
    legend = legend_of(make_clip(SQUARE), make_map(), colormap="viridis")
    assert legend.bar is not None
    left, top, width = legend.bar
    row = legend.draw(0)[top + 3, left + 1 : left + width - 1]
    expected = heat_scale(make_map(), "viridis").colormap.apply((np.arange(width) + 0.5) / width)[1:-1]
    np.testing.assert_array_equal(row, expected)


@pytest.mark.parametrize(("height", "width", "canvas"), [(32, 32, 360), (40, 500, 500)])
def test_a_legend_leaves_the_frame_as_it_is(height: int, width: int, canvas: int) -> None:
    clip, map = make_clip(Geometry.identity(height, width).resize(32, 32)), make_map()
    plain = to_frames(clip, map)
    for colorbar, strip in ((True, False), (False, True), (True, True)):
        framed = to_frames(clip, map, colorbar=colorbar, strip=strip)
        left = (canvas - width) // 2
        assert framed.shape[1] > height
        assert framed.shape[2] == canvas
        np.testing.assert_array_equal(framed[:, :height, left : left + width], plain)
        assert (framed[:, :height, :left] == DARK.background).all()


# --- time -------------------------------------------------------------------------------------------------------------


def test_frames_of_equal_time_are_shown_once() -> None:
    assert shown_frames(make_clip(SQUARE, seconds=[0, 0, 0.5, 1, 1, 1])) == [0, 2, 3]
    assert shown_frames(make_clip(SQUARE, seconds=[0, 1e-7, 2e-7, 3e-7, 4e-7, 1])) == [0, 5]
    assert shown_frames(make_clip(SQUARE)) == list(range(6))


def test_repeated_frames_are_said() -> None:
    map = make_map(parameters={})
    heights = [
        legend_of(make_clip(SQUARE, seconds=times), map).base.height for times in (VARIABLE, [0, 0, 0.5, 1, 1, 1])
    ]
    face = font(12)
    assert heights[1] - heights[0] == line_height(face)


def test_end_of_the_clip() -> None:
    clip = make_clip(SQUARE, seconds=VARIABLE)
    assert clip_end(clip) == pytest.approx(2.84)

    def ending_at_once(seconds: list[float], fps: float) -> float:
        return clip_end(Clip(clip.frames, np.array(seconds), clip.indices, fps, seconds[-1]))

    assert ending_at_once(VARIABLE, 25.0) == pytest.approx(2.8 + 0.1)  # the median step
    assert ending_at_once([2.0] * 6, 20.0) == pytest.approx(2.05)
    assert ending_at_once([2.0] * 6, 0.0) == pytest.approx(2.04)


def test_row_spans_are_the_true_times() -> None:
    clip = make_clip(SQUARE, seconds=VARIABLE)
    np.testing.assert_allclose(row_spans(clip, GRID), [[1.0, 1.6], [1.6, 2.7], [2.7, 2.84]])


def test_seconds_are_printed_as_finely_as_the_clip_is_short() -> None:
    assert format_seconds(1.23456, 1.0) == "1.235 s"
    assert format_seconds(1.23456, 5.0) == "1.23 s"


def test_strip_marks_the_true_time() -> None:
    clip, map = make_clip(SQUARE, seconds=VARIABLE), make_map()
    strip = strip_of(legend := legend_of(clip, map))
    left, top, right, _ = strip.box
    for index, seconds in enumerate(VARIABLE):
        above = legend.draw(index)[top - 2]  # only the mark reaches above the bars
        columns = np.flatnonzero((above == DARK.ink).all(axis=-1))
        assert len(columns) == 1
        assert columns[0] == pytest.approx(left + (seconds - 1.0) / 1.84 * (right - left), abs=0.51)
    assert strip.seconds == ["1.000 s", "1.500 s", "1.600 s", "1.700 s", "2.700 s", "2.800 s"]
    assert strip.ends == ("1.000 s", "2.840 s")


def test_bars_are_the_mass_of_the_rows_over_true_time() -> None:
    clip = make_clip(SQUARE, seconds=VARIABLE)
    relevance = torch.ones(GRID.shape) * torch.tensor([0.25, 1.0, 0.5])[:, None, None]
    strip = strip_of(legend_of(clip, make_map(relevance=relevance), 1840 + 2 * (line_height(font(31)) // 2)))
    left, top, right, bottom = strip.box
    bars = strip.bars[0]
    tall = bottom - top
    np.testing.assert_allclose(bars[:, 3] - bars[:, 1], [tall / 4, tall, tall / 2], atol=0.5)
    np.testing.assert_allclose(bars[:, 0] - left, np.array([0, 600, 1700]), atol=2)
    np.testing.assert_allclose(bars[:, 2] - left, np.array([600, 1700, 1840]) - 1, atol=2)
    assert bars[-1, 2] <= right
    assert "0 to 16" in strip.caption


def test_negative_relevance_hangs_below_zero() -> None:
    relevance = torch.zeros(GRID.shape)
    relevance[0, 0, 0], relevance[0, 1, 1], relevance[2, 0, 0] = 3.0, -1.0, -1.0
    legend = legend_of(make_clip(SQUARE), make_map(relevance=relevance, signed=True))
    strip = strip_of(legend)
    up, down = strip.bars
    tall = strip.box[3] - strip.box[1]
    np.testing.assert_allclose((up[:, 3] - up[:, 1]) / tall, [0.75, 0, 0], atol=0.03)
    np.testing.assert_allclose((down[:, 3] - down[:, 1]) / tall, [0.25, 0, 0.25], atol=0.03)
    assert "-1 to 3" in strip.caption
    current = legend.draw(0)[strip.box[1] : strip.box[3], strip.box[0] + 20]
    assert (current == strip.colors[0]).all(axis=-1).any()
    assert (current == strip.colors[1]).all(axis=-1).any()


def test_a_caption_that_is_too_long_says_it_shortly() -> None:
    relevance = torch.randn(GRID.shape) * 1e-12
    clip = make_clip(SQUARE, seconds=[123456 + seconds for seconds in VARIABLE])
    strip = strip_of(legend_of(clip, make_map(relevance=relevance, signed=True), 64))
    assert strip.caption.startswith("sum per tubelet row, -")
    assert not strip.caption.endswith("…")


def test_a_map_of_zeros_has_a_strip_without_bars() -> None:
    strip = strip_of(legend_of(make_clip(SQUARE), make_map(relevance=torch.zeros(GRID.shape))))
    assert (strip.bars[0][:, 1] == strip.bars[0][:, 3]).all()


def test_many_rows_in_a_narrow_strip() -> None:
    grid = TokenGrid(400, 1, 1, tubelet=(1, 32, 32))
    clip, map = make_clip(SQUARE, 400), make_map(grid)
    legend = legend_of(clip, map, 360)
    assert (legend.draw(0) != legend.draw(399)).any()
    assert strip_of(legend).bars[0][-1, 2] <= strip_of(legend).box[2]
