"""The whole path on an accelerator, proven with fake CUDA tensors: they have a device and a shape, but no values.

A literal device or a tensor left on the CPU anywhere in the path raises under FakeTensorMode, because a real kernel
would get its arguments from two devices.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from tests.model.tiny import TINY
from vivit_lab.attribution import AttentionRollout, AttributionMap, RawAttention
from vivit_lab.families import VivitForVideoClassification
from vivit_lab.model import VivitConfig
from vivit_lab.processing import VivitImageProcessor
from vivit_lab.records import record_attention

CUDA = torch.device("cuda:0")


@pytest.fixture(autouse=True)
def _fake():
    # without gradients: the autograd engine of a CPU build has no fake CUDA
    with FakeTensorMode(), torch.no_grad():
        yield


def on_cuda(dtype=torch.float32, **fields):
    model = VivitForVideoClassification(VivitConfig(**TINY, num_labels=5, **fields)).eval()
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, torch.nn.Parameter(torch.empty(parameter.shape, dtype=dtype, device=CUDA)))
    return model


def devices(tree):
    return {leaf.device for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)}


def pixels(dtype=torch.float32):
    return torch.empty(2, 4, 3, 32, 32, dtype=dtype, device=CUDA)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_model_record_and_methods_stay_on_the_device(implementation, dtype):
    model = on_cuda(dtype, attn_implementation=implementation)
    output = model(pixels(), head_mask=torch.ones(3, 4, device=CUDA), output_attentions=[1], output_hidden_states=True)
    assert devices(output) == {CUDA}
    for mask in (None, torch.ones(4)):  # a mask from the CPU is brought over
        record = record_attention(model, pixels(), head_mask=mask)
        assert devices([record.queries, record.keys, record.output.logits]) == {CUDA}
        reductions = [record.rows(0, [0, 3]), record.columns(1, 2), record.pattern(2, 1), record.entropy(0)]
        assert devices(reductions) == {CUDA}
        assert {part.dtype for part in reductions} == {torch.float32}
        for method in (
            RawAttention(),
            RawAttention(head=2),
            AttentionRollout(),
            AttentionRollout("max", 0.5),
            AttentionRollout("min", 0.5, "matrix", start_layer=1),
        ):
            heat = method(record, queries=[0, 5])
            assert isinstance(heat, AttributionMap)
            assert devices(heat.relevance) == {CUDA}
            assert heat.relevance.shape == (2, 2, 2, 2)


def test_clips_on_the_cpu_are_brought_to_the_model():
    record = record_attention(on_cuda(), torch.empty(2, 4, 3, 32, 32))
    assert record.device == CUDA


def test_other_sizes_stay_on_the_device():
    heat = AttentionRollout()(
        record_attention(on_cuda(), torch.empty(1, 6, 3, 48, 64, device=CUDA), interpolate_pos_encoding=True)
    )
    assert heat.relevance.device == CUDA
    assert heat.grid.shape == (3, 3, 4)


def test_the_fast_processor_stays_on_the_device():
    frames = torch.empty(4, 90, 120, 3, dtype=torch.uint8, device=CUDA)
    processor = VivitImageProcessor.trained_range(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32})
    pixel_values = processor(frames, fast=True, return_tensors="pt")["pixel_values"]
    assert pixel_values.device == CUDA
    assert pixel_values.shape == (1, 4, 3, 32, 32)
    assert record_attention(on_cuda(), pixel_values).device == CUDA
