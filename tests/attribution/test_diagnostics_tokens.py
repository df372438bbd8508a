"""Artefact tokens and attention sinks equal their definitions, counted one token at a time."""

import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.attribution.naive import dense, random_model
from tests.attribution.test_base import Page
from tests.model.tiny import clips
from vivit_lab.attribution import AttentionGradient, AttentionRollout, AttributionMap, artefact_tokens, attention_sinks
from vivit_lab.attribution.diagnostics import Sink
from vivit_lab.errors import InputError
from vivit_lab.grid import TokenGrid
from vivit_lab.records import attention as record_module
from vivit_lab.records import record_attention, record_gradients
from vivit_lab.records.values import ValueRecord, record_values


@pytest.fixture
def model():
    return random_model()


def record_of_norms(norms, cls=7.0, clips=1):
    """A record whose final state has tokens of these norms on a grid of one row of time and space."""
    grid = TokenGrid(len(norms), 1, 1)
    states = torch.zeros(clips, len(norms) + 1, 3)
    states[:, :, 1] = torch.tensor([cls, *norms])
    empty = {0: torch.zeros(clips, 1, len(norms) + 1, 3)}
    return ValueRecord(grid, empty, empty, 1.0, 1, final_state=states)


# --- artefact tokens --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True])
def test_norms_are_those_of_the_residual_stream(model, masked):
    pixels, mask = clips(), torch.rand(3, 4) if masked else None
    truth = dense(model, pixels, mask)
    record = record_values(model, pixels, head_mask=mask, final_state=True)
    last = artefact_tokens(record)
    for found, state, where in (
        (last, truth.outs[-1], "residual stream after the last layer"),
        (artefact_tokens(record, layer=1), truth.states[1], "residual stream that enters layer 1"),
        (artefact_tokens(record, layer=-1), truth.states[2], "residual stream that enters layer 2"),
    ):
        want = state.norm(dim=-1).float()
        torch.testing.assert_close(found.norms.flatten(1), want[:, 1:])
        torch.testing.assert_close(torch.tensor(found.cls_norms), want[:, 0])
        assert found.where == where
    assert last.relevance_mass is None
    assert last.lift is None
    assert last.norm_map.relevance.shape == (2, 2, 2, 2)
    without = artefact_tokens(record_gradients(model, pixels, states=True, head_mask=mask))
    assert without.where == "residual stream that enters layer 2"


@given(
    st.lists(st.floats(0.5, 20), min_size=1, max_size=12),
    st.lists(st.floats(50, 500), max_size=3),
    st.floats(0.5, 9),
    st.randoms(),
)
def test_the_rule_is_the_median_and_its_deviation(usual, large, deviations, random):
    norms = [float(torch.tensor(value)) for value in (*usual, *large)]
    random.shuffle(norms)
    found = artefact_tokens(record_of_norms(norms), deviations=deviations)
    middle = statistics.median(norms)
    spread = max(1.4826 * statistics.median(abs(norm - middle) for norm in norms), 1e-4 * middle)
    limit = middle + deviations * spread
    assert found.thresholds == pytest.approx([limit], rel=1e-5)
    wanted = [norm > limit for norm in norms]
    unclear = [abs(norm - limit) < 1e-4 * limit for norm in norms]
    got = found.outliers.flatten().tolist()
    assert all(a == b or skip for a, b, skip in zip(got, wanted, unclear, strict=True))


def test_planted_artefacts_are_found_and_weighed():
    norms = [10.0, 11.0, 9.0, 300.0, 10.5, 9.5, 200.0, 10.0]
    record = record_of_norms(norms, cls=1000.0, clips=2)
    relevance = torch.tensor([[1.0, 1, 1, 4, 1, 1, 2, 1], [0.0] * 8]).view(2, 8, 1, 1)
    heat = AttributionMap(relevance, record.grid, "raw")
    found = artefact_tokens(record, heat)
    assert found.places == [[(3, 0, 0), (6, 0, 0)]] * 2
    assert found.share == [0.25, 0.25]
    assert found.relevance_mass == pytest.approx([0.5, math.nan], nan_ok=True)
    assert found.lift == pytest.approx([2.0, math.nan], nan_ok=True)
    signed = AttributionMap(relevance * torch.tensor([1.0, -1] * 4).view(8, 1, 1), record.grid, "signed", signed=True)
    assert artefact_tokens(record, signed).relevance_mass[0] == pytest.approx(0.5)
    assert artefact_tokens(record, threshold=250).places[0] == [(3, 0, 0)]
    text = str(found)
    assert "clip 0: 2 of 8 tubelets (25.00%)" in text
    assert (
        "at (t, y, x) = (3, 0, 0), (6, 0, 0); 50.00% of the relevance of raw lies on them, 2 times their share" in text
    )
    assert "norm above 250" in str(artefact_tokens(record, threshold=250))
    page = Page(found._repr_html_())
    assert len(page.images) == 1 + 2 * 8
    assert "50.00% of the relevance" in page.text


def test_equal_norms_have_no_artefacts_in_spite_of_rounding():
    norms = [10.0, 10.0 + 1e-5, 10.0, 10.0 - 1e-5, 10.0, 10.0]
    found = artefact_tokens(record_of_norms(norms))
    assert not found.outliers.any()
    assert "0 of 6 tubelets" in str(found)
    heat = AttributionMap(torch.ones(1, 6, 1, 1), TokenGrid(6, 1, 1), "raw")
    assert math.isnan(artefact_tokens(record_of_norms(norms), heat).lift[0])
    many = artefact_tokens(record_of_norms([1.0] * 20 + [50.0] * 8))
    assert "and 2 more" in str(many)


