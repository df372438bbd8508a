"""Rollouts and relevances of the factorised variants against dense constructions of the effective operator."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.attribution.naive import close
from tests.model.naive_variants import VARIANTS, groups, naive_logits
from tests.model.variants import FACTORIZED, channels_last, random_clips, variant_model
from vivit_lab.attribution import (
    AttCAT,
    AttentionGradient,
    AttentionRollout,
    CheferRelevance,
    GradientRollout,
    InputXGradient,
    IntegratedGradients,
    LeGrad,
    Occlusion,
    RawAttention,
    Rise,
    SmoothGrad,
    TransitionAttentionMaps,
    ValueNormRollout,
    artefact_tokens,
    attention_sinks,
)
from vivit_lab.errors import InputError
from vivit_lab.evaluation import all_methods, suitable_methods
from vivit_lab.faithfulness import forward_kept_tokens
from vivit_lab.families import VivitForVideoClassification, VivitModel
from vivit_lab.records import CosineSimilarity, record_attention, record_gradients
from vivit_lab.records.values import record_values

T, PLACES = 3, 4
STATES = 1 + T * (1 + PLACES)  # of a factorised encoder: temporal CLS, then CLS and tubelets of each time


def on_states(variant, patterns):
    """Each layer's naive patterns as dense (head, state, state) matrices, which states take part, and the CLS keys.

    A state that does not take part keeps its weight. States of a factorised encoder are those of ``STATES``, without
    the temporal CLS where there are no temporal layers.
    """
    if variant != "factorized_encoder":
        cls = {0} if variant == "spacetime" else set()
        return [SimpleNamespace(dense=p, inside=np.ones(p.shape[-1], bool), cls=cls) for p in patterns]
    above = int(any(not isinstance(pattern, list) for pattern in patterns))
    count = above + T * (1 + PLACES)
    layers = []
    for pattern in patterns:
        heads = len(pattern[0]) if isinstance(pattern, list) else len(pattern)
        dense, inside = np.zeros((heads, count, count)), np.zeros(count, bool)
        pieces = (
            [(pattern[t], [above + t * (1 + PLACES) + i for i in range(1 + PLACES)]) for t in range(T)]
            if isinstance(pattern, list)
            else [(pattern, [0] + [1 + t * (1 + PLACES) for t in range(T)])]
        )
        for piece, index in pieces:
            for head in range(heads):
                dense[head][np.ix_(index, index)] = piece[head]
            inside[index] = True
        cls = {above + t * (1 + PLACES) for t in range(T)} if isinstance(pattern, list) else {0}
        layers.append(SimpleNamespace(dense=dense, inside=inside, cls=cls))
    return layers


def to_tubelets(variant, states):
    """(t·places,) of weights on states."""
    if variant == "spacetime":
        return states[1:]
    if variant != "factorized_encoder":
        return states
    return states[-T * (1 + PLACES) :].reshape(T, 1 + PLACES)[:, 1:].reshape(-1)


def start(variant, layers):
    """The row that the classifier reads: CLS, the mean over the times' CLS, or the mean over all tokens."""
    count = layers[0].dense.shape[-1]
    row = np.zeros(count)
    if variant == "factorized_encoder" and count % (1 + PLACES) == 0:
        row[:: 1 + PLACES] = 1 / T
    elif variant in ("spacetime", "factorized_encoder"):
        row[0] = 1
    else:
        row[:] = 1 / count
    return row


def mixed(layer, residual, fuse, drop=None):
    """Â of a layer: rows of residual·I + (1 - residual)·fused divided by their sums; the identity outside the layer."""
    fused = fuse(layer.dense, axis=0)
    if drop is not None:
        fused = drop(fused, layer)
    total = residual * np.eye(len(fused)) + (1 - residual) * fused
    total = total / np.where(total.sum(-1, keepdims=True) > 0, total.sum(-1, keepdims=True), 1)
    return np.where(layer.inside[:, None], total, np.eye(len(fused)))


def drop_row(ratio):
    """Drop that fraction of each row's own keys, the lowest first, but no CLS key."""

    def drop(fused, layer):
        fused = fused.copy()
        support = layer.dense.max(0) > 0
        for row, own in zip(fused, support, strict=True):
            keys = [key for key in np.flatnonzero(own) if key not in layer.cls]
            for key in sorted(keys, key=lambda key: row[key])[: int(ratio * len(keys))]:
                row[key] = 0
        return fused

    return drop


