"""The readouts are what TransformerLens documents: parts that sum to the stream, in its order, shapes and labels."""

from itertools import product

import pytest
import torch

from tests.model.test_hooked import make
from tests.model.tiny import clips
from vivit_lab.errors import InputError
from vivit_lab.families import VivitModel
from vivit_lab.model import ActivationCache


@pytest.fixture(params=["eager", "sdpa"])
def model(request):
    return make(attn_implementation=request.param)


@pytest.fixture
def cache(model):
    with torch.no_grad():
        return model.run_with_cache(clips())[1]


@pytest.mark.parametrize("layer", [0, 1, 2, 3, -1, None])
@pytest.mark.parametrize("incl_mid", [False, True])
@pytest.mark.parametrize("mlp_input", [False, True])
def test_accumulated_resid(cache, layer, incl_mid, mlp_input):
    stack, labels = cache.accumulated_resid(layer, incl_mid=incl_mid, mlp_input=mlp_input, return_labels=True)
    last = 3 if layer in (None, -1) else layer
    expected = []
    for index in range(min(last + 1, 3)):
        expected.append((f"{index}_pre", ("resid_pre", index)))
        if (incl_mid and index < last) or (mlp_input and index == last):
            expected.append((f"{index}_mid", ("resid_mid", index)))
    expected += [("final_post", ("resid_post", 2))] * (last == 3)
    assert labels == [label for label, _ in expected]
    assert torch.equal(stack, torch.stack([cache[name] for _, name in expected]))
    assert torch.equal(
        cache.accumulated_resid(layer, incl_mid=incl_mid, mlp_input=mlp_input, pos_slice=[0, 3]), stack[..., [0, 3], :]
    )


@pytest.mark.parametrize("layer", [0, 1, 2, 3, -1])
@pytest.mark.parametrize("mlp_input", [False, True])
def test_parts_sum_to_the_stream(cache, layer, mlp_input):
    stack, labels = cache.decompose_resid(layer, mlp_input=mlp_input, return_labels=True)
    inside = layer in (0, 1, 2)
    want = (
        cache["resid_mid", layer]
        if mlp_input and inside
        else cache["resid_pre", layer]
        if inside
        else cache["resid_post", 2]
    )
    torch.testing.assert_close(stack.sum(0), want, rtol=1e-5, atol=1e-5)
    count = layer if inside else 3
    names = ["embed", "pos_embed", *(f"{i}_{what}_out" for i in range(count) for what in ("attn", "mlp"))]
    assert labels == names + [f"{layer}_attn_out"] * (mlp_input and inside)
    attn, attn_labels = cache.decompose_resid(layer, mode="attn", incl_embeds=True, return_labels=True)
    mlp = cache.decompose_resid(layer, mode="mlp", incl_embeds=True)
    torch.testing.assert_close(attn.sum(0) + mlp[2:].sum(0), cache.decompose_resid(layer).sum(0))
    assert attn_labels == ["embed", "pos_embed", *(f"{i}_attn_out" for i in range(count))]


@pytest.mark.parametrize("layer", [0, 1, 2, 3, -1, None])
def test_head_results(model, cache, layer):
    count = 3 if layer in (-1, None) else layer
    stack, labels = cache.stack_head_results(layer, return_labels=True)
    assert labels == [f"L{index}H{head}" for index in range(count) for head in range(4)]
    assert stack.shape == (4 * count, 2, 9, 48)
    whole, all_labels = cache.stack_head_results(layer, incl_remainder=True, return_labels=True)
    assert all_labels == [*labels, "remainder"]
    want = cache["resid_pre", count] if count < 3 else cache["resid_post", 2]
    torch.testing.assert_close(whole.sum(0), want, rtol=1e-5, atol=1e-5)
    for index in range(count):
        biased = stack[4 * index : 4 * index + 4].sum(0) + model.blocks[index].attn.o.bias
        torch.testing.assert_close(biased, cache["attn_out", index])
    cut = cache.stack_head_results(layer, pos_slice=0)
    torch.testing.assert_close(cut, stack[:, :, 0])
    with torch.no_grad():
        _, kept = model.run_with_cache(clips(), names_filter=lambda name: "result" in name)
    without_model = ActivationCache(kept, points=cache.points)
    if count:
        assert without_model.stack_head_results(layer).shape == stack.shape


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_head_results_of_a_cache_in_another_dtype(cache, dtype):
    with torch.no_grad():
        half = cache.to(dtype)
        stack = half.stack_head_results(1)
        assert stack.dtype == half["result", 0].dtype == dtype
        torch.testing.assert_close(stack.float(), cache.stack_head_results(1), rtol=0.03, atol=0.03)


