"""Attention knock-out against loops over pairs and a hand-made softmax."""

import pytest
import torch

from tests.interventions.models import clips, same, small_model, snapshot
from vivit_lab.errors import GridError, InputError
from vivit_lab.grid import TokenGrid
from vivit_lab.heads import prune_heads
from vivit_lab.interventions import Region, knock_out
from vivit_lab.interventions.knockout import PAIRS, blocked_pairs

GRID = TokenGrid(3, 2, 2)


def naive(name, query, key):
    """Whether a pair of positions (None is CLS) is blocked."""
    if name in ("cls_to_tubelets", "tubelets_to_cls"):
        one, other = (query, key) if name == "cls_to_tubelets" else (key, query)
        return one is None and other is not None
    if query is None or key is None:
        return False
    return {
        "later_to_earlier": query[0] > key[0],
        "earlier_to_later": query[0] < key[0],
        "other_frames": query[0] != key[0],
        "own_frame": query[0] == key[0],
        "other_places": query[1:] != key[1:],
    }[name]


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("grid", [GRID, TokenGrid(3, 2, 2, cls=False)])
def test_named_pairs_are_the_plain_loop(name, grid):
    if "cls" in name and not grid.cls:
        with pytest.raises(GridError, match="names a CLS token"):
            blocked_pairs(grid, name)
        return
    count = grid.num_tokens
    wanted = [[naive(name, grid.position(q), grid.position(k)) for k in range(count)] for q in range(count)]
    assert blocked_pairs(grid, name).tolist() == wanted


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocked_weights_are_zero_and_rows_renormalised(attention, dtype):
    model, x = small_model(attention).to(dtype), clips()
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(3)]
    _, clean = model.run_with_cache(x, names_filter=names)
    with knock_out(model, "later_to_earlier", layers=[0, -1]):
        _, cache = model.run_with_cache(x, names_filter=names)
    blocked = blocked_pairs(model.config.grid, "later_to_earlier")
    tolerance = 1e-6 if dtype == torch.float32 else 1e-2
    for layer in (0, 2):
        pattern = cache["pattern", layer].float()
        assert not pattern[..., blocked].any()
        assert torch.allclose(pattern.sum(-1), torch.ones(()), atol=tolerance)
    first = clean["pattern", 0].float().masked_fill(blocked, 0)
    wanted = first / first.sum(-1, keepdim=True)
    assert torch.allclose(cache["pattern", 0].float(), wanted, atol=tolerance)


def test_only_the_heads_named_are_blocked():
    model, x = small_model(), clips()
    with knock_out(model, queries="cls", keys=Region(t=0), heads=[(1, 0), (1, 3)]):
        _, cache = model.run_with_cache(x, names_filter="blocks.1.attn.hook_pattern")
    _, clean = model.run_with_cache(x, names_filter="blocks.1.attn.hook_pattern")
    pattern, own = cache["pattern", 1], clean["pattern", 1]
    earliest = Region(t=0).mask(model.config.grid)
    assert not pattern[:, [0, 3], 0][..., earliest].any()
    assert torch.equal(pattern[:, [1, 2]], own[:, [1, 2]])
    assert torch.equal(pattern[:, :, 1:], own[:, :, 1:])


def test_a_pruned_models_heads_are_blocked_by_their_born_numbers():
    model, x = prune_heads(small_model(), {0: range(4), 1: [0, 2]}), clips()
    names = ["blocks.1.attn.hook_pattern", "blocks.2.attn.hook_pattern"]
    earliest = Region(t=0).mask(model.config.grid)
    blocked = {"queries": "cls", "keys": Region(t=0)}
    with knock_out(model, **blocked, heads=[(1, 3)]):
        _, cache = model.run_with_cache(x, names_filter=names)
    assert not cache["pattern", 1][:, 1, 0][..., earliest].any()  # head 3 stands second
    assert cache["pattern", 1][:, 0, 0][..., earliest].all()
    with knock_out(model, **blocked):  # all heads of all layers, of which one has none
        _, cache = model.run_with_cache(x, names_filter=names)
    assert not any(cache["pattern", layer][:, :, 0][..., earliest].any() for layer in (1, 2))
    with pytest.raises(InputError, match="were pruned"):
        knock_out(model, **blocked, heads=[(1, 0)])


def test_blocking_cls_from_all_frames_but_its_own_token_makes_it_blind():
    model, x = small_model(), clips()
    blind = knock_out(model, "cls_to_tubelets")
    assert torch.allclose(blind(x).logits[0], blind(x).logits[1], atol=1e-6)  # it never saw either clip
    assert not torch.allclose(model(x).logits[0], model(x).logits[1], atol=1e-3)


def test_a_query_without_keys_is_an_error_or_keeps_cls():
    model, x = small_model(), clips()
    everything = {"queries": Region(t=1), "keys": None}
    with pytest.raises(InputError, match=r"4 queries would have no key left \(token 5 at \(1, 0, 0\)\)"):
        knock_out(model, **everything)
    with knock_out(model, **everything, keep_cls=True):
        _, cache = model.run_with_cache(x, names_filter="blocks.0.attn.hook_pattern")
    later = Region(t=1).mask(model.config.grid)
    assert torch.equal(cache["pattern", 0][:, :, later, 0], torch.ones(2, 4, 4))


def test_a_mask_of_pairs_and_groups_narrow_each_other():
    pairs = torch.rand(13, 13) < 0.3
    blocked = blocked_pairs(GRID, pairs, queries=[1, 2], keys="tubelets")
    wanted = pairs.clone()
    wanted[0] = False
    wanted[3:] = False
    wanted[:, 0] = False
    assert torch.equal(blocked, wanted)


def test_all_other_layers_stay_fused_and_nothing_stays():
    model, x = small_model(), clips()
    before, clean = snapshot(model), model(x).logits

    def fails():
        with knock_out(model, "other_frames", layers=[1]):
            assert not torch.allclose(model(x).logits, clean, atol=1e-3)
            assert model.attn_implementation == "sdpa"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert same(before, snapshot(model))
    assert torch.equal(model(x).logits, clean)


def test_words():
    text = repr(knock_out(small_model(), "own_frame", layers=[1]))
    assert text == "Intervention(knock-out in blocks.1.attn: no tubelet looks at its own frame)"
    text = repr(knock_out(small_model(), queries="cls", keys=Region(t=0), layers=[0]))
    assert text == "Intervention(knock-out in blocks.0.attn: the CLS token may not look at Region(t=0))"
    text = repr(knock_out(small_model(), torch.eye(9, dtype=torch.bool), layers=[0]))
    assert text.endswith("9 pairs of a query and a key blocked)")


def test_what_does_not_fit_is_refused():
    model = small_model()
    for options, error, message in [
        ({}, InputError, "say what to block"),
        ({"pairs": "future"}, InputError, "'future' is not known"),
        ({"pairs": torch.ones(9, 9)}, GridError, r"a bool mask \(9, 9\)"),
        ({"pairs": torch.zeros(9, 9, dtype=torch.bool)}, InputError, "no pair of a query and a key"),
        ({"pairs": "own_frame", "layers": [3]}, InputError, "layer 3 does not exist"),
        ({"pairs": "own_frame", "layers": [0], "heads": [(0, 0)]}, InputError, "not both"),
        ({"pairs": "own_frame", "layers": []}, InputError, "nothing was named"),
    ]:
        with pytest.raises(error, match=message):
            knock_out(model, **options)
    with pytest.raises(GridError, match="the token grid has 9 tokens"):
        knock_out(model, "own_frame")(torch.zeros(1, 4, 3, 48, 32), interpolate_pos_encoding=True)
