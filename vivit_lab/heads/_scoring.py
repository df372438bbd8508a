"""What methods of importance share: the number that is asked about, and passes whose heads are masked clip by clip."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from vivit_lab.errors import InputError
from vivit_lab.heads.clips import ClipBatch, clip_set
from vivit_lab.heads.importance import HeadImportance
from vivit_lab.hooks.classes import all_names
from vivit_lab.hooks.recorder import evaluating
from vivit_lab.hooks.targets import BoundTarget, bind_target
from vivit_lab.hooks.values import frozen
from vivit_lab.model.classifier import VivitForVideoClassification, VivitModel
from vivit_lab.model.pruned import present_heads

__all__ = ["LOSS", "Measured", "bind_measure", "made_importance", "mask_gradients"]

LOSS = "loss"
"""The target that stands for the cross entropy of each clip's label."""


class Measured(NamedTuple):
    """What is measured on the clips of a batch.

    Args:
        bound: the target, bound to the clean clips.
        worse: +1 where more of it is worse (a loss), -1 where less is.
        name: what it is, in words.
    """

    bound: BoundTarget
    worse: int
    name: str


def bind_measure(target: Any, output: Any, batch: ClipBatch, model: Any) -> Measured:
    """Return what is measured, bound to a batch.

    Args:
        target: ``"loss"``, or whatever ``bind_target`` takes: a class, a ``Target``, a function of the output, or None
            for each clip's predicted class.
        output: the model's output for the clean clips.
        batch: the clips.
        model: the model.

    Raises:
        InputError: the target does not fit the model, or a loss is wanted of a model without classes.
    """
    if not (isinstance(target, str) and target == LOSS):
        if isinstance(target, str):
            raise InputError(f"target={target!r} is not known: wanted 'loss', a class, a Target or a function")
        bound = bind_target(target, output, model.config)
        return Measured(bound, -1, all_names(bound.names) if len(set(bound.names)) == 1 else f"{bound.unit} of a class")
    logits = output.get("logits")
    if logits is None or not model.config.num_labels:
        raise InputError(
            "a loss wants a classifier: give target=OwnEmbedding() or a function of the output for a model without"
        )
    whose = "the label" if batch.labels is not None else "the predicted class"
    labels = logits.detach().argmax(dim=-1) if batch.labels is None else batch.labels.to(logits.device)
    if labels.shape != (len(logits),) or labels.is_floating_point():
        raise InputError(f"the loss wants one class for each clip, got {tuple(labels.shape)} {labels.dtype}")

    def score(output: Any, clips: Tensor) -> Tensor:
        return functional.cross_entropy(output.logits.float(), labels.index_select(0, clips), reduction="none")

    bound = BoundTarget(score, [f"cross entropy of {whose}"] * len(logits), "loss")
    return Measured(bound, 1, f"cross entropy of {whose}")


def mask_gradients(
    model: VivitModel | VivitForVideoClassification,
    data: Any,
    target: Any,
    *,
    batch_size: int,
    progress: bool | None,
    name: str,
) -> tuple[Tensor, str, str]:
    """Return the derivative of each clip's target by each head's mask at 1, with what the target is.

    With A = ξ·P the derivative is ⟨O_h, ∂L/∂O_h⟩ summed over tokens and channels (O the context). Each clip has a mask
    of its own, so that one backward pass gives all clips' numbers, whatever the batch size; no pattern is formed.

    Returns:
        (clips, layers, heads) float32 on the CPU, NaN for heads that were pruned; the target in words; its unit.
    """
    clips, rows = clip_set(data), []
    layers, heads = len(model.blocks), model.config.num_attention_heads
    named = unit = ""
    with evaluating(model), frozen(model), torch.inference_mode(False), torch.enable_grad():
        for batch in clips.batches(batch_size, progress, name):
            mask = torch.ones(layers, len(batch), heads, 1, 1, device=model.device, dtype=model.dtype)
            mask.requires_grad_()
            output = model(batch.pixel_values.to(model.device), head_mask=mask, interpolate_pos_encoding=None)
            measured = bind_measure(target, output, batch, model)
            scores = measured.bound(output)
            named, unit = measured.name, measured.bound.unit
            if not scores.requires_grad:
                raise InputError(f"{named} does not depend on the model's output by a function with a gradient")
            (gradient,) = torch.autograd.grad(scores.float().sum(), mask)
            rows.append(gradient.flatten(2).transpose(0, 1).float().cpu())
    return without_pruned(torch.cat(rows), model), named, unit


def without_pruned(rows: Tensor, model: Any) -> Tensor:
    """Return (…, layers, heads) with NaN for heads that were pruned."""
    present = present_heads(model.config, torch.empty(0))
    return rows if present is None else rows.masked_fill(present == 0, torch.nan)


def made_importance(method: Any, model: Any, per_example: Tensor, **about: Any) -> HeadImportance:
    """Return the result of a method, a dataclass, with its settings."""
    parameters = {
        key: value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)
        for key, value in vars(method).items()
    }
    return HeadImportance(
        per_example.float(),
        type(method).__name__,
        parameters,
        layer_norm=getattr(method, "layer_norm", False),
        model_id=model.name_or_path or type(model).__name__,
        **about,
    )
