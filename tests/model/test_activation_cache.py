"""A cache holds what stood at each point, computes the rest exactly, and can be cut, moved, written and read."""

import pytest
import torch

from tests.model.test_hooked import NAMES, make
from tests.model.tiny import clips
from tests.model.traced import trace
from vivit_lab.errors import InputError, OutOfMemoryBudgetError
from vivit_lab.families import VivitModel
from vivit_lab.model import ActivationCache
from vivit_lab.model.hooks import leaf_of
from vivit_lab.records import ClassLogit

LARGE = ("attn_scores", "pattern", "result")


@pytest.fixture(params=["eager", "sdpa"])
def model(request):
    return make(attn_implementation=request.param)


@pytest.fixture
def pixels():
    return clips()


def test_reading_changes_nothing_and_sees_everything(model, pixels):
    seen, _ = trace(model, pixels)
    with torch.no_grad():
        output, cache = model.run_with_cache(pixels)
        assert torch.equal(output.logits, model(pixels).logits)
    assert set(cache) == {name for name in NAMES if leaf_of(name) not in LARGE}
    for name, value in cache.items():
        torch.testing.assert_close(value, seen[name], rtol=1e-4, atol=1e-5, msg=name)
        assert not value.requires_grad
    assert (len(cache), cache.batch_size, next(iter(cache.keys()))) == (len(NAMES) - 9, 2, "hook_embed")
    assert "hook_embed" in cache
    assert "blocks.0.attn.hook_pattern" not in cache


def halve_in_place(value, hook):
    value.mul_(0.5)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, sorted(NAMES)),
        ({"pos_slice": [0, 2]}, ["blocks.1.hook_resid_pre"]),
        ({"incl_bwd": True}, ["blocks.1.hook_resid_pre", "blocks.1.attn.hook_q", "blocks.2.hook_resid_post"]),
    ],
)
def test_a_hook_that_writes_in_place_leaves_what_was_kept_before_it(model, pixels, options, names):
    for name in names:
        with torch.no_grad(), model.hooks([(name, lambda value, hook: value * 0.5)]):
            _, want = model.run_with_cache(pixels, **options)
        with torch.no_grad(), model.hooks([(name, halve_in_place)]):
            _, got = model.run_with_cache(pixels, **options)
        assert set(got) == set(want)
        for point, value in want.items():
            assert torch.equal(got[point], value), (name, point)


@pytest.mark.parametrize("kind", ["forward_hook", "forward_pre_hook"])
def test_pytorchs_own_hooks_that_write_in_place_do_not_reach_it_either(model, pixels, kind):
    with torch.no_grad():
        _, want = model.run_with_cache(pixels, names_filter="blocks.0.hook_resid_post")
        block = model.blocks[1]
        handle = (
            block.ln1.register_forward_hook(lambda module, args, output: halve_in_place(args[0], None))
            if kind == "forward_hook"
            else block.register_forward_pre_hook(lambda module, args: halve_in_place(args[0], None))
        )
        with handle:
            _, got = model.run_with_cache(pixels, names_filter="blocks.0.hook_resid_post")
    assert torch.equal(got["resid_post", 0], want["resid_post", 0])


@pytest.mark.parametrize("by_keyword", [False, True])
def test_a_cache_is_apart_from_input_and_output(pixels, by_keyword):
    model = make()
    with torch.no_grad():
        stream = model.run_with_hooks(pixels, stop_at_layer=1)
        before = stream.clone()
        given = {"pixel_values": stream} if by_keyword else {}
        inputs = () if by_keyword else (stream,)
        end, cache = model.run_with_cache(*inputs, **given, start_at_layer=1, stop_at_layer=2)
        output, whole = model.run_with_cache(pixels, output_hidden_states=True)
        kept = {name: value.clone() for name, value in whole.items()}
        last = end.clone()
    for tensor in (stream, end, *output.hidden_states, output.logits):
        tensor.zero_()
    assert torch.equal(cache["resid_pre", 1], before)
    assert torch.equal(cache["resid_post", 1], last)
    assert all(torch.equal(value, kept[name]) for name, value in whole.items())
    assert whole["resid_post", 0] is whole["resid_pre", 1]  # one tensor, held once


@pytest.mark.parametrize("what", LARGE)
def test_what_was_not_kept_is_computed_when_asked(model, pixels, what):
    with torch.no_grad():
        _, cache = model.run_with_cache(pixels)
        _, kept = model.run_with_cache(pixels, names_filter=lambda name: leaf_of(name) == what)
        assert len(kept) == 3
        for layer in range(3):
            torch.testing.assert_close(cache[what, layer], kept[what, layer])
        one = cache.clip(1)
        torch.testing.assert_close(one[what, -1], kept[what, -1][1])
    assert f"blocks.0.attn.hook_{what}" not in cache