@pytest.mark.parametrize(("layer", "mlp_input"), [*product((0, 1, 2), (False, True)), (-1, False)])
def test_a_frozen_layer_norm_is_linear_and_true_on_the_whole(model, cache, layer, mlp_input):
    parts = cache.decompose_resid(layer, mlp_input=mlp_input, apply_ln=True)
    norm = model.ln_final if layer == -1 else getattr(model.blocks[layer], "ln2" if mlp_input else "ln1")
    name = "ln_final.hook_normalized" if layer == -1 else ("normalized", layer, "ln2" if mlp_input else "ln1")
    torch.testing.assert_close(parts.sum(0) + norm.bias, cache[name], rtol=1e-4, atol=1e-5)
    streams = cache.accumulated_resid(layer, mlp_input=mlp_input, apply_ln=True)
    want = cache[name] if layer == -1 else cache[name] - norm.bias
    torch.testing.assert_close(streams[-1], want, rtol=1e-4, atol=1e-5)
    heads = cache.stack_head_results(layer, apply_ln=True, pos_slice=[0], incl_remainder=True)
    if not mlp_input:
        torch.testing.assert_close(heads.sum(0) + norm.bias, cache[name][:, :1], rtol=1e-4, atol=1e-5)


def test_logit_attrs_sum_to_the_logits(model, cache):
    with torch.no_grad():
        logits = model.classifier(cache["ln_final.hook_normalized"])  # of every token
    constant = model.classifier(model.ln_final.bias)
    parts = cache.decompose_resid()
    for classes in (3, torch.tensor([1, 4])):
        index = torch.as_tensor(classes).expand(2)
        got = cache.logit_attrs(parts, classes).sum(0)
        want = torch.stack([logits[clip, :, index[clip]] - constant[index[clip]] for clip in range(2)])
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
        rival = cache.logit_attrs(parts, classes, incorrect_classes=0)
        torch.testing.assert_close(
            rival, cache.logit_attrs(parts, classes) - cache.logit_attrs(parts, 0), rtol=1e-4, atol=1e-5
        )
    cut = cache.logit_attrs(cache.decompose_resid(pos_slice=0), 3, pos_slice=0)
    torch.testing.assert_close(cut, cache.logit_attrs(parts, 3)[..., 0])
    one = cache.clip(1)
    torch.testing.assert_close(one.logit_attrs(one.decompose_resid(), 3), cache.logit_attrs(parts, 3)[:, 1])


def test_stacks_of_one_activation(cache):
    assert torch.equal(cache.stack_activation("z"), torch.stack([cache["z", layer] for layer in range(3)]))
    assert torch.equal(cache.stack_activation("scale", 2, "ln1")[1], cache["scale", 1, "ln1"])
    with pytest.raises(InputError, match="there is no layer before layer 0"):
        cache.stack_activation("z", 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda cache: cache.decompose_resid(mode="head"), "mode='head' is not known"),
        (lambda cache: cache.decompose_resid(0, incl_embeds=False), "no part is left"),
        (lambda cache: cache.decompose_resid(4), r"layer must be 0\.\.3, or -1 or None for the end, got 4"),
        (lambda cache: cache.accumulated_resid(True), r"layer must be"),
        (lambda cache: cache.logit_attrs(cache.decompose_resid(), 5), r"classes must be of 0\.\.4"),
        (lambda cache: cache.logit_attrs(cache.decompose_resid(), 0.5), r"classes must be of"),
        (lambda cache: cache.accumulated_resid(pos_slice=9), "pos_slice=9 names nothing"),
        (lambda cache: cache.logit_lens([5]), r"classes must be some of 0\.\.4, got \[5\]"),
        (lambda cache: cache.logit_lens([]), r"classes must be some of"),
    ],
)
def test_what_there_is_not_is_refused(cache, call, message):
    with pytest.raises(InputError, match=message):
        call(cache)


def test_models_and_caches_that_lack_something_say_so(model, cache):
    bare = make(VivitModel)
    _, without = bare.run_with_cache(clips())
    with pytest.raises(InputError, match="no linear classifier"):
        without.logit_attrs(without.decompose_resid(), 0)
    with pytest.raises(InputError, match="no classifier, so there is no lens"):
        without.logit_lens()
    _, some = model.run_with_cache(clips(), names_filter=("resid_pre", 0))
    with pytest.raises(InputError, match=r"did not keep blocks\.1\.hook_resid_pre"):
        some.accumulated_resid()
    _, single = model.run_with_cache(clips(), pos_slice=0)
    with pytest.raises(InputError, match="a single token without its axis, so there is nothing to slice"):
        single.accumulated_resid(pos_slice=0)
    with pytest.raises(InputError, match="cut it with a list or slice instead"):
        single.logit_lens()
    odd = ActivationCache(
        {name: value[:, : 3 + len(name) % 2] for name, value in cache.items()}, model, points=cache.points
    )
    with pytest.raises(InputError, match="has other tokens in other layers"):
        odd.decompose_resid()
