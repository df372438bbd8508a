"""A named place in the model where a tensor can be read or changed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn

from vivit_lab.errors import BackendError, InputError

__all__ = ["Hook", "HookPoint", "has_hooks"]


class Hook:
    """A function at a hook point: for whom it is there, and how often it ran.

    Args:
        function: called with the tensor and the hook point; a tensor that it returns replaces the one given.
        backward: whether it is called with the gradient instead, in a backward pass.
        owner: the thread whose passes it belongs to; None for those of all threads.
        reads_only: whether it is known to leave the tensor as it is, so that nothing need be recomputed from it.
    """

    def __init__(
        self,
        function: Callable[[Tensor, Any], Any],
        *,
        backward: bool = False,
        owner: int | None = None,
        reads_only: bool = False,
    ) -> None:
        self.function = function
        self.backward = backward
        self.owner = owner
        self.reads_only = reads_only and not backward
        self.fired = 0
        self.graphs = 0  # how many of the tensors it saw had a gradient to come

    def run(self, tensor: Tensor, point: HookPoint) -> Tensor:
        """Return what stands at the point after this hook; one for gradients waits at the tensor itself.

        Raises:
            InputError: the function returned something that cannot stand there.
        """
        self.fired += 1
        if not self.backward:
            return self._checked(self.function(tensor, point), tensor, point)
        if tensor.requires_grad and torch.is_grad_enabled():
            self.graphs += 1
            tensor.register_hook(lambda gradient: self._checked(self.function(gradient, point), gradient, point))
        return tensor

    def _checked(self, result: Any, tensor: Tensor, point: HookPoint) -> Tensor:
        if self.backward and isinstance(result, tuple) and len(result) == 1:
            result = result[0]  # as hooks written for TransformerLens return it
        if result is None or result is tensor:
            return tensor
        wanted = f"{tuple(tensor.shape)} {tensor.dtype} on {tensor.device}"
        if not isinstance(result, Tensor):
            got = type(result).__name__
        elif (result.shape, result.dtype, result.device) == (tensor.shape, tensor.dtype, tensor.device):
            return result
        else:
            got = f"{tuple(result.shape)} {result.dtype} on {result.device}"
        what = "gradient" if self.backward else "tensor"
        name = getattr(self.function, "__name__", type(self.function).__name__)
        raise InputError(
            f"the hook {name} at {point.name} must return None, which keeps the {what}, or a replacement "
            f"{wanted}; got {got}"
        )


class HookPoint(nn.Identity):
    """The identity, under a name: its module path is the hook's name (``blocks.3.attn.hook_q``).

    Functions come by a model's ``hooks``, ``run_with_hooks`` and ``add_hook``. PyTorch's own
    ``register_forward_hook`` works as well, and comes before them. A point without any costs one Python call.

    Attributes:
        name: the module path in the model that last put a hook here.
    """

    def __init__(self) -> None:
        super().__init__()
        self.name = ""
        # A tuple that is replaced, never changed: threads may run through the point while another one adds a hook.
        self._hooks: tuple[Hook, ...] = ()

    def __call__(self, x: Tensor) -> Tensor:
        """Return the tensor (any shape), as the hooks leave it."""
        x = super().__call__(x)
        if self._hooks:
            for backward, hooks in groupby(self.own_hooks, key=lambda hook: hook.backward):
                if backward and x.requires_grad and torch.is_grad_enabled():
                    # an alias: only what flows through this point belongs to its gradient. One for hooks that stand
                    # together, as those of one tensor run in their order, but those of aliases of aliases in reverse
                    x = x.view_as(x)
                for hook in hooks:
                    x = hook.run(x, self)
        return x

    def layer(self) -> int:
        """Return the layer in the point's name: the first number in it.

        Raises:
            InputError: the point belongs to no layer.
        """
        number = next((part for part in self.name.split(".") if part.isdecimal()), None)
        if number is None:
            raise InputError(f"the hook point {self.name!r} belongs to no layer")
        return int(number)

    @property
    def own_hooks(self) -> tuple[Hook, ...]:
        """The hooks that run in this thread, in their order."""
        if not self._hooks:
            return ()
        if torch.compiler.is_compiling():  # a graph cannot know in which thread it will run
            raise BackendError(f"hooks cannot be compiled or exported; take the one at {self.name} away first")
        thread = get_ident()
        return tuple(hook for hook in self._hooks if hook.owner is None or hook.owner == thread)

    @property
    def hooked(self) -> bool:
        """Whether anybody wants to see the tensor in this thread."""
        return bool(self.own_hooks) or self._has_plain_hooks

    @property
    def edited(self) -> bool:
        """Whether somebody in this thread may change the tensor or its gradient."""
        return any(not hook.reads_only for hook in self.own_hooks) or self._has_plain_hooks

    @property
    def _has_plain_hooks(self) -> bool:
        return bool(self._forward_hooks or self._forward_pre_hooks or self._backward_hooks or self._backward_pre_hooks)

    def add(self, hook: Hook) -> None:
        """Put a hook after those that are here. The caller holds the model's lock."""
        self._hooks = (*self._hooks, hook)

    def remove(self, *hooks: Hook) -> None:
        """Take hooks away. The caller holds the model's lock."""
        self._hooks = tuple(hook for hook in self._hooks if hook not in hooks)

    def __getstate__(self) -> dict[str, Any]:
        # a copy of a model does not inherit what a thread does to the original for a while
        return {**self.__dict__, "_hooks": tuple(hook for hook in self._hooks if hook.owner is None)}


def has_hooks(module: nn.Module) -> bool:
    """Whether a hook of a model's ``hooks`` or ``add_hook`` runs below a module in this thread."""
    return any(isinstance(point, HookPoint) and point.own_hooks for point in module.modules())
