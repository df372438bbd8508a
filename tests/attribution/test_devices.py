"""What needs no autograd engine runs on fake CUDA tensors: no literal device, nothing left on the CPU.

A CPU build has no fake CUDA autograd, so gradients are given as tensors here; ``test_device_placement`` has the rest.
"""

from dataclasses import fields

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.model.tiny import TINY
from vivit_lab.attribution import AttCAT, AttentionGradient, CheferRelevance, GradientRollout, ValueNormRollout
from vivit_lab.families import VivitForVideoClassification
from vivit_lab.model import VivitConfig
from vivit_lab.records import GradientRecord
from vivit_lab.records.values import record_values

CUDA = torch.device("cuda:0")


@pytest.fixture
def model():
    with FakeTensorMode(), torch.no_grad():
        model = VivitForVideoClassification(VivitConfig(**TINY, num_labels=5)).eval()
        for module in model.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                setattr(module, name, torch.nn.Parameter(torch.empty(parameter.shape, device=CUDA)))
        yield model


def test_value_norms_stay_on_the_device(model):
    for mask in (None, torch.ones(4)):
        heat = ValueNormRollout()(model, torch.empty(2, 4, 3, 32, 32), head_mask=mask)
        assert heat.relevance.device == CUDA


@pytest.mark.parametrize(
    "method",
    [CheferRelevance(), CheferRelevance(True), GradientRollout(0.5), AttentionGradient(1, centred=True), AttCAT()],
    ids=repr,
)
def test_products_stay_on_the_device(model, method):
    plain = record_values(model, torch.empty(2, 4, 3, 32, 32, device=CUDA))
    known = {entry.name: getattr(plain, entry.name) for entry in fields(plain)}
    shape = (2, 4, 9)
    record = GradientRecord(
        **known,
        context_gradients=plain.values,
        centres={layer: torch.empty(shape, device=CUDA) for layer in plain.layers},
        state_gradients=plain.states,
        targets=["class 3"] * 2,
    )
    heat = method(record)
    assert heat.relevance.device == CUDA
    assert heat.relevance.shape == (2, 2, 2, 2)
