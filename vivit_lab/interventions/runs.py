"""Many forward passes of the same clips, each with another hook, from the layer on where the hook is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

from vivit_lab.hooks.recorder import evaluating
from vivit_lab.interventions.base import Hook
from vivit_lab.model.hook_names import layer_of

__all__ = ["cached", "quiet", "runs", "stream_before"]

Key = TypeVar("Key")


@contextmanager
def quiet(model: Any) -> Iterator[None]:
    """Put a model into evaluation mode, without gradients."""
    with evaluating(model), torch.no_grad():
        yield


def cached(model: Any, pixels: Tensor, names: Sequence[str], forward: dict[str, Any]) -> dict[str, Tensor]:
    """Return what passes some hook points, name → tensor, in evaluation mode and without gradients.

    Args:
        model: a ViViT.
        pixels: (clip, frames, channels, height, width).
        names: of the hook points.
        forward: further arguments of the model's forward.
    """
    with quiet(model):
        _, kept = model.run_with_cache(pixels.to(model.device), names_filter=list(names), **forward)
    return {name: kept[name] for name in names}


def runs(
    model: Any, pixels: Tensor, hooks: Iterable[tuple[Key, Hook]], forward: dict[str, Any]
) -> Iterator[tuple[Key, Any]]:
    """Yield, for each hook by itself, what it belongs to and the model's output under it.

    The residual stream is computed once up to each hooked layer, and each run starts there.

    Args:
        model: a ViViT.
        pixels: (clip, frames, channels, height, width).
        hooks: (key, hook) pairs.
        forward: further arguments of the model's forward.
    """
    hooks = list(hooks)
    starts = {name: stream_before(model, name) for name in {name for _, (name, _) in hooks}}
    streams = sorted({stream for stream in starts.values() if stream is not None})
    begun = cached(model, pixels, streams, forward) if streams else {}
    for key, hook in hooks:
        stream = starts[hook[0]]
        with quiet(model):
            if stream is None:
                output = model.run_with_hooks(pixels.to(model.device), fwd_hooks=[hook], **forward)
            else:
                output = model.run_with_hooks(begun[stream], fwd_hooks=[hook], start_at_layer=layer_of(stream))
        yield key, output


def stream_before(model: Any, name: str) -> str | None:
    """Return the hook of the residual stream that enters a hook's block, from where a pass may start; else None."""
    before = f"blocks.{layer_of(name)}.hook_resid_pre"
    joint = getattr(model.config, "variant", "spacetime") == "spacetime"
    return before if joint and name.startswith("blocks.") and before in model.hook_names else None
