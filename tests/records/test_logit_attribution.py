"""Completeness: the shares and biases sum to the logit, however it is split; and each split is the naive one."""

import sys

import pytest
import torch

from tests.model.test_hooked import make
from tests.model.tiny import clips
from vivit_lab.errors import InputError, MissingExtraError
from vivit_lab.records import direct_logit_attribution

WAYS = ("layer", "head", "token")


@pytest.fixture(params=["token", "gap"])
def model(request):
    return make(classifier=request.param)


@pytest.mark.parametrize("by", WAYS)
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_shares_sum_to_the_logit(model, by, centred, masked, implementation):
    model.set_attn_implementation(implementation)
    pixels, mask = clips(), torch.rand(3, 4) if masked else None
    shares = direct_logit_attribution(model, pixels, [1, 3], by=by, centred=centred, head_mask=mask)
    with torch.no_grad():
        logits = model(pixels, head_mask=mask).logits
    want = logits[[0, 1], [1, 3]] - (logits.mean(1) if centred else 0)
    torch.testing.assert_close(shares.total, want, rtol=1e-5, atol=1e-6)
    scale = shares.values.abs().sum(1)
    assert (shares.remainder.abs() <= 1e-5 * scale).all()
    torch.testing.assert_close(shares.values.sum(1) + shares.bias, want, rtol=1e-5, atol=float(1e-6 * scale.max()))
    assert shares.targets == ["class 1 (LABEL_1)", "class 3 (LABEL_3)"]


