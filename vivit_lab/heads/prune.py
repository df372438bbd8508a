"""Taking heads out of a model for good: a smaller model that computes the same as the masked one."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from vivit_lab.errors import InputError
from vivit_lab.heads.clips import clip_set
from vivit_lab.heads.mask import HeadMask
from vivit_lab.hooks.recorder import evaluating
from vivit_lab.model.attention import AttentionParts
from vivit_lab.model.classifier import VivitForVideoClassification, VivitModel
from vivit_lab.model.pruned import heads_left, keep_heads
from vivit_lab.numbers import checked_numbers

__all__ = ["head_means", "prune_heads"]

Model = TypeVar("Model", VivitModel, VivitForVideoClassification)


def prune_heads(
    model: Model,
    heads: HeadMask | Mapping[int, Iterable[int]],
    *,
    fold_mean: Tensor | None = None,
) -> Model:
    """Return a new model without some heads; the given one stays as it is.

    From each layer go the heads' rows of W_q, W_k, W_v with their biases and the heads' columns of W_o; b_o stays, so
    that the model computes what a head mask of 0 gives. With ``fold_mean`` it computes what mean ablation gives:
    b_o ← b_o + Σ_h W_o^h·μ_h (μ_h the head's mean context, one vector for all tokens). Zero ablation depends on how a
    constant is shared between value bias and output bias; mean ablation does not.

    A layer may lose all its heads; its attention branch is then the constant b_o, and costs nothing. Hooks, records,
    masks and methods go on working. Heads keep the numbers they were born with: a pruned model can be pruned again by
    the same numbers, takes head masks of the whole model's shape, and its records show heads that are gone as masked
    out. Hook points and ``output_attentions`` have the heads that are there, in order (``attention.kept_heads``).

    Attention's cost and memory fall in proportion to its heads; LayerNorms and MLPs stay.

    Args:
        model: a ViViT; it may have been pruned before.
        heads: layer → heads to remove (negative layers count from the last; heads that are gone already are passed
            over), or a mask of zeros and ones.
        fold_mean: (layers, heads, d_head) mean contexts, as ``head_means`` gives; None removes the heads altogether.

    Returns:
        A model of the same class, dtype, device, mode and attention implementation. ``save_pretrained`` writes it with
        ``pruned_heads`` in config.json.

    Raises:
        InputError: there is no such head, the mask scales heads or has another shape, or ``fold_mean`` does.

    Example:
        >>> smaller = prune_heads(model, {0: [1, 3], 5: range(12)})
    """
    config = model.config
    chosen = _chosen(heads, config.num_attention_layers, config.num_attention_heads)
    if fold_mean is not None:
        wanted = (config.num_attention_layers, config.num_attention_heads, config.head_dim)
        if tuple(fold_mean.shape) != wanted:
            raise InputError(f"fold_mean must be (layers, heads, d_head) {wanted}, got {tuple(fold_mean.shape)}")
    smaller = copy.deepcopy(model)
    gone = {layer: set(row) for layer, row in config.pruned_heads.items()}
    for layer, row in chosen.items():
        removed = [head for head in heads_left(config, layer) if head in row]
        attention = smaller.attention_layers[layer]
        if fold_mean is not None:
            _fold(attention, removed, fold_mean[layer])
        keep_heads(attention, [head for head in heads_left(config, layer) if head not in row])
        gone[layer] = gone.get(layer, set()) | row
    smaller.config = config.replace(pruned_heads={layer: tuple(row) for layer, row in gone.items()})
    return smaller


@torch.no_grad()
def _fold(attention: Any, heads: list[int], means: Tensor) -> None:
    places = range(attention.num_heads) if attention.kept_heads is None else attention.kept_heads
    for head in heads:
        place = list(places).index(head) * attention.head_dim
        columns = attention.o.weight.narrow(1, place, attention.head_dim)
        mean = means[head].to(columns.device)
        # one rounding at the end, also where the parameters are half precision
        attention.o.bias.copy_((attention.o.bias.double() + columns.double() @ mean.double()).to(columns.dtype))


def _chosen(heads: Any, layers: int, count: int) -> dict[int, set[int]]:
    """Return layer → heads to remove, counted from 0."""
    if isinstance(heads, HeadMask):
        if heads.shape != (layers, count):
            raise InputError(f"the mask is of {heads.shape} (layers, heads), the model has {(layers, count)}")
        if not heads.is_binary:
            raise InputError("a mask that scales heads cannot be pruned: wanted zeros and ones alone")
        heads = heads.pruned
    if not isinstance(heads, Mapping):
        raise InputError(f"wanted a HeadMask or layer → heads, got {type(heads).__name__}")
    pruned = HeadMask.without(heads, layers, count).pruned
    return {layer: set(row) for layer, row in pruned.items()}


@checked_numbers(batch_size=(1, None))
def head_means(
    model: VivitModel | VivitForVideoClassification,
    clips: Any,
    *,
    batch_size: int = 8,
    progress: bool | None = None,
) -> Float[Tensor, "layer head d_head"]:
    """Return each head's mean context over clips and tokens, μ_h, for ``prune_heads(fold_mean=…)``.

    Args:
        model: a ViViT.
        clips: pixel values, prepared clips or a data set; see ``clip_set``.
        batch_size: clips in a forward pass.
        progress: whether to show a bar; None shows it on a terminal.

    Returns:
        (layers, heads, d_head) float32 on the model's device; zeros for heads that were pruned.

    Raises:
        InputError: the clips do not fit the model.

    Cost: one forward pass a clip.
    """
    found = clip_set(clips)
    layers, config = len(model.blocks), model.config
    sums = torch.zeros(layers, config.num_attention_heads, config.head_dim, dtype=torch.float64, device="cpu")

    def collect(layer: int, parts: AttentionParts) -> None:
        sums[layer] += parts.context.double().mean(dim=2).sum(dim=0).cpu()

    with evaluating(model), torch.no_grad():
        for batch in found.batches(batch_size, progress, "mean contexts"):
            model.encode(batch.pixel_values.to(model.device), None, False, False, None, collect=collect)
    return (sums / len(found)).float().to(model.device)
