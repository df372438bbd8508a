"""Laws of the model itself, and each error that a user can make."""

import copy

import pytest
import torch
from torch.utils._pytree import tree_leaves

from tests.model.tiny import TINY, clips
from vivit_lab.errors import BackendError, ConfigError, GridError, InputError, OutOfMemoryBudgetError
from vivit_lab.families import VivitForVideoClassification, VivitModel
from vivit_lab.families.vivit import expand_head_mask
from vivit_lab.model import VivitConfig
from vivit_lab.model.config import ACTIVATIONS
from vivit_lab.model.embeddings import interpolate_positions


def tiny(**fields):
    return VivitForVideoClassification(VivitConfig(**{**TINY, "num_labels": 5, **fields})).eval()


def test_implementations_agree_and_switch_at_run_time():
    model, pixels = tiny(), clips()
    logits = {}
    with torch.no_grad():
        for name in ("eager", "sdpa", "flash_attention_2"):
            model.set_attn_implementation(name)
            assert model.attn_implementation == model.config.attn_implementation == name
            logits[name] = model(pixels).logits
    torch.testing.assert_close(logits["sdpa"], logits["eager"])
    torch.testing.assert_close(logits["flash_attention_2"], logits["eager"])
    with pytest.raises(ConfigError, match="attn_implementation='flex'"):
        model.set_attn_implementation("flex")


def test_flash_without_a_kernel_is_an_error():
    model = tiny(attn_implementation="flash_attention_2").double()
    model.blocks[0].attn.dropout_prob = 0.5  # the CPU's flash kernel has no dropout
    with pytest.raises(BackendError, match=r"no kernel for torch.float64 on cpu with d_head=12 and dropout 0.5"):
        model.train()(clips().double())


def test_a_mask_of_ones_is_no_mask_and_of_zeros_removes_the_heads():
    model, pixels = tiny(), clips()
    with torch.no_grad():
        want = model(pixels).logits
        assert torch.equal(model(pixels, head_mask=torch.ones(3, 4)).logits, want)
        # without any head a block's attention is its output bias: the same as a zero output projection
        gone = copy.deepcopy(model)
        for block in gone.blocks:
            block.attn.o.weight.zero_()
        torch.testing.assert_close(model(pixels, head_mask=torch.zeros(4)).logits, gone(pixels).logits)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_attentions_of_some_layers_only(implementation):
    model, pixels = tiny(attn_implementation=implementation), clips()
    with torch.no_grad():
        everything = model(pixels, output_attentions=True).attentions
        some = model(pixels, output_attentions=[2, -3]).attentions
        assert model(pixels, output_attentions=[]).attentions is None
    assert len(everything) == 3
    assert len(some) == 2
    torch.testing.assert_close(some[0], everything[2])
    torch.testing.assert_close(some[1], everything[0])
    torch.testing.assert_close(everything[0].sum(-1), torch.ones(2, 4, 9))
    with pytest.raises(InputError, match=r"layers \[3\]"):
        model(pixels, output_attentions=[0, 3])
    for wrong in (1, [0.9], "01"):
        with pytest.raises(InputError, match="output_attentions is True, False or a list of layers"):
            model(pixels, output_attentions=wrong)


def test_attentions_that_do_not_fit_are_refused_and_the_record_is_named(monkeypatch):
    model = tiny()
    monkeypatch.setattr("vivit_lab.memory.free_bytes", lambda device: 1000)
    with pytest.raises(OutOfMemoryBudgetError, match=r"but 1 kB are free on cpu; use record_attention"):
        model(clips(), output_attentions=True)


def test_full_size_attentions_are_counted_as_they_are(monkeypatch):
    with torch.device("meta"):
        model = VivitModel(VivitConfig(), add_pooling_layer=False).eval()
    monkeypatch.setattr("vivit_lab.memory.free_bytes", lambda device: 5_600_000_000)
    # 12 layers × 12 heads × 3137² × 4 B = 5.67 GB to keep, and one layer's scores and softmax beside them
    with pytest.raises(OutOfMemoryBudgetError, match=r"12 layers × 1 clips × 12 heads × 3137² tokens needs 6.61 GB"):
        model(torch.zeros(1, 32, 3, 224, 224, device="meta"), output_attentions=True)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((4, 3, 32, 32), r"one clip needs a batch axis: pixel_values\[None\]"),
        ((2, 4, 32, 32), "got 4 axes"),
        ((2, 3, 4, 32, 32), r"axis 2 holds 4 channels"),
        ((2, 4, 3, 32, 64), "interpolate_pos_encoding=True"),
        ((2, 6, 3, 32, 32), "interpolate_pos_encoding=True"),
    ],
)
def test_wrong_shapes_say_what_was_wanted(shape, message):
    with pytest.raises(InputError, match=message):
        tiny()(torch.zeros(shape))


