"""Separation into space and time, and class contrast, against their definitions written out."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.attribution.naive import random_model
from tests.attribution.test_base import Page
from tests.model.tiny import clips
from vivit_lab.attribution import (
    AttentionRollout,
    AttributionMap,
    CheferRelevance,
    InputXGradient,
    Occlusion,
    class_contrast,
    space_time_separation,
)
from vivit_lab.attribution.diagnostics import map_contrast
from vivit_lab.errors import InputError
from vivit_lab.families import VivitModel
from vivit_lab.grid import TokenGrid

GRID = TokenGrid(4, 3, 5)


def map_of(relevance, *, signed=False, grid=GRID):
    return AttributionMap(torch.as_tensor(relevance, dtype=torch.float32), grid, "made", signed=signed)


# --- space and time ---------------------------------------------------------------------------------------------------


def best_product(matrix):
    """The best rank-1 fit by alternating least squares, starting from several vectors."""
    best = np.zeros_like(matrix)
    for start in np.eye(matrix.shape[1]):
        place = start + 1e-3
        for _ in range(300):
            time = matrix @ place / (place @ place)
            if not time.any():
                break
            place = matrix.T @ time / (time @ time)
        fit = np.outer(time, place)
        if ((matrix - fit) ** 2).sum() < ((matrix - best) ** 2).sum():
            best = fit
    return best


@pytest.mark.parametrize("signed", [False, True])
def test_the_share_is_that_of_the_best_product(signed):
    relevance = torch.randn(3, *GRID.shape) if signed else torch.rand(3, *GRID.shape) ** 3
    found = space_time_separation(map_of(relevance, signed=signed))
    for clip in range(3):
        matrix = relevance[clip].double().flatten(1).numpy()
        fit = best_product(matrix)
        assert found.rank1_share[clip] == pytest.approx(1 - ((matrix - fit) ** 2).sum() / (matrix**2).sum(), abs=1e-6)
        np.testing.assert_allclose(found.product[clip].flatten(1).numpy(), fit, atol=1e-3)
        assert float(found.time_course[clip].norm()) == pytest.approx(1)
        assert float(found.place_pattern[clip].sum()) >= 0


def test_marginals_are_sums():
    relevance = torch.randn(2, *GRID.shape)
    found = space_time_separation(map_of(relevance, signed=True))
    for clip in range(2):
        for t in range(4):
            assert float(found.over_time[clip, t]) == pytest.approx(float(relevance[clip, t].sum()), abs=1e-5)
        for y in range(3):
            for x in range(5):
                total = float(relevance[clip, :, y, x].sum())
                assert float(found.over_space[clip, y, x]) == pytest.approx(total, abs=1e-5)


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.integers(0, 10**6), st.floats(1e-3, 1e3))
def test_a_product_has_share_one_and_any_map_at_least_its_bound(t, h, w, seed, size):
    generator = torch.Generator().manual_seed(seed)
    grid = TokenGrid(t, h, w)
    product = size * torch.rand(t, 1, 1, generator=generator) * torch.rand(1, h, w, generator=generator) + 1e-6
    any_map = torch.randn(t, h, w, generator=generator)
    found = space_time_separation(map_of(torch.stack((any_map, 3 * any_map, product)), signed=True, grid=grid))
    assert 1 / min(t, h * w) - 1e-9 <= found.rank1_share[0] <= 1 + 1e-9
    assert found.rank1_share[1] == pytest.approx(found.rank1_share[0], abs=1e-6)
    assert found.rank1_share[2] == pytest.approx(1, abs=1e-3)


def test_evidence_that_moves_is_no_product():
    moving = torch.zeros(1, *GRID.shape)
    for t in range(3):
        moving[0, t, 1, t] = 1.0
    found = space_time_separation(map_of(moving))
    assert found.rank1_share == [pytest.approx(1 / 3)]
    rests = torch.zeros(1, *GRID.shape)
    rests[0, 1:3, 2, 4] = torch.tensor([1.0, 3.0])
    text = str(space_time_separation(map_of(rests)))
    assert "separation of made into space and time" in text
    assert "rank-1 share 1.000; most in frames 4–5 (75.0% of the time marginal) and at (y, x) = (2, 4) (100.0%" in text


def test_a_map_of_zeros_has_no_share():
    found = space_time_separation(map_of(torch.zeros(1, *GRID.shape)))
    assert math.isnan(found.rank1_share[0])
    assert "0.0% of the time marginal" in str(found)
    assert len(Page(found._repr_html_()).images) == 4


def test_separation_in_a_notebook():
    found = space_time_separation(map_of(torch.randn(2, *GRID.shape), signed=True))
    page = Page(found._repr_html_())
    assert len(page.images) == 2 * 4  # for each clip a scale and a tile, over space and over time
    for text in ("clip 1, over space", "clip 0, over time", "rank-1 share", "coolwarm"):
        assert text in page.text or any(text in image["alt"] for image in page.images)


# --- class contrast ---------------------------------------------------------------------------------------------------


def naive_spearman(x, y):
    """Ranks by counting what is smaller and what is equal, then Pearson's correlation."""

    def ranks(values):
        return [
            sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2
            for value in values
        ]

    return float(np.corrcoef(ranks(x), ranks(y))[0, 1])


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=6, max_size=6))
def test_contrast_is_one_less_spearman_also_among_equals(pairs):
    grid = TokenGrid(1, 2, 3)
    x, y = (torch.tensor(values, dtype=torch.float32) for values in zip(*pairs, strict=True))
    (got,) = map_contrast(map_of(x.view(1, 1, 2, 3), grid=grid), map_of(y.view(1, 1, 2, 3), grid=grid))
    if torch.equal(x, y):
        assert got == 0
    elif len(set(x.tolist())) == 1 or len(set(y.tolist())) == 1:
        assert math.isnan(got)
    else:
        assert got == pytest.approx(1 - naive_spearman(x.tolist(), y.tolist()), abs=1e-9)


