"""Path patching against the residual stream recomputed by hand."""

import pytest
import torch

from tests.interventions.models import clips, same, small_model, snapshot
from vivit_lab.errors import InputError
from vivit_lab.interventions import PathPatching
from vivit_lab.records import LogitDifference

TARGET = LogitDifference(1, 3)


def score(logits):
    return (logits[:, 1] - logits[:, 3]).double()


def streams(model, x):
    """Every residual stream, context and MLP output of a clean run, written out."""
    _, cache = model.run_with_cache(x)
    return cache


def naive(model, base, source, sender, receiver, hold_mlps):
    """One direct path, from the definition: a stream that differs from the base's by the sender's own write."""
    (layer, head), here, there = sender, streams(model, base), streams(model, source)
    attention = model.blocks[layer].attn
    width = attention.head_dim
    columns = attention.o.weight[:, head * width : (head + 1) * width]
    delta = (there["z", layer][:, :, head] - here["z", layer][:, :, head]) @ columns.T
    for index in range(layer, len(model.blocks)):
        block = model.blocks[index]
        if index > layer and hasattr(block, "enter"):  # from the spatial layers of a factorised encoder to the others
            end = here["resid_post", index - 1]
            delta = block.enter(end + delta) - block.enter(end)
        if receiver != "logits" and index == receiver[0]:
            break
        if not hold_mlps and hasattr(block, "mlp"):  # the MLPs answer to the changed stream, the heads do not
            middle = here["resid_mid", index] + delta
            delta = delta + block.mlp(block.ln2(middle)) - here["mlp_out", index]
    if receiver == "logits":
        final = model.ln_final(here["resid_post", len(model.blocks) - 1] + delta)
        final = final[:, 0] if model.config.classifier == "token" else final.mean(dim=1)
        return score(model.classifier(final)) - score(model(base).logits)
    index, other, part = receiver
    block = model.blocks[index]
    read = getattr(block.attn, part)(block.ln1(here["resid_pre", index] + delta)).unflatten(-1, (4, width))

    def replace(tensor, hook):
        changed = tensor.clone()
        changed[:, :, other] = read[:, :, other]
        return changed

    output = model.run_with_hooks(base, fwd_hooks=[(f"blocks.{index}.attn.hook_{part}", replace)])
    return score(output.logits) - score(model(base).logits)


@pytest.mark.parametrize(
    ("attention", "variant"),
    [
        ("eager", "spacetime"),
        ("sdpa", "spacetime"),
        ("sdpa", "factorized_encoder"),
        ("eager", "factorized_self_attention_block"),
        ("sdpa", "factorized_dot_product_attention"),
    ],
)
@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("hold_mlps", [True, False])
def test_every_path_is_the_hand_made_one(attention, variant, direction, hold_mlps):
    model, clean, corrupt = small_model(attention, variant=variant), clips(3), clips(3)
    senders = [(0, 1), (1, 3)]
    receivers = ["logits", (1, 0, "q"), (2, 2, "k"), (2, 2, "v")]
    if variant == "factorized_encoder":  # layers 0 to 2 are spatial, 3 is the first temporal one
        senders, receivers = [(1, 1), (3, 3)], ["logits", (2, 0, "q"), (3, 2, "k"), (4, 2, "v")]
    before = snapshot(model)
    method = PathPatching(senders, receivers, direction, hold_mlps, batch_size=2)
    found = method(model, clean, corrupt, TARGET)
    assert same(before, snapshot(model))
    assert found.labels["sender"] == [f"{layer}.{head}" for layer, head in senders]
    assert found.labels["receiver"] == ["logits", *(f"{layer}.{head} {part}" for layer, head, part in receivers[1:])]
    base, source = (corrupt, clean) if direction == "denoising" else (clean, corrupt)
    with torch.no_grad():
        for row, sender in enumerate(senders):
            for column, receiver in enumerate(receivers):
                effect = found.effect[:, row, column]
                if receiver != "logits" and receiver[0] <= sender[0]:
                    assert effect.isnan().all()
                    continue
                wanted = naive(model, base, source, sender, receiver, hold_mlps)
                assert torch.allclose(effect, wanted, atol=1e-4)
                # the temporal CLS token, which the classifier reads, has no direct path from the spatial layers
                apart = variant == "factorized_encoder" and sender[0] < 3 and receiver == "logits"
                assert effect.abs().max() == 0 if apart else effect.abs().max() > 1e-4


def test_the_last_layers_direct_path_is_its_whole_effect():
    from vivit_lab.interventions import ActivationPatching

    model, clean, corrupt = small_model(), clips(3), clips(3)
    path = PathPatching([(2, 1)], hold_mlps=False)(model, clean, corrupt, TARGET)
    whole = ActivationPatching(layers=[2])(model, clean, corrupt, TARGET)
    assert torch.allclose(path.effect[:, 0, 0], whole.effect[:, 0, 1, 0, 0], atol=1e-4)
    assert path.method == "PathPatching"
    assert path.plot().axes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"senders": []}, "at least one sender"),
        ({"senders": [(0, 0)], "receivers": []}, "one receiver"),
        ({"senders": [(0, 0)], "receivers": [(1, 0, "z")]}, "a receiver is 'logits' or"),
        ({"senders": [(0, 0)], "receivers": "q"}, "a receiver is 'logits' or"),
        ({"senders": [(0, 0)], "direction": "up"}, "direction must be one of"),
        ({"senders": [(0, 0)], "batch_size": -1}, "batch_size must be"),
        ({"senders": [(7, 0)]}, "layer 7 does not exist"),
        ({"senders": [(0, 0)], "receivers": [(1, 9, "q")]}, "has heads 0..3"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        PathPatching(**options)(small_model(), clips(), clips(), TARGET)
