"""Putting hooks at a model's points and taking them away again, under one lock for each model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock, RLock
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from vivit_lab.errors import InputError
from vivit_lab.model.hook_names import NamesFilter, select_names
from vivit_lab.model.hook_point import Hook, HookPoint

__all__ = ["HookFunction", "HookSpec", "Placed", "find_points", "lock_of", "place", "placing"]

HookFunction = Callable[[Tensor, Any], Any]
"""Called with a tensor and its ``HookPoint`` (``.name``, ``.layer()``); returns None to keep it, or a replacement."""

HookSpec = tuple[NamesFilter, HookFunction]
"""Where (a name, several, or a function of a name), and what to call there."""

# beside the model and not in it: a lock can be neither copied nor pickled
_LOCKS: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()
_LOCKS_LOCK = Lock()


@dataclass(frozen=True)
class Placed:
    """The hooks of one specification.

    Args:
        hooks: each hook and where it is.
        by_name: whether each point was asked for by its name, so that each hook must run.
    """

    hooks: list[tuple[HookPoint, Hook]]
    by_name: bool

    @property
    def silent(self) -> list[str]:
        """The points whose hooks did not run, where that is wrong: a filter is content with one that did."""
        silent = [point.name for point, hook in self.hooks if not hook.fired]
        return silent if self.by_name or len(silent) == len(self.hooks) else []


def lock_of(model: nn.Module) -> Any:
    """Return the model's re-entrant lock."""
    with _LOCKS_LOCK:
        return _LOCKS.setdefault(model, RLock())


def find_points(model: nn.Module) -> dict[str, HookPoint]:
    """Return name → hook point, in the order of the modules, and tell each its name."""
    points = {name: module for name, module in model.named_modules() if isinstance(module, HookPoint)}
    for name, point in points.items():
        point.name = name
    return points


def place(
    model: nn.Module, specs: Sequence[HookSpec], *, backward: bool, owner: int | None, reads_only: bool = False
) -> list[Placed]:
    """Put hooks at a model's points.

    Args:
        model: the model.
        specs: where and what.
        backward: whether the functions want gradients.
        owner: the thread whose passes they belong to; None for all.
        reads_only: whether the functions are known to change nothing.

    Raises:
        InputError: there is no such point, or a specification is none; nothing was placed then.
    """
    points = find_points(model)
    placed = []
    for spec in specs:
        if not isinstance(spec, (tuple, list)) or len(spec) != 2 or not callable(spec[1]):
            raise InputError(f"a hook is a pair (where, function), got {spec!r}")
        names, by_name = select_names(spec[0], points)
        made = [Hook(spec[1], backward=backward, owner=owner, reads_only=reads_only) for _ in names]
        placed.append(Placed(list(zip((points[name] for name in names), made, strict=True)), by_name))
    with lock_of(model):
        for point, hook in (pair for one in placed for pair in one.hooks):
            point.add(hook)
    return placed


@contextmanager
def placing(model: nn.Module) -> Iterator[list[Placed]]:
    """Yield a list for what is placed; what is in it at the end is taken away, also after an exception."""
    placed: list[Placed] = []
    try:
        yield placed
    finally:
        with lock_of(model):
            for point, hook in (pair for one in placed for pair in one.hooks):
                point.remove(hook)
