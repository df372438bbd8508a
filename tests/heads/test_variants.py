"""Scores, statistics, studies and pruning of heads on every variant of the model, and from the command line."""

import json

import pytest
import torch
from torch.nn import functional

from tests.heads.pruning import HEADS, model_of
from tests.model.tiny import clips
from vivit_lab.cli import main
from vivit_lab.heads import (
    FisherImportance,
    GradientActivation,
    HeadImportance,
    MichelImportance,
    PruningExperiment,
    SingleHeadAblation,
    head_statistics,
    prune_heads,
)
from vivit_lab.heads.registry import IMPORTANCES
from vivit_lab.model.config import VARIANTS
from vivit_lab.processing import VivitImageProcessor
from vivit_lab.records import record_attention

DATA = 4


@pytest.fixture
def data():
    return clips(DATA), torch.arange(DATA) % 5


def by_autograd(model, pixels, labels):
    """Each clip's ⟨z, ∂loss/∂z⟩ of each token, a (layer → (clip, head, token)) list, and ∂loss/∂mask."""
    products = [[] for _ in model.blocks]
    slopes = []
    for pixel, label in zip(pixels, labels, strict=True):
        contexts = {}

        def keep(z, hook, contexts=contexts):
            contexts[hook.layer()] = z

        mask = torch.ones(len(model.blocks), HEADS, requires_grad=True)
        names = [(f"blocks.{layer}.attn.hook_z", keep) for layer in range(len(model.blocks))]
        output = model.run_with_hooks(pixel[None], fwd_hooks=names, head_mask=mask)
        loss = functional.cross_entropy(output.logits, label[None])
        kept = [contexts[layer] for layer in range(len(model.blocks))]
        *found, slope = torch.autograd.grad(loss, [*kept, mask])
        slopes.append(slope)
        for layer, (z, gradient) in enumerate(zip(kept, found, strict=True)):
            products[layer].append((z * gradient).sum(-1)[0].T.detach())
    return [torch.stack(each) for each in products], torch.stack(slopes)


@pytest.mark.parametrize("variant", VARIANTS)
def test_scores_by_gradients_are_their_definition(variant, data):
    model = model_of(variant=variant)
    products, slopes = by_autograd(model, *data)
    whole = torch.stack([each.sum(-1) for each in products], dim=1)
    torch.testing.assert_close(whole, slopes, rtol=1e-3, atol=1e-6)  # a mask scales the context
    wanted = {
        MichelImportance(): slopes.abs(),
        FisherImportance(): slopes.square(),
        GradientActivation(): torch.stack([each.abs().sum(-1) for each in products], dim=1),
        GradientActivation(reduction="signed"): -whole,
    }
    for method, rows in wanted.items():
        torch.testing.assert_close(method(model, data).per_example, rows, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_ablated_head_costs_what_the_mask_says(variant, data):
    model = model_of(variant=variant)
    found = SingleHeadAblation("zero")(model, data).per_example
    pixels, labels = data
    for layer, head in ((0, 1), (len(model.blocks) - 1, 3)):
        mask = torch.ones(len(model.blocks), HEADS)
        mask[layer, head] = 0
        with torch.no_grad():
            loss = functional.cross_entropy(model(pixels, head_mask=mask).logits, labels, reduction="none")
            whole = functional.cross_entropy(model(pixels).logits, labels, reduction="none")
        torch.testing.assert_close(found[:, layer, head], loss - whole, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", IMPORTANCES)
def test_every_importance_scores_every_head(variant, name, data):
    model = model_of(variant=variant)
    found = IMPORTANCES[name](model, data)
    assert found.shape == (len(model.blocks), HEADS)
    assert found.values.isfinite().all()
    assert len(found.ranking()) == len(model.blocks) * HEADS


@pytest.mark.parametrize("variant", VARIANTS)
def test_statistics_are_those_of_the_rows_of_the_record(variant):
    model, pixels = model_of(variant=variant), clips(1)
    grid, record = model.config.grid, record_attention(model, pixels)
    found = head_statistics(model, pixels, queries=None)
    assert found.shape == (len(model.blocks), HEADS)
    time = torch.arange(grid.num_tubelets) // (grid.h * grid.w)
    for layer in range(len(model.blocks)):
        rows = record.rows(layer, list(range(grid.offset, grid.num_tokens)))[0, :, :, grid.offset :]
        rows = rows / rows.sum(-1, keepdim=True)
        apart = (time[:, None] - time).abs().float()
        distance = (rows * apart * grid.tubelet[0]).sum(-1).mean(-1)
        torch.testing.assert_close(found.value("temporal_distance")[layer], distance, rtol=1e-4, atol=1e-5)
        same = (rows * (apart == 0)).sum(-1).mean(-1)
        torch.testing.assert_close(found.value("same_frame")[layer], same, rtol=1e-4, atol=1e-5)
    from_record = head_statistics(record, queries=None)
    torch.testing.assert_close(from_record.value("entropy"), found.value("entropy"))


def test_heads_along_one_axis_are_seen_to_be():
    model = model_of(variant="factorized_dot_product_attention")
    found = head_statistics(model, clips(2), queries=None)
    half = HEADS // 2
    torch.testing.assert_close(found.value("spatial_distance")[:, :half], torch.zeros(3, half))  # along time
    torch.testing.assert_close(found.value("same_frame")[:, half:], torch.ones(3, half))  # along space


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_study_prunes_what_it_masks(variant, data, tmp_path):
    model = model_of(variant=variant)
    curves = PruningExperiment(model, data, random=1, shares=(0.5,), timing_repeats=1).run(tmp_path)
    mask = curves.mask("least important first", 0.5)
    assert sum(map(len, mask.pruned.values())) == len(model.blocks) * HEADS // 2
    pruned, pixels = prune_heads(model, mask), data[0]
    with torch.no_grad():
        want = model(pixels, head_mask=mask).logits
        torch.testing.assert_close(pruned(pixels).logits, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_command_line_scores_describes_and_prunes(variant, video, tmp_path, capsys):
    model = model_of(variant=variant)
    model.save_pretrained(tmp_path / "model")
    size = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}
    VivitImageProcessor.trained_range(**size).save_pretrained(tmp_path / "model")
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_bytes(video.read_bytes())
    common = ("--model", tmp_path / "model", "--data", tmp_path / "videos", "--json")

    def run(*arguments):
        assert main(["heads", *map(str, arguments)]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    shape = (len(model.blocks), HEADS)
    run("importance", *common, "--out", tmp_path / "i.safetensors")
    assert HeadImportance.load(tmp_path / "i.safetensors").shape == shape
    assert len(run("stats", *common, "--out", tmp_path / "s.safetensors")["kinds"]) == shape[0]
    told = run("prune", *common, "--out", tmp_path / "half", "--share", "0.5", "--fold-mean")
    assert sum(map(len, told["pruned_heads"].values())) == shape[0] * HEADS // 2
    assert main(["predict", str(video), "--model", str(tmp_path / "half"), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["classes"]) == 5