def naive_rollout(variant, patterns, residual=0.5, fuse=np.mean, first=0, ratio=0.0):
    layers = on_states(variant, patterns)
    row = start(variant, layers)
    for layer in reversed(layers[first:]):
        row = row @ mixed(layer, residual, fuse, drop_row(ratio) if ratio else None)
    return row


@pytest.fixture(params=VARIANTS)
def scene(request):
    model, tree = variant_model(request.param)
    pixels = random_clips()
    naive = [naive_logits(request.param, tree, channels_last(clip))[1] for clip in pixels]
    return SimpleNamespace(variant=request.param, model=model, pixels=pixels, patterns=naive)


SETTINGS = [
    AttentionRollout(),
    AttentionRollout(residual=0.2),
    AttentionRollout(residual=0.0),
    AttentionRollout(start_layer=1),
    AttentionRollout("max"),
    AttentionRollout("min"),
    AttentionRollout(discard_ratio=0.5),
    AttentionRollout("max", 0.4, residual=0.3),
]


@pytest.mark.parametrize("method", SETTINGS, ids=str)
def test_a_rollout_is_a_row_of_the_effective_operator(scene, method):
    heat = method(scene.model, scene.pixels)
    assert heat.grid.shape == (T, 2, 2)
    assert heat.relevance.shape == (2, T, 2, 2)
    for got, patterns in zip(heat.relevance, scene.patterns, strict=True):
        options = {"residual": method.residual, "first": method.start_layer, "ratio": method.discard_ratio}
        fuse = {"mean": np.mean, "max": np.max, "min": np.min}[method.head_fusion]
        states = naive_rollout(scene.variant, patterns, fuse=fuse, **options)
        want = to_tubelets(scene.variant, states)
        np.testing.assert_allclose(got.flatten().numpy(), want, atol=1e-6, rtol=0)
        assert np.isclose(states.sum(), 1)
    if scene.model.config.grid.cls:
        total = heat.relevance.sum(dim=(1, 2, 3)) + torch.tensor(heat.cls_share)
        torch.testing.assert_close(total, torch.ones(2))
    else:
        assert heat.cls_share is None
        torch.testing.assert_close(heat.relevance.sum(dim=(1, 2, 3)), torch.ones(2))


def test_the_map_of_a_factorised_encoder_is_temporal_times_spatial_rollout():
    """Written out: with residual 0 the map is r_t · s_t(y, x), the product of two ordinary rollouts."""
    model, tree = variant_model("factorized_encoder")
    pixels = random_clips(1)
    patterns = naive_logits("factorized_encoder", tree, channels_last(pixels[0]))[1]
    mean = [[layer.mean(0) for layer in layers] if isinstance(layers, list) else layers.mean(0) for layers in patterns]
    temporal = (mean[3] @ mean[2])[0]
    want = [temporal[1 + t] * (mean[1][t] @ mean[0][t])[0, 1:] for t in range(T)]
    heat = AttentionRollout(residual=0.0)(model, pixels)
    np.testing.assert_allclose(heat.relevance.reshape(T, PLACES).numpy(), np.stack(want), atol=1e-6)


def test_a_rollout_without_temporal_layers_starts_at_the_cls_of_every_time():
    model, tree = variant_model("factorized_encoder", baseline=True, fields={"num_frames": 2 * T})
    pixels = random_clips(1)
    patterns = naive_logits("factorized_encoder", tree, channels_last(pixels[0]), baseline=True)[1]
    heat = AttentionRollout()(model, pixels)
    want = to_tubelets("factorized_encoder", naive_rollout("factorized_encoder", patterns))
    np.testing.assert_allclose(heat.relevance.flatten().numpy(), want, atol=1e-6)


@pytest.mark.parametrize("fraction", [0.3, 0.7])
def test_the_matrix_discard_has_one_threshold_for_the_layer(scene, fraction):
    method = AttentionRollout(discard_ratio=fraction, discard="matrix", start_layer=-1)
    layer = on_states(scene.variant, scene.patterns[0])[-1]
    fused, support = layer.dense.mean(0), layer.dense.max(0) > 0
    keys = [(i, j) for i, j in zip(*np.nonzero(support), strict=True) if j not in layer.cls]
    for i, j in sorted(keys, key=lambda place: fused[place])[: int(fraction * len(keys))]:
        fused[i, j] = 0
    layer = SimpleNamespace(dense=fused[None], inside=layer.inside)
    row = start(scene.variant, [layer]) @ mixed(layer, 0.5, np.mean)
    got = method(scene.model, scene.pixels[:1]).relevance.flatten().numpy()
    np.testing.assert_allclose(got, to_tubelets(scene.variant, row), atol=1e-6)


