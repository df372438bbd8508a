"""What pruning and importance cost: ratios within one run, on the CPU in float32.

``VIVIT_LAB_BENCH_LAYERS`` sets another number of layers than 12 for the ViT-B shape, for a quick look.
"""

import os
import time

import pytest
import torch
from torch.nn import functional

from tests.benchmarks.measure import interleaved, one_thread, report
from vivit_lab.explain import load_pair
from vivit_lab.families import VivitForVideoClassification
from vivit_lab.heads import (
    ConfidenceImportance,
    FisherImportance,
    GradientActivation,
    MichelImportance,
    SingleHeadAblation,
    prune_heads,
)
from vivit_lab.heads.pruning import attention_bytes
from vivit_lab.model import VivitConfig
from vivit_lab.planted import PlantedConfig
from vivit_lab.planted.clip import planted_batch
from vivit_lab.records.values import frozen

pytestmark = pytest.mark.benchmark

LAYERS = int(os.environ.get("VIVIT_LAB_BENCH_LAYERS", "12"))


def test_half_the_heads_gone_is_faster_and_takes_half_the_attention_memory():
    torch.manual_seed(0)
    model = VivitForVideoClassification(VivitConfig(num_labels=400, num_hidden_layers=LAYERS)).eval()
    half = prune_heads(model, {layer: range(0, 12, 2) for layer in range(LAYERS)})
    pixels = torch.rand(1, 32, 3, 224, 224) * 2 - 1

    def forward(model):
        with torch.inference_mode():
            return model(pixels).logits

    with one_thread():
        calls = {"full": lambda: forward(model), "half the heads": lambda: forward(half)}
        seconds = interleaved(calls, repeats=3, clock=time.process_time)
    report(f"ViT-B shape, {LAYERS} layers, one thread, CPU time", seconds, "half the heads")
    assert attention_bytes(half, pixels) * 2 == attention_bytes(model, pixels)
    assert seconds["full"] >= 1.30 * seconds["half the heads"]


@pytest.fixture(scope="module")
def planted():
    model, _ = load_pair("planted")
    pixels, labels, _ = planted_batch(PlantedConfig(split="test"), range(64))
    return model, pixels, labels


def forward_backward(model, pixels, labels):
    """Forward and backward of the loss to the embeddings, the parameters frozen, in batches of 8."""
    for some, wanted in zip(pixels.split(8), labels.split(8), strict=True):
        with frozen(model), torch.enable_grad():
            x = model.embed(some).detach().requires_grad_()
            state = x
            for block in model.blocks:
                state, _ = block(state)
            logits = model.classifier(model.ln_final(state)[:, 0])
            torch.autograd.grad(functional.cross_entropy(logits, wanted), x)


def test_importance_by_gradients_costs_little_more_than_forward_and_backward(planted):
    model, pixels, labels = planted
    methods = (MichelImportance(), FisherImportance(), GradientActivation())
    calls = {"forward + backward": lambda: forward_backward(model, pixels, labels)} | {
        type(method).__name__: (lambda method=method: method(model, (pixels, labels), progress=False))
        for method in methods
    }
    with one_thread():
        seconds = interleaved(calls, repeats=3, clock=time.process_time)
    report("importance over 64 planted clips, one thread, CPU time", seconds, "forward + backward")
    for method in methods:
        assert seconds[type(method).__name__] <= 1.3 * seconds["forward + backward"]


def test_importances_are_compared_with_all_true_ablations(planted):
    model, pixels, labels = planted
    data = (pixels, labels)
    truths = {mode: SingleHeadAblation(mode, absolute=True)(model, data, progress=False) for mode in ("mean", "zero")}
    cheap = (MichelImportance(), FisherImportance(), GradientActivation(), ConfidenceImportance())
    scores = [method(model, data, progress=False) for method in cheap]
    print("\nSpearman with 36 true ablations, 64 clips, |change of the loss|")
    for score in scores:
        found = {mode: score.spearman(truth) for mode, truth in truths.items()}
        print(f"  {score.method:<22} mean {found['mean']:6.3f}  zero {found['zero']:6.3f}")
    assert scores[0].spearman(truths["zero"]) > 0.5
