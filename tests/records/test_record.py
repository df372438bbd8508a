"""Every reduction of a record equals the same reduction of the eager patterns."""

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from tests.model.tiny import TINY, clips
from vivit_lab.errors import InputError, OutOfMemoryBudgetError
from vivit_lab.families import VivitForVideoClassification
from vivit_lab.model import VivitConfig
from vivit_lab.model import attention as attention_module
from vivit_lab.records import AttentionRecord, record_attention
from vivit_lab.records import attention as record_module
from vivit_lab.video import Clip, Geometry


@pytest.fixture
def model():
    return VivitForVideoClassification(VivitConfig(**TINY, num_labels=5)).eval()


@pytest.fixture(params=["kernel's log-sum-exp", "computed log-sum-exp", "eager", "blocks of one row"])
def _way(request, monkeypatch, model):
    if request.param == "computed log-sum-exp":
        monkeypatch.setattr(
            attention_module,
            "fused_attention_with_lse",
            lambda q, k, v, scale: None,
        )
    elif request.param == "eager":
        model.set_attn_implementation("eager")
    elif request.param == "blocks of one row":
        monkeypatch.setattr(record_module, "_BLOCK_BYTES", {"cpu": 1})


@pytest.mark.usefixtures("_way", "_checked_shapes")
@pytest.mark.parametrize("masked", [False, True])
def test_reductions_are_those_of_the_eager_patterns(model, masked):
    pixels, mask = clips(), torch.rand(3, 4) if masked else None
    with torch.no_grad():
        attentions = model(pixels, head_mask=mask, output_attentions=True).attentions
        unmasked = model(pixels, head_mask=mask, output_attentions=True).attentions
        if masked:
            unmasked = [pattern / mask[layer].view(1, 4, 1, 1) for layer, pattern in enumerate(attentions)]
        logits = model(pixels, head_mask=mask).logits
    record = record_attention(model, pixels, head_mask=mask)
    torch.testing.assert_close(record.output.logits, logits)
    weights = torch.rand(2, 9)
    for layer, pattern in enumerate(attentions):
        torch.testing.assert_close(record.rows(layer, [0, 4, -1]), pattern[:, :, [0, 4, 8]])
        torch.testing.assert_close(record.columns(layer, [0, 4, -1]), pattern[..., [0, 4, 8]])
        torch.testing.assert_close(record.rows(layer, 3), pattern[:, :, 3:4])
        for head in range(4):
            torch.testing.assert_close(record.pattern(layer, head), pattern[:, head])
        plain = unmasked[layer]
        torch.testing.assert_close(record.entropy(layer), -(plain * plain.log()).sum(-1))
        wanted = torch.einsum("bq,bhqk->bk", weights, pattern) / 4
        torch.testing.assert_close(record.propagate(layer, weights), wanted)
        for clip in range(2):
            blocks = [block.clone() for _, block in record.pattern_blocks(layer, clip)]
            torch.testing.assert_close(torch.cat(blocks, dim=1), pattern[clip])


def test_columns_are_rows_transposed_and_rows_sum_to_one(model):
    record = record_attention(model, clips())
    everything = range(record.grid.num_tokens)
    torch.testing.assert_close(record.columns(1, everything), record.rows(1, everything))
    torch.testing.assert_close(record.rows(1, everything).sum(-1), torch.ones(2, 4, 9))
    assert (record.entropy(1) <= np.log(9) + 1e-5).all()


def test_only_the_layers_asked_for_are_kept(model):
    record = record_attention(model, clips(), layers=[-1, 0])
    assert record.layers == [0, 2]
    torch.testing.assert_close(record.rows(-1, 0), record.rows(2, 0))
    with pytest.raises(InputError, match=r"layer 1 is not in the record of \[0, 2\] \(the model has 3\)"):
        record.rows(1, 0)
    with pytest.raises(InputError, match=r"layer -2 is not in the record"):
        record.rows(-2, 0)
    assert record.nbytes == sum(
        part.nbytes for store in (record.queries, record.keys, record.lse) for part in store.values()
    )
    assert "2 clips, layers 0–2, 4 heads, 9 tokens" in repr(record)


def test_the_model_is_left_as_it_was(model):
    model.train()
    model.blocks[1].eval()
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    record_attention(model, clips())
    with pytest.raises(InputError, match="head_mask must be"):
        record_attention(model, clips(), head_mask=torch.ones(7))
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_record_in_training_mode_is_one_in_evaluation_mode():
    model = VivitForVideoClassification(VivitConfig(**TINY, attention_probs_dropout_prob=0.5, hidden_dropout_prob=0.5))
    pixels = clips()
    torch.testing.assert_close(
        record_attention(model.train(), pixels).rows(2, 0), record_attention(model.eval(), pixels).rows(2, 0)
    )


