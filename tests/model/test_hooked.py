"""Laws of the hooks: what they see, what they change, in which order, and that nothing of them stays."""

import copy
import gc
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.model.tiny import TINY, clips
from tests.model.traced import lively, trace
from vivit_lab.errors import BackendError, InputError, OutOfMemoryBudgetError
from vivit_lab.families import VivitForVideoClassification, VivitModel
from vivit_lab.model import HookPoint, VivitConfig
from vivit_lab.model.blocks import LayerNorm
from vivit_lab.model.hooks import Hook
from vivit_lab.records import record_attention

NAMES = {
    "hook_embed",
    "hook_pos_embed",
    *(
        f"blocks.{layer}.{name}"
        for layer in range(3)
        for name in (
            *(f"hook_{what}" for what in ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")),
            *(f"ln{number}.hook_{what}" for number in (1, 2) for what in ("scale", "normalized")),
            *(f"attn.hook_{what}" for what in ("q", "k", "v", "z", "attn_scores", "pattern", "result")),
            *(f"mlp.hook_{what}" for what in ("pre", "post")),
        )
    ),
    "ln_final.hook_scale",
    "ln_final.hook_normalized",
}


def make(kind=VivitForVideoClassification, **fields):
    torch.manual_seed(0)
    return lively(kind, VivitConfig(**{**TINY, "num_labels": 5, **fields}))


@pytest.fixture(params=["eager", "sdpa"])
def model(request):
    return make(attn_implementation=request.param)


@pytest.fixture
def pixels():
    return clips()


def scale_in_place(factor, shift=0.0):
    """A hook that writes into the tensor and returns nothing."""

    def write(value, hook):  # more at one end than at the other, which no LayerNorm or softmax takes out again
        value.mul_(torch.linspace(1.0, factor, value.shape[-1])).add_(shift)

    return write


def hooks_left(model):
    return sum(len(module._hooks) for module in model.modules() if isinstance(module, HookPoint))


def test_the_points_are_the_published_ones_and_hold_no_parameters(model):
    assert set(model.hook_names) == NAMES
    assert set(make(VivitModel).hook_names) == NAMES
    assert not any("hook" in name for name in model.state_dict())
    for name, point in model.hook_points.items():
        assert model.get_submodule(name) is point
        assert point.name == name


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_hook_sees_the_value_that_its_name_promises(model, pixels, name):
    seen, logits = trace(model, pixels)
    got = []
    with torch.no_grad():
        output = model.run_with_hooks(pixels, fwd_hooks=[(name, lambda value, hook: got.append((value.clone(), hook)))])
    (value, hook), *more = got
    assert not more
    assert hook.name == name
    torch.testing.assert_close(value, seen[name], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.logits, logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_replacement_reaches_the_output_and_nothing_of_it_stays(model, pixels, name):
    with torch.no_grad():
        want = model(pixels).logits
        changed = model.run_with_hooks(pixels, fwd_hooks=[(name, lambda value, hook: torch.rand_like(value) + 0.5)])
        in_place = model.run_with_hooks(pixels, fwd_hooks=[(name, scale_in_place(1.5, 1.0))])
        same = model.run_with_hooks(pixels, fwd_hooks=[(name, lambda value, hook: value.clone())])
        after = model(pixels).logits
    assert not torch.allclose(changed.logits, want, atol=1e-4)
    if not name.endswith("hook_scale"):  # a single number: the two factors are one
        assert not torch.allclose(in_place.logits, want, atol=1e-4)
    torch.testing.assert_close(same.logits, want, rtol=1e-5, atol=1e-6)
    assert torch.equal(after, want)
    assert hooks_left(model) == 0


def test_a_patched_layer_is_as_if_computed_so(model, pixels):
    other = torch.randn_like(pixels)
    with torch.no_grad():
        _, cache = model.run_with_cache(other)
        for name in ("blocks.2.hook_resid_post", "ln_final.hook_normalized"):
            got = model.run_with_hooks(pixels, fwd_hooks=[(name, lambda value, hook: cache[hook.name])])
            torch.testing.assert_close(got.logits, model(other).logits)


def test_functions_that_write_in_place_do_not_reach_the_parameters(model, pixels):
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        for name in model.hook_names:
            model.run_with_hooks(pixels, fwd_hooks=[(name, scale_in_place(0.0))])
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_one_hooked_pattern_makes_that_layer_alone_eager(pixels, monkeypatch):
    model, fused = make(attn_implementation="sdpa"), []
    real = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda *args, **options: fused.append(1) or real(*args, **options),
    )
    with torch.no_grad():
        model(pixels)
        assert len(fused) == 3
        for name in ("pattern", "attn_scores"):
            fused.clear()
            model.run_with_hooks(pixels, fwd_hooks=[(f"blocks.1.attn.hook_{name}", lambda value, hook: None)])
            assert len(fused) == 2
        fused.clear()
        handle = model.blocks[0].attn.hook_pattern.register_forward_hook(lambda *_: None)
        model(pixels)
        handle.remove()
        assert len(fused) == 2


def test_results_and_scales_are_computed_for_hooks_alone(model, pixels, monkeypatch):
    def forbidden(*_):
        raise AssertionError("computed though nobody looks")

    monkeypatch.setattr(type(model.blocks[0].attn), "head_results", forbidden)
    monkeypatch.setattr(LayerNorm, "scale_of", forbidden)
    monkeypatch.setattr(LayerNorm, "scaled", forbidden)
    model(pixels)
    model.run_with_hooks(pixels, fwd_hooks=[("blocks.0.ln1.hook_normalized", lambda value, hook: None)])
    for name in ("blocks.0.attn.hook_result", "ln_final.hook_scale"):
        with pytest.raises(AssertionError, match="computed though nobody looks"):
            model.run_with_hooks(pixels, fwd_hooks=[(name, lambda value, hook: None)])


EDITS = {
    "double": lambda value, hook: value * 2,
    "shift": lambda value, hook: value + 1,
    "nothing": lambda value, hook: None,
    "in place": scale_in_place(0.5),
}


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(NAMES - {"hook_pos_embed"})), st.sampled_from(sorted(EDITS))),
        min_size=1,
        max_size=5,
    )
)
def test_hooks_compose_in_the_order_of_registration_and_leave_nothing(chosen):
    model = make(attn_implementation="eager")
    pixels, order = torch.ones(1, 4, 3, 32, 32), []

    def noting(index, edit):
        return lambda value, hook: order.append((hook.name, index)) or EDITS[edit](value, hook)

    specs = [(name, noting(index, edit)) for index, (name, edit) in enumerate(chosen)]

    def all_at_once(name):  # one hook a point that applies the same edits one after the other
        def apply(value, hook):
            for other, edit in chosen:
                if other == name:
                    value = value if (new := EDITS[edit](value, hook)) is None else new
            return value

        return apply

    with torch.no_grad():
        want = model(pixels).logits
        together = model.run_with_hooks(pixels, fwd_hooks=specs).logits
        merged = model.run_with_hooks(pixels, fwd_hooks=[(name, all_at_once(name)) for name in {n for n, _ in chosen}])
        nested = model
        contexts = [model.hooks([spec]) for spec in specs]
        for context in contexts:
            context.__enter__()
        nested = model(pixels).logits
        for context in reversed(contexts):
            context.__exit__(None, None, None)
        assert torch.equal(model(pixels).logits, want)
    assert torch.equal(together, merged.logits)
    assert torch.equal(together, nested)
    for name in {name for name, _ in chosen}:
        runs = [index for seen, index in order if seen == name]
        expected = [index for index, (other, _) in enumerate(chosen) if other == name]
        assert runs == expected * 2  # together, and nested
    assert hooks_left(model) == 0