def dense_gradients(model, variant, pixels, target):
    """Patterns and their gradients of one clip on states, by autograd through the eager model."""
    model.set_attn_implementation("eager")
    output = model(pixels, output_attentions=True)
    parts = [part for layer in output.attentions for part in (layer if isinstance(layer, tuple) else (layer,))]
    found = torch.autograd.grad(output.logits[0, target], parts)
    pairs = iter(zip(parts, found, strict=True))
    layers = []
    for layer in output.attentions:
        parts_and_slopes = [next(pairs) for _ in range(len(layer) if isinstance(layer, tuple) else 1)]
        layers.append(
            [[value[0].detach().double().numpy() for value in side] for side in zip(*parts_and_slopes, strict=True)]
        )
    return [tuple(spread(variant, model, parts) for parts in both) for both in layers]


def spread(variant, model, parts):
    """(head, group, query, key) arrays of a layer as a naive pattern: dense, or a list of one a time."""
    if variant == "spacetime":
        return parts[0]
    if variant == "factorized_encoder":
        return list(parts[0].transpose(1, 0, 2, 3)) if parts[0].ndim == 4 else parts[0]
    dense = []
    for part in parts:
        axis = "time" if part.shape[1] == PLACES and part.shape[2] == T else "space"
        out = np.zeros((len(part), T * PLACES, T * PLACES))
        for number, group in enumerate(groups(axis, T, PLACES)):
            out[:, np.asarray(group)[:, None], group] = part[:, number]
        dense.append(out)
    return np.concatenate(dense)


@pytest.fixture(params=VARIANTS)
def gradient_scene(request):
    model, _ = variant_model(request.param)
    pixels = random_clips(1)
    both = dense_gradients(model, request.param, pixels, 3)
    patterns = on_states(request.param, [pair[0] for pair in both])
    gradients = on_states(request.param, [pair[1] for pair in both])
    model.set_attn_implementation("sdpa")
    return SimpleNamespace(variant=request.param, model=model, pixels=pixels, patterns=patterns, gradients=gradients)


@pytest.mark.parametrize("centred", [False, True])
def test_chefer_relevance_is_that_of_the_effective_operator(gradient_scene, centred):
    scene = gradient_scene
    row = start(scene.variant, scene.patterns)
    for pattern, gradient in reversed(list(zip(scene.patterns, scene.gradients, strict=True))):
        slope = gradient.dense
        if centred:
            slope = slope - (pattern.dense * slope).sum(-1, keepdims=True)
        row = row + row @ np.maximum(pattern.dense * slope, 0).mean(0)
    heat = CheferRelevance(centred=centred)(scene.model, scene.pixels, 3)
    close(heat.relevance.flatten(), torch.from_numpy(to_tubelets(scene.variant, row)), 1e-4)


@pytest.mark.parametrize(
    "method", [GradientRollout(), GradientRollout(residual=0.0), GradientRollout(discard_ratio=0.5)], ids=str
)
def test_gradient_rollout_is_that_of_the_effective_operator(gradient_scene, method):
    scene = gradient_scene
    row = start(scene.variant, scene.patterns)
    for pattern, gradient in reversed(list(zip(scene.patterns, scene.gradients, strict=True))):
        fused = np.maximum((pattern.dense * gradient.dense).mean(0), 0)
        if method.discard_ratio:
            fused = drop_row(method.discard_ratio)(fused, pattern)
        row = row @ mixed(SimpleNamespace(dense=fused[None], inside=pattern.inside), method.residual, np.mean)
    heat = method(scene.model, scene.pixels, 3)
    close(heat.relevance.flatten(), torch.from_numpy(to_tubelets(scene.variant, row)), 1e-4)