def test_rows_of_the_pattern(model, pixels):
    with torch.no_grad():
        _, cache = model.run_with_cache(pixels, names_filter=[("q", 1), ("k", 1)])
        want = cache["pattern", 1]
        torch.testing.assert_close(cache.pattern_rows(1, [0, -1]), want[:, :, [0, 8]])
        torch.testing.assert_close(cache.pattern_rows(-2, 3), want[:, :, [3]])
    with pytest.raises(InputError, match="the pass did not keep"):
        cache.pattern_rows(0, 0)


def test_an_edited_pattern_is_never_computed_anew(model, pixels):
    hooks = [("blocks.1.attn.hook_attn_scores", lambda value, hook: value * 2)]
    with torch.no_grad(), model.hooks(hooks):
        _, cache = model.run_with_cache(pixels)
        _, kept = model.run_with_cache(pixels, names_filter=[("pattern", 1), ("attn_scores", 1)])
    with pytest.raises(InputError, match=r"blocks\.1\.attn\.hook_pattern was changed by a hook or by dropout"):
        cache["pattern", 1]
    torch.testing.assert_close(kept["attn_scores", 1].softmax(-1), kept["pattern", 1])
    torch.testing.assert_close(
        kept["attn_scores", 1], 2 * cache["q", 1].transpose(1, 2) @ cache["k", 1].permute(0, 2, 3, 1) / 12**0.5
    )
    assert cache["pattern", 0].shape == (2, 4, 9, 9)
    dropping = make(attention_probs_dropout_prob=0.5).train()
    with pytest.raises(InputError, match="or by dropout"):
        dropping.run_with_cache(pixels)[1]["pattern", 0]


def test_short_forms_are_those_of_transformer_lens(model, pixels):
    _, cache = model.run_with_cache(pixels)
    for short, name in {
        ("resid_post", -1): "blocks.2.hook_resid_post",
        ("q", 2): "blocks.2.attn.hook_q",
        ("key", 0): "blocks.0.attn.hook_k",
        ("scale", 0, "ln1"): "blocks.0.ln1.hook_scale",
        ("normalized", 1, "ln2"): "blocks.1.ln2.hook_normalized",
        ("mlp_pre", 1): "blocks.1.mlp.hook_pre",
        ("post", 1, "mlp"): "blocks.1.mlp.hook_post",
        ("post", 1, "m"): "blocks.1.mlp.hook_post",
        ("attn_out", 0): "blocks.0.hook_attn_out",
        "embed": "hook_embed",
        "pos_embed": "hook_pos_embed",
        "scale": "ln_final.hook_scale",
        ("normalized",): "ln_final.hook_normalized",
        "k1": "blocks.1.attn.hook_k",
        "scale0ln2": "blocks.0.ln2.hook_scale",
    }.items():
        assert cache[short] is cache.tensors[name], short


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (("scale", 0), r"\('scale', 0\) may mean blocks\.0\.ln1\.hook_scale, blocks\.0\.ln2\.hook_scale"),
        (("resid_post", 3), r"there is no layer 3; wanted 0\.\.2, or -1 for the last"),
        (("resid_pots", 1), r"no hook point \('resid_pots', 1\) here; did you mean hook_resid_post"),
        ("blocks.0.hook_resid", r"did you mean blocks\.0\.hook_resid"),
        (("1234567890",), r"there are hook_embed, hook_pos_embed"),
        (("q", 1.5), r"the layer of \('q', 1\.5\) must be an integer"),
        (3, r"a hook point is named by a string or \(what, layer\)"),
        ((1, 2), r"a hook point is named by a string"),
        (("embed", 1), r"no hook point \('embed', 1\) here"),
    ],
)
def test_keys_that_mean_nothing_are_refused(model, pixels, key, message):
    _, cache = model.run_with_cache(pixels)
    with pytest.raises(InputError, match=message):
        cache[key]


