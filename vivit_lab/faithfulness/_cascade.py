"""Cascading randomisation: a model that forgets what it learnt, from the head downwards."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import nn

from vivit_lab.model.classifier import VivitForVideoClassification, VivitModel
from vivit_lab.model.embeddings import Embeddings

__all__ = ["HEADS", "Model", "cascade", "randomised_stages"]

Model = VivitModel | VivitForVideoClassification

HEADS = ("classifier", "pooler")
"""The stages above the backbone."""


def randomised_stages(model: Model) -> tuple[str, ...]:
    """Return the names of the stages, from the head downwards: classifier (or pooler), ln_final, blocks.11 … embed."""
    return tuple(name for name, _ in _stages(model))


def cascade(model: Model, seed: int = 0) -> Iterator[tuple[str, Model]]:
    """Yield (stage, model) with one more stage randomised each time, always the same copy of ``model``.

    Weights are drawn as the architecture's initialisation draws them (normal with ``initializer_range``; biases 0,
    LayerNorms 1 and 0), but CLS token and positions, which start at 0 there, are drawn too.

    Args:
        model: a ViViT; it is left as it is.
        seed: of the weights.

    Example:
        >>> heats = {stage: CheferRelevance()(some, clip, target=3).relevance for stage, some in cascade(model)}
    """
    generator = torch.Generator().manual_seed(seed)
    some = copy.deepcopy(model)
    for name, module in _stages(some):
        _randomise(module, some.config.initializer_range, generator)
        yield name, some


def _stages(model: Model) -> list[tuple[str, nn.Module]]:
    heads = [(name, getattr(model, name, None)) for name in HEADS]
    blocks = [(f"blocks.{layer}", block) for layer, block in reversed(list(enumerate(model.blocks)))]
    stages = [*heads, ("ln_final", model.ln_final), *blocks, ("embed", model.embed)]
    return [(name, module) for name, module in stages if module is not None and any(True for _ in module.parameters())]


def _randomise(module: nn.Module, std: float, generator: torch.Generator) -> None:
    with torch.no_grad():
        for part in module.modules():
            ones = isinstance(part, nn.LayerNorm)
            drawn = isinstance(part, (nn.Linear, nn.Conv3d, Embeddings))
            for name, parameter in part.named_parameters(recurse=False):
                if ones:
                    parameter.fill_(float(name == "weight"))
                elif drawn and name != "bias":
                    # drawn on the CPU, so that a seed gives the same weights on every device
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
                else:
                    parameter.zero_()