@pytest.mark.parametrize(("shape", "name"), [((1, 5, 3, 32, 32), "frames=5"), ((1, 4, 3, 40, 32), "height=40")])
@pytest.mark.parametrize("interpolate", [False, True])
def test_what_the_convolution_would_drop_silently_is_refused(shape, name, interpolate):
    with pytest.raises(GridError, match=f"{name} is not a positive multiple"):
        tiny()(torch.zeros(shape), interpolate_pos_encoding=interpolate)


def test_missing_and_integer_pixels_are_refused():
    with pytest.raises(InputError, match="pixel_values is missing"):
        tiny()()
    with pytest.raises(InputError, match=r"got torch.uint8: pass the frames through a VivitImageProcessor"):
        tiny()(torch.zeros(1, 4, 3, 32, 32, dtype=torch.uint8))


@pytest.mark.parametrize("shape", [(3,), (4, 3), (3, 5), (3, 1, 4), (3, 3, 4, 1, 1)])
def test_a_mask_that_does_not_fit_is_refused(shape):
    with pytest.raises(InputError, match=r"head_mask must be \(4,\), \(3, 4\) or \(3, 1 or 2 clips, 4, 1, 1\)"):
        tiny()(clips(), head_mask=torch.ones(shape))
    assert expand_head_mask(None, 3, 2, 4, like=torch.zeros(())) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("pixels_dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_pixels_are_cast_to_the_models_dtype(dtype, pixels_dtype):
    model = tiny().to(dtype)
    with torch.no_grad():
        output = model(clips().to(pixels_dtype), output_attentions=True, output_hidden_states=True)
        want = model.float()(clips())
    assert {leaf.dtype for leaf in tree_leaves(output)} == {dtype}
    assert want.logits.shape == output.logits.shape
    assert model.device == torch.device("cpu")


def test_half_precision_stays_near_full():
    model, pixels = tiny(initializer_range=0.05), clips()
    with torch.no_grad():
        want = model(pixels).logits
        got = model.to(torch.bfloat16)(pixels).logits.float()
    assert (got - want).abs().max() < 0.03 * want.abs().max()


@pytest.mark.parametrize("field", ["hidden_dropout_prob", "attention_probs_dropout_prob"])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_dropout_works_in_training_only(field, implementation):
    model, pixels = tiny(attn_implementation=implementation, **{field: 0.5}), clips()
    with torch.no_grad():
        assert torch.equal(model(pixels).logits, model(pixels).logits)
        model.train()
        assert not torch.equal(model(pixels).logits, model(pixels).logits)


def test_gradient_checkpointing_gives_the_same_gradients():
    model, pixels, labels = tiny().train(), clips(), torch.tensor([0, 1])
    mask = torch.rand(3, 4)

    def gradients():
        model.zero_grad()
        model(pixels, labels=labels, head_mask=mask).loss.backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    want = gradients()
    model.gradient_checkpointing_enable()
    calls = []
    handle = model.blocks[1].register_forward_pre_hook(lambda *_: calls.append(1))
    got = gradients()
    handle.remove()
    assert len(calls) == 2  # once forward, once again in the backward pass
    for mine, wanted in zip(got, want, strict=True):
        torch.testing.assert_close(mine, wanted)
    model.gradient_checkpointing_disable()
    torch.testing.assert_close(gradients(), want)


@pytest.mark.parametrize(
    ("frames", "height", "width"), [(4, 32, 32), (8, 32, 32), (4, 64, 32), (2, 48, 80), (12, 16, 64)]
)
def test_other_resolutions_and_frame_counts_work(frames, height, width):
    model = tiny()
    torch.nn.init.normal_(model.embed.position)
    pixels = torch.randn(1, frames, 3, height, width)
    with torch.no_grad():
        output = model(pixels, interpolate_pos_encoding=True, output_attentions=[0])
    tokens = frames // 2 * (height // 16) * (width // 16) + 1
    assert output.attentions[0].shape[-1] == tokens
    assert model.grid_of(pixels, True).num_tokens == tokens
    if (frames, height, width) == (4, 32, 32):
        with torch.no_grad():
            torch.testing.assert_close(output.logits, model(pixels).logits)


def test_positions_are_resized_in_space_and_time_apart():
    old = (2, 3, 4)
    torch.manual_seed(1)
    over_time = torch.randn(2, 1, 1, 5).expand(2, 3, 4, 5)
    over_space = torch.randn(1, 3, 4, 5).expand(2, 3, 4, 5)
    cls = torch.randn(1, 1, 5)

    def with_cls(volume):
        return torch.cat((cls, volume.reshape(1, -1, 5)), dim=1)

    # what varies in time only does not depend on place after a resize in space, and the other way round
    wider = interpolate_positions(with_cls(over_time), old, (2, 6, 7))
    torch.testing.assert_close(wider[:, :1], cls)
    torch.testing.assert_close(wider[0, 1:].view(2, 6, 7, 5), over_time[:, :1, :1].expand(2, 6, 7, 5))
    longer = interpolate_positions(with_cls(over_space), old, (5, 3, 4))
    torch.testing.assert_close(longer[0, 1:].view(5, 3, 4, 5), over_space[:1].expand(5, 3, 4, 5))
    # in time it is linear interpolation between the centres of the old steps
    series = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)
    doubled = interpolate_positions(series.reshape(1, 2, 1), (2, 1, 1), (4, 1, 1), cls=False)
    torch.testing.assert_close(doubled.flatten(), torch.tensor([0.0, 0.25, 0.75, 1.0]))
    # in space each time step is the image that bicubic interpolation makes of it
    volume = torch.randn(2, 3, 4, 5)
    got = interpolate_positions(with_cls(volume), old, (2, 6, 6))[0, 1:].view(2, 6, 6, 5)
    for step in range(2):
        image = torch.nn.functional.interpolate(volume[step].permute(2, 0, 1)[None], size=(6, 6), mode="bicubic")
        torch.testing.assert_close(got[step], image[0].permute(1, 2, 0))
    with pytest.raises(GridError, match="wanted 25 positions"):
        interpolate_positions(torch.zeros(1, 24, 5), old, (1, 1, 1))


