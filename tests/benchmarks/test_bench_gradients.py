"""Figures of the gradient methods at ViT-B shape: 32×224², batch 1, CPU, float32, in one thread.

``VIVIT_LAB_BENCH_LAYERS`` sets another number of layers than 12, for a quick look.
"""

import os
import time

import pytest
import torch

from tests.attribution.naive import close
from tests.benchmarks.measure import interleaved, one_thread, peak_bytes, report
from vivit_lab.attribution import AttCAT, CheferRelevance, GradientRollout, LeGrad, ValueNormRollout
from vivit_lab.families import VivitForVideoClassification
from vivit_lab.model import VivitConfig
from vivit_lab.records import record_gradients
from vivit_lab.records.values import frozen

pytestmark = pytest.mark.benchmark

LAYERS = int(os.environ.get("VIVIT_LAB_BENCH_LAYERS", "12"))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return VivitForVideoClassification(VivitConfig(num_labels=400, num_hidden_layers=LAYERS)).eval()


@pytest.fixture(scope="module")
def pixels():
    return torch.rand(1, 32, 3, 224, 224) * 2 - 1


def forward_backward(model, pixels, label=3):
    """Forward and backward to the embeddings, the parameters frozen: what any gradient method costs at least."""
    with frozen(model), torch.enable_grad():
        x = model.embed(pixels).detach().requires_grad_()
        state = x
        for block in model.blocks:
            state, _ = block(state)
        logit = model.classifier(model.ln_final(state)[:, 0])[0, label]
        return torch.autograd.grad(logit, x)[0]


def test_relevance_costs_little_more_than_forward_and_backward(model, pixels):
    calls = {
        "forward + backward": lambda: forward_backward(model, pixels),
        "record of gradients": lambda: record_gradients(model, pixels, 3),
        "CheferRelevance": lambda: CheferRelevance()(model, pixels, 3),
        "CheferRelevance(centred=True)": lambda: CheferRelevance(centred=True)(model, pixels, 3),
        "GradientRollout": lambda: GradientRollout()(model, pixels, 3),
        "AttCAT": lambda: AttCAT()(model, pixels, 3),
        "LeGrad": lambda: LeGrad()(model, pixels, 3),
        "ValueNormRollout": lambda: ValueNormRollout()(model, pixels),
    }
    with one_thread():
        forward_backward(model, pixels)
        seconds = interleaved(calls, clock=time.process_time)
    report(f"gradient methods, {LAYERS} layers, one thread, CPU time", seconds, "forward + backward")
    assert seconds["CheferRelevance"] <= 1.3 * seconds["forward + backward"]


SETUP = f"""
import torch
from tests.benchmarks.test_bench_gradients import forward_backward
from vivit_lab.attribution import CheferRelevance
from vivit_lab.families import VivitForVideoClassification
from vivit_lab.model import VivitConfig
model = VivitForVideoClassification(VivitConfig(num_labels=400, num_hidden_layers={LAYERS})).eval()
pixels = torch.rand(1, 32, 3, 224, 224) * 2 - 1
"""


def test_memory_stays_within_500_megabytes_of_forward_and_backward():
    plain = peak_bytes(SETUP, "forward_backward(model, pixels)")
    relevance = peak_bytes(SETUP, "heat = CheferRelevance()(model, pixels, 3)")
    print(f"\npeak above the model: forward + backward {plain / 1e6:.0f} MB, CheferRelevance {relevance / 1e6:.0f} MB")
    assert relevance <= plain + 500e6


def test_the_row_of_full_size_is_that_of_the_dense_patterns(model, pixels):
    """Against the definition on eager patterns: 5.7 GB of them in 12 layers; their gradients go as they come."""
    products = []

    def multiply(pattern):
        dense = pattern.detach()
        pattern.register_hook(lambda grad: products.append((dense * grad).clamp(min=0).mean(dim=1)[0]))

    model.set_attn_implementation("eager")
    with frozen(model), torch.enable_grad():
        state = model.embed(pixels).requires_grad_()
        start = state
        for block in model.blocks:
            state, pattern = block(state, None, True)
            multiply(pattern)
        logit = model.classifier(model.ln_final(state)[:, 0])[0, 3]
        torch.autograd.grad(logit, start)
    model.set_attn_implementation("sdpa")
    assert len(products) == LAYERS
    with torch.no_grad():
        row = torch.zeros(1, products[0].shape[-1])
        row[0, 0] = 1
        for product in products:  # the last layer's gradient came first
            row = row + row @ product
    close(CheferRelevance()(model, pixels, 3).relevance.flatten(), row[0, 1:].double())
