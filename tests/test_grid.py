"""Laws of the token grid: tokens and positions are one to one, and spans and boxes tile the video exactly."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vivit_lab.errors import GridError
from vivit_lab.grid import TokenGrid

SMALL = st.integers(1, 6)
GRIDS = st.builds(TokenGrid, SMALL, SMALL, SMALL, st.tuples(SMALL, SMALL, SMALL), st.booleans())


@given(GRIDS)
def test_token_and_position_are_one_to_one(grid):
    tokens = [grid.token(t, y, x) for t in range(grid.t) for y in range(grid.h) for x in range(grid.w)]
    assert tokens == list(range(grid.offset, grid.num_tokens))
    for token in tokens:
        position = grid.position(token)
        assert grid.token(*position) == token
        assert grid.position(token - grid.num_tokens) == position
        assert grid.token(*(value - size for value, size in zip(position, grid.shape, strict=True))) == token
    if grid.cls:
        assert grid.position(0) is None
        assert grid.position(-grid.num_tokens) is None


@given(GRIDS)
def test_spans_and_boxes_tile_the_video_exactly(grid):
    height, width = grid.image_size
    covered = np.zeros((grid.num_frames, height, width), int)
    for token in range(grid.offset, grid.num_tokens):
        t, y, x = grid.position(token)
        start, stop = grid.frame_span(t)
        top, left, bottom, right = grid.pixel_box(y, x)
        covered[start:stop, top:bottom, left:right] += token
        assert (stop - start, bottom - top, right - left) == grid.tubelet
    assert covered.min() == grid.offset
    last = tuple(size - 1 for size in covered.shape)
    for frame, row, column in [(0, 0, 0), last, *np.random.default_rng(0).integers(0, covered.shape, (20, 3))]:
        assert grid.token_at(frame, row, column) == covered[frame, row, column]
        assert grid.token_at(frame, row + 0.99, column + 0.99) == covered[frame, row, column]


@given(GRIDS, st.integers(1, 3))
def test_unflatten_undoes_flatten_and_drops_cls(grid, batch):
    values = torch.arange(batch * grid.num_tubelets).reshape(batch, *grid.shape)
    flat = grid.flatten(values)
    assert flat.shape == (batch, grid.num_tubelets)
    assert torch.equal(grid.unflatten(flat), values)
    with_cls = torch.cat([torch.full((batch, grid.offset), -1), flat], dim=1)
    assert torch.equal(grid.unflatten(with_cls), values)
    assert torch.equal(grid.unflatten(with_cls.T, axis=0), values.permute(1, 2, 3, 0))
    for token in range(grid.offset, grid.num_tokens):
        assert grid.unflatten(with_cls)[0][grid.position(token)] == with_cls[0, token]


@given(GRIDS)
def test_from_video_gives_the_grid_back(grid):
    again = TokenGrid.from_video(grid.num_frames, *grid.image_size, grid.tubelet, cls_token=grid.cls)
    assert again == grid
    assert TokenGrid(**json.loads(json.dumps(grid.to_dict()))) == grid


@given(GRIDS, st.integers(0, 400))
def test_check_takes_its_own_count_only(grid, count):
    grid.check(grid.num_tokens)
    if count != grid.num_tokens:
        with pytest.raises(GridError, match=f"{count} tokens do not fit the grid"):
            grid.check(count)


def test_vivit_base():
    grid = TokenGrid.from_video(32, 224, 224)
    assert (grid.shape, grid.num_tubelets, grid.num_tokens) == ((16, 14, 14), 3136, 3137)
    with pytest.raises(GridError, match=r"3136 tokens do not fit the grid 16×14×14 \+ 1 CLS = 3137;"):
        grid.check(3136)
    square = TokenGrid(1, 56, 56)
    with pytest.raises(GridError, match="a square root of a token count is no grid"):
        square.check(3136)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TokenGrid(0, 2, 2), "the grid's t must be a positive integer, got 0"),
        (lambda: TokenGrid(2, 2.0, 2), "the grid's h must be a positive integer, got 2.0"),
        (lambda: TokenGrid(2, 2, True), "the grid's w must be a positive integer, got True"),
        (lambda: TokenGrid(2, 2, 2, (2, 16)), r"tubelet must be three positive sizes .*, got \(2, 16\)"),
        (lambda: TokenGrid(2, 2, 2, (2, 0, 16)), r"tubelet must be three positive sizes .*, got \(2, 0, 16\)"),
        (
            lambda: TokenGrid.from_video(32, 224, 224, (2, 16)),
            r"tubelet must be three positive sizes .*, got \(2, 16\)",
        ),
        (lambda: TokenGrid.from_video(31, 224, 224), r"frames=31 is not a positive multiple .* use 30 or 32"),
        (lambda: TokenGrid.from_video(32, 8, 224), r"height=8 is not a positive multiple .* use 16$"),
        (lambda: TokenGrid.from_video(32, 224, 225), "width=225 is not a positive multiple"),
        (lambda: TokenGrid(2, 3, 4).token(2, 0, 0), r"t=2 is outside the grid \(2, 3, 4\): wanted -2..1"),
        (lambda: TokenGrid(2, 3, 4).token(0, -4, 0), r"y=-4 is outside the grid"),
        (lambda: TokenGrid(2, 3, 4).position(25), "token 25 is outside the sequence of 25 tokens"),
        (lambda: TokenGrid(2, 3, 4).position(-26), "token -26 is outside"),
        (lambda: TokenGrid(2, 3, 4).frame_span(2), "t=2 is outside the grid"),
        (lambda: TokenGrid(2, 3, 4).pixel_box(0, 4), "x=4 is outside the grid"),
        (lambda: TokenGrid(2, 3, 4).token_at(4, 0, 0), r"frame 4, pixel \(0, 0\) is outside the 4 frames of 48×64"),
        (lambda: TokenGrid(2, 3, 4).token_at(0, 48, 0), r"pixel \(48, 0\) is outside"),
        (lambda: TokenGrid(2, 3, 4).token_at(0, 0, -0.1), r"pixel \(0, -0.1\) is outside"),
        (lambda: TokenGrid(2, 3, 4).unflatten(torch.zeros(23)), "23 tokens do not fit the grid"),
        (lambda: TokenGrid(2, 3, 4).flatten(torch.zeros(4, 3, 2)), r"wanted \(..., 2, 3, 4\), got \(4, 3, 2\)"),
    ],
)
def test_errors_say_what_was_wanted(call, message):
    with pytest.raises(GridError, match=message):
        call()