def test_gradients_stand_beside_the_tensors(model, pixels):
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with torch.inference_mode():
        _, cache = model.run_with_cache(pixels.clone(), names_filter=lambda name: True, incl_bwd=True, target=2)
    assert len(cache) == 2 * len(NAMES)
    stream = cache["resid_post", 1].requires_grad_()
    (want,) = torch.autograd.grad(model.run_with_hooks(stream, start_at_layer=2).logits[:, 2].sum(), stream)
    torch.testing.assert_close(cache["resid_post_grad", 1], want)
    assert torch.equal(cache["blocks.1.hook_resid_post_grad"], cache["resid_post_grad", 1])
    assert all(parameter.grad is None for parameter in model.parameters())
    names = ["blocks.1.attn.hook_z", "blocks.2.hook_resid_pre"]
    ways = {
        "class": 2,
        "classes": torch.tensor([2, 2]),
        "function": lambda output: output.logits[:, 2],
        "target": ClassLogit(2),
        "scalar": lambda output: output.logits[:, 2].sum(),
    }
    for target in ways.values():
        _, each = model.run_with_cache(pixels, names_filter=names, incl_bwd=True, target=target)
        for name in names:
            torch.testing.assert_close(each[f"{name}_grad"], cache[f"{name}_grad"])
    largest = model(pixels).logits.argmax(-1)
    _, own = model.run_with_cache(pixels, names_filter=names, incl_bwd=True)
    _, same = model.run_with_cache(pixels, names_filter=names, incl_bwd=True, target=largest)
    assert torch.equal(own[f"{names[0]}_grad"], same[f"{names[0]}_grad"])
    labels = torch.tensor([0, 3])
    _, lossy = model.run_with_cache(pixels, names_filter=names, incl_bwd=True, labels=labels)
    _, by_hand = model.run_with_cache(
        pixels,
        names_filter=names,
        incl_bwd=True,
        target=lambda out: torch.nn.functional.cross_entropy(out.logits, labels),
    )
    torch.testing.assert_close(lossy[f"{names[0]}_grad"], by_hand[f"{names[0]}_grad"])


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (7, r"target must be a class 0\.\.4"),
        ([1, 2, 3], "one for each of the 2 clips"),
        (0.5, r"target must be a class"),
        (lambda output: 3, "got int"),
        (lambda output: output.logits, r"got \(2, 5\)"),
        (lambda output: output.logits.sum().detach(), r"a tensor with a gradient"),
    ],
)
def test_targets_that_have_no_gradient_are_refused(model, pixels, target, message):
    with pytest.raises(InputError, match=message):
        model.run_with_cache(pixels, incl_bwd=True, target=target)


def test_a_model_without_logits_wants_a_target(pixels):
    with pytest.raises(InputError, match="the output has no logits: pass target"):
        make(VivitModel).run_with_cache(pixels, incl_bwd=True)


@pytest.mark.parametrize("pos_slice", [0, -1, slice(1, 5), slice(None, None, 2), [0, 4, 8], torch.tensor([3])])
def test_a_position_slice_keeps_those_tokens(model, pixels, pos_slice):
    with torch.no_grad():
        everything = lambda name: True  # noqa: E731
        _, whole = model.run_with_cache(pixels, names_filter=everything)
        _, cache = model.run_with_cache(pixels, names_filter=everything, pos_slice=pos_slice)
    index = torch.arange(9)[pos_slice].reshape(-1).tolist()
    assert cache.tokens == index
    for name, value in cache.items():
        axis = 2 if leaf_of(name) in ("attn_scores", "pattern") else 1
        want = whole[name].index_select(axis, torch.tensor(index))
        assert torch.equal(value, want.squeeze(axis) if isinstance(pos_slice, int) else want)
    with pytest.raises(InputError, match="cut already"):
        cache.at(t=0)


@pytest.mark.parametrize("wrong", [9, [0, 9], [], "CLS", slice(9, 12)])
def test_positions_that_do_not_exist_are_refused(model, pixels, wrong):
    with pytest.raises(InputError, match="pos_slice"):
        model.run_with_cache(pixels, pos_slice=wrong)


def test_patterns_of_a_cut_cache_must_be_named(model, pixels):
    _, cache = model.run_with_cache(pixels, pos_slice=[0])
    with pytest.raises(InputError, match=r"did not keep blocks\.0\.attn\.hook_pattern: name it"):
        cache["pattern", 0]