@settings(max_examples=20)
@given(st.sampled_from(sorted(NAMES)), st.booleans())
def test_an_exception_restores_everything(name, backward):
    model = make()
    pixels, want = torch.ones(1, 4, 3, 32, 32), None

    def fail(value, hook):
        raise RuntimeError("in the hook")

    want = model(pixels).logits
    specs = {"bwd_hooks" if backward else "fwd_hooks": [(name, fail)]}
    with pytest.raises(RuntimeError, match="in the hook"), model.hooks(**specs):
        model(pixels).logits.sum().backward()
    assert hooks_left(model) == 0
    assert torch.equal(model(pixels).logits, want)


def test_plain_module_hooks_work_and_come_first(model, pixels):
    order = []
    handle = model.get_submodule("blocks.1.attn.hook_q").register_forward_hook(
        lambda module, args, output: order.append("plain") or output * 2
    )
    with torch.no_grad():
        out, cache = model.run_with_cache(pixels, names_filter="blocks.1.attn.hook_q")
        plain = model(pixels).logits
        handle.remove()
        ours = model.run_with_hooks(pixels, fwd_hooks=[("blocks.1.attn.hook_q", lambda value, hook: value * 2)]).logits
        _, before = model.run_with_cache(pixels, names_filter="blocks.1.attn.hook_q")
    assert order == ["plain", "plain"]
    assert torch.equal(plain, ours)
    assert torch.equal(out.logits, plain)
    assert torch.equal(cache["q", 1], before["q", 1] * 2)


