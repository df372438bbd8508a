"""What must not come in (NaN, unnormalised pixels, masks outside [0, 1], bools as indices), and clips of any size."""

import copy
import json
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import vivit_lab as lab
from tests.model.tiny import TINY
from vivit_lab.attribution.registry import METHODS
from vivit_lab.errors import (
    CheckpointError,
    ConfigError,
    InputError,
    OutOfMemoryBudgetError,
    PrecisionWarning,
    ResizedPositionsWarning,
)
from vivit_lab.grid import TokenGrid
from vivit_lab.heads import SingleHeadAblation
from vivit_lab.interventions import ablate
from vivit_lab.model import VivitConfig
from vivit_lab.model.embeddings import interpolate_positions
from vivit_lab.processing import VivitImageProcessor
from vivit_lab.records import logit_lens, record_attention, record_gradients
from vivit_lab.records.values import record_values
from vivit_lab.video import Clip

VARIANTS = (
    "spacetime",
    "factorized_encoder",
    "factorized_self_attention_block",
    "factorized_dot_product_attention",
)


def make(variant="spacetime", **fields):
    torch.manual_seed(0)
    model = lab.VivitForVideoClassification(VivitConfig(**TINY, num_labels=5, variant=variant, **fields)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("position"):
                parameter.normal_(std=0.5)
    return model


@pytest.fixture(scope="module")
def model():
    return make()


def clip_of(frames=4, height=32, width=32):
    torch.manual_seed(1)
    return torch.randn(1, frames, 3, height, width)


ENTRIES = {
    "record": record_attention,
    "values": record_values,
    "gradients": record_gradients,
    "lens": logit_lens,
    "cache": lambda model, pixels: model.run_with_cache(pixels),
    "hooked run": lambda model, pixels: model.run_with_hooks(pixels, fwd_hooks=[("hook_embed", lambda x, hook: x)]),
    "shares": lab.direct_logit_attribution,
    "intervention": lambda model, pixels: ablate(model, heads=[(0, 1)])(pixels),
    "effects": lambda model, pixels: lab.interventions.AblationEffects(mode="zero", progress=False)(model, pixels),
    "perturbation": lambda model, pixels: lab.faithfulness.RandomMap()(model, pixels),
    "heads": lambda model, pixels: SingleHeadAblation(mode="zero")(model, pixels, progress=False),
    "head statistics": lambda model, pixels: lab.head_statistics(model, pixels, progress=False),
    "views": lab.families.predict_views,
    **{name: (lambda model, pixels, kind=kind: kind()(model, pixels)) for name, kind in METHODS.items()},
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_pixels_that_are_not_finite_are_refused_with_their_place(model, entry, value):
    pixels = clip_of()
    pixels[0, 2, 1, 5, 7] = value
    with pytest.raises(InputError, match=f"{value} at clip 0, frame 2, channel 1, row 5, column 7"):
        ENTRIES[entry](model, pixels)


@pytest.mark.parametrize("entry", ENTRIES)
def test_levels_that_were_never_normalised_are_refused(model, entry):
    pixels = torch.linspace(0, 255, 4 * 3 * 32 * 32).reshape(1, 4, 3, 32, 32)
    with pytest.raises(InputError, match=r"between 0 and 255, but normalised pixels lie within ±20"):
        ENTRIES[entry](model, pixels)


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_batch_without_clips_is_refused(model, entry):
    with pytest.raises(InputError, match=r"at least one clip|got \(0, 4, 3"):
        ENTRIES[entry](model, clip_of()[:0])


def test_a_prepared_clip_may_have_any_range_but_no_nan(model):
    frames = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    plain = {"do_resize": False, "do_center_crop": False, "do_rescale": False, "offset": False, "do_normalize": False}
    clip = VivitImageProcessor(**plain).prepare(Clip(frames, np.arange(4) / 25, np.arange(4), fps=25.0, end=4 / 25))
    assert clip.pixel_values.max() > 200
    assert record_attention(model, clip).grid.shape == (2, 2, 2)
    clip.pixel_values[0, 0, 0, 0, 0] = torch.nan
    with pytest.raises(InputError, match="pixel_values of the clip holds nan"):
        record_attention(model, clip)


@pytest.mark.parametrize("wrong", [{"seconds": np.array([0, np.nan])}, {"fps": float("inf")}, {"end": float("nan")}])
def test_times_of_a_clip_must_be_finite(wrong):
    known = {"seconds": np.array([0, 0.04]), "indices": np.arange(2), "fps": 25.0, "end": 0.08}
    with pytest.raises(InputError, match=r"must be (a )?finite"):
        Clip(np.zeros((2, 8, 8, 3), dtype=np.uint8), **{**known, **wrong})


def test_the_plain_forward_is_left_alone(model):
    pixels = clip_of().fill_(torch.nan)
    assert model(pixels).logits.isnan().all()  # no check that would stop a device
    with pytest.raises(InputError, match="interpolate_pos_encoding=True"):
        model(clip_of(6, 48, 32))


@pytest.mark.parametrize("value", [float("nan"), -1.0, 5.0])
def test_head_masks_outside_their_range_are_refused(model, value):
    mask = torch.ones(3, 4)
    mask[1, 2] = value
    for call in (model, lambda *args, **kw: record_attention(model, *args, **kw), lab.CheferRelevance().__call__):
        arguments = (clip_of(),) if call is not lab.CheferRelevance().__call__ else (model, clip_of())
        if getattr(call, "__self__", None).__class__ is lab.CheferRelevance:
            arguments = (model, clip_of())
        with pytest.raises(InputError, match=rf"\[0, 1\] .* got {value} at layer 1, head 2"):
            call(*arguments, head_mask=mask)


def test_a_head_mask_does_not_break_a_compiled_graph():
    torch.compiler.reset()
    model = make()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    mask = torch.ones(3, 4)
    torch.testing.assert_close(compiled(clip_of(), head_mask=mask).logits, model(clip_of()).logits)


@pytest.mark.parametrize(
    "call",
    [
        lambda model, x: record_attention(model, x, layers=[True]),
        lambda model, x: record_attention(model, x).rows(True, 0),
        lambda model, x: record_attention(model, x).pattern(0, True),
        lambda model, x: record_attention(model, x).rows(0, [True]),
        lambda model, x: logit_lens(model, x, classes=[True]),
        lambda model, x: lab.CheferRelevance()(model, x, [True]),
        lambda model, x: lab.CheferRelevance()(model, x, torch.tensor([True])),
        lambda model, x: model(x, output_attentions=[True]),
        lambda model, x: model.run_with_cache(x, incl_bwd=True, target=True),
        lambda model, x: lab.AttentionRollout(start_layer=True)(model, x),
    ],
)
def test_true_is_no_index(model, call):
    with pytest.raises(InputError, match="True"):
        call(model, clip_of())


# --- configurations and checkpoints ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 2**40}, "hidden_size=1099511627776 is larger than any"),
        ({"num_hidden_layers": 10**5}, "num_hidden_layers=100000 is larger"),
        ({"num_labels": 10**12}, "num_labels=1000000000000 is larger"),
        ({"image_size": 10**9}, "image_size=1000000000 is larger"),
        ({"id2label": ["a", "b"]}, "id2label must be class index → name, got a list"),
        ({"id2label": {"a": "b"}}, "id2label must be class index → name, got 'a'"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps must be a number, 0 or more, got nan"),
        ({"layer_norm_eps": 0.0}, "layer_norm_eps must be greater than 0"),
        ({"layer_norm_eps": -1e-6}, "layer_norm_eps must be a number, 0 or more"),
        ({"initializer_range": float("nan")}, "initializer_range must be a number"),
        ({"initializer_range": float("inf")}, "initializer_range must be a number"),
        ({"hidden_dropout_prob": 1.0}, "hidden_dropout_prob must lie in"),
        ({"hidden_dropout_prob": float("nan")}, "hidden_dropout_prob must be a number"),
        ({"qkv_bias": 1}, "qkv_bias must be True or False"),
        ({"hidden_size": True}, "hidden_size must be a positive integer"),
        ({"tubelet_size": [2, 16]}, "tubelet_size must be three"),
        ({"tubelet_size": [0, 16, 16]}, "tubelet_size must be three"),
        ({"label_groups": [3]}, "label_groups must be name"),
        ({"pruned_heads": [1]}, "pruned_heads must be layer"),
        ({"label2id": [1]}, "label2id must be name"),
        ({"output_attentions": "yes"}, "output_attentions must be True or False"),
    ],
)
def test_configurations_that_no_model_has_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        VivitConfig.from_dict(fields)


def test_memory_is_asked_for_before_a_model_is_built():
    with pytest.raises(OutOfMemoryBudgetError, match="hidden_size=131072"):
        lab.VivitForVideoClassification(VivitConfig(hidden_size=2**17, num_attention_heads=8))


def test_nested_brackets_in_a_config_are_refused(tmp_path, model):
    model.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(CheckpointError, match="nested too deeply"):
        lab.VivitForVideoClassification.from_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(ConfigError, match="nested too deeply"):
        VivitImageProcessor.from_pretrained(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, model, value):
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("classifier.weight"))
    tensors[name][3, 7] = value
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"classifier.weight in .* holds {value} at \(3, 7\), 1 such"):
        lab.VivitForVideoClassification.from_pretrained(tmp_path)