@pytest.mark.parametrize("by", WAYS)
def test_differences_of_two_classes(model, by):
    pixels = clips()
    one, two = (direct_logit_attribution(model, pixels, target, by=by, centred=False) for target in (2, 4))
    both = direct_logit_attribution(model, pixels, 2, against=4, by=by)
    torch.testing.assert_close(both.values, one.values - two.values, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(both.total, one.total - two.total)
    assert both.targets[0] == "class 2 (LABEL_2), against class 4 (LABEL_4)"
    assert not both.centred
    with pytest.raises(InputError, match="the classes compared are the same"):
        direct_logit_attribution(model, pixels, 2, against=2)


def test_the_splits_agree_and_are_the_naive_ones(model):
    pixels = clips()
    layer, head, token = (direct_logit_attribution(model, pixels, 2, by=by, centred=False) for by in WAYS)
    torch.testing.assert_close(head.heads, token.heads, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(token.by_token.sum(-1), token.heads.flatten(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.share("1_mlp_out"), head.share("1_mlp_out"))
    with torch.no_grad():
        _, cache = model.run_with_cache(pixels, names_filter=lambda name: True)
        weights = (
            torch.eye(cache["q", 0].shape[1])[0] if model.config.classifier == "token" else torch.full((8,), 1 / 8)
        )

        def read(parts):  # (component, batch, token, d_model) → its share, through the cache's own readout
            return (cache.logit_attrs(parts, 2) * weights).sum(-1).T

        parts, labels = cache.decompose_resid(return_labels=True)
        order = [layer.labels.index(label) for label in labels]
        torch.testing.assert_close(layer.values[:, order], read(parts), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(head.heads.flatten(1), read(cache.stack_head_results()), rtol=1e-4, atol=1e-5)
        for index in range(3):
            value = cache["v", index]  # batch, source, head, d_head
            for number in range(4):
                weight = model.blocks[index].attn.o.weight.unflatten(1, (4, 12))[:, number]
                written = torch.einsum(
                    "bts,bsd,md->sbtm", cache["pattern", index][:, number], value[:, :, number], weight
                )
                got = token.by_token[:, token.head_labels.index(f"L{index}H{number}")]
                torch.testing.assert_close(got, read(written), rtol=1e-4, atol=1e-5)
    grid = token.tubelets()
    torch.testing.assert_close(grid, token.grid.unflatten(token.by_token.sum(1)))
    torch.testing.assert_close(token.tubelets("L1H2"), token.grid.unflatten(token.by_token[:, 6]))
    biases = sum((block.attn.o.bias for block in model.blocks), torch.zeros(48))
    assert not torch.allclose(head.bias, layer.bias)
    assert biases.abs().sum() > 0


@pytest.mark.parametrize("by", ["layer", "head"])
@pytest.mark.parametrize(
    "fields",
    [
        {"variant": "factorized_encoder"},
        {"variant": "factorized_encoder", "spatial_only_baseline": True},
        {"variant": "factorized_self_attention_block"},
        {"variant": "factorized_dot_product_attention"},
    ],
)
def test_shares_sum_to_the_logit_in_the_factorised_models(by, fields):
    model, pixels = make(**fields), clips()
    shares = direct_logit_attribution(model, pixels, 2, by=by, centred=False)
    with torch.no_grad():
        torch.testing.assert_close(shares.total, model(pixels).logits[:, 2], rtol=1e-5, atol=1e-6)
    assert (shares.remainder.abs() <= 1e-5 * shares.values.abs().sum(1)).all()
    temporal = len(fields) == 1 and fields["variant"] == "factorized_encoder"
    assert shares.labels[0] == ("3_resid_pre" if temporal else "embed")
    if by == "head":
        assert shares.heads[:, :3].isnan().all() == temporal
        assert not shares.heads[:, 3 * temporal :].isnan().any()


@pytest.mark.parametrize("variant", ["factorized_encoder", "factorized_self_attention_block"])
def test_a_share_is_what_the_logit_loses_with_its_head(variant):
    model, pixels = make(variant=variant), clips()
    layer = len(model.blocks) - 1
    shares = direct_logit_attribution(model, pixels, 2, centred=False)
    still = ["ln_final.hook_scale", f"blocks.{layer}.hook_mlp_out"]  # the direct path alone
    with torch.no_grad():
        _, cache = model.run_with_cache(pixels, names_filter=still)
        hold = [(name, lambda value, hook: cache[hook.name]) for name in still]
        without = model.run_with_hooks(pixels, fwd_hooks=[(f"blocks.{layer}.attn.hook_result", drop), *hold])
    torch.testing.assert_close(shares.share(f"L{layer}H1"), shares.total - without.logits[:, 2], rtol=1e-4, atol=1e-5)


def drop(result, hook):
    """Take head 1's contribution away."""
    result = result.clone()
    result[:, :, 1] = 0
    return result


@pytest.mark.parametrize("by", ["layer", "head"])
def test_edited_results_are_what_is_split(model, by):
    pixels = clips()
    plain = direct_logit_attribution(model, pixels, 2, by=by, centred=False)
    with model.hooks([("blocks.1.attn.hook_result", drop)]):
        shares = direct_logit_attribution(model, pixels, 2, by=by, centred=False)
        with torch.no_grad():
            torch.testing.assert_close(shares.total, model(pixels).logits[:, 2], rtol=1e-5, atol=1e-6)
    assert (shares.remainder.abs() <= 1e-5 * shares.values.abs().sum(1)).all()
    if by == "head":
        assert not shares.share("L1H1").any()
        assert plain.share("L1H1").abs().min() > 1e-4
        with model.hooks([("blocks.1.attn.hook_result", lambda result, hook: None)]):  # a hook that only looks
            seen = direct_logit_attribution(model, pixels, 2, by=by, centred=False)
        torch.testing.assert_close(seen.values, plain.values, rtol=1e-4, atol=1e-5)


def test_the_predicted_class_is_the_default():
    model, pixels = make(), clips()
    shares = direct_logit_attribution(model, pixels, centred=False)
    with torch.no_grad():
        torch.testing.assert_close(shares.total, model(pixels).logits.max(1).values, rtol=1e-5, atol=1e-6)
    assert shares.targets[0].endswith("predicted")
    assert not any(module._hooks for module in model.modules() if hasattr(module, "_hooks"))


def test_half_precision_is_near():
    model, pixels = make(), clips()
    want = direct_logit_attribution(model, pixels, 1)
    got = direct_logit_attribution(model.to(torch.bfloat16), pixels, 1)
    assert got.values.dtype == torch.float32
    assert (got.values - want.values).abs().max() < 0.1 * want.values.abs().max()


def test_what_has_no_sum_is_refused():
    model, pixels = make(), clips()
    with pytest.raises(InputError, match="by='neuron' is not known"):
        direct_logit_attribution(model, pixels, by="neuron")
    with pytest.raises(InputError, match="no linear classifier, so there is no logit to split"):
        direct_logit_attribution(make(num_labels=0), pixels)
    for variant in ({}, {"spatial_only_baseline": True}):
        with pytest.raises(InputError, match="by='token' wants heads that read the whole grid, which a factorised"):
            direct_logit_attribution(make(variant="factorized_encoder", **variant), pixels, by="token")
    for what in ("z", "result"):
        edit = model.hooks([(f"blocks.1.attn.hook_{what}", lambda value, hook: value * 0.5)])
        with pytest.raises(InputError, match=r"or a hook changes its pattern, z or result: use by='head'"), edit:
            direct_logit_attribution(model, pixels, by="token")
    hooks = [("blocks.1.attn.hook_pattern", lambda value, hook: value * 0.5)]
    with pytest.raises(InputError, match=r"by='token' wants plain attention .* use by='head'"), model.hooks(hooks):
        direct_logit_attribution(model, pixels, by="token")
    with model.hooks(hooks):
        shares = direct_logit_attribution(model, pixels, by="head")
    assert float(shares.remainder.abs().max()) < 1e-5


def test_pictures_and_tables(monkeypatch):
    model, pixels = make(), clips()
    layer, head, token = (direct_logit_attribution(model, pixels, 2, by=by) for by in WAYS)
    table = head.to_pandas()
    assert table[table["clip"] == 1].share.sum() == pytest.approx(float(head.total[1]), rel=1e-4)
    assert list(table[table["clip"] == 0].component) == [*head.labels, "bias", "remainder"]
    assert repr(head) == "LogitAttribution(by head, 2 clips, 17 components, class 2 (LABEL_2))"
    assert [shares._repr_html_().count("<figure") for shares in (layer, head, token)] == [0, 1, 2]
    assert "frames 2–3" in token._repr_html_()
    for wrong, message in (
        (lambda: layer.heads, "attention was not split into heads"),
        (lambda: head.tubelets(), "not split by source token"),
        (lambda: token.tubelets("L9H9"), "there is no head 'L9H9'; there are L0H0"),
        (lambda: head.share("L9H9"), "there is no component 'L9H9'"),
    ):
        with pytest.raises(InputError, match=message):
            wrong()
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match="tables need pandas"):
        head.to_pandas()
