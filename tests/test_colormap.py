"""Laws of the colour tables and scales."""

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivit_lab.colormap import (
    COLORMAP_NAMES,
    Colormap,
    choose_colormap,
    format_range,
    get_colormap,
    unit_interval,
    value_limits,
)
from vivit_lab.errors import InputError

SIGNED = ("coolwarm", "RdBu_r")
SEQUENTIAL = tuple(name for name in COLORMAP_NAMES if name not in SIGNED)
FLOATS = st.floats(-1e6, 1e6, allow_nan=False, width=32)


def luma(table: np.ndarray) -> np.ndarray:
    return table.astype(float) @ [0.2126, 0.7152, 0.0722]


def test_jet_is_not_offered() -> None:
    assert {"viridis", "magma", "inferno", "cividis", "coolwarm"} <= set(COLORMAP_NAMES)
    assert not {"jet", "hsv", "rainbow", "turbo"} & set(COLORMAP_NAMES)


@pytest.mark.parametrize("name", COLORMAP_NAMES)
def test_table_is_matplotlibs(name: str) -> None:
    theirs = matplotlib.colormaps[name]
    values = np.linspace(-0.1, 1.1, 2001)
    expected = theirs(values.astype(np.float32), bytes=True)[:, :3].astype(int)
    assert np.abs(get_colormap(name).apply(values).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_sequential_tables_only_get_lighter(name: str) -> None:
    assert get_colormap(name).diverging is False
    lightness = luma(get_colormap(name).table)
    assert np.diff(lightness).min() > -1  # a level of rounding
    assert np.diff(lightness[::5]).min() > 0
    assert np.ptp(lightness) > 100


@pytest.mark.parametrize("name", SIGNED)
def test_diverging_tables_are_lightest_and_grey_in_the_middle(name: str) -> None:
    table = get_colormap(name).table
    assert get_colormap(name).diverging
    assert 120 <= luma(table).argmax() <= 135
    assert np.ptp(table[127:129].astype(int), axis=1).max() <= 6
    assert table[0, 2] > table[0, 0]  # blue below zero
    assert table[-1, 0] > table[-1, 2]  # red above


def test_apply_keeps_the_shape_and_ends() -> None:
    colormap = get_colormap("magma")
    colors = colormap.apply(np.array([[0.0, 1.0, 0.5], [-3.0, 9.0, 0.999]]))
    assert colors.shape == (2, 3, 3)
    assert colors.dtype == np.uint8
    assert (colors[0, 0] == colormap.table[0]).all()
    assert (colors[0, 1] == colormap.table[255]).all()
    assert (colors[1, 0] == colors[0, 0]).all()
    assert (colors[1, 1] == colors[0, 1]).all()


def test_a_named_table_is_shared_and_cannot_be_changed() -> None:
    assert get_colormap("Viridis") is get_colormap("viridis")
    with pytest.raises(ValueError, match="read-only"):
        get_colormap("viridis").table[0] = 0


def test_own_colormap() -> None:
    table = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    grey = Colormap("grey", table)
    table[:] = 0
    assert get_colormap(grey) is grey
    assert choose_colormap(grey, signed=False).apply(np.array([1.0])).tolist() == [[255, 255, 255]]


@pytest.mark.parametrize("table", [np.zeros((255, 3), np.uint8), np.zeros((256, 3))])
def test_wrong_table(table: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"\(256, 3\) uint8, got"):
        Colormap("wrong", table)


def test_nan_has_no_colour() -> None:
    with pytest.raises(InputError, match="NaN has no colour"):
        get_colormap("viridis").apply(np.array([0.0, np.nan]))


def test_unknown_names() -> None:
    with pytest.raises(InputError, match="did you mean 'viridis'"):
        get_colormap("virids")
    with pytest.raises(InputError, match="no colormap 'jet': There are viridis, magma"):
        get_colormap("jet")


def test_the_default_follows_the_sign() -> None:
    assert choose_colormap(None, signed=False).name == "inferno"
    assert choose_colormap(None, signed=True).name == "coolwarm"


def test_a_colormap_that_does_not_suit() -> None:
    with pytest.raises(InputError, match=r"is signed: wanted a diverging colormap \(coolwarm, RdBu_r\), got 'viridis'"):
        choose_colormap("viridis", signed=True)
    with pytest.raises(InputError, match=r"is not signed: wanted a sequential colormap .*got 'coolwarm'"):
        choose_colormap("coolwarm", signed=False)


@given(st.lists(FLOATS, min_size=1, max_size=20), st.booleans())
def test_limits_hold_all_values(values: list[float], signed: bool) -> None:
    low, high = value_limits(np.array(values), signed=signed)
    assert low < high
    assert low <= min(values)
    assert max(values) <= high
    if signed:
        assert low == -high
        assert unit_interval(np.zeros(1), low, high)[0] == 0.5


@pytest.mark.parametrize(
    ("values", "signed", "limits"),
    [
        ([2.0, 5.0], False, (2.0, 5.0)),
        ([-2.0, 5.0], True, (-5.0, 5.0)),
        ([0.0, 0.0], False, (0.0, 1.0)),
        ([0.0, 0.0], True, (-1.0, 1.0)),
        ([3.0, 3.0], False, (0.0, 3.0)),
        ([3.0, 3.0 + 1e-9], False, (0.0, 3.0 + 1e-9)),
    ],
)
def test_limits(values: list[float], signed: bool, limits: tuple[float, float]) -> None:
    assert value_limits(np.array(values), signed=signed) == pytest.approx(limits)


def test_unit_interval() -> None:
    unit = unit_interval(np.array([-1.0, 0.0, 1.0, 2.0, 3.0]), 0.0, 2.0)
    assert unit.dtype == np.float32
    assert unit.tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]


@given(FLOATS, st.floats(1e-5, 1e5))
def test_printed_limits_can_be_told_apart(low: float, span: float) -> None:
    high = low + span
    if span < 1e-6 * max(abs(low), abs(high)):
        return
    first, last = map(float, format_range(low, high))
    assert last - first == pytest.approx(span, rel=0.02)


def test_printed_limits() -> None:
    assert format_range(0.0, 0.0057712) == ("0", "0.00577")
    assert format_range(0.0051, 0.0051234) == ("0.0051", "0.0051234")