def test_contrast_is_symmetric_and_sees_order_only():
    one, other = map_of(torch.rand(2, *GRID.shape)), map_of(torch.rand(2, *GRID.shape))
    assert map_contrast(one, other) == pytest.approx(map_contrast(other, one))
    stretched = map_of(one.relevance.exp())
    assert map_contrast(one, stretched) == pytest.approx([0, 0], abs=1e-12)
    assert map_contrast(one, map_of(1 - one.relevance)) == pytest.approx([2, 2], abs=1e-6)
    with pytest.raises(InputError, match="two maps of the same clips and grid are wanted"):
        map_contrast(one, other[0])


@pytest.mark.parametrize("method", [CheferRelevance(), InputXGradient(), Occlusion()], ids=repr)
def test_class_contrast_compares_the_maps_of_two_classes(method):
    model, pixels = random_model(), clips()
    found = class_contrast(method, model, pixels, 1, [0, 3])
    one, other = method(model, pixels, 1), method(model, pixels, [0, 3])
    torch.testing.assert_close(found.a.relevance, one.relevance)
    torch.testing.assert_close(found.b.relevance, other.relevance)
    for clip in range(2):
        x, y = one.relevance[clip].flatten().tolist(), other.relevance[clip].flatten().tolist()
        assert found.contrast[clip] == pytest.approx(1 - naive_spearman(x, y), abs=1e-9)
        assert found.contrast[clip] > 0
    assert found.names == [("class 1 (LABEL_1)", "class 0 (LABEL_0)"), ("class 1 (LABEL_1)", "class 3 (LABEL_3)")]
    assert not found.class_agnostic
    assert f"class contrast of {type(method).__name__}" in str(found)
    assert "between class 1 (LABEL_1) and class 3 (LABEL_3)" in str(found)
    assert "class 3 (LABEL_3)" in Page(found._repr_html_()).text


def test_the_predicted_class_against_the_next():
    model, pixels, mask = random_model(), clips(), torch.rand(3, 4)
    found = class_contrast(CheferRelevance(), model, pixels, head_mask=mask)
    with torch.no_grad():
        best = model(pixels, head_mask=mask).logits.topk(2).indices
    for clip, (first, second) in enumerate(best.tolist()):
        assert found.names[clip] == (
            f"class {first} (LABEL_{first}), predicted",
            f"class {second} (LABEL_{second}), the strongest other",
        )
    want = map_contrast(
        CheferRelevance()(model, pixels, best[:, 0], head_mask=mask),
        CheferRelevance()(model, pixels, best[:, 1], head_mask=mask),
    )
    assert found.contrast == pytest.approx(want)


def test_a_class_agnostic_method_has_none():
    model, pixels = random_model(), clips()
    found = class_contrast(AttentionRollout(), model, pixels, queries=[3])
    assert found.contrast == [0.0, 0.0]
    assert found.a is found.b
    assert found.a.target == "token (t=0, y=1, x=0)"
    assert "0 because the method is class-agnostic" in str(found)
    assert len(Page(found._repr_html_()).images) == 1 + 2 * 2


def test_what_has_no_two_classes_is_refused():
    pixels = clips()
    for model in (random_model(VivitModel), random_model(num_labels=0)):
        with pytest.raises(InputError, match="wants a classifier; compare any two maps with map_contrast"):
            class_contrast(CheferRelevance(), model, pixels)
    with pytest.raises(InputError, match="wants two classes, the model has one"):
        class_contrast(CheferRelevance(), random_model(num_labels=1), pixels)
    with pytest.raises(InputError, match=r"wants two different classes, got \[2, 2\] and \[2, 2\]"):
        class_contrast(CheferRelevance(), random_model(), pixels, 2, 2)
