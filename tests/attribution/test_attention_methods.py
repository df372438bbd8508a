"""Raw attention and rollout equal their definitions on the eager patterns."""

import itertools

import pytest
import torch

from tests.model.tiny import TINY, clips
from vivit_lab.attribution import AttentionRollout, RawAttention
from vivit_lab.attribution.rollout import drop_lowest
from vivit_lab.errors import InputError, OutOfMemoryBudgetError
from vivit_lab.families import VivitForVideoClassification
from vivit_lab.model import VivitConfig
from vivit_lab.records import attention as record_module
from vivit_lab.records import record_attention


@pytest.fixture
def model():
    return VivitForVideoClassification(VivitConfig(**TINY, num_labels=5)).eval()


def fuse(pattern, how):
    return {"mean": pattern.mean, "max": pattern.amax, "min": pattern.amin}[how](dim=1)


def naive_discard(fused, ratio, discard):
    """Zero the lowest entries that are not on the CLS key, one by one."""
    fused = fused.clone()
    for matrix in fused:
        groups = [matrix] if discard == "matrix" else list(matrix.unsqueeze(1))
        for group in groups:
            entries = sorted(
                (group[row, column].item(), row, column)
                for row in range(group.shape[0])
                for column in range(1, group.shape[1])
            )
            for _, row, column in entries[: int(ratio * len(entries))]:
                group[row, column] = 0
    return fused


def naive_rollout(attentions, how, ratio, discard, start, residual, queries):
    count = attentions[0].shape[-1]
    identity = torch.eye(count)
    total = identity.expand(len(attentions[0]), -1, -1)
    for pattern in attentions[start:]:
        fused = naive_discard(fuse(pattern, how), ratio, discard)
        mixed = residual * identity + (1 - residual) * fused
        mixed = mixed / mixed.sum(dim=-1, keepdim=True)
        total = mixed @ total
    return total[:, queries].mean(dim=1)


SETTINGS = list(itertools.product(["mean", "max", "min"], [(0.0, "row"), (0.6, "row"), (0.9, "matrix")]))


@pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
@pytest.mark.parametrize(("start", "residual"), [(0, 0.5), (-2, 0.5), (1, 0.0), (0, 0.9)])
@pytest.mark.parametrize(("how", "discarding"), SETTINGS)
@pytest.mark.parametrize("queries", [None, 3, [0, 2, 5]], ids=str)
def test_rollout_is_its_definition(model, monkeypatch, how, discarding, start, residual, queries, masked):
    monkeypatch.setattr(
        record_module, "_BLOCK_BYTES", {"cpu": 4 * 9 * 4 * 4}
    )  # four rows a block: blocks do not fit evenly
    pixels, mask = clips(), torch.rand(3, 4) if masked else None
    with torch.no_grad():
        attentions = model(pixels, output_attentions=True, head_mask=mask).attentions
    ratio, discard = discarding
    method = AttentionRollout(how, ratio, discard, start, residual)
    got = method(record_attention(model, pixels, head_mask=mask), queries=queries)
    index = [0] if queries is None else [queries] if isinstance(queries, int) else queries
    want = naive_rollout(attentions, how, ratio, discard, start, residual, index)
    torch.testing.assert_close(got.relevance.flatten(1), want[:, 1:], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.tensor(got.cls_share), want[:, 0], rtol=1e-5, atol=1e-5)


def test_many_queries_take_the_blockwise_way_and_agree(model):
    pixels = torch.randn(1, 16, 3, 64, 64)
    record = record_attention(model, pixels, interpolate_pos_encoding=True)
    everything = range(record.grid.num_tokens)
    assert len(everything) > 64
    got = AttentionRollout()(record, queries=everything).relevance
    parts = [AttentionRollout()(record, queries=token).relevance for token in everything]
    torch.testing.assert_close(got, torch.stack(parts).mean(dim=0))


def test_a_model_and_its_record_give_the_same_map(model):
    pixels = clips()
    for method in (AttentionRollout(start_layer=-1), RawAttention(), RawAttention(layer=-2), RawAttention(layer=1)):
        from_model, from_record = method(model, pixels), method(record_attention(model, pixels))
        torch.testing.assert_close(from_model.relevance, from_record.relevance)
        assert from_model.metadata() == from_record.metadata()


