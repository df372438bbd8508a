"""What hook points and a cache cost at ViT-B shape: 32×224², batch 1, CPU, float32."""

import time

import pytest
import torch
from torch import nn

from tests.benchmarks.measure import interleaved, one_thread, report
from vivit_lab.families import VivitForVideoClassification
from vivit_lab.model import HookPoint, VivitConfig
from vivit_lab.model.blocks import LayerNorm
from vivit_lab.model.hooks import leaf_of

pytestmark = pytest.mark.benchmark
CACHED = ("resid_pre", "resid_mid", "resid_post", "q", "k", "v", "z")


def same(x):
    """What stands where a hook point was: less than any module costs."""
    return x


same.hooked = same.edited = False


@pytest.fixture(scope="module")
def models():
    """A model, and one with its weights in which no hook point and no LayerNorm of ours is left."""
    torch.manual_seed(0)
    model = VivitForVideoClassification(VivitConfig(num_labels=400)).eval()
    bare = VivitForVideoClassification(VivitConfig(num_labels=400)).eval()
    bare.load_state_dict(model.state_dict())
    for module in list(bare.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, HookPoint):
                delattr(module, name)
                object.__setattr__(module, name, same)
            elif isinstance(child, LayerNorm):
                plain = nn.LayerNorm(child.normalized_shape, eps=child.eps)
                plain.load_state_dict(child.state_dict())
                setattr(module, name, plain)
    assert not any(isinstance(module, HookPoint) for module in bare.modules())
    return model, bare


def test_a_forward_without_hooks_costs_nothing_and_a_cache_little(models):
    model, bare = models
    pixels = torch.rand(1, 32, 3, 224, 224) * 2 - 1

    def cached():
        return model.run_with_cache(pixels, names_filter=lambda name: leaf_of(name) in CACHED)

    calls = {
        "without hook points": lambda: bare(pixels),
        "forward": lambda: model(pixels),
        "run_with_cache, residuals q k v z": cached,
        "run_with_cache, all but N×N": lambda: model.run_with_cache(pixels),
    }
    with torch.no_grad(), one_thread():
        assert torch.equal(bare(pixels).logits, model(pixels).logits)
        cache = cached()[1]
        seconds = interleaved(calls, repeats=3, clock=time.process_time)
    report("hooks, CPU time of one thread", seconds, "forward")
    print(f"  {cache!r}; all: {model.run_with_cache(pixels)[1]!r}")
    assert len(cache) == 12 * len(CACHED)
    assert seconds["forward"] <= 1.03 * seconds["without hook points"]
    assert seconds["run_with_cache, residuals q k v z"] <= 1.15 * seconds["forward"]


def test_a_hook_point_without_hooks_is_a_call():
    point, plain, x = HookPoint(), nn.Identity(), torch.zeros(1)
    calls = {
        "nn.Identity": lambda: [plain(x) for _ in range(100_000)],
        "HookPoint": lambda: [point(x) for _ in range(100_000)],
    }
    with one_thread():
        seconds = interleaved(calls, repeats=5, clock=time.process_time)
    report("100,000 calls", seconds, "nn.Identity")
    assert seconds["HookPoint"] <= 3 * seconds["nn.Identity"]