def test_places_on_the_grid(model, pixels):
    with torch.no_grad():
        _, cache = model.run_with_cache(pixels)
        _, named = model.run_with_cache(pixels, names_filter=[("pattern", 1)])
    q, grid = cache["q", 1], cache.grid
    assert torch.equal(cache.at(cls=True)["q", 1], q[:, :1])
    assert torch.equal(cache.at(t=1)["q", 1], q[:, 5:9])
    assert torch.equal(cache.at(t=0, y=1, x=-1)["q", 1], q[:, [grid.token(0, 1, 1)]])
    assert torch.equal(cache.at(x=[1])["q", 1], q[:, [2, 4, 6, 8]])
    assert torch.equal(cache.at(t=slice(1, None), y=0, cls=True)["q", 1], q[:, [0, 5, 6]])
    assert torch.equal(cache.at()["q", 1], q[:, 1:])
    assert torch.equal(named.at(t=1)["pattern", 1], named["pattern", 1][:, :, 5:9])
    assert cache.at(t=1).tokens == [5, 6, 7, 8]
    assert torch.equal(cache.clip(1).at(t=1)["q", 1], q[1, 5:9])
    for wrong in ({"t": 2}, {"y": "top"}, {"x": []}):
        with pytest.raises(InputError, match=f"^{next(iter(wrong))}"):
            cache.at(**wrong)
    cache.grid = None
    with pytest.raises(InputError, match="a known grid"):
        cache.at(t=0)


def test_device_dtype_and_batch(model, pixels):
    with torch.no_grad():
        _, cache = model.run_with_cache(pixels)
        _, half = model.run_with_cache(pixels, dtype=torch.bfloat16, device="cpu")
        _, single = model.run_with_cache(pixels[:1], remove_batch_dim=True)
    assert {value.dtype for value in half.values()} == {torch.bfloat16}
    for name, value in cache.to(torch.bfloat16).items():
        assert torch.equal(value, half[name])
    assert single["q", 0].shape == (9, 4, 12)
    assert single["pattern", 0].shape == (4, 9, 9)
    assert single["result", 0].shape == (9, 4, 48)
    assert single.batch_size is None
    assert single.remove_batch_dim() is single
    torch.testing.assert_close(single["q", 0], cache["q", 0][0])
    with pytest.raises(InputError, match="a cache of 2 clips keeps its batch axis"):
        model.run_with_cache(pixels, remove_batch_dim=True)
    with pytest.raises(InputError, match="index=2 is not in a cache of 2 clips"):
        cache.clip(2)
    with pytest.raises(InputError, match="index=0 is not in a cache of one clip"):
        single.clip(0)


def test_a_changed_cache_still_knows_the_models_layers(model, pixels):
    with torch.no_grad():
        _, cache = model.run_with_cache(
            pixels, names_filter=lambda name: name.startswith(("blocks.0.", "blocks.1.")) and "resid" in name
        )
    for changed in (cache, cache.to("cpu"), cache.at(t=0), cache.clip(0), cache.clip(0).remove_batch_dim()):
        assert changed.points == cache.points
        with pytest.raises(InputError, match=r"did not keep blocks\.2\.hook_resid_pre"):
            changed.accumulated_resid()


@pytest.mark.parametrize("plain", [False, True])
def test_a_result_that_a_hook_changed_is_not_computed_from_z(model, pixels, plain, tmp_path):
    names = ["blocks.0.attn.hook_z", "blocks.1.attn.hook_z"]
    point = model.hook_points["blocks.0.attn.hook_result"]
    handle = point.register_forward_hook(lambda module, args, output: output * 0) if plain else None
    with torch.no_grad(), model.hooks([] if plain else [(point.name, lambda result, hook: result * 0)]):
        _, kept = model.run_with_cache(pixels, names_filter=[*names, point.name])
        _, cache = model.run_with_cache(pixels, names_filter=names)
    if handle is not None:
        handle.remove()
    for held in (kept, kept.to("cpu")):
        assert not held["result", 0].any()
        assert not held.stack_head_results(1).any()
        assert held["result", 1].any()
    cache.save(tmp_path / "cache.safetensors")
    for lacking in (cache, cache.clip(0), ActivationCache.load(tmp_path / "cache.safetensors", model)):
        for read in (lambda cache: cache["result", 0], lambda cache: cache.stack_head_results(1)):
            with pytest.raises(InputError, match=r"blocks\.0\.attn\.hook_result was changed by a hook.*keep it in the"):
                read(lacking)
        assert lacking["result", 1].any()