def test_a_sparse_autoencoder_is_spliced_in_with_gradients(pixels):
    model = make()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    torch.manual_seed(1)
    coder = torch.nn.Sequential(torch.nn.Linear(48, 96), torch.nn.ReLU(), torch.nn.Linear(96, 48))
    clean = model(pixels).logits

    def splice(value, hook):
        return coder(value)

    output = model.run_with_hooks(pixels, fwd_hooks=[("blocks.1.hook_resid_post", splice)])
    stream = model.run_with_hooks(pixels, stop_at_layer=2)
    want = model.run_with_hooks(coder(stream), start_at_layer=2).logits
    assert torch.equal(output.logits, want)
    assert not torch.allclose(output.logits, clean)
    loss = torch.nn.functional.mse_loss(output.logits, clean)
    loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in coder.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_backward_hooks_see_and_change_gradients(model, pixels):
    name, seen = "blocks.1.hook_resid_post", []
    pixels.requires_grad_()
    stream = model.run_with_hooks(pixels, stop_at_layer=2)
    leaf = stream.detach().requires_grad_()
    (want,) = torch.autograd.grad(model.run_with_hooks(leaf, start_at_layer=2).logits.sum(), leaf)
    output = model.run_with_hooks(pixels, bwd_hooks=[(name, lambda grad, hook: seen.append((hook.name, grad.clone())))])
    plain = torch.autograd.grad(output.logits.sum(), pixels)[0]
    assert [entry[0] for entry in seen] == [name]
    torch.testing.assert_close(seen[0][1], want)
    for doubled in (lambda grad, hook: grad * 2, lambda grad, hook: (grad * 2,)):
        output = model.run_with_hooks(pixels, bwd_hooks=[(name, doubled)])
        got = torch.autograd.grad(output.logits.sum(), pixels)[0]
        torch.testing.assert_close(got, plain * 2)
    assert hooks_left(model) == 0
    torch.testing.assert_close(torch.autograd.grad(model(pixels).logits.sum(), pixels)[0], plain)


@pytest.mark.parametrize("nested", [False, True])
def test_backward_hooks_compose_in_their_order(model, pixels, nested):
    name, order = "blocks.1.hook_resid_post", []
    pixels.requires_grad_()

    def editing(index, edit):
        return name, lambda grad, hook: order.append(index) or edit(grad)

    shifted, doubled = editing(0, lambda grad: grad + 1), editing(1, lambda grad: grad * 2)
    want = model.run_with_hooks(pixels, bwd_hooks=[(name, lambda grad, hook: (grad + 1) * 2)])
    (want,) = torch.autograd.grad(want.logits.sum(), pixels)
    if nested:
        with model.hooks(bwd_hooks=[shifted]), model.hooks(bwd_hooks=[doubled]):
            output = model(pixels)
    else:
        output = model.run_with_hooks(pixels, bwd_hooks=[shifted, doubled, editing(2, lambda grad: None)])
    (got,) = torch.autograd.grad(output.logits.sum(), pixels)
    assert order == ([0, 1] if nested else [0, 1, 2])
    torch.testing.assert_close(got, want)