@pytest.mark.parametrize("layer", [0, -1])
def test_raw_attention_and_its_gradient_are_one_layers_row_on_the_grid(gradient_scene, layer):
    scene = gradient_scene
    pattern, gradient = scene.patterns[layer], scene.gradients[layer]
    query = start(scene.variant, scene.patterns)
    temporal = scene.variant == "factorized_encoder" and layer == -1
    if scene.variant == "factorized_encoder" and layer == 0:  # the mean over the CLS of all times
        query = np.zeros(STATES)
        query[1 :: 1 + PLACES] = 1 / T

    def read(dense):
        row = query @ dense
        if temporal:  # a time's token stands for its tubelets, alike
            return np.repeat(row[1 :: 1 + PLACES], PLACES) / PLACES
        return to_tubelets(scene.variant, row)

    for fusion, fuse in (("mean", np.mean), ("max", np.max)):
        heat = RawAttention(layer, fusion)(scene.model, scene.pixels)
        np.testing.assert_allclose(heat.relevance.flatten().numpy(), read(fuse(pattern.dense, axis=0)), atol=1e-6)
    one = RawAttention(layer, head=1)(scene.model, scene.pixels)
    np.testing.assert_allclose(one.relevance.flatten().numpy(), read(pattern.dense[1]), atol=1e-6)
    slope = AttentionGradient(layer)(scene.model, scene.pixels, 3)
    want = read(np.maximum(pattern.dense * gradient.dense, 0).mean(0))
    assert np.abs(slope.relevance.flatten().numpy() - want).max() <= 1e-5 * np.abs(want).max() + 1e-9


def test_a_place_can_be_asked_for(scene):
    """The row of one tubelet, in a layer and over all layers."""
    token = scene.model.config.grid.token(1, 0, 1)
    layers = on_states(scene.variant, scene.patterns[0])
    row = np.zeros(layers[0].dense.shape[-1])
    inside = 1 * PLACES + 1
    row[{"spacetime": 1 + inside, "factorized_encoder": 1 + (1 + PLACES) + 2}.get(scene.variant, inside)] = 1
    for layer in reversed(layers):
        row = row @ mixed(layer, 0.5, np.mean)
    heat = AttentionRollout()(scene.model, scene.pixels, queries=token)
    np.testing.assert_allclose(heat.relevance[0].flatten().numpy(), to_tubelets(scene.variant, row), atol=1e-6)


@pytest.mark.parametrize("variant", FACTORIZED)
def test_a_mask_is_in_the_maps_and_eager_changes_nothing(variant):
    model, _ = variant_model(variant)
    pixels = random_clips()
    layers, heads = len(model.blocks), 4
    mask = torch.rand(layers, 2, heads, 1, 1)
    for method in (AttentionRollout(), AttentionRollout("max"), CheferRelevance(), RawAttention(0)):
        target = () if method.class_agnostic else (2,)
        model.set_attn_implementation("sdpa")
        both = method(model, pixels, *target, head_mask=mask).relevance
        for clip in range(2):
            alone = method(model, pixels[clip : clip + 1], *target, head_mask=mask[:, clip : clip + 1]).relevance
            torch.testing.assert_close(both[clip : clip + 1], alone, rtol=1e-4, atol=1e-6)
        model.set_attn_implementation("eager")
        torch.testing.assert_close(method(model, pixels, *target, head_mask=mask).relevance, both, rtol=1e-4, atol=1e-6)
        assert not torch.allclose(method(model, pixels, *target).relevance, both, rtol=1e-3)


PIXEL_METHODS = [
    InputXGradient(),
    IntegratedGradients(steps=2),
    SmoothGrad(samples=2),
    Occlusion(),
    Rise(masks=4, cells=(2, 2, 2)),
]


@pytest.mark.parametrize("variant", FACTORIZED)
@pytest.mark.parametrize("method", PIXEL_METHODS, ids=lambda method: type(method).__name__)
def test_methods_that_need_no_attention_just_work(variant, method):
    model, _ = variant_model(variant)
    heat = method(model, random_clips(1), 1)
    assert heat.relevance.shape == (1, T, 2, 2)
    assert heat.relevance.abs().max() > 0


@pytest.mark.parametrize("variant", FACTORIZED)
def test_a_method_of_the_cls_row_of_joint_attention_names_others(variant):
    model, _ = variant_model(variant)
    with pytest.raises(InputError, match=rf"needs joint attention with a CLS token.*is {variant}: use CheferRelevance"):
        TransitionAttentionMaps(steps=1)(model, random_clips(1), 1)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("variant", FACTORIZED[1:])
