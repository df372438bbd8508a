"""The arithmetic of the shipped script against the package's own, in the browser."""

import numpy as np
import pytest

from vivit_lab.attribution import AttributionMap
from vivit_lab.colormap import format_range
from vivit_lab.grid import TokenGrid
from vivit_lab.render.painter import heat_scale
from vivit_lab.widgets.base import script_of

GRID = TokenGrid(3, 4, 5, tubelet=(2, 8, 8))


@pytest.fixture(scope="module")
def core(browser):
    """``core(expression, argument)`` evaluates an expression of the functions in core.js, as ``core.name``."""
    page = browser.new_page()
    page.evaluate(
        """async (script) => {
          const url = URL.createObjectURL(new Blob([script], {type: "text/javascript"}));
          window.core = await import(url);
        }""",
        script_of("core.js", "player.js"),
    )
    yield lambda expression, argument=None: page.evaluate(f"(it) => {expression}", argument)
    page.close()


def some_values(kind):
    rng = np.random.default_rng(3)
    values = rng.gamma(0.3, 0.01, GRID.shape)
    if kind == "signed":
        values = rng.normal(size=GRID.shape) * 1e-4
    if kind == "zero":
        values = np.zeros(GRID.shape)
    if kind == "constant":
        values = np.full(GRID.shape, 0.37)
    if kind == "few":
        values = np.zeros(GRID.shape)
        values[1, 2, 3] = 5.0
    return values.astype(np.float32)


@pytest.mark.parametrize("normalize", ["clip", "clip99", "frame"])
@pytest.mark.parametrize("kind", ["positive", "signed", "zero", "constant", "few"])
def test_scales_levels_and_labels_are_the_renderers(core, kind, normalize):
    import torch

    values = some_values(kind)
    signed = kind == "signed"
    map = AttributionMap(torch.from_numpy(values)[None], GRID, "m", signed=signed)
    scale = heat_scale(
        map,
        normalize="frame" if normalize == "frame" else "clip",
        percentile=99 if normalize == "clip99" else None,
    )
    found = core(
        """(() => {
          const values = Float32Array.from(it.values);
          const scale = core.scaleOf(values, 3, it.signed, it.normalize);
          return {
            low: [...scale.low], high: [...scale.high], kind: scale.kind,
            levels: [0, 1, 2].map((row) =>
              [...core.levelsOf(values.subarray(row * 20, row * 20 + 20), scale.low[row], scale.high[row])]),
            labels: [0, 1, 2].map((row) => core.labelsOf(scale, row)),
          };
        })()""",
        {"values": values.ravel().tolist(), "signed": signed, "normalize": normalize},
    )
    np.testing.assert_allclose(found["low"], scale.low, rtol=1e-12)
    np.testing.assert_allclose(found["high"], scale.high, rtol=1e-12)
    assert found["kind"] == scale.kind
    for row in range(3):
        exact = scale.levels(values[row], row).ravel().astype(int)
        assert np.abs(np.array(found["levels"][row]) - exact).max() <= (normalize == "clip99")
        labels = [text.replace("<=", "≤").replace(">=", "≥") for text in scale.labels(row)]
        assert found["labels"][row] == labels


@pytest.mark.parametrize("diverging", [False, True])
@pytest.mark.parametrize("alpha", [None, 0.0, 0.35, 1.0])
def test_opacities_are_the_renderers(core, alpha, diverging):
    import torch

    map = AttributionMap(torch.rand(1, *GRID.shape), GRID, "m", signed=diverging)
    exact = heat_scale(map).opacity(alpha)
    found = core("[...core.opacityOf(it.alpha, it.diverging)]", {"alpha": alpha, "diverging": diverging})
    assert found == exact.tolist()


def test_numbers_are_written_as_python_writes_them(core):
    rng = np.random.default_rng(0)
    sizes = 10.0 ** rng.uniform(-9, 9, 300) * rng.choice([-1, 1], 300)
    pairs = [[0.0, 0.0], [0.0, 1.0], [-2.5, 2.5], [0.999999, 1.0], [99999.5, 1e5], [1e-5, 1.2e-5]]
    pairs += [sorted(pair) for pair in sizes.reshape(-1, 2).tolist()]
    found = core("it.map(([low, high]) => core.formatRange(low, high))", pairs)
    assert [tuple(pair) for pair in found] == [format_range(*pair) for pair in pairs]


def test_the_percentile_is_numpys(core):
    values = np.random.default_rng(1).normal(size=501).astype(np.float32)
    for p in (1, 50, 99, 100):
        found = core("core.percentileOf(Float32Array.from(it.values), it.p)", {"values": values.tolist(), "p": p})
        assert found == pytest.approx(np.percentile(np.abs(values.astype(np.float64)), p), rel=1e-12)


def test_tokens_and_positions_are_the_grids(core):
    for cls in (True, False):
        grid = TokenGrid(3, 4, 5, cls=cls)
        found = core(
            "[...Array(it.count).keys()].map((token) => core.positionOf(it.grid, token))",
            {"grid": grid.to_dict(), "count": grid.num_tokens},
        )
        exact = [grid.position(token) for token in range(grid.num_tokens)]
        assert [one and (one["t"], one["y"], one["x"]) for one in found] == exact
        again = core(
            "it.places.map(([t, y, x]) => core.tokenOf(it.grid, t, y, x))",
            {
                "grid": grid.to_dict(),
                "places": [place for place in exact if place],
            },
        )
        assert again == list(range(grid.offset, grid.num_tokens))


def test_the_frame_at_a_time_is_the_last_that_has_begun(core):
    times = [0.0, 0.1, 0.4, 0.4, 0.5]
    asked = [-1, 0, 0.05, 0.1, 0.399, 0.4, 0.45, 9]
    found = core("it.asked.map((time) => core.frameAt(it.times, time))", {"times": times, "asked": asked})
    assert found == [0, 0, 0, 1, 1, 3, 3, 4]