def test_a_batch_is_its_clips_one_by_one(model):
    pixels = clips(3)
    together = AttentionRollout("max", 0.5)(model, pixels)
    assert len(together) == 3
    for index in range(3):
        alone = AttentionRollout("max", 0.5)(model, pixels[index : index + 1])
        torch.testing.assert_close(together[index].relevance, alone.relevance)


@pytest.mark.parametrize("how", ["mean", "max", "min"])
@pytest.mark.parametrize("queries", [None, [1, 4]], ids=str)
def test_raw_attention_is_a_row_of_the_pattern(model, how, queries):
    pixels = clips()
    with torch.no_grad():
        attentions = model(pixels, output_attentions=True).attentions
    index = queries or [0]
    got = RawAttention(layer=1, head_fusion=how)(model, pixels, queries=queries)
    torch.testing.assert_close(got.relevance.flatten(1), fuse(attentions[1], how)[:, index].mean(dim=1)[:, 1:])
    one = RawAttention(layer=-1, head=-2)(model, pixels, queries=queries)
    torch.testing.assert_close(one.relevance.flatten(1), attentions[2][:, 2][:, index].mean(dim=1)[:, 1:])


def test_a_mean_rollout_sums_to_one_with_cls(model):
    heat = AttentionRollout()(model, clips())
    total = heat.relevance.sum(dim=(1, 2, 3)) + torch.tensor(heat.cls_share)
    torch.testing.assert_close(total, torch.ones(2), rtol=0, atol=1e-5)


def test_a_rollout_does_not_depend_on_the_classifier(model):
    pixels = clips()
    before = AttentionRollout()(model, pixels).relevance
    torch.nn.init.normal_(model.classifier.weight, std=10)
    assert torch.equal(AttentionRollout()(model, pixels).relevance, before)


def test_what_does_not_depend_on_the_class_refuses_one(model):
    record = record_attention(model, clips())
    for method in (RawAttention(), AttentionRollout()):
        assert method.class_agnostic
        assert "class-agnostic" in type(method).__doc__.lower()
        torch.testing.assert_close(method(model, clips(), None).relevance.shape, (2, 2, 2, 2))
        for call in (lambda: method(model, clips(), 3), lambda: method(record, target=0)):  # noqa: B023
            with pytest.raises(InputError, match=r"does not depend on the class, and target=\d would be ignored"):
                call()


def test_a_map_says_what_it_is(model):
    heat = AttentionRollout(discard_ratio=0.1, start_layer=1)(
        model, clips(), queries=[0, model.config.grid.token(1, 0, 1)]
    )
    assert heat.method == "AttentionRollout"
    assert heat.parameters == {
        "head_fusion": "mean",
        "discard_ratio": 0.1,
        "discard": "row",
        "start_layer": 1,
        "residual": 0.5,
    }
    assert heat.target == "mean of tokens CLS, (t=1, y=0, x=1)"
    assert heat.model_id == "VivitForVideoClassification"
    assert heat.provenance["attn_implementation"] == "sdpa"
    assert heat.grid == model.config.grid
    many = RawAttention()(model, clips(), queries=range(9))
    assert many.target.endswith("and 1 more")
    assert RawAttention()(model, clips(), queries=2).target == "token (t=0, y=0, x=1)"


def test_dropping_the_lowest_is_exact_also_among_equals():
    values = torch.tensor([[0.2, 0.2, 0.2, 0.2], [0.4, 0.1, 0.3, 0.2]])
    torch.testing.assert_close(drop_lowest(values, 0.5), torch.tensor([[0, 0, 0.2, 0.2], [0.4, 0, 0.3, 0]]))
    assert drop_lowest(values, 0.2) is values


def test_a_query_that_lost_every_weight_carries_nothing(model):
    # without a residual and with heads masked out, nothing is left to roll out; that is zero, not NaN
    record = record_attention(model, clips(), head_mask=torch.zeros(4))
    for method in (AttentionRollout("max", 0.5, residual=0.0), AttentionRollout(residual=0.0)):
        assert not method(record).relevance.any()
    partly = record_attention(model, clips(), head_mask=torch.tensor([[1.0] * 4, [0.0] * 4, [1.0] * 4]))
    assert not AttentionRollout(residual=0.0)(partly).relevance.any()


