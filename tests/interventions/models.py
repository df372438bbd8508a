"""A tiny classifier with biases everywhere, its clips, and a copy of its state to compare with."""

from typing import Any

import torch

from tests.model.tiny import TINY, clips
from vivit_lab.families import VivitForVideoClassification
from vivit_lab.model import VivitConfig

__all__ = ["clips", "small_model", "snapshot"]


def small_model(attention: str = "sdpa", **fields: Any) -> VivitForVideoClassification:
    config = VivitConfig(**{**TINY, "num_labels": 5, **fields}, attn_implementation=attention)
    model = VivitForVideoClassification(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim < 2 or parameter.shape[0] == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def snapshot(model: torch.nn.Module) -> dict[str, Any]:
    """Everything that an intervention must leave alone."""
    return {
        "state": {name: value.clone() for name, value in model.state_dict().items()},
        "training": [module.training for module in model.modules()],
        "learning": [parameter.requires_grad for parameter in model.parameters()],
        "hooks": [len(module._forward_hooks) + len(getattr(module, "_hooks", ())) for module in model.modules()],
        "implementation": model.attn_implementation,
    }


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    states = one["state"], other["state"]
    equal = states[0].keys() == states[1].keys() and all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    return equal and all(one[name] == other[name] for name in one if name != "state")