def test_half_precision_models_are_read_in_float32(model):
    pixels = clips()
    record = record_attention(model.to(torch.bfloat16), pixels)
    assert record.queries[0].dtype == torch.bfloat16
    assert record.provenance["dtype"] == "bfloat16"
    everything = range(record.grid.num_tokens)
    rows = record.rows(2, everything)
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows.sum(-1), torch.ones(2, 4, 9))
    weights = torch.rand(2, 9)
    wanted = torch.einsum("bq,bhqk->bk", weights, rows) / 4
    torch.testing.assert_close(record.propagate(2, weights), wanted, rtol=1e-2, atol=1e-2)


def test_other_sizes_are_recorded_on_their_own_grid(model):
    record = record_attention(model, torch.randn(1, 6, 3, 48, 32), interpolate_pos_encoding=True)
    assert record.grid.shape == (3, 3, 2)
    assert record.rows(0, 0).shape == (1, 4, 1, 19)


def test_prepared_clips_bring_their_frame_indices(model):
    def clip(start):
        frames = np.zeros((4, 32, 32, 3), np.uint8)
        plain = Clip(frames, np.arange(4) / 25, np.arange(start, start + 4), 25.0, 4 / 25)
        return plain.prepared(torch.randn(1, 4, 3, 32, 32), Geometry.identity(32, 32))

    clips_ = [clip(0), clip(7)]
    record = record_attention(model, clips_)
    assert record.frame_indices == [[0, 1, 2, 3], [7, 8, 9, 10]]
    assert record.sources == [{"path": None, "geometry": Geometry.identity(32, 32).to_dict()}] * 2
    pixels = torch.cat([clip.pixel_values for clip in clips_])
    torch.testing.assert_close(record.rows(0, 0), record_attention(model, pixels).rows(0, 0))
    bare = Clip(np.zeros((4, 32, 32, 3), np.uint8), np.arange(4) / 25, np.arange(4), 25.0, 4 / 25)
    with pytest.raises(InputError, match="prepare it first"):
        record_attention(model, bare)
    with pytest.raises(InputError, match=r"wanted pixel_values .* got ndarray"):
        record_attention(model, bare.frames)


@pytest.mark.parametrize("tokens", [[], 0.5, [9], [-10], [True]])
def test_tokens_that_do_not_exist_are_refused(model, tokens):
    record = record_attention(model, clips())
    with pytest.raises(InputError, match="token"):
        record.rows(0, tokens)


@pytest.mark.parametrize("layers", [[], [3], [-4], 1])
def test_layers_that_do_not_exist_are_refused(model, layers):
    with pytest.raises(InputError, match=r"layers must be a list of some of 0\.\.2"):
        record_attention(model, clips(), layers=layers)


def test_a_head_that_does_not_exist_or_fit_is_refused(model, monkeypatch):
    record = record_attention(model, clips())
    with pytest.raises(InputError, match=r"head 4 is outside 0\.\.3"):
        record.pattern(0, 4)
    monkeypatch.setattr("vivit_lab.memory.free_bytes", lambda device: 10)
    for call, what in (
        (lambda: record.pattern(0, 0), "the pattern of one head"),
        (lambda: record.rows(0, [1, 2]), "2 rows"),
        (lambda: record.columns(0, [1, 2, 3]), "3 columns"),
    ):
        with pytest.raises(OutOfMemoryBudgetError, match=rf"{what} for 2 clips of 9 tokens .* fewer rows"):
            call()


def test_threads_record_one_model_at_once(model):
    inputs = [clips() for _ in range(2)]
    want = [record_attention(model, pixels).rows(2, 0) for pixels in inputs]
    model.blocks[1].train()  # so that the mode has to be changed and put back
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda index: record_attention(model, inputs[index % 2]).rows(2, 0), range(60)))
    for index, rows in enumerate(got):
        torch.testing.assert_close(rows, want[index % 2])
    assert model.blocks[1].training
    assert not model.blocks[0].training


def test_a_wrapped_block_keeps_its_place(model):
    class Wrapper(torch.nn.Module):
        def __init__(self, block):
            super().__init__()
            self.block = block
            self.attn = block.attn

        def forward(self, *args):
            return self.block(*args)

    pixels = clips()
    want = record_attention(model, pixels).rows(0, 0)
    model.blocks[0] = Wrapper(model.blocks[0])
    torch.testing.assert_close(record_attention(model, pixels, layers=[0]).rows(0, 0), want)


def test_small_integer_and_ragged_tokens(model):
    record = record_attention(model, clips())
    assert record.token_indices(torch.tensor([1, 250 % 9], dtype=torch.uint8)) == [1, 7]
    with pytest.raises(InputError, match="wanted token indices"):
        record.rows(0, [[1, 2], [3]])


def test_a_record_has_no_pattern_in_memory(model):
    record = record_attention(model, clips())
    assert isinstance(record, AttentionRecord)
    largest = max(part.numel() for store in (record.queries, record.keys, record.lse) for part in store.values())
    assert largest == 2 * 9 * 48  # tokens × d_model