def test_artefacts_that_cannot_be_found_are_refused(model):
    pixels = clips()
    for record in (record_attention(model, pixels), record_gradients(model, pixels)):
        with pytest.raises(InputError, match=r"no residual stream: take it with record_values\(model, clips, final_s"):
            artefact_tokens(record)
    record = record_values(model, pixels, layers=[1])
    with pytest.raises(InputError, match=r"layer 0 is not among the layers whose state was recorded, \[1\]"):
        artefact_tokens(record, layer=0)
    for settings in ({"deviations": 0.0}, {"threshold": -1.0}, {"threshold": math.nan}):
        with pytest.raises(InputError, match=r"must be a (positive|finite) number"):
            artefact_tokens(record, **settings)
    with pytest.raises(InputError, match=r"the map has 1 clips on a grid \(2, 2, 2\), the record 2 on"):
        artefact_tokens(record, AttentionRollout()(model, pixels[:1]))
    with pytest.raises(InputError, match="give a map of the recorded clips"):
        artefact_tokens(record, AttributionMap(torch.ones(2, 1, 1, 8), TokenGrid(1, 1, 8), "raw"))


# --- attention sinks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("rows", [1, 4, 9])
def test_received_attention_is_the_column_mean(model, monkeypatch, rows, masked):
    monkeypatch.setattr(record_module, "_BLOCK_BYTES", {"cpu": rows * 9 * 4 * 4})
    pixels, mask = clips(), torch.rand(3, 4) if masked else None
    record = record_attention(model, pixels, head_mask=mask)
    found = attention_sinks(record, minimum_lift=1.5)
    truth = dense(model, pixels, mask)
    want = torch.stack([pattern.mean(dim=2) for pattern in truth.patterns], dim=1).float()
    torch.testing.assert_close(found.received, want.detach())
    torch.testing.assert_close(found.lift, 9 * want.detach())
    torch.testing.assert_close(found.received.sum(dim=-1), torch.ones(2, 3, 4))
    torch.testing.assert_close(found.cls_share, want[..., 0].detach())
    expected, shares = [], torch.zeros(2, 3, 4)
    for clip in range(2):
        for layer in range(3):
            for head in range(4):
                for token in range(9):
                    part = float(found.received[clip, layer, head, token])
                    if part * 9 >= 1.5:
                        expected.append((clip, layer, head, token))
                        shares[clip, layer, head] += part
    assert {(sink.clip, sink.layer, sink.head, sink.token) for sink in found.sinks()} == set(expected)
    assert expected
    torch.testing.assert_close(found.share, shares)
    lifts = [sink.lift for sink in found.sinks()]
    assert lifts == sorted(lifts, reverse=True)
    assert found.sinks(3) == found.sinks()[:3]


def sink_record(token, head=1):
    """Two layers of two heads over CLS and 2×2×2 tubelets; in the second, one head looks at one token alone."""
    grid = TokenGrid(2, 2, 2)
    query = torch.ones(1, 2, 9, 1)
    key = torch.zeros(1, 2, 9, 1)
    key[0, head, token] = 50
    zero = torch.zeros_like(key)
    record = record_attention(random_model(), clips(1))
    return type(record)(grid, {0: query, 1: query}, {0: zero, 1: key}, 1.0, 2)


@pytest.mark.parametrize(("token", "position"), [(0, None), (6, (1, 0, 1))])
def test_a_planted_sink_is_named(token, position):
    found = attention_sinks(sink_record(token), minimum_lift=5)
    assert found.sinks() == [Sink(0, 1, 1, token, position, pytest.approx(1.0), pytest.approx(9.0))]
    name = "CLS" if position is None else "(t=1, y=0, x=1)"
    assert "layer 1: 1 of 2 heads with a sink, 50.0% of attention on sinks" in str(found)
    assert f"{name} in layer 1 head 1, 100.0% = 9 × uniform" in str(found)
    assert "layer 0: 0 of 2 heads with a sink, 0.0% of attention on sinks, 11.1% on CLS; none" in str(found)
    page = Page(found._repr_html_())
    assert "strongest sink" in page.text
    assert name in page.text


def test_only_some_layers_and_a_grid_without_cls():
    record = sink_record(6)
    assert attention_sinks(record, layers=[-1]).layers == [1]
    bare = type(record)(TokenGrid(3, 3, 1, cls=False), record.queries, record.keys, 1.0, 2)
    found = attention_sinks(bare, minimum_lift=2)
    assert found.cls_share is None
    assert found.sinks()[0].position == (2, 0, 0)
    assert "on CLS" not in str(found)


def test_sinks_that_cannot_be_found_are_refused(model):
    record = record_attention(model, clips(), layers=[2])
    for lift in (1.0, math.inf, math.nan):
        with pytest.raises(InputError, match=r"minimum_lift must be (above 1|a finite number)"):
            attention_sinks(record, minimum_lift=lift)
    with pytest.raises(InputError, match="layer 0 is not in the record"):
        attention_sinks(record, layers=[0])
    with pytest.raises(InputError, match="layers is empty"):
        attention_sinks(record, layers=[])


def test_a_gradient_record_serves_all(model):
    record = record_gradients(model, clips(), 1, states=True)
    found = artefact_tokens(record, AttentionGradient(positive=False)(record))
    assert found.method == "AttentionGradient"
    assert attention_sinks(record).received.shape == (2, 3, 4, 9)
