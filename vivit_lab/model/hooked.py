"""Reading and changing what flows through a model: hooks for a while, for one run, or into a cache.

Hooks belong to the thread that put them there, so several threads may run one model, each with its own. One lock for
each model guards the lists of hooks; nothing outside the model is touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import get_ident
from typing import Any

from torch import nn

from vivit_lab.errors import InputError
from vivit_lab.model.cache import ActivationCache, cached_run, run_model
from vivit_lab.model.hooks import (
    HookFunction,
    HookPoint,
    HookSpec,
    NamesFilter,
    Placed,
    find_points,
    lock_of,
    place,
    placing,
)

__all__ = ["HookedMixin"]


class HookedMixin(nn.Module):
    """Hook points by name, with TransformerLens's calls.

    A hook runs in passes of the thread that put it there. A block with hooks is not recomputed by gradient
    checkpointing, so that each runs once a pass.
    """

    @property
    def hook_points(self) -> dict[str, HookPoint]:
        """Name → hook point, in the order of the modules. A name is the point's path in this model."""
        return find_points(self)

    @property
    def hook_names(self) -> list[str]:
        """The names of all hook points."""
        return list(self.hook_points)

    def add_hook(self, name: NamesFilter, function: HookFunction, dir: str = "fwd") -> None:
        """Put a hook at one or several points until ``reset_hooks``, in passes of all threads.

        Args:
            name: where.
            function: see ``hooks``.
            dir: ``"fwd"`` for the tensor, ``"bwd"`` for its gradient.

        Raises:
            InputError: there is no such point or direction.
        """
        if dir not in ("fwd", "bwd"):
            raise InputError(f"dir={dir!r} is not known; 'fwd' sees tensors, 'bwd' their gradients")
        place(self, [(name, function)], backward=dir == "bwd", owner=None)

    def reset_hooks(self, direction: str = "both") -> None:
        """Take away the hooks of ``add_hook``, and this thread's.

        Args:
            direction: ``"fwd"``, ``"bwd"`` or ``"both"``.

        Raises:
            InputError: there is no such direction.
        """
        if direction not in ("fwd", "bwd", "both"):
            raise InputError(f"direction={direction!r} is not known; choose 'fwd', 'bwd' or 'both'")
        with lock_of(self):
            for point in self.hook_points.values():
                point.remove(
                    *(hook for hook in point.own_hooks if direction in ("both", "bwd" if hook.backward else "fwd"))
                )

    @contextmanager
    def hooks(
        self, fwd_hooks: Sequence[HookSpec] = (), bwd_hooks: Sequence[HookSpec] = (), reset_hooks_end: bool = True
    ) -> Iterator[Any]:
        """Have hooks in this thread's passes, as long as the context lasts.

        Args:
            fwd_hooks: (where, function) pairs. The function is called with the tensor and its hook point, in the order
                given and after hooks that were there before; a tensor that it returns takes the place of the one given.
            bwd_hooks: the same for gradients. They go with the graph of a pass that runs inside the context, so they
                also see a backward pass that comes later, and vanish with the graph.
            reset_hooks_end: False leaves the hooks until ``reset_hooks``, for all threads.

        Yields:
            The model.

        Raises:
            InputError: there is no such point; a hook returned something else than such a tensor; or the context ends
                without an exception and a hook never ran.

        Example:
            >>> with model.hooks(fwd_hooks=[("blocks.3.attn.hook_z", lambda z, hook: z * 0)]):
            ...     logits = model(pixel_values).logits
        """
        with placing(self) as placed:
            placed += place(self, fwd_hooks, backward=False, owner=get_ident())
            placed += place(self, bwd_hooks, backward=True, owner=get_ident())
            yield self
            _require_fired(placed)
            if not reset_hooks_end:
                for hook in (hook for one in placed for _, hook in one.hooks):
                    hook.owner = None
                placed.clear()

    def run_with_hooks(
        self,
        *inputs: Any,
        fwd_hooks: Sequence[HookSpec] = (),
        bwd_hooks: Sequence[HookSpec] = (),
        reset_hooks_end: bool = True,
        start_at_layer: int | None = None,
        stop_at_layer: int | None = None,
        **forward: Any,
    ) -> Any:
        """Run the model once with hooks.

        Args:
            *inputs: as for the model's forward; with ``start_at_layer`` a residual stream (batch, token, d_model).
            fwd_hooks: see ``hooks``.
            bwd_hooks: see ``hooks``; they see the backward pass that the caller starts from the output.
            reset_hooks_end: see ``hooks``.
            start_at_layer: see ``run_with_cache``.
            stop_at_layer: see ``run_with_cache``.
            **forward: as for the model's forward.

        Returns:
            What the model returns.

        Raises:
            InputError: see ``hooks`` and the model's forward.
        """
        with self.hooks(fwd_hooks, bwd_hooks, reset_hooks_end):
            return run_model(self, inputs, forward, start_at_layer, stop_at_layer)

    def run_with_cache(
        self,
        *inputs: Any,
        names_filter: NamesFilter = None,
        stop_at_layer: int | None = None,
        start_at_layer: int | None = None,
        pos_slice: Any = None,
        incl_bwd: bool = False,
        target: Any = None,
        device: Any = None,
        dtype: Any = None,
        remove_batch_dim: bool = False,
        **forward: Any,
    ) -> tuple[Any, ActivationCache]:
        """Run the model once and keep what flows through its hook points.

        Args:
            *inputs: as for the model's forward; with ``start_at_layer`` a residual stream (batch, token, d_model).
            names_filter: what to keep: a name, a list, a function of a name, or None for everything but scores,
                pattern and result, which ``cache["pattern", 3]`` then computes when asked. Naming scores or pattern
                makes those layers eager.
            stop_at_layer: return the residual stream that would enter this layer; negative counts from the end.
            start_at_layer: the first argument is the residual stream that enters this layer.
            pos_slice: tokens to keep: an index, a slice or a list of indices, on the axis of queries where there are
                two.
            incl_bwd: also keep gradients, under ``name + "_grad"``. The parameters' ``.grad`` is not touched.
            target: what the gradients are of: a class, one for each clip, a function of the output, or a target of
                ``vivit_lab.hooks``; None is the loss where labels are given, else each clip's largest logit.
            device: where to keep the tensors.
            dtype: as what to keep them.
            remove_batch_dim: drop the batch axis of a single clip.
            **forward: as for the model's forward.

        Returns:
            The output and the cache, whose tensors are detached and keep what stood at their points: whatever is
            written in place later, by hooks, into the input or into the output, does not reach them. One tensor at two
            points (a layer's end, the next one's start) is held once, unless other hooks make copies necessary; clone
            it before you write into it. Memory: 2.1 GB a clip for all of a ViT-B, 9.6 MB for each residual stream, q,
            k, v or z (float32).

        Raises:
            InputError: there is no such point, the pass does not reach one that was named, or an argument does not fit.
            OutOfMemoryBudgetError: the patterns or results named do not fit into the memory that is free.
        """
        options = {
            "names_filter": names_filter,
            "pos_slice": pos_slice,
            "incl_bwd": incl_bwd,
            "target": target,
            "device": device,
            "dtype": dtype,
            "remove_batch_dim": remove_batch_dim,
        }
        return cached_run(self, inputs, forward, start_at_layer, stop_at_layer, **options)


def _require_fired(placed: list[Placed]) -> None:
    for one in placed:
        if one.silent:
            raise InputError(
                f"the hook at {', '.join(one.silent[:3])} never ran: this model did not run in this thread while the "
                "hook was there, or the pass did not go through that point (start_at_layer, stop_at_layer, a compiled "
                "forward)"
            )
        if any(hook.backward and hook.fired and not hook.graphs for _, hook in one.hooks):
            raise InputError(
                f"the backward hook at {one.hooks[0][0].name} can never run: no gradient flows there, because the pass "
                "ran without gradients (torch.no_grad) or nothing below asks for one"
            )
