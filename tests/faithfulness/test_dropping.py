"""Token dropping: the same as masking tokens out of every attention, for less work."""

import pytest
import torch
from beartype import beartype
from jaxtyping import jaxtyped
from torch.utils.flop_counter import FlopCounterMode

from tests.attribution.naive import random_model
from tests.faithfulness.laws_perturb import GRID, UNITS, attention_without, wide_clips, wide_model
from vivit_lab.errors import GridError, InputError
from vivit_lab.faithfulness import forward_kept_tokens
from vivit_lab.faithfulness.masking import embed_clips, forward_tokens, take_tokens
from vivit_lab.families import VivitForVideoClassification, VivitModel

IMPLEMENTATIONS = ("eager", "sdpa", "flash_attention_2")


@pytest.fixture(params=[VivitForVideoClassification, VivitModel])
def model(request):
    return wide_model() if request.param is VivitForVideoClassification else wide_model(kind=VivitModel)


def some(kept, rows=2):
    """Sets of tubelets of one size, another for each row."""
    return torch.stack([torch.randperm(UNITS) < kept for _ in range(rows)])


def final(output):
    """What the head is given or gives: the logits, or the CLS token."""
    logits = output.get("logits")
    return output.last_hidden_state[:, 0] if logits is None else logits


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_keeping_all_is_the_models_forward(model, implementation):
    model.set_attn_implementation(implementation)
    pixels = wide_clips()
    with torch.no_grad():
        want = model(pixels)
        got = forward_kept_tokens(model, pixels, torch.ones(2, *GRID.shape, dtype=torch.bool))
    assert type(got) is type(want)
    for name in want.keys():
        torch.testing.assert_close(got[name], want[name], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("kept", [0, 1, 7, UNITS - 1])
def test_dropping_is_masking_out_of_every_attention(model, implementation, kept):
    pixels, keep = wide_clips(), some(kept)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        want = []
        for clip, row in zip(pixels, keep, strict=True):
            with attention_without(row):
                want.append(model(clip[None]))
        model.set_attn_implementation(implementation)
        got = forward_kept_tokens(model, pixels, keep)
    torch.testing.assert_close(final(got), torch.cat([final(each) for each in want]), atol=1e-5, rtol=1e-5)
    if isinstance(model, VivitModel):  # every kept token is right, in its order
        stay = torch.cat((torch.ones(2, 1, dtype=torch.bool), keep), dim=1)
        hidden = [each.last_hidden_state[0][row] for each, row in zip(want, stay, strict=True)]
        torch.testing.assert_close(got.last_hidden_state, torch.stack(hidden), atol=1e-5, rtol=1e-5)


def test_many_versions_share_one_embedding_and_name_their_clips():
    model, pixels, keep = wide_model(), wide_clips(3), some(5, rows=4)
    rows = [2, 0, 2, 1]
    with torch.no_grad():
        tokens = embed_clips(model, pixels)
        got = forward_kept_tokens(model, tokens, keep, rows=rows).logits
        for place, clip in enumerate(rows):
            alone = forward_kept_tokens(model, pixels[clip : clip + 1], keep[place : place + 1]).logits
            torch.testing.assert_close(got[place : place + 1], alone, atol=1e-6, rtol=1e-5)


def test_head_masks_follow_their_clips():
    model, pixels, masks = wide_model(), wide_clips(), torch.rand(3, 2, 4, 1, 1)
    every = torch.ones(3, UNITS, dtype=torch.bool)
    with torch.no_grad():
        want = model(pixels, head_mask=masks).logits
        got = forward_kept_tokens(model, pixels, every, rows=[1, 0, 1], head_mask=masks).logits
        assert not torch.allclose(got, model(pixels).logits[[1, 0, 1]], atol=1e-3)
    torch.testing.assert_close(got, want[[1, 0, 1]], atol=1e-6, rtol=1e-5)


def test_fewer_tokens_are_less_work():
    model, pixels = wide_model(attn_implementation="eager"), wide_clips(1)  # the counter knows no fused CPU kernel
    tokens = embed_clips(model, pixels)

    def work(kept):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            forward_kept_tokens(model, tokens, some(kept, rows=1))
        counts = counter.get_flop_counts()["Global"]
        assert not any("conv" in str(operation) for operation in counts)  # the embedding was there already
        return counter.get_total_flops()

    whole = work(UNITS)
    # everything but attention itself is in proportion to the tokens, and attention falls with their square
    assert work(UNITS // 2) < whole * (UNITS // 2 + 1) / (UNITS + 1)
    assert work(0) < whole * 1.5 / (UNITS + 1)


def test_gradients_flow_to_kept_pixels_only():
    model, pixels, keep = wide_model(), wide_clips(1).requires_grad_(), some(3, rows=1)
    forward_kept_tokens(model, pixels, keep).logits[0, 0].backward()
    depth, rows, columns = GRID.tubelet
    blocks = pixels.grad.abs().unfold(1, depth, depth).unfold(3, rows, rows).unfold(4, columns, columns)
    assert torch.equal(blocks.sum(dim=(2, -3, -2, -1)).flatten(1) > 0, keep)


def test_a_model_in_training_is_evaluated_and_stays_in_training():
    model, pixels, keep = wide_model(hidden_dropout_prob=0.5), wide_clips(), some(4)
    with torch.no_grad():
        want = forward_kept_tokens(model, pixels, keep).logits
        model.train()
        assert torch.equal(forward_kept_tokens(model, pixels, keep).logits, want)
    assert all(module.training for module in model.modules())


def test_other_sizes_with_resized_positions():
    model, pixels = wide_model(), wide_clips()[:, :4]
    with torch.no_grad():
        want = model(pixels, interpolate_pos_encoding=True).logits
        every = torch.ones(2, 2, 3, 2, dtype=torch.bool)
        got = forward_kept_tokens(model, pixels, every, interpolate_pos_encoding=True).logits
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-5)


def test_shapes_are_as_annotated():
    checked, tokens = jaxtyped(typechecker=beartype), torch.randn(2, 9, 4)
    assert checked(take_tokens)(tokens, torch.eye(8).bool()[:2]).shape == (2, 2, 4)
    model = wide_model()
    assert checked(embed_clips)(model, wide_clips()).shape == (2, UNITS + 1, 48)
    assert checked(forward_tokens)(model, torch.randn(2, 5, 48)).logits.shape == (2, 5)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (InputError, "tokens from embed_clips", lambda m, p: forward_kept_tokens(m, p[0], some(2))),
        (InputError, "tokens from embed_clips", lambda m, p: forward_kept_tokens(m, torch.ones(2, 25, 5), some(2))),
        (InputError, "keep has no rows", lambda m, p: forward_kept_tokens(m, p, some(2)[:0])),
        (InputError, "3 rows for 2 clips", lambda m, p: forward_kept_tokens(m, p, some(2, 3))),
        (InputError, "rows must name one of the clips 0..1", lambda m, p: forward_kept_tokens(m, p, some(2), rows=[0])),
        (InputError, "rows must name", lambda m, p: forward_kept_tokens(m, p, some(2), rows=[0, 2])),
        (InputError, "rows must name", lambda m, p: forward_kept_tokens(m, p, some(2), rows=[-1, 0])),
        (
            InputError,
            r"rows\[0\] must be an integer, got 0.0",
            lambda m, p: forward_kept_tokens(m, p, some(2), rows=[0.0, 1.0]),
        ),
        (InputError, "keep must be boolean", lambda m, p: forward_kept_tokens(m, p, some(2).float())),
        (InputError, "equally many tubelets, got 2 to 3", lambda m, p: forward_kept_tokens(m, p, uneven())),
        (GridError, "24 tubelets a row", lambda m, p: forward_kept_tokens(m, p, some(2)[:, 1:])),
        (InputError, "head_mask must be", lambda m, p: forward_kept_tokens(m, p, some(2), head_mask=torch.ones(7))),
        (InputError, "head_mask must be", lambda m, p: forward_tokens(m, embed_clips(m, p), torch.ones(7))),
        (InputError, "pixel_values must be", lambda m, p: embed_clips(m, p[0])),
    ],
)
def test_wrong_arguments_are_named(error, message, call):
    with pytest.raises(error, match=message):
        call(wide_model(), wide_clips())


def uneven():
    return torch.cat((some(2, 1), some(3, 1)))


def test_a_square_grid_works_too():
    model = random_model()
    pixels = torch.randn(1, 4, 3, 32, 32)
    with torch.no_grad():
        got = forward_kept_tokens(model, pixels, torch.ones(1, 8, dtype=torch.bool)).logits
        torch.testing.assert_close(got, model(pixels).logits, atol=1e-6, rtol=1e-6)
