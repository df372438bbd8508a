import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from tests.heads.pruning import HEADS, LAYERS, model_of
from tests.model.tiny import clips
from vivit_lab.attribution import AttentionRollout
from vivit_lab.errors import InputError
from vivit_lab.heads import HeadMask
from vivit_lab.records import record_attention

matrices = nps.arrays(np.float64, (3, 4), elements=st.floats(0, 1))


@given(matrices, matrices)
def test_laws_of_joining_and_inverting(a, b):
    first, second = HeadMask(a), HeadMask(b)
    assert (first & second).values == HeadMask(np.minimum(a, b)).values
    assert (first | second).values == HeadMask(np.maximum(a, b)).values
    assert first & first == first == first | first
    assert first & HeadMask.ones(3, 4) == first
    np.testing.assert_allclose((~~first).values, a, atol=1e-12)
    binary = HeadMask.from_scores(a, keep=5)
    assert ~(binary & second) == ~binary | ~second
    assert (~binary).kept == [(layer, head) for layer, row in binary.pruned.items() for head in row]


@given(matrices, st.integers(0, 12))
def test_keeping_the_highest_scores(scores, keep):
    mask = HeadMask.from_scores(scores, keep=keep)
    assert len(mask.kept) == keep == sum(mask.counts)
    assert mask.is_binary
    chosen = mask.tensor().bool().numpy()
    if 0 < keep < 12:
        assert scores[chosen].min() >= scores[~chosen].max()
    assert HeadMask.from_scores(scores, fraction=keep / 12) == mask
    assert HeadMask.from_scores(-scores, keep=keep, largest=False) == mask
    assert mask.share_removed == pytest.approx(1 - keep / 12)


def test_heads_that_are_not_there_are_never_kept():
    scores = torch.tensor([[1.0, float("nan")], [3.0, 2.0]])
    assert HeadMask.from_scores(scores, keep=3).pruned == {0: [1]}
    assert HeadMask.from_scores(scores, fraction=1 / 3).kept == [(1, 0)]
    assert HeadMask.from_scores(scores, threshold=2).kept == [(1, 0), (1, 1)]
    assert HeadMask.from_scores(scores, threshold=1, largest=False).kept == [(0, 0)]
    with pytest.raises(InputError, match="from 0 to the 3 heads there are, got 4"):
        HeadMask.from_scores(scores, keep=4)


def test_lists_and_mappings_name_the_same_heads():
    mask = HeadMask.without([(0, 1), (-1, -1)], 3, 4)
    assert mask == HeadMask.without({0: [1], 2: [3]}, 3, 4)
    assert mask.pruned == {0: [1], 2: [3]}
    assert mask.counts == [3, 4, 3]
    assert mask.shape == (3, 4)
    assert "10 kept; removed {0: [1], 2: [3]}" in repr(mask)
    assert "10 of 12 heads kept" in mask._repr_html_()
    assert hash(mask) == hash(HeadMask.without({2: [3], 0: [1]}, 3, 4))


@pytest.mark.parametrize("name", ["mask.json", "mask.npz"])
def test_files(name, tmp_path):
    mask = HeadMask([[0.25, 1], [0, 1 / 3]])
    mask.save(tmp_path / name)
    assert HeadMask.load(tmp_path / name) == mask


def test_a_bare_list_is_read_and_other_files_are_refused(tmp_path):
    path = tmp_path / "bare.json"
    path.write_text(json.dumps([[1, 0]]))
    assert HeadMask.load(path).pruned == {0: [1]}
    for text in ('{"mask": [[1]]}', "not json", '"words"'):
        path.write_text(text)
        with pytest.raises(InputError, match=r"holds no head mask|wants numbers|wants a matrix"):
            HeadMask.load(path)
    with pytest.raises(FileNotFoundError):
        HeadMask.load(tmp_path / "absent.npz")
    np.savez(tmp_path / "other.npz", something=np.ones(3))
    with pytest.raises(InputError, match="holds no head mask"):
        HeadMask.load(tmp_path / "other.npz")
    with pytest.raises(InputError, match=r"kept as .json or .npz, got 'mask.txt'"):
        HeadMask([[1]]).save(tmp_path / "mask.txt")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: HeadMask([[1.5]]), r"in \[0, 1\], 1 keeps; got 1.5"),
        (lambda: HeadMask([[float("nan")]]), r"in \[0, 1\]"),
        (lambda: HeadMask([1, 0]), r"a matrix \(layers, heads\), got shape \(2,\)"),
        (lambda: HeadMask([[1, 0], [1]]), "one row of heads for each layer"),
        (lambda: HeadMask.ones(1, 2) & HeadMask.ones(2, 1), "masks of one shape"),
        (lambda: HeadMask.without([(3, 0)], 3, 4), r"no head \(3, 0\)"),
        (lambda: HeadMask.from_scores([[1, 2]], keep=1, threshold=2), "exactly one of"),
        (lambda: HeadMask.from_scores([[1, 2]]), "exactly one of"),
        (lambda: HeadMask.from_scores([1, 2], keep=1), r"\(layers, heads\), got \(2,\)"),
        (lambda: HeadMask.from_scores([[1, 2]], fraction=1.5), r"lie in \[0, 1\], got 1.5"),
        (lambda: HeadMask.from_scores([[1, 2]], threshold=float("nan")), "threshold must be a finite number, got nan"),
    ],
)
def test_what_is_no_mask_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
    with pytest.raises(TypeError):
        HeadMask([[1]]) & 1


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_it_is_taken_wherever_a_tensor_is(implementation):
    model, pixels = model_of(attn_implementation=implementation), clips()
    mask = HeadMask.without([(0, 1), (2, 3)], LAYERS, HEADS)
    tensor = mask.tensor()
    with torch.no_grad():
        wanted = model(pixels, head_mask=tensor).logits
        assert torch.equal(model(pixels, head_mask=mask).logits, wanted)
        assert not torch.allclose(wanted, model(pixels).logits, atol=1e-3)
    assert torch.equal(record_attention(model, pixels, head_mask=mask).output.logits, wanted)
    heat = AttentionRollout()
    assert torch.equal(heat(model, pixels, head_mask=mask).relevance, heat(model, pixels, head_mask=tensor).relevance)
    with pytest.raises(InputError, match="head_mask must be a tensor or a HeadMask, got list"):
        model(pixels, head_mask=[[1]])