def test_weights_that_a_dtype_cannot_hold_are_refused(tmp_path, model):
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    tensors["classifier.weight"][0, 0] = 1e5
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"reaches 1e\+05, which torch.float16 cannot hold"):
        lab.VivitForVideoClassification.from_pretrained(tmp_path, dtype="float16")


def test_config_written_with_nan_is_refused_when_read(tmp_path, model):
    model.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**stored, "layer_norm_eps": float("nan")}))
    with pytest.raises(ConfigError, match="layer_norm_eps must be a number, 0 or more, got nan"):
        lab.VivitForVideoClassification.from_pretrained(tmp_path)


# --- clips of any size -----------------------------------------------------------------------------------------------

LARGER = (6, 64, 48)  # frames, height, width


def resized_by_hand(model):
    """The model with its positions resized to LARGER, whose own forward then wants them."""
    other = copy.deepcopy(model)
    old = other.embed.places
    grid = TokenGrid.from_video(*LARGER, TINY["tubelet_size"], cls_token=model.config.grid.cls)
    other.embed.position = torch.nn.Parameter(other.embed.positions_of(grid).detach())
    if model.config.variant == "factorized_encoder":
        other.embed.position = torch.nn.Parameter(
            interpolate_positions(model.embed.position, old.shape, (1, grid.h, grid.w)).detach()
        )
    other.embed.grid = grid
    for block in other.blocks:
        if hasattr(block, "enter"):
            times = block.enter.times
            block.enter.position = torch.nn.Parameter(
                interpolate_positions(block.enter.position, (times, 1, 1), (grid.t, 1, 1)).detach()
            )
            block.enter.times = grid.t
    return other