def test_hidden_states_and_outputs_as_documented():
    model, pixels = tiny(), clips()
    with torch.no_grad():
        output = model(pixels, output_hidden_states=True)
        assert len(output.hidden_states) == 4
        torch.testing.assert_close(output.hidden_states[0], model.embed(pixels))
        torch.testing.assert_close(output.logits, model.classifier(output.hidden_states[-1][:, 0]))
        as_tuple = model(pixels, return_dict=False)
    assert output.keys() == ["logits", "hidden_states"]
    assert list(output) == ["logits", "hidden_states"]
    assert len(output) == 2
    assert output[0] is output["logits"] is output.logits is output.get("logits") is output.values()[0]
    assert dict(output.items()).keys() == {"logits", "hidden_states"}
    assert output.get("loss", 7) == 7
    assert torch.equal(as_tuple[0], output.to_tuple()[0])
    with pytest.raises(KeyError, match="'attentions' is not in this output; it has logits, hidden_states"):
        output["attentions"]


@pytest.mark.parametrize(
    ("fields", "labels", "error", "message"),
    [
        ({"num_labels": 0}, torch.tensor([0, 0]), ConfigError, "no classifier"),
        ({}, torch.zeros(2, 3), InputError, r"multi_label_classification wants labels \(2, 5\)"),
        ({}, torch.zeros(3, dtype=torch.long), InputError, r"single_label_classification wants labels \(2,\)"),
        ({}, torch.tensor([1, 7]), InputError, r"labels must lie in 0\.\.4, got \[1, 7\]"),
        ({"num_labels": 1}, torch.zeros(3), InputError, r"regression wants labels \(2,\) or \(2, 1\)"),
    ],
)
def test_labels_that_do_not_fit_are_refused(fields, labels, error, message):
    with pytest.raises(error, match=message):
        tiny(**fields)(clips(), labels=labels)


def test_what_the_checkpoints_configuration_asks_for_is_given():
    config = VivitConfig.from_dict(
        {**VivitConfig(**TINY).to_dict(), "output_attentions": True, "output_hidden_states": True}
    )
    model = VivitForVideoClassification(config).eval()
    assert len(model(clips()).attentions) == 3
    assert len(model(clips()).hidden_states) == 4
    assert model(clips(), output_attentions=False, output_hidden_states=False, return_dict=None).keys() == ["logits"]