def test_gradients_of_all_points_are_those_of_the_traced_model(pixels):
    model, got = make(attn_implementation="eager"), {}
    seen, logits = trace(model, pixels)
    inner = [name for name, value in seen.items() if value.requires_grad and name != "hook_pos_embed"]
    want = torch.autograd.grad(logits[:, 2].sum(), [seen[name] for name in inner])
    output = model.run_with_hooks(
        pixels, bwd_hooks=[(lambda name: True, lambda grad, hook: got.update({hook.name: grad}))]
    )
    output.logits[:, 2].sum().backward()
    assert set(got) == set(model.hook_names)
    for name, gradient in zip(inner, want, strict=True):
        torch.testing.assert_close(got[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_a_backward_hook_that_can_never_run_is_an_error(model, pixels):
    with (
        pytest.raises(InputError, match=r"blocks\.0\.hook_mlp_out can never run: no gradient flows there"),
        torch.no_grad(),
    ):
        model.run_with_hooks(pixels, bwd_hooks=[("blocks.0.hook_mlp_out", lambda grad, hook: None)])


@pytest.mark.parametrize(
    ("result", "got"),
    [
        (lambda value: value[:1], r"\(1, 9, 4, 12\) torch\.float32"),
        (lambda value: value.double(), r"torch\.float64"),
        (lambda value: 3, "got int"),
        (lambda value: (value, value), "got tuple"),
    ],
)
def test_what_cannot_stand_at_a_point_is_refused(model, pixels, result, got):
    def odd(value, hook):
        return result(value)

    with pytest.raises(InputError, match=rf"the hook odd at blocks\.0\.attn\.hook_z must return None.* {got}"):
        model.run_with_hooks(pixels, fwd_hooks=[("blocks.0.attn.hook_z", odd)])
    with pytest.raises(InputError, match=r"which keeps the gradient"):
        model.run_with_hooks(pixels, bwd_hooks=[("blocks.0.attn.hook_z", odd)]).logits.sum().backward()


def test_unknown_names_and_odd_specifications_are_refused(model, pixels):
    with pytest.raises(
        InputError,
        match=r"no hook point 'blocks\.1\.attn\.hook_patern' here; did you mean blocks\.1\.attn\.hook_pattern",
    ):
        model.run_with_hooks(pixels, fwd_hooks=[("blocks.1.attn.hook_patern", lambda value, hook: None)])
    with pytest.raises(InputError, match=r"no hook point 'blocks\.3\.hook_resid_pre' here"):
        model.run_with_hooks(pixels, fwd_hooks=[("blocks.3.hook_resid_pre", lambda value, hook: None)])
    with pytest.raises(InputError, match="the filter is True for no hook point"):
        model.run_with_hooks(pixels, fwd_hooks=[(lambda name: False, lambda value, hook: None)])
    for odd in ("name", ("name",), ("hook_embed", 3)):
        with pytest.raises(InputError, match=r"a hook is a pair \(where, function\)"):
            model.run_with_hooks(pixels, fwd_hooks=[odd])
    with pytest.raises(InputError, match="there is no hook point"):  # the first is not left behind
        model.run_with_hooks(pixels, fwd_hooks=[("hook_embed", lambda *_: None), ("hook_embde", lambda *_: None)])
    assert hooks_left(model) == 0


def test_a_hook_that_never_ran_is_an_error_that_says_why(model, pixels):
    hook = ("blocks.2.hook_resid_pre", lambda value, hook: None)
    with (
        pytest.raises(InputError, match=r"blocks\.2\.hook_resid_pre never ran: this model did not run in this thread"),
        model.hooks([hook]),
    ):
        pass
    with pytest.raises(InputError, match=r"never ran.*stop_at_layer"):
        model.run_with_hooks(pixels, fwd_hooks=[hook], stop_at_layer=2)
    stream = model.run_with_hooks(pixels, stop_at_layer=1)
    with pytest.raises(InputError, match="hook_embed never ran"):
        model.run_with_hooks(stream, fwd_hooks=[("hook_embed", lambda value, hook: None)], start_at_layer=1)
    # a filter is content with the points that were reached
    reached = []
    model.run_with_hooks(
        pixels,
        fwd_hooks=[(lambda name: "resid_pre" in name, lambda value, hook: reached.append(hook.layer()))],
        stop_at_layer=2,
    )
    assert reached == [0, 1]
    assert hooks_left(model) == 0


def test_parts_of_a_pass(model, pixels):
    with torch.no_grad():
        want, cache = model.run_with_cache(pixels)
        for layer in range(3):
            stream = model.run_with_hooks(pixels, stop_at_layer=layer)
            assert torch.equal(stream, cache["resid_pre", layer])
            assert torch.equal(stream, model.run_with_hooks(pixels, stop_at_layer=layer - 3))
            got = model.run_with_hooks(stream, start_at_layer=layer)
            assert torch.equal(got.logits, want.logits)
            middle = model.run_with_hooks(stream, start_at_layer=layer - 3, stop_at_layer=3)
            assert torch.equal(middle, cache["resid_post", -1])
        mask = torch.rand(3, 4)
        stream = model.run_with_hooks(pixels, head_mask=mask, stop_at_layer=1)
        got = model.run_with_hooks(stream, head_mask=mask, start_at_layer=1)
        assert torch.equal(got.logits, model(pixels, head_mask=mask).logits)
        assert torch.equal(model.run_with_hooks(pixel_values=pixels, stop_at_layer=0), cache["resid_pre", 0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stop_at_layer": 4}, r"stop_at_layer must be an integer from -3 to 3, got 4"),
        ({"stop_at_layer": True}, r"stop_at_layer must be an integer"),
        ({"start_at_layer": 3}, r"start_at_layer must be an integer from -3 to 2, got 3"),
        ({"start_at_layer": 1}, r"start_at_layer wants the residual stream \(batch, token, 48\)"),
        ({"start_at_layer": 2, "stop_at_layer": 1}, "stop_at_layer=1 lies before start_at_layer=2"),
        (
            {"stop_at_layer": 1, "labels": 3},
            r"no more than head_mask and interpolate_pos_encoding, got Tensor and \['labels'\]",
        ),
    ],
)
def test_parts_that_do_not_exist_are_refused(model, pixels, options, message):
    with pytest.raises(InputError, match=message):
        model.run_with_hooks(pixels, **options)


def test_hooks_of_add_hook_stay_until_reset(model, pixels):
    calls = []
    model.add_hook("blocks.0.hook_mlp_out", lambda value, hook: calls.append(hook.name))
    model.add_hook(lambda name: name == "hook_embed", lambda grad, hook: calls.append("grad"), dir="bwd")
    model(pixels).logits.sum().backward()
    assert calls == ["blocks.0.hook_mlp_out", "grad"]
    with ThreadPoolExecutor(1) as pool:
        pool.submit(model, pixels).result()
    assert calls.count("blocks.0.hook_mlp_out") == 2
    model.reset_hooks("bwd")
    assert hooks_left(model) == 1
    model.reset_hooks("fwd")
    assert hooks_left(model) == 0
    with model.hooks([("hook_embed", lambda value, hook: None)], reset_hooks_end=False):
        model(pixels)
    assert hooks_left(model) == 1
    model.reset_hooks()
    assert hooks_left(model) == 0
    with pytest.raises(InputError, match="dir='forward' is not known"):
        model.add_hook("hook_embed", lambda value, hook: None, dir="forward")
    with pytest.raises(InputError, match="direction='all' is not known"):
        model.reset_hooks("all")


def test_threads_see_their_own_hooks_alone(model, pixels):
    with torch.no_grad():
        want = model(pixels).logits
        factors = [0.0, 0.5, 2.0, 3.0]
        single = [
            model.run_with_hooks(
                pixels, fwd_hooks=[("blocks.1.attn.hook_pattern", lambda value, hook, f=f: value * f)]
            ).logits
            for f in factors
        ]
    barrier = threading.Barrier(len(factors) + 1)

    def hooked(factor):
        barrier.wait()
        results = []
        with torch.no_grad():
            for _ in range(15):
                hooks = [("blocks.1.attn.hook_pattern", lambda value, hook: value * factor)]
                results.append(model.run_with_hooks(pixels, fwd_hooks=hooks).logits)
        return results

    def plain():
        barrier.wait()
        with torch.no_grad():
            return [model(pixels).logits for _ in range(15)]

    with ThreadPoolExecutor(len(factors) + 1) as pool:
        runs = [pool.submit(hooked, factor) for factor in factors]
        untouched = pool.submit(plain).result()
        done = [run.result() for run in runs]
    assert all(torch.equal(logits, want) for logits in untouched)
    for results, alone in zip(done, single, strict=True):
        assert all(torch.equal(logits, alone) for logits in results)
    assert hooks_left(model) == 0


def test_a_thousand_runs_leave_nothing_behind():
    model = make(num_hidden_layers=1)
    pixels = clips(1)
    hooks = [("blocks.0.attn.hook_pattern", lambda value, hook: value * 1)]

    def run(count):
        for _ in range(count):
            model.run_with_hooks(pixels, fwd_hooks=hooks, bwd_hooks=[("hook_embed", lambda grad, hook: None)])
            model.run_with_cache(pixels, incl_bwd=True)
        gc.collect()

    def tensors():
        return sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())

    run(100)
    before, resident = tensors(), psutil.Process().memory_info().rss
    run(1000)
    assert tensors() == before
    assert hooks_left(model) == 0
    assert psutil.Process().memory_info().rss - resident < 8e6
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_copy_has_none_of_a_contexts_hooks(model, pixels):
    with torch.no_grad():
        want = model(pixels).logits
        with model.hooks([("blocks.0.attn.hook_z", lambda value, hook: value * 0)]):
            copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
            assert not torch.equal(model(pixels).logits, want)
            for twin in copies:
                assert torch.equal(twin(pixels).logits, want)


def test_hooks_and_head_masks_meet_at_z(model, pixels):
    mask, seen = torch.rand(3, 4), {}
    with torch.no_grad():
        want = model(pixels, head_mask=mask).logits
        with model.hooks(
            [
                (
                    lambda name: name.endswith(("hook_z", "hook_pattern")),
                    lambda v, hook: seen.update({hook.name: v.clone()}),
                )
            ]
        ):
            model(pixels, head_mask=mask)
        _, plain = model.run_with_cache(pixels, names_filter=[("pattern", 0), ("v", 0)])
        torch.testing.assert_close(seen["blocks.0.attn.hook_pattern"], plain["pattern", 0])  # before the mask
        z = torch.einsum("bhqk,bkhd->bqhd", plain["pattern", 0], plain["v", 0]) * mask[0].view(1, 1, 4, 1)
        torch.testing.assert_close(seen["blocks.0.attn.hook_z"], z)  # after it
        hooks = [(("z", layer), lambda value, hook: value * mask[hook.layer()].view(1, 1, 4, 1)) for layer in range(3)]
        torch.testing.assert_close(model.run_with_hooks(pixels, fwd_hooks=hooks).logits, want)


def test_an_edited_pattern_is_what_output_attentions_gives_and_a_record_refuses(model, pixels):
    def first_key(value, hook):
        return torch.zeros_like(value).index_fill(-1, torch.tensor(0), 1.0)

    name = "blocks.1.attn.hook_pattern"
    with torch.no_grad(), model.hooks([(name, first_key)]):
        attentions = model(pixels, output_attentions=True).attentions
        assert (attentions[1][..., 0] == 1).all()
        assert (attentions[0][..., 0] < 1).all()
    for point, edit in (
        (name, first_key),
        ("blocks.1.attn.hook_attn_scores", scale_in_place(2.0)),
    ):
        with (
            pytest.raises(BackendError, match=rf"a hook changes {point}, but a record is being taken"),
            model.hooks([(point, edit)]),
        ):
            record_attention(model, pixels)
    want = record_attention(model, pixels).rows(1, 0)
    with model.hooks([(name, lambda value, hook: None)]):
        torch.testing.assert_close(record_attention(model, pixels).rows(1, 0), want)
    with (
        torch.inference_mode(),
        pytest.raises(BackendError, match="a hook changes"),
        model.hooks([(name, lambda value, hook: None)]),
    ):
        model.encode(pixels, None, collect=lambda *_: None)  # nothing tells whether it was written into


def test_a_hooked_block_runs_once_under_gradient_checkpointing(pixels):
    model = make().train()
    labels = torch.tensor([0, 1])

    def gradients(**hooks):
        model.zero_grad()
        model.run_with_hooks(pixels, labels=labels, **hooks).loss.backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    calls = []
    hooks = {
        "fwd_hooks": [("blocks.1.attn.hook_z", lambda value, hook: calls.append("forward") or value * 0.5)],
        "bwd_hooks": [("blocks.1.attn.hook_z", lambda grad, hook: calls.append("backward"))],
    }
    want = gradients(**hooks)
    model.gradient_checkpointing_enable()
    runs = []
    handles = [
        block.register_forward_pre_hook(lambda *_, layer=layer: runs.append(layer))
        for layer, block in enumerate(model.blocks)
    ]
    got = gradients(**hooks)
    assert calls == ["forward", "backward"] * 2
    assert sorted(runs) == [0, 0, 1, 2, 2]
    for mine, wanted in zip(got, want, strict=True):
        torch.testing.assert_close(mine, wanted)
    for handle in handles:
        handle.remove()


def test_a_compiled_model_runs_its_hooks_uncompiled(pixels):
    model = make(num_hidden_layers=1)
    compiled = torch.compile(model, backend="eager")
    hooks = [("blocks.0.attn.hook_z", lambda value, hook: value * 0)]
    with torch.no_grad():
        want = compiled(pixels).logits
        eager = model.run_with_hooks(pixels, fwd_hooks=hooks).logits
        with model.hooks(hooks):
            torch.testing.assert_close(compiled(pixels).logits, eager)
        torch.testing.assert_close(compiled(pixels).logits, want)
        torch.testing.assert_close(compiled.run_with_cache(pixels)[0].logits, want)
    with (
        pytest.raises(
            BackendError, match=r"cannot be compiled or exported; take the one at blocks\.0\.attn\.hook_z away"
        ),
        model.hooks(hooks),
    ):
        torch.export.export(model, (pixels,))
    torch.compiler.reset()  # else the process leaves the forward uncompiled from here on


def test_hooked_patterns_that_do_not_fit_are_refused(model, pixels, monkeypatch):
    monkeypatch.setattr("vivit_lab.memory.free_bytes", lambda device: 1000)
    with pytest.raises(OutOfMemoryBudgetError, match="attentions of hooked layers × 2 clips × 4 heads"):
        model.run_with_hooks(pixels, fwd_hooks=[("blocks.0.attn.hook_pattern", lambda value, hook: None)])


def test_a_point_knows_its_layer():
    point = HookPoint()
    point.name = "blocks.12.attn.hook_q"
    assert point.layer() == 12
    point.name = "ln_final.hook_scale"
    with pytest.raises(InputError, match=r"'ln_final\.hook_scale' belongs to no layer"):
        point.layer()
    reader = Hook(lambda value, hook: None, reads_only=True)
    point.add(reader)
    assert point.hooked
    assert not point.edited
    point.remove(reader)
    assert not point.hooked
