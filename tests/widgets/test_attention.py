"""Rows and columns for the explorer against the whole patterns."""

import pytest
import torch

from vivit_lab.errors import InputError
from vivit_lab.records import record_attention
from vivit_lab.widgets.clip_explorer import AttentionView, RowCache, check_heads, fuse_choice


@pytest.fixture
def record(classifier, clip):
    return record_attention(classifier, clip)


def patterns(record):
    """(layer, head, query, key)."""
    heads = range(record.num_heads)
    return torch.stack([torch.stack([record.pattern(layer, head)[0] for head in heads]) for layer in record.layers])


@pytest.mark.parametrize("token", [0, 1, 8])
def test_rows_and_columns_are_those_of_the_pattern(record, token):
    whole, rows = patterns(record), RowCache(record)
    torch.testing.assert_close(rows.heads(token, "attends_to"), whole[:, :, token, :])
    torch.testing.assert_close(rows.heads(token, "attended_by"), whole[:, :, :, token])


@pytest.mark.parametrize(
    ("choice", "reduce"),
    [
        ("mean", lambda p: p.mean(1)),
        ("max", lambda p: p.amax(1)),
        ("min", lambda p: p.amin(1)),
        (2, lambda p: p[:, 2]),
        ([0, 3], lambda p: (p[:, 0] + p[:, 3]) / 2),
    ],
)
def test_heads_are_fused_as_chosen(record, choice, reduce):
    whole = reduce(patterns(record))
    torch.testing.assert_close(RowCache(record).layers(4, "attends_to", choice), whole[:, 4])
    shown = AttentionView(1, choice, "attended_by")(record, 4)
    torch.testing.assert_close(shown.relevance[0].flatten(), whole[1, 1:, 4])


def test_a_view_says_what_it_is(record):
    shown = AttentionView(-1, [3, 1], "attends_to")(record, record.grid.token(1, 0, 1))
    assert shown.method == "AttentionView"
    assert shown.parameters == {"layer": -1, "head": [3, 1], "direction": "attends_to"}
    assert shown.target == "token (t=1, y=0, x=1)"
    assert shown.scale == "attention probability, where the token looks, mean of heads 1, 3"
    assert AttentionView(direction="attended_by").scale_of(2) == (
        "attention probability, who looks at the token, head 2"
    )
    assert shown.frame_indices == [[0, 3, 12, 15]]


def test_choices_of_heads_have_one_form():
    assert check_heads("max", 4) == "max"
    assert check_heads(-1, 4) == 3
    assert check_heads((3, -3, 1), 4) == [1, 3]
    pattern = torch.rand(2, 4, 3)
    assert torch.equal(fuse_choice(pattern, 3, 1), pattern[:, 3])


@pytest.mark.parametrize("choice", ["median", 4, -5, [], [0, 4], [0.5], True, None, {"a": 1}])
def test_other_choices_are_refused(choice):
    with pytest.raises(InputError, match=r"head must be one of mean, max, min, a head in 0\.\.3"):
        check_heads(choice, 4)


def test_what_cannot_be_shown_is_refused(record, classifier, clip):
    with pytest.raises(InputError, match="direction must be one of attends_to, attended_by, got 'up'"):
        AttentionView(direction="up")
    with pytest.raises(InputError, match="layer 3 is not in the record"):
        AttentionView(3)(record, 0)
    both = record_attention(classifier, [clip, clip])
    with pytest.raises(InputError, match="wanted the record of one clip, got a batch of 2"):
        RowCache(both)


def test_the_cache_forgets_the_oldest(record, monkeypatch):
    monkeypatch.setattr("vivit_lab.widgets.clip_explorer._KEPT", 2)
    rows = RowCache(record)
    first = rows.heads(0, "attends_to")
    rows.heads(1, "attends_to")
    assert rows.heads(0, "attends_to") is first  # asked again, so it is the newest
    rows.heads(2, "attends_to")
    assert rows.heads(0, "attends_to") is first
    assert list(rows._kept) == [(2, "attends_to"), (0, "attends_to")]