def test_integer_labels_of_any_width_and_shape_are_classes():
    model, pixels = tiny(), clips()
    want = model(pixels, labels=torch.tensor([1, 4])).loss
    for labels in (torch.tensor([1, 4], dtype=torch.int32), torch.tensor([[1], [4]])):
        torch.testing.assert_close(model(pixels, labels=labels).loss, want)


@pytest.mark.parametrize("recording", [False, True])
def test_flash_attention_is_pinned(monkeypatch, recording):
    from vivit_lab.records import record_attention

    allowed = []
    real = torch.nn.functional.scaled_dot_product_attention

    def spy(*args, **options):
        kernels = torch.backends.cuda
        allowed.append((kernels.flash_sdp_enabled(), kernels.math_sdp_enabled(), kernels.mem_efficient_sdp_enabled()))
        return real(*args, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    monkeypatch.setattr("vivit_lab.model.attention.fused_attention_with_lse", lambda *_: None)
    model = tiny(attn_implementation="flash_attention_2")
    with torch.no_grad():
        record_attention(model, clips()) if recording else model(clips())
    assert allowed == [(True, False, False)] * 3


@pytest.mark.peer
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_the_peers(dtype):
    from tests.model.tiny import pair

    ours, peer = pair(initializer_range=0.1)
    ours, peer, pixels = ours.to(dtype), peer.to(dtype), clips().to(dtype)
    with torch.no_grad():
        got = ours(pixels, output_attentions=True)
        want = peer(pixels, output_attentions=True)
    for mine, theirs in zip(got.attentions, want.attentions, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=2e-2, atol=2e-3)
    # the softmax is taken in float32: rows sum to 1 as well as rounded weights can
    assert torch.equal(got.attentions[0], want.attentions[0])


def test_export_keeps_the_batch_free():
    model, pixels = tiny(), clips(2)
    batch = torch.export.Dim("batch", min=1, max=8)
    program = torch.export.export(model, (pixels,), dynamic_shapes={"pixel_values": {0: batch}})
    torch.testing.assert_close(program.module()(clips(5)).logits.shape, (5, 5))


def test_problem_type_overrides_the_choice():
    labels = torch.tensor([[0.0, 1, 0, 1, 1], [1, 0, 0, 0, 0]])
    model = tiny(problem_type="regression")
    output = model(clips(), labels=labels)
    torch.testing.assert_close(output.loss, (output.logits - labels).square().mean())


def test_torch_export_of_the_plain_forward():
    model, pixels = tiny(), clips()
    program = torch.export.export(model, (pixels,))
    torch.testing.assert_close(program.module()(pixels).logits, model(pixels).logits)


def test_torch_compile_of_the_plain_forward():
    model, pixels = tiny(), clips()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(pixels).logits, model(pixels).logits)


@pytest.mark.parametrize(
    "name", ["gelu", "relu", "selu", "gelu_fast", "gelu_new", "silu", "quick_gelu", "mish", "tanh"]
)
def test_every_documented_activation_makes_a_model(name):
    assert torch.isfinite(tiny(hidden_act=name)(clips()).logits).all()


@pytest.mark.peer
@pytest.mark.parametrize("name", sorted(set(ACTIVATIONS) - {"selu"}))
def test_activations_are_the_peers(name):
    from transformers.activations import ACT2FN

    x = torch.linspace(-12, 12, 1001)
    torch.testing.assert_close(ACTIVATIONS[name](x), ACT2FN[name](x), rtol=1e-5, atol=1e-5)


def test_initial_weights_are_as_documented():
    model = tiny(hidden_size=192, initializer_range=0.02)
    assert 0.019 < model.blocks[0].mlp.fc1.weight.std() < 0.021
    assert 0.019 < model.embed.projection.weight.std() < 0.021
    for tensor in (model.embed.cls_token, model.embed.position, model.blocks[1].attn.o.bias, model.ln_final.bias):
        assert not tensor.any()
    assert (model.ln_final.weight == 1).all()


def test_the_published_shape_has_200_tensors_and_88_954_million_parameters():
    with torch.device("meta"):
        model = VivitForVideoClassification(VivitConfig(num_labels=400))
    assert len(model.state_dict()) == 200
    assert sum(parameter.numel() for parameter in model.parameters()) == 88_954_000
