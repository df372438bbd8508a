"""Which parameters are trained, at what rate, and by which optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from vivit_lab.errors import ConfigError
from vivit_lab.model.encoder import VivitPreTrainedModel
from vivit_lab.training.config import TrainingConfig

__all__ = ["frozen_parts", "layers_of", "make_optimizer", "parameter_groups", "prepared", "stacks_of"]


def stacks_of(model: VivitPreTrainedModel) -> list[list[tuple[nn.Module, ...]]]:
    """Return the layers as the paper counts them, in the order in which they run: stack → layer → its blocks.

    A factorised encoder has two stacks, the spatial and the temporal one. A layer of factorised self-attention is two
    blocks, one for each axis. All else is one stack of layers of one block.
    """
    blocks, count = list(model.blocks), model.config.num_hidden_layers
    each = len(blocks) // count if model.config.variant == "factorized_self_attention_block" else 1
    layers = [tuple(blocks[first : first + each]) for first in range(0, len(blocks), each)]
    return [stack for stack in (layers[:count], layers[count:]) if stack]


def layers_of(model: VivitPreTrainedModel) -> list[tuple[nn.Module, ...]]:
    """Return the layers of all stacks, see ``stacks_of``."""
    return [layer for stack in stacks_of(model) for layer in stack]


def parameter_groups(
    model: VivitPreTrainedModel, weight_decay: float, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Return an optimizer's parameter groups.

    Weight decay is for the weights of linear and filter layers, and none for all else. With ``layer_decay`` < 1 there
    are two groups a layer, whose ``scale`` is layer_decay ** (number of layers above it).

    Args:
        model: parameters that require no gradient are left out.
        weight_decay: of the groups that have one.
        layer_decay: share of the next layer's learning rate, 0 … 1.
    """
    decayed = {id(module.weight) for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv3d))}
    wanted = [value for value in model.parameters() if value.requires_grad]
    if layer_decay == 1:
        layers = [(wanted, {})]
    else:
        depth, top = _depths(model), len(layers_of(model)) + 1
        layers = [
            ([value for value in wanted if depth.get(id(value), top) == layer], {"scale": layer_decay ** (top - layer)})
            for layer in range(top + 1)
        ]
    return [
        {"params": params, "weight_decay": decay, **extra}
        for chosen, extra in layers
        for params, decay in (
            ([value for value in chosen if id(value) in decayed], weight_decay),
            ([value for value in chosen if id(value) not in decayed], 0.0),
        )
        if params or not extra
    ]


def _depths(model: VivitPreTrainedModel) -> dict[int, int]:
    """Return the depth of each parameter (by its id) of the embeddings, 0, and of the layers, 1, 2, …."""
    depth = {id(value): 0 for value in model.embed.parameters()}
    for layer, blocks in enumerate(layers_of(model), start=1):
        depth |= {id(value): layer for block in blocks for value in block.parameters()}
    return depth


def make_optimizer(model: VivitPreTrainedModel, config: TrainingConfig) -> torch.optim.Optimizer:
    """Return the optimizer of a configuration, for the parameters that require a gradient."""
    groups = parameter_groups(model, config.weight_decay, config.layer_decay)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum)
    return torch.optim.AdamW(groups, betas=config.betas)


def frozen_parts(model: VivitPreTrainedModel, config: TrainingConfig) -> list[nn.Module]:
    """Return the modules that a configuration freezes.

    Raises:
        ConfigError: there are fewer layers than are to be frozen.
    """
    layers = layers_of(model)
    if config.freeze_layers > len(layers):
        raise ConfigError(f"freeze_layers={config.freeze_layers}, but the model has {len(layers)} layers")
    if config.freeze_backbone:
        return [child for name, child in model.named_children() if name != "classifier"]
    frozen = [block for layer in layers[: config.freeze_layers] for block in layer]
    return [model.embed, *frozen] if config.freeze_embeddings else frozen


@contextmanager
def prepared(model: VivitPreTrainedModel, config: TrainingConfig) -> Iterator[None]:
    """Freeze what a configuration freezes, and switch gradient checkpointing on where it is asked for.

    Both are as before afterwards, also after an exception.

    Raises:
        ConfigError: see ``frozen_parts``; or nothing is left to train.
    """
    before = {value: value.requires_grad for value in model.parameters()}
    checkpointing = model.gradient_checkpointing
    try:
        for module in frozen_parts(model, config):
            module.requires_grad_(False)
        if not any(value.requires_grad for value in model.parameters()):
            raise ConfigError("every parameter is frozen, so there is nothing to train")
        if config.gradient_checkpointing:
            model.gradient_checkpointing_enable()
        yield
    finally:
        for value, wanted in before.items():
            value.requires_grad_(wanted)
        model.gradient_checkpointing = checkpointing