def test_written_and_read(model, pixels, tmp_path):
    with torch.no_grad():
        _, cache = model.run_with_cache(pixels)
        cache.at(t=0, cls=True).save(tmp_path / "cut.safetensors")
        cache.save(tmp_path / "all.safetensors")
        read = ActivationCache.load(tmp_path / "all.safetensors", model)
        cut = ActivationCache.load(tmp_path / "cut.safetensors")
        assert set(read) == set(cache)
        assert all(torch.equal(value, cache[name]) for name, value in read.items())
        for name in ("grid", "tokens", "scales", "model_id", "provenance", "points", "has_batch_dim"):
            assert getattr(read, name) == getattr(cache, name)
        for name in ("fixed_patterns", "fixed_results"):
            assert getattr(read, name) == getattr(cache, name)
        assert torch.equal(read["pattern", 1], cache["pattern", 1])
        torch.testing.assert_close(read.decompose_resid(apply_ln=True), cache.decompose_resid(apply_ln=True))
    assert cut.tokens == [0, 1, 2, 3, 4]
    assert cut.provenance["attn_implementation"] == model.attn_implementation
    with pytest.raises(InputError, match=r"needs the model's weights: ActivationCache\.load\(path, model=model\)"):
        cut.decompose_resid(apply_ln=True)
    with pytest.raises(FileNotFoundError):
        ActivationCache.load(tmp_path / "none.safetensors")
    (tmp_path / "text").write_text("no")
    with pytest.raises(InputError, match="is not an activation cache"):
        ActivationCache.load(tmp_path / "text")
    model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="a safetensors file, but not an activation cache"):
        ActivationCache.load(tmp_path / "model.safetensors")


def test_sizes_are_shown(model, pixels):
    _, cache = model.run_with_cache(pixels, names_filter=["hook_embed", ("q", 0), ("q", 1)])
    assert cache.nbytes == 3 * 2 * 9 * 48 * 4
    assert repr(cache) == "ActivationCache(3 tensors, 2 clips, grid 2×2×2 + CLS, 10.4 kB)"
    assert "2 tokens" in repr(cache.at(t=0, y=0))
    assert "1 clip," in repr(cache.clip(0))
    page = cache._repr_html_()
    assert "blocks.{i}.attn.hook_q" in page
    assert "2 × 9 × 4 × 12" in page
    stream = model.run_with_hooks(pixels, stop_at_layer=1)
    _, ends = model.run_with_cache(stream, names_filter=[("resid_post", 1), ("resid_pre", 2)], start_at_layer=1)
    assert ends.nbytes == 2 * 9 * 48 * 4  # one tensor at two points
    _, other = model.run_with_cache(stream[:, :5], names_filter=[("resid_post", 1)], start_at_layer=1)
    assert "unknown grid" in repr(other)


def test_parts_of_a_pass_keep_what_they_reach(model, pixels):
    with torch.no_grad():
        _, whole = model.run_with_cache(pixels)
        stream, first = model.run_with_cache(pixels, stop_at_layer=1)
        _, rest = model.run_with_cache(stream, start_at_layer=1)
    assert torch.equal(stream, whole["resid_pre", 1])
    assert set(first) | set(rest) == set(whole)
    assert not set(first) & set(rest)
    for part in (first, rest):
        assert all(torch.equal(value, whole[name]) for name, value in part.items())
    assert rest.grid == whole.grid
    with pytest.raises(
        InputError,
        match=r"did not go through blocks\.1\.hook_resid_pre: it went from the embeddings to the stream before layer 1",
    ):
        model.run_with_cache(pixels, names_filter=("resid_pre", 1), stop_at_layer=1)
    with pytest.raises(InputError, match=r"did not go through hook_embed: it went from layer 1 to the output"):
        model.run_with_cache(stream, names_filter=["hook_embed", "embed"], start_at_layer=1)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ([], "an empty list names no hook point"),
        (3, "hook points are a name, a list"),
        (lambda name: False, "True for no hook point"),
    ],
)
def test_filters_that_mean_nothing_are_refused(model, pixels, wanted, message):
    with pytest.raises(InputError, match=message):
        model.run_with_cache(pixels, names_filter=wanted)


def test_what_does_not_fit_is_refused_before_it_is_made(model, pixels, monkeypatch):
    _, cache = model.run_with_cache(pixels)
    monkeypatch.setattr("vivit_lab.memory.free_bytes", lambda device: 3000)
    with pytest.raises(OutOfMemoryBudgetError, match=r"keeping blocks\.0\.attn\.hook_pattern, .* needs 5\.18 kB"):
        model.run_with_cache(pixels, names_filter=[("pattern", 0), ("pattern", 1)])
    with pytest.raises(OutOfMemoryBudgetError, match=r"blocks\.0\.attn\.hook_pattern of 2 clips needs .*pattern_rows"):
        cache["pattern", 0]
    with pytest.raises(OutOfMemoryBudgetError, match=r"the heads of 3 layers .* pass pos_slice"):
        cache.stack_head_results()
    monkeypatch.setattr("vivit_lab.memory.free_bytes", lambda device: 1000)
    with pytest.raises(
        OutOfMemoryBudgetError, match=r"the logits of 5 classes for 4 × 2 × 9 tokens .* name fewer classes"
    ):
        cache.logit_lens()
