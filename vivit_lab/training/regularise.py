"""Stochastic depth and mixup: regularisation that is in force while training and leaves no trace in the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from vivit_lab.errors import ConfigError, InputError
from vivit_lab.model.attention import Attention
from vivit_lab.model.block import MLP
from vivit_lab.model.encoder import VivitPreTrainedModel
from vivit_lab.training.parameters import stacks_of

__all__ = ["mixup", "stochastic_depth"]


@contextmanager
def stochastic_depth(model: VivitPreTrainedModel, rate: float, *, rescale: bool = True) -> Iterator[None]:
    """Leave attention and MLP branches out at random, clip by clip, while the model is in training mode.

    Huang et al. 2016 (https://arxiv.org/abs/1603.09382, eq. 4), as in ViViT for each branch: layer l of L drops each at
    the rate l / (L - 1) · ``rate``. What is kept is divided by the share kept, so evaluation mode needs no change.

    Args:
        model: a ViViT; it is restored on leaving, also after an exception.
        rate: of the last block, 0 … 1 (1 excluded).
        rescale: whether what is kept is divided by the share kept; False is what the paper's own code does.

    Raises:
        ConfigError: the rate is out of its range.
    """
    if not 0 <= rate < 1:
        raise ConfigError(f"the rate of stochastic depth must lie in 0 … 1 (1 excluded), got {rate!r}")
    handles = []
    try:
        for stack in stacks_of(model) if rate else ():
            for layer, blocks in enumerate(stack):
                keep = 1 - rate * layer / max(1, len(stack) - 1)
                branches = [part for block in blocks for part in block.modules() if isinstance(part, (Attention, MLP))]
                dropper = _dropper(keep, keep if rescale else 1.0)
                handles += [branch.register_forward_hook(dropper) for branch in branches]
        yield
    finally:
        for handle in handles:
            handle.remove()


def _dropper(keep: float, divisor: float) -> Any:
    def drop(module: nn.Module, _inputs: Any, output: Any) -> Any:
        if not module.training or keep == 1:
            return None
        branch, *rest = output if isinstance(output, tuple) else (output,)
        kept = torch.empty(len(branch), 1, 1, device=branch.device, dtype=branch.dtype).bernoulli_(keep) / divisor
        return (branch * kept, *rest) if isinstance(output, tuple) else branch * kept

    return drop


def mixup(
    pixel_values: Float[Tensor, "batch frame channel height width"],
    labels: Int[Tensor, "batch ..."],
    num_labels: int,
    alpha: float,
) -> tuple[Float[Tensor, "batch frame channel height width"], Float[Tensor, "batch label"]]:
    """Blend each clip, and its label, with another of the batch.

    Zhang et al. 2018, https://arxiv.org/abs/1710.09412, section 2.

    Args:
        pixel_values: (batch, frame, channel, height, width).
        labels: (batch,) classes.
        num_labels: number of classes.
        alpha: of the Beta(α, α) that the share is drawn from, one for the batch; positive.

    Returns:
        The blended clips, and (batch, num_labels) labels that sum to 1.

    Raises:
        InputError: alpha is not positive.
    """
    if not alpha > 0:
        raise InputError(f"mixup wants a positive alpha, got {alpha!r}")
    # drawn on the CPU, so that one seed gives one sequence on every device
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    other = torch.randperm(len(labels)).to(labels.device)
    wanted = functional.one_hot(labels, num_labels).to(pixel_values.dtype)
    blended = share * pixel_values + (1 - share) * pixel_values[other]
    return blended, share * wanted + (1 - share) * wanted[other]