@pytest.mark.filterwarnings("ignore::vivit_lab.errors.ResizedPositionsWarning")
@pytest.mark.parametrize("variant", VARIANTS)
def test_each_method_explains_a_longer_rectangular_clip(variant):
    model, pixels = make(variant), clip_of(*LARGER)
    explained = 0
    for name, kind in METHODS.items():
        try:
            small = kind()(model, clip_of())
        except InputError as error:
            if "needs" not in str(error):
                raise
            continue  # the method has no meaning for this variant
        heat = kind()(model, pixels)
        assert heat.grid.shape == (3, 4, 3)
        assert heat.relevance.shape == (1, 3, 4, 3)
        assert small.grid.shape == (2, 2, 2)
        torch.testing.assert_close(
            heat.relevance, kind()(model, pixels, interpolate_pos_encoding=True).relevance, msg=name
        )
        explained += 1
    assert explained >= 5


@pytest.mark.parametrize(
    "variant", ["spacetime", "factorized_self_attention_block", "factorized_dot_product_attention"]
)
def test_a_larger_clip_gives_what_positions_resized_by_hand_give(variant):
    model, pixels = make(variant), clip_of(*LARGER)
    with pytest.warns(ResizedPositionsWarning, match=r"4 frames of 32×32 .* 6 of 64×48: .* from 2×2×2 to 3×4×3"):
        record = record_attention(model, pixels)
    by_hand = resized_by_hand(model)
    torch.testing.assert_close(record.output.logits, by_hand(pixels).logits)
    heat, own = lab.AttentionRollout()(model, pixels), lab.AttentionRollout()(by_hand, pixels)
    torch.testing.assert_close(heat.relevance, own.relevance)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    "entry", ["record", "values", "gradients", "lens", "cache", "hooked run", "intervention", "heads", "views"]
)
def test_everything_that_takes_a_clip_takes_a_larger_one_and_says_so_once(variant, entry):
    if (variant, entry) == ("factorized_encoder", "lens"):
        pytest.skip("the streams of a factorised encoder's two kinds of layers are not one")
    model, pixels = make(variant), clip_of(*LARGER)
    with pytest.warns(ResizedPositionsWarning, match="said once for each size"):
        ENTRIES[entry](model, pixels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ENTRIES[entry](model, pixels)


def test_false_refuses_another_size_and_sizes_that_cannot_be_are_named(model):
    with pytest.raises(InputError, match="interpolate_pos_encoding=True"):
        record_attention(model, clip_of(*LARGER), interpolate_pos_encoding=False)
    with pytest.raises(lab.errors.GridError, match=r"height=40 is not a positive multiple .* use 32 or 48"):
        record_attention(model, clip_of(4, 40, 32))


@pytest.mark.filterwarnings("ignore::vivit_lab.errors.ResizedPositionsWarning")
def test_explorers_take_a_larger_clip():
    model = make()
    frames = np.random.default_rng(0).integers(0, 256, (6, 64, 48, 3), dtype=np.uint8)
    processor = VivitImageProcessor.trained_range(do_resize=False, do_center_crop=False)
    clip = processor.prepare(Clip(frames, np.arange(6) / 25, np.arange(6), fps=25.0, end=6 / 25))
    explorer = lab.ClipExplorer(model, clip, threaded=False)
    assert explorer.map.grid.shape == (3, 4, 3)
    heads = lab.HeadExplorer(model, clip, threaded=False)
    assert heads.record.grid.shape == (3, 4, 3)
    assert heads.prediction["rows"]
    compare = lab.CompareExplorer.of_methods(model, clip, "rollout", "chefer", threaded=False)
    assert [heat.grid.shape for heat in compare.maps] == [(3, 4, 3)] * 2


# --- half precision --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted():
    model = lab.load_pair("planted")[0]
    config = lab.planted.PlantedConfig(split="test", frames=model.config.num_frames, size=model.config.image_size)
    from vivit_lab.planted.clip import planted_batch

    return model, planted_batch(config, [4, 7])[0]


def error_of(found, exact):
    return ((found - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)).tolist()


def test_occlusion_in_half_precision_is_right_to_its_warning(planted):
    model, pixels = planted
    exact = lab.Occlusion()(model, pixels, [4, 7]).relevance
    with pytest.warns(PrecisionWarning, match="Occlusion in float16: for 1 of 2 clips"):
        half = lab.Occlusion()(copy.deepcopy(model).half(), pixels, [4, 7])
    assert max(error_of(half.relevance, exact)) < 0.05  # 0.115 with the last product in float16
    with pytest.warns(PrecisionWarning, match="Occlusion in bfloat16: for 2 of 2 clips .* model.float()"):
        rough = lab.Occlusion()(copy.deepcopy(model).bfloat16(), pixels, [4, 7])
    assert min(error_of(rough.relevance, exact)) > 0.1  # what is warned of is there


def test_attcat_and_ablations_in_bfloat16_are_warned_of(planted):
    model, pixels = planted
    rough = copy.deepcopy(model).bfloat16()
    exact = lab.AttCAT()(model, pixels, [4, 7]).relevance
    with pytest.warns(PrecisionWarning, match="AttCAT in bfloat16"):
        heat = lab.AttCAT()(rough, pixels, [4, 7])
    assert max(error_of(heat.relevance, exact)) > 0.1
    with pytest.warns(PrecisionWarning, match="AblationEffects in bfloat16"):
        lab.interventions.AblationEffects(mode="zero", progress=False)(rough, pixels, [4, 7])
    with pytest.warns(PrecisionWarning, match="SingleHeadAblation of heads in bfloat16"):
        SingleHeadAblation(mode="zero", target=None)(rough, pixels, progress=False)


def test_float32_is_never_warned_of(planted):
    model, pixels = planted
    lab.Occlusion()(model, pixels)
    lab.AttCAT()(model, pixels)


PAIR = [4, 7]
IN_HALF = {
    "rise": lambda model, x: lab.Rise(masks=32, cells=(3, 3, 3))(model, x, PAIR).relevance,
    "smooth grad": lambda model, x: lab.SmoothGrad(samples=2)(model, x, PAIR).relevance,
    "integrated gradients": lambda model, x: lab.IntegratedGradients(steps=4)(model, x, PAIR).relevance,
    "michel": lambda model, x: lab.heads.MichelImportance()(model, (x, torch.tensor(PAIR)), progress=False).values[
        None
    ],
    "fisher": lambda model, x: lab.heads.FisherImportance()(model, (x, torch.tensor(PAIR)), progress=False).values[
        None
    ],
    "gradient activation": lambda model, x: lab.heads.GradientActivation()(
        model, (x, torch.tensor(PAIR)), progress=False
    ).values[None],
    "activation patching": lambda model, x: (
        lab.interventions.ActivationPatching(progress=False)(model, x, x.flip(1), PAIR).effect
    ),
    "attribution patching": lambda model, x: (
        lab.interventions.AttributionPatching(progress=False)(model, x, x.flip(1), PAIR).effect
    ),
    "path patching": lambda model, x: (
        lab.interventions.PathPatching(senders=[(0, 0), (1, 0)], progress=False)(model, x, x.flip(1), PAIR).effect
    ),
    "ablation": lambda model, x: lab.interventions.AblationEffects(mode="zero", progress=False)(model, x, PAIR).effect,
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", IN_HALF)
def test_a_result_that_half_precision_spoils_is_warned_of(planted, name, dtype):
    model, pixels = planted
    exact = torch.as_tensor(IN_HALF[name](model, pixels)).double()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        half = torch.as_tensor(IN_HALF[name](copy.deepcopy(model).to(dtype), pixels)).double()
    assert half.isfinite().equal(exact.isfinite())
    differences = [each - each.nanmean() for each in (half, exact)]  # a constant part would hide the error of the rest
    is_wrong = max(error_of(*(each.nan_to_num() for each in differences))) > 0.1
    assert any(each.category is PrecisionWarning for each in caught) or not is_wrong
