"""Full-size figures that the README quotes: ViT-B shape, 32×224², batch 1, CPU, float32."""

import time

import pytest
import torch
import transformers

from tests.benchmarks.measure import interleaved, one_thread, peak_bytes, report
from tests.model.tiny import peer_name
from vivit_lab.attribution import AttentionRollout, RawAttention
from vivit_lab.families import VivitForVideoClassification
from vivit_lab.model import VivitConfig
from vivit_lab.records import record_attention

pytestmark = pytest.mark.benchmark


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return VivitForVideoClassification(VivitConfig(num_labels=400)).eval()


@pytest.fixture(scope="module")
def pixels():
    return torch.rand(1, 32, 3, 224, 224) * 2 - 1


def forward(model, pixels):
    with torch.no_grad():
        return model(pixels)


def test_record_and_exact_rollout_cost_little_more_than_a_forward(model, pixels):
    calls = {
        "forward (sdpa)": lambda: forward(model, pixels),
        "record": lambda: record_attention(model, pixels),
        "record + rollout": lambda: AttentionRollout()(model, pixels),
        "record + rollout, max, discard 0.9": lambda: AttentionRollout("max", 0.9)(model, pixels),
    }
    with one_thread():
        seconds = interleaved(calls, repeats=2, clock=time.process_time)
    report("rollout, CPU time of one thread", seconds, "forward (sdpa)")
    assert seconds["record + rollout"] <= 1.4 * seconds["forward (sdpa)"]


SETUP = """
import torch
from vivit_lab import AttentionRollout, VivitConfig, VivitForVideoClassification
model = VivitForVideoClassification(VivitConfig(num_labels=400)).eval()
pixels = torch.rand(1, 32, 3, 224, 224)
"""


def test_memory_stays_within_400_megabytes_of_a_forward():
    plain = peak_bytes(SETUP, "with torch.no_grad(): model(pixels)")
    rollout = peak_bytes(SETUP, "AttentionRollout()(model, pixels)")
    print(f"\npeak above the model: forward {plain / 1e6:.0f} MB, record + rollout {rollout / 1e6:.0f} MB")
    assert rollout <= plain + 400e6


def test_any_row_comes_in_milliseconds(model, pixels):
    record = record_attention(model, pixels)
    calls = {
        f"row of layer {layer}, query {query}": lambda layer=layer, query=query: record.rows(layer, query)
        for layer, query in ((0, 0), (5, 1234), (11, 3136))
    }
    seconds = interleaved(calls, repeats=10)
    report("rows", seconds, next(iter(seconds)))
    assert max(seconds.values()) < 0.020


def test_the_forward_is_as_fast_as_the_peers(model, pixels):
    config = transformers.VivitConfig(num_labels=400, attn_implementation="sdpa")
    peer = transformers.VivitForVideoClassification(config).eval()
    peer.load_state_dict({peer_name(name, classifier=True): value for name, value in model.state_dict().items()})
    seconds = interleaved(
        {"peer (sdpa)": lambda: forward(peer, pixels), "ours (sdpa)": lambda: forward(model, pixels)}, 4
    )
    report("forward", seconds, "peer (sdpa)")
    torch.testing.assert_close(forward(model, pixels).logits, forward(peer, pixels).logits, rtol=1e-5, atol=1e-5)
    assert seconds["ours (sdpa)"] <= 1.02 * seconds["peer (sdpa)"]


def test_full_size_attentions_of_one_layer_are_the_peers(model, pixels):
    config = transformers.VivitConfig(num_labels=400, attn_implementation="eager", num_hidden_layers=1)
    peer = transformers.VivitForVideoClassification(config).eval()
    state = {peer_name(name, classifier=True): value for name, value in model.state_dict().items()}
    peer.load_state_dict({name: value for name, value in state.items() if name in peer.state_dict()})
    with torch.no_grad():
        want = peer(pixels, output_attentions=True).attentions[0][:, :, 0]
    record = record_attention(model, pixels, layers=[0])
    torch.testing.assert_close(record.rows(0, 0)[:, :, 0], want, rtol=1e-5, atol=1e-7)
    heat = RawAttention(layer=0)(record)
    torch.testing.assert_close(heat.relevance.flatten(), want.mean(dim=1)[0, 1:], rtol=1e-5, atol=1e-7)