def test_legrad_is_the_gradient_of_each_layers_own_readout(variant, masked):
    """Of dense patterns on all tokens, by autograd through the eager block, the final norm and the head."""
    model, _ = variant_model(variant)
    pixels, layers = random_clips(1), len(model.blocks)
    mask = torch.rand(layers, 1, 4, 1, 1) if masked else torch.ones(layers, 1, 4, 1, 1)
    got = LeGrad()(model, pixels, 3, head_mask=mask if masked else None).relevance.flatten()
    model.set_attn_implementation("eager")
    states, want = [model.embed(pixels)], np.zeros(T * PLACES)
    for layer, block in enumerate(model.blocks):
        seen = []
        names = (
            [f"{half}hook_pattern" for half in ("time.", "space.")] if variant == FACTORIZED[2] else ["hook_pattern"]
        )
        hooks = [
            block.attn.get_submodule(n).register_forward_hook(lambda *a, seen=seen: seen.append(a[2])) for n in names
        ]
        out, _ = block(states[-1], mask[layer])
        for hook in hooks:
            hook.remove()
        score = model.classifier(model.ln_final(out).mean(1))[0, 3]
        slopes = [part[0].double().numpy() for part in torch.autograd.grad(score, seen, retain_graph=True)]
        want += np.maximum(spread(variant, model, slopes), 0).mean(axis=(0, 1)) / layers
        states.append(out)
    close(got, torch.from_numpy(want), 1e-4)


@pytest.mark.parametrize("method", [AttCAT(), ValueNormRollout(), LeGrad()], ids=lambda m: type(m).__name__)
def test_methods_of_one_sequence_refuse_a_factorised_encoder(method):
    model, _ = variant_model("factorized_encoder")
    target = () if method.class_agnostic else (1,)
    with pytest.raises(InputError, match=r"factorized_encoder.*AttentionRollout"):
        method(model, random_clips(1), *target)


@pytest.mark.parametrize("variant", FACTORIZED[1:])
def test_methods_of_one_sequence_read_the_effective_operator(variant):
    """AttCAT against its formula on dense patterns; a rollout of value norms sums to 1."""
    model, _ = variant_model(variant)
    pixels = random_clips(1)
    both = dense_gradients(model, variant, pixels, 3)
    model.set_attn_implementation("sdpa")
    record = record_gradients(model, pixels, 3, states=True)
    total = torch.zeros(T * PLACES, dtype=torch.float64)
    for layer, (pattern, _) in enumerate(both):
        received = torch.from_numpy(pattern.mean(axis=(0, 1)))
        total += received * (record.states[layer][0] * record.state_gradients[layer][0]).double().sum(-1)
    close(AttCAT()(record).relevance.flatten(), total, 1e-4)
    norms = ValueNormRollout()(model, pixels)
    torch.testing.assert_close(norms.relevance.sum(), torch.tensor(1.0))