def test_a_mask_for_each_clip(model):
    pixels, mask = clips(), torch.rand(3, 2, 4, 1, 1)
    for method in (AttentionRollout(), AttentionRollout("max", 0.5), RawAttention(layer=1)):
        together = method(model, pixels, head_mask=mask)
        for clip in range(2):
            alone = method(model, pixels[clip : clip + 1], head_mask=mask[:, clip : clip + 1])
            torch.testing.assert_close(together[clip].relevance, alone.relevance)
            assert together[clip].cls_share == pytest.approx(alone.cls_share)


def test_other_sizes_are_explained_on_their_own_grid(model):
    larger = torch.randn(1, 6, 3, 48, 32)
    heat = AttentionRollout()(model, larger, interpolate_pos_encoding=True)
    assert heat.grid.shape == (3, 3, 2)
    with pytest.raises(InputError, match="interpolate_pos_encoding=True"):
        AttentionRollout()(model, larger, interpolate_pos_encoding=False)


def test_autocast_around_it_does_not_change_the_reductions(model):
    record = record_attention(model, clips())
    want = [AttentionRollout()(record).relevance, record.rows(1, 2), record.entropy(0), record.columns(0, 1)]
    with torch.autocast("cpu", torch.bfloat16):
        got = [AttentionRollout()(record).relevance, record.rows(1, 2), record.entropy(0), record.columns(0, 1)]
        lower = record_attention(model, clips())
        assert AttentionRollout("max", 0.5)(lower).relevance.dtype == torch.float32
    for mine, wanted in zip(got, want, strict=True):
        assert torch.equal(mine, wanted)
    assert lower.provenance["dtype"] == "bfloat16"


def test_the_scale_says_what_the_numbers_are(model):
    mask = torch.ones(4)
    assert RawAttention()(model, clips()).scale == "attention probability; with CLS it sums to 1"
    assert RawAttention(head_fusion="max")(model, clips()).scale == "attention probability, max over the heads"
    assert RawAttention(head=1)(model, clips(), head_mask=mask).scale == "attention probability, after the head mask"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AttentionRollout(head_fusion="sum"), "head_fusion='sum' is not known; choose one of mean, max, min"),
        (lambda: AttentionRollout(discard="column"), "discard='column' is not known"),
        (lambda: AttentionRollout(discard_ratio=1.0), r"discard_ratio must lie in \[0, 1\), got 1.0"),
        (lambda: AttentionRollout(residual=-0.1), r"residual must lie in \[0, 1\), got -0.1"),
        (lambda: RawAttention(head_fusion="median"), "head_fusion='median'"),
    ],
)
def test_wrong_settings_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_wrong_calls_are_refused(model):
    record = record_attention(model, clips(), layers=[2])
    with pytest.raises(InputError, match="pixel_values is missing"):
        AttentionRollout()(model)
    with pytest.raises(InputError, match="a record holds its own clips, head mask and grid"):
        RawAttention()(record, clips())
    with pytest.raises(InputError, match="start_layer=3 is outside"):
        AttentionRollout(start_layer=3)(model, clips())
    with pytest.raises(InputError, match=r"layer 1 is not in the record"):
        AttentionRollout(start_layer=1)(record)
    with pytest.raises(InputError, match="head=4 is outside"):
        RawAttention(head=4)(record)
    with pytest.raises(InputError, match="outside the sequence of 9 tokens"):
        AttentionRollout(start_layer=2)(record, queries=[9])


def test_the_whole_matrix_is_refused_where_it_does_not_fit(model, monkeypatch):
    record = record_attention(model, clips())
    monkeypatch.setattr("vivit_lab.memory.free_bytes", lambda device: 2200)
    with pytest.raises(OutOfMemoryBudgetError, match=r'one fused pattern of 9² tokens needs 2.27 kB, .* discard="row"'):
        AttentionRollout(discard_ratio=0.5, discard="matrix")(record)
    AttentionRollout(discard_ratio=0.5, discard="row")(record)
