"""Operations and parameters: the paper's table, and PyTorch's own counter on tiny models."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.model.naive_variants import VARIANTS
from tests.model.tiny import TINY
from vivit_lab.errors import GridError
from vivit_lab.families import VivitForVideoClassification, model_cost
from vivit_lab.model import VivitConfig

# G MACs as computed for issue 7, and M parameters of the paper's table: B/16x2, 32 frames of 224², Kinetics-400
TABLE = dict(zip(VARIANTS, [(451.5, 88.9), (283.3, 115.1), (371.1, 117.3), (276.2, 88.9)], strict=True))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_table_of_the_paper(variant):
    cost = model_cost(VivitConfig(num_labels=400, variant=variant))
    macs, parameters = TABLE[variant]
    assert abs(cost.macs / 1e9 - macs) <= 1e-3 * macs
    assert abs(cost.parameters / 1e6 - parameters) <= 0.1
    assert sum(cost.parts.values()) == cost.macs
    assert str(cost) == f"{macs} G MACs, {cost.parameters / 1e6:.1f} M parameters"


CASES = [{"variant": variant} for variant in VARIANTS] + [
    {"variant": "factorized_encoder", "spatial_only_baseline": True},
    {"variant": "factorized_encoder", "num_temporal_layers": 1},
    {"classifier": "gap"},
    {"num_labels": 0},
    {"pruned_heads": {0: [0, 1], 2: [0, 1, 2, 3]}},
    {"variant": "factorized_dot_product_attention", "pruned_heads": {0: [0], 1: [2, 3]}},
]


@pytest.mark.parametrize("fields", CASES, ids=str)
@pytest.mark.parametrize("size", [{}, {"num_frames": 6, "image_size": 48}], ids=["own", "other"])
def test_operations_are_those_that_pytorch_counts(fields, size):
    config = VivitConfig(**{**TINY, "num_labels": 5, **fields}, attn_implementation="eager")
    model = VivitForVideoClassification(config).eval()
    frames, side = size.get("num_frames", 4), size.get("image_size", 32)
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(1, frames, 3, side, side), interpolate_pos_encoding=True)
    cost = model_cost(config, **size)
    assert 2 * cost.macs == counter.get_total_flops()
    assert cost.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(GridError, match="frames=5 is not"):
        model_cost(VivitConfig(**TINY), num_frames=5)