@pytest.mark.parametrize("variant", FACTORIZED)
def test_a_record_agrees_with_the_eager_patterns(variant):
    model, _ = variant_model(variant)
    pixels = random_clips()
    record = record_attention(model, pixels)
    assert record.num_layers == len(model.blocks) == len(record.layers)
    everything = range(record.grid.num_tokens)
    for layer in record.layers:
        rows = record.rows(layer, list(everything))
        torch.testing.assert_close(rows.sum(dim=-1), torch.ones(rows.shape[:3]))
        torch.testing.assert_close(record.columns(layer, [1, -2]), rows[..., [1, rows.shape[-1] - 2]])
        torch.testing.assert_close(record.pattern(layer, 2), rows[:, 2])
        if record.num_states == record.grid.num_tokens:
            dense = torch.stack([torch.cat([b for _, b in record.pattern_blocks(layer, clip)], 1) for clip in range(2)])
            torch.testing.assert_close(dense, rows)
            weights = torch.rand(2, len(everything))
            want = torch.einsum("bq,bhqk->bk", weights, rows) / 4
            torch.testing.assert_close(record.propagate(layer, weights), want)
            entropy = -(rows * rows.clamp_min(1e-30).log()).sum(-1)
            torch.testing.assert_close(record.entropy(layer), entropy, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(record.log_sum_exp(layer).shape, rows.shape[:3])
    with pytest.raises(InputError, match="head 4 is outside"):
        record.pattern(0, 4)
    gradients = record_gradients(model, pixels, 1)
    with pytest.raises(InputError, match="gradient_row_blocks"):
        gradients.gradient_rows(0, 0)


def test_a_model_that_averages_its_tokens_explains_all_of_them():
    """Joint attention without CLS: every method that reads attention starts from the mean over tokens."""
    model, _ = variant_model("spacetime", fields={"variant": "spacetime"}, cls=False)
    assert isinstance(model, VivitForVideoClassification)
    assert model.config.classifier == "gap"
    pixels = random_clips(1)
    model.set_attn_implementation("eager")
    patterns = [layer[0].detach().numpy() for layer in model(pixels, output_attentions=True).attentions]
    row = np.full(T * PLACES, 1 / (T * PLACES))
    for pattern in reversed(patterns):
        row = row @ (0.5 * np.eye(len(row)) + 0.5 * pattern.mean(0))
    got = AttentionRollout()(model, pixels).relevance.flatten().numpy()
    np.testing.assert_allclose(got, row, atol=1e-6)
    for method in (CheferRelevance(), LeGrad(), AttCAT()):
        assert method(model, pixels, 1).relevance.abs().max() > 0
    with pytest.raises(InputError, match="this model's is joint, but it has no CLS token: use CheferRelevance"):
        TransitionAttentionMaps(steps=1)(model, pixels, 1)


def test_embeddings_of_a_clip_are_what_the_classifier_reads():
    """Targets of models without classifier: the CLS token, the mean of all tokens, or the mean of the times' CLS."""
    cases = [({"variant": variant}, {}) for variant in VARIANTS]
    cases.append(({"variant": "factorized_encoder", "spatial_only_baseline": True}, {"baseline": True}))
    for fields, sizes in cases:
        frames = {"num_frames": 2 * T} if sizes else {}
        model, _ = variant_model(fields["variant"], fields=frames, **sizes)
        bare = VivitModel(model.config, add_pooling_layer=False).eval()
        bare.load_state_dict({name: value for name, value in model.state_dict().items() if "classifier" not in name})
        pixels = random_clips()
        heat = CheferRelevance()(bare, pixels, CosineSimilarity(torch.randn(12), of="auto"))
        assert heat.relevance.shape == (2, T, 2, 2)
        headless = VivitForVideoClassification(model.config.replace(num_labels=0)).eval()
        headless.load_state_dict(bare.state_dict())
        direction = torch.randn(12)
        want = torch.cosine_similarity(headless(pixels).logits, direction[None])
        record = record_gradients(bare, pixels, CosineSimilarity(direction))
        torch.testing.assert_close(record.scores, want.detach())
        if model.config.classifier == "gap":
            with pytest.raises(InputError, match="has no CLS token"):
                record_gradients(bare, pixels, CosineSimilarity(direction, of="cls"))


@pytest.mark.parametrize("variant", FACTORIZED)
def test_tokens_in_groups_cannot_be_dropped(variant):
    model, _ = variant_model(variant)
    with pytest.raises(InputError, match="none can be left out"):
        forward_kept_tokens(model, random_clips(1), torch.ones(1, T, 2, 2, dtype=torch.bool))


def test_diagnostics_of_one_sequence_refuse_a_factorised_encoder():
    model, _ = variant_model("factorized_encoder")
    record = record_values(model, random_clips(1), final_state=True)
    for diagnose in (attention_sinks, artefact_tokens):
        with pytest.raises(InputError, match=f"{diagnose.__name__} needs layers that all read the same tokens"):
            diagnose(record)


@pytest.mark.parametrize("variant", FACTORIZED[1:])
def test_diagnostics_read_the_effective_operator(variant):
    model, _ = variant_model(variant)
    record = record_values(model, random_clips(1), final_state=True)
    sinks = attention_sinks(record)
    want = record.rows(0, list(range(T * PLACES)))[0].mean(dim=1)
    torch.testing.assert_close(sinks.received[0, 0], want)


CASES = [{"variant": variant} for variant in VARIANTS] + [{"variant": "spacetime", "cls": False}]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_of_all_methods_those_that_suit_a_model_run_and_the_others_refuse(case):
    fields = {"variant": "spacetime"} if "cls" in case else {}
    model, _ = variant_model(case["variant"], fields=fields, **{key: case[key] for key in case if key == "cls"})
    pixels = random_clips(1)
    kept, reasons = suitable_methods(all_methods(), model)
    wanted = {"spacetime": 0, "factorized_encoder": 4}.get(case["variant"], 1) + ("cls" in case)
    assert len(reasons) == wanted
    assert len(kept) == len(all_methods()) - wanted
    for method in all_methods():
        target = () if getattr(method, "class_agnostic", False) else (1,)
        if method in kept:
            assert method(model, pixels, *target).grid.shape == (T, 2, 2)
        else:
            with pytest.raises(InputError, match=r"needs (joint attention|layers that all read the same tokens)"):
                method(model, pixels, *target)
