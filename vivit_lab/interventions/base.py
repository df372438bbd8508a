"""An intervention: hooks that change a model for a while, as a context manager and as a function."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from threading import local
from typing import Any

import torch
from torch import Tensor

from vivit_lab.errors import InputError
from vivit_lab.memory import require_bytes
from vivit_lab.numbers import check_whole
from vivit_lab.records.attention import evaluating
from vivit_lab.records.inputs import as_pixel_values
from vivit_lab.video.clip import Clip

__all__ = ["Hook", "Intervention", "check_batch_size", "read_all", "read_points", "slices_of"]

Hook = tuple[str, Callable[[Tensor, Any], Tensor | None]]
"""A hook point's name, and a function (tensor, hook) → the tensor that takes its place."""


class _Entered(local):
    """What was entered and not yet left; each thread sees its own, as hooks belong to the thread that adds them."""

    def __init__(self) -> None:
        self.contexts: list[AbstractContextManager[Any]] = []


class Intervention:
    """A change of what flows through a model: nothing is changed but inside ``with``, or during a call.

    Its parameters and flags are never touched: the change is made of forward hooks, which are gone afterwards, also
    after an exception. Interventions on one model are composed by ``&``; where both change a hook point, the left one
    comes first. One intervention may be used by several threads at once: it changes a thread's own passes only.

    Args:
        model: a ViViT.
        hooks: (name, function) pairs, as for ``model.hooks(fwd_hooks=…)``.
        text: what it does, in words.

    Example:
        >>> with ablate(model, heads=[(3, 1)]):
        ...     changed = model(pixel_values).logits
        >>> same = ablate(model, heads=[(3, 1)])(pixel_values).logits
        >>> both = ablate(model, heads=[(3, 1)]) & knock_out(model, "later_to_earlier")
    """

    def __init__(self, model: Any, hooks: Sequence[Hook], text: str) -> None:
        self.model, self.hooks, self.text = model, tuple(hooks), text
        self._entered = _Entered()

    def __enter__(self) -> Intervention:
        context = self.model.hooks(fwd_hooks=list(self.hooks))
        context.__enter__()
        self._entered.contexts.append(context)
        return self

    def __exit__(self, *raised: Any) -> None:
        self._entered.contexts.pop().__exit__(*raised)

    def __call__(self, pixel_values: Tensor | Clip | Sequence[Clip], **forward: Any) -> Any:
        """Return the model's output under the intervention, in evaluation mode and the surrounding gradient mode.

        Args:
            pixel_values: (batch, frames, channels, height, width), or prepared clips.
            **forward: further arguments of the model's forward; the positions are resized for clips of another size.
        """
        pixels = as_pixel_values(pixel_values).values.to(self.model.device)
        with evaluating(self.model), self:
            return self.model(pixels, **{"interpolate_pos_encoding": None, **forward})

    def __and__(self, other: Intervention) -> Intervention:
        """Return both interventions as one.

        Raises:
            InputError: they are on different models.
        """
        if self.model is not other.model:
            raise InputError("interventions on two models cannot be joined: enter each on its own")
        return Intervention(self.model, self.hooks + other.hooks, f"{self.text}; {other.text}")

    def __repr__(self) -> str:
        return f"Intervention({self.text})"


def read_points(
    model: Any,
    pixels: Tensor,
    names: Sequence[str],
    *,
    batch_size: int,
    interpolate_pos_encoding: bool | None = None,
) -> Iterator[tuple[slice, dict[str, Tensor], Any]]:
    """Yield what passes some hook points, batch by batch: (which clips, name → tensor, the model's output).

    In evaluation mode and without gradients.

    Args:
        model: a ViViT.
        pixels: (clip, frames, channels, height, width).
        names: the hook points.
        batch_size: clips in one forward pass.
        interpolate_pos_encoding: whether clips of another size are taken; None is yes, and says so once.
    """
    for rows in slices_of(len(pixels), batch_size):
        kept: dict[str, Tensor] = {}

        def keep(tensor: Tensor, hook: Any, kept: dict[str, Tensor] = kept) -> None:
            kept[hook.name] = tensor

        with evaluating(model), torch.no_grad(), model.hooks(fwd_hooks=[(name, keep) for name in names]):
            output = model(
                pixels[rows].to(model.device),
                output_attentions=False,
                output_hidden_states=False,
                interpolate_pos_encoding=interpolate_pos_encoding,
            )
        yield rows, kept, output


def read_all(model: Any, pixels: Tensor, names: Sequence[str], **options: Any) -> dict[str, Tensor]:
    """Return what passes some hook points for all clips, name → tensor; see ``read_points``.

    Raises:
        OutOfMemoryBudgetError: so many clips do not fit into the memory that is free.
    """
    parts: dict[str, list[Tensor]] = {name: [] for name in names}
    for rows, kept, _ in read_points(model, pixels, names, **options):
        if rows.start == 0:
            size = sum(tensor.numel() * tensor.element_size() for tensor in kept.values())
            require_bytes(
                size // max(1, rows.stop) * (len(pixels) - rows.stop),
                model.device,
                f"{len(names)} hook points of {len(pixels)} clips",
                "take fewer clips, or fewer layers at a time",
            )
        for name in names:
            parts[name].append(kept[name])
    return {name: torch.cat(tensors) for name, tensors in parts.items()}


def slices_of(count: int, size: int) -> Iterator[slice]:
    """Yield slices of at most ``size`` that cover ``count`` in order."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def check_batch_size(batch_size: int) -> None:
    """Refuse a batch size that is no positive integer.

    Raises:
        InputError: it is none.
    """
    check_whole("batch_size", batch_size)
