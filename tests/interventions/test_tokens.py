"""Regions and token sets against plain loops over the grid."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vivit_lab.errors import GridError, InputError
from vivit_lab.grid import TokenGrid
from vivit_lab.interventions import Region
from vivit_lab.interventions.points import span_of, time_slabs, token_mask, tokens_text

GRID = TokenGrid(4, 3, 2)
BARE = TokenGrid(4, 3, 2, cls=False)


def spans(size):
    places = st.integers(-size, size - 1)
    slices = st.tuples(st.integers(0, size - 1), st.integers(1, size), st.integers(1, 3)).filter(lambda s: s[0] < s[1])
    return st.none() | places | slices.map(lambda s: slice(*s))


@given(spans(4), spans(3), spans(2), st.booleans(), st.sampled_from([GRID, BARE]))
def test_a_region_is_the_plain_loop(t, y, x, cls, grid):
    def inside(span, place, size):
        if span is None:
            return True
        return place == span % size if isinstance(span, int) else place in range(size)[span]

    region = Region(t, y, x, cls=cls and grid.cls)
    wanted = []
    for token in range(grid.num_tokens):
        place = grid.position(token)
        wanted.append(
            region.cls
            if place is None
            else all(inside(span, at, size) for span, at, size in zip((t, y, x), place, grid.shape, strict=True))
        )
    assert region.mask(grid).tolist() == wanted
    assert torch.equal(token_mask(region, grid), region.mask(grid))


@given(st.integers(1, 4), st.sampled_from([GRID, TokenGrid(4, 1, 1, cls=False)]))
def test_slabs_share_nothing_and_cover_every_tubelet(count, grid):
    masks = torch.stack([slab.mask(grid) for slab in time_slabs(grid, count)])
    assert len(masks) == count
    assert torch.equal(masks.sum(dim=0), token_mask("tubelets", grid).long())
    sizes = masks.sum(dim=1)
    assert sizes.max() - sizes.min() <= grid.h * grid.w


def test_slabs_may_be_named():
    assert time_slabs(GRID, [0, slice(2, None)]) == [Region(t=slice(0, 1)), Region(t=slice(2, 4, 1))]


def test_all_ways_to_name_tokens():
    assert token_mask(None, GRID).all()
    assert token_mask("cls", GRID).nonzero().tolist() == [[0]]
    assert token_mask("tubelets", GRID).nonzero().flatten().tolist() == list(range(1, 25))
    assert token_mask([1, -1], GRID).nonzero().flatten().tolist() == [1, 24]
    assert token_mask(3, GRID).nonzero().flatten().tolist() == [3]
    box = torch.zeros(4, 3, 2, dtype=torch.bool)
    box[1, 2, 0] = True
    assert token_mask(box, GRID).nonzero().item() == GRID.token(1, 2, 0)
    assert torch.equal(token_mask(token_mask([2], GRID), GRID), token_mask(2, GRID))


def test_words():
    assert repr(Region(t=slice(2, 4), y=1, cls=True)) == "Region(t=2:4, y=1, CLS)"
    assert repr(Region(x=slice(None, None, 2))) == "Region(x=::2)"
    said = [tokens_text(tokens) for tokens in (None, "cls", "tubelets", Region(t=0), [1, 2], 4, torch.ones(3) > 0)]
    assert said == ["all tokens", "the CLS token", "all tubelets", "Region(t=0)", "2 tokens", "1 token", "3 tokens"]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Region(t=4).mask(GRID), GridError, r"t=4 is outside the grid: wanted -4\.\.3"),
        (lambda: Region(y=slice(2, 9)).mask(GRID), GridError, "reaches past its ends"),
        (lambda: Region(y=slice(2, 1)).mask(GRID), GridError, "holds no places"),
        (lambda: span_of("x", slice(None, None, -1), 3), GridError, "holds no places"),
        (lambda: span_of("x", 1.5, 3), GridError, "a whole number, a slice or None"),
        (lambda: Region(cls=True).mask(BARE), GridError, "names a CLS token"),
        (lambda: token_mask("cls", BARE), GridError, "no CLS token"),
        (lambda: token_mask("cls tokens", GRID), InputError, "'cls tokens' is not known"),
        (lambda: token_mask([25], GRID), GridError, r"tokens \[25\] are outside the sequence of 25"),
        (lambda: token_mask([0.5], GRID), InputError, "indices or a bool mask"),
        (lambda: token_mask([], GRID), InputError, "indices or a bool mask"),
        (lambda: token_mask(torch.ones(7, dtype=torch.bool), GRID), GridError, r"must be \(25,\) or \(4, 3, 2\)"),
        (lambda: token_mask(torch.zeros(25, dtype=torch.bool), GRID), GridError, "holds no token"),
        (lambda: time_slabs(GRID, 5), GridError, "1 to 4 time slabs, not 5"),
        (lambda: time_slabs(GRID, []), GridError, "a number of slabs or a list"),
        (lambda: time_slabs(GRID, [7]), GridError, "t=7 is outside"),
    ],
)
def test_what_does_not_fit_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
