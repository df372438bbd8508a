"""Named places in a model where a tensor can be read or changed, and how hooks are put there."""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from threading import Lock, RLock, get_ident
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from vivit_lab.errors import BackendError, InputError

__all__ = [
    "LARGE_POINTS",
    "Hook",
    "HookFunction",
    "HookPoint",
    "HookSpec",
    "NameLike",
    "NamesFilter",
    "Placed",
    "find_points",
    "has_hooks",
    "layer_index",
    "layer_of",
    "leaf_of",
    "lock_of",
    "place",
    "placing",
    "resolve_name",
    "select_names",
]


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


NameLike = str | tuple[Any, ...]
"""One hook point: its full name, or a short form such as ``("pattern", 3)``, ``("scale", 0, "ln1")`` or ``"embed"``."""

NamesFilter = NameLike | Sequence[NameLike] | Callable[[str], bool] | None
"""Several hook points: a name, a list of them, or a function that is True for the names wanted."""

LARGE_POINTS = ("attn_scores", "pattern", "result")
"""Points whose tensors are larger than the residual stream by the number of tokens or heads."""

# other names that TransformerLens's users know
_ALIASES = {
    "attn": "pattern",
    "attn_logits": "attn_scores",
    "query": "q",
    "key": "k",
    "value": "v",
    "mlp_pre": "pre",
    "mlp_post": "post",
}
_PARTS = {"a": "attn", "m": "mlp"}
_COMPACT = re.compile(r"([a-z_]+)(\d+)([a-z]\w*)?")


def layer_index(argument: str, layer: Any, largest: int, count: int) -> int:
    """Return a layer counted from 0.

    Args:
        argument: what it is called, for the message.
        layer: from -count.
        largest: the largest that is allowed.
        count: how many layers the model has.

    Raises:
        InputError: it is no such integer.
    """
    if isinstance(layer, bool) or not isinstance(layer, int) or not -count <= layer <= largest:
        raise InputError(f"{argument} must be an integer from {-count} to {largest}, got {layer!r}")
    return layer + count if layer < 0 else layer


def leaf_of(name: str) -> str:
    """Return what a point holds: ``"q"`` for ``blocks.3.attn.hook_q``."""
    return name.rpartition(".")[2].removeprefix("hook_")


def layer_of(name: str) -> int | None:
    """Return the first number in a name, or None where it has none."""
    return next((int(part) for part in name.split(".") if part.isdecimal()), None)


def resolve_name(key: NameLike, known: Iterable[str], elsewhere: Iterable[str] = ()) -> str:
    """Return the one name that a key means.

    Args:
        key: a full name; ``"embed"``; or (what, layer) and (what, layer, part), where negative layers count from the
            last and the part is a module on the path (``"ln1"``, ``"attn"``, ``"mlp"``).
        known: the names there are.
        elsewhere: names that a pass could have kept, for the message and to count layers by.

    Raises:
        InputError: it means none of them, or several.
    """
    names = list(known)
    if isinstance(key, str) and key in names:
        return key
    what, layer, part = _split(key)
    everything = list(dict.fromkeys([*names, *elsewhere]))
    meant = [name for name in everything if leaf_of(name) == _ALIASES.get(what, what)]
    if part is not None:
        meant = [name for name in meant if part in name.split(".")]
    meant = [key] if key in everything else _in_layer(meant, layer, key)
    found = [name for name in meant if name in names]
    if len(found) == 1:
        return found[0]
    if meant and not found:
        raise InputError(f"the pass did not keep {', '.join(meant)}: name it, names_filter=[{meant[0]!r}]")
    if found:
        raise InputError(f"{key!r} may mean {', '.join(found)}: give the full name, or name the part as well")
    near = difflib.get_close_matches(key if isinstance(key, str) else f"hook_{what}", _spellings(names, key), n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {_examples(names)}"
    raise InputError(f"there is no hook point {key!r} here; {hint}")


def select_names(wanted: NamesFilter, known: Iterable[str]) -> tuple[list[str], bool]:
    """Return the names that a filter means, in the order of ``known``, and whether each was asked for by its name.

    Args:
        wanted: see ``NamesFilter``; None is all but scores, pattern and result.
        known: the names there are, in the order in which the forward reaches them.

    Raises:
        InputError: a name is not known, or the filter means none.
    """
    names = list(known)
    if wanted is None:
        return [name for name in names if leaf_of(name) not in LARGE_POINTS], False
    if callable(wanted):
        chosen = [name for name in names if wanted(name)]
        if not chosen:
            raise InputError(f"the filter is True for no hook point; there are {_examples(names)}")
        return chosen, False
    keys: Any = [wanted] if isinstance(wanted, str) or _is_short(wanted) else wanted
    if not isinstance(keys, Iterable):
        raise InputError(f"hook points are a name, a list of names, a function of a name or None, got {wanted!r}")
    chosen = {resolve_name(key, names) for key in keys}
    if not chosen:
        raise InputError("an empty list names no hook point; None is all but scores, pattern and result")
    return [name for name in names if name in chosen], True


def token_axis(name: str) -> int:
    """Return the axis of tokens of what a point holds; with two, that of the queries."""
    return 2 if leaf_of(name).removesuffix("_grad") in ("attn_scores", "pattern") else 1


def token_index(pos_slice: Any, count: int, argument: str = "pos_slice") -> tuple[list[int], bool]:
    """Return the tokens that a slice means, and whether it is a single index, which drops the axis.

    Args:
        pos_slice: an index, a slice, or a list or tensor of indices; negative ones count from the end.
        count: tokens of the sequence.
        argument: what it is called, for the message.

    Raises:
        InputError: it is none of these, or a token does not exist.
    """
    if isinstance(pos_slice, slice):
        chosen, single = list(range(count))[pos_slice], False
    else:
        given: Any = pos_slice.tolist() if isinstance(pos_slice, Tensor) else pos_slice
        single = not isinstance(given, (list, tuple, range))
        try:
            chosen = [operator.index(token) for token in ([given] if single else given)]
        except TypeError as error:
            raise InputError(f"{argument} is an index, a slice or a list of indices, got {pos_slice!r}") from error
    if not chosen or any(not -count <= token < count for token in chosen):
        raise InputError(f"{argument}={pos_slice!r} names nothing, or an index outside 0..{count - 1}")
    return [token % count for token in chosen], single


def _is_short(key: Any) -> bool:
    return isinstance(key, tuple) and 2 <= len(key) <= 3 and isinstance(key[0], str) and not isinstance(key[1], str)


def _split(key: Any) -> tuple[str, int | None, str | None]:
    what: str
    if isinstance(key, str):
        match = _COMPACT.fullmatch(key)
        what, layer, part = (match[1], int(match[2]), match[3]) if match else (key, None, None)
    elif _is_short(key) or (isinstance(key, tuple) and len(key) == 1 and isinstance(key[0], str)):
        what = key[0]
        layer, part = (*key[1:], None, None)[:2]
        try:
            layer = None if layer is None else operator.index(layer)
        except TypeError as error:
            raise InputError(f"the layer of {key!r} must be an integer or None") from error
    else:
        raise InputError(f'a hook point is named by a string or (what, layer) such as ("pattern", 3), got {key!r}')
    return what.removeprefix("hook_"), layer, None if part is None else _PARTS.get(part, part)


def _in_layer(names: list[str], layer: int | None, key: Any) -> list[str]:
    if layer is None:  # of a LayerNorm, the one that belongs to no layer
        outside = [name for name in names if layer_of(name) is None]
        return outside or names
    layers = sorted({number for name in names if (number := layer_of(name)) is not None})
    if not layers:
        return []
    wanted = layer + layers[-1] + 1 if layer < 0 else layer
    if not layers[0] <= wanted <= layers[-1]:
        raise InputError(f"{key!r}: there is no layer {layer}; wanted {layers[0]}..{layers[-1]}, or -1 for the last")
    return [name for name in names if layer_of(name) == wanted]


def _spellings(names: list[str], key: Any) -> list[str]:
    return names if isinstance(key, str) else sorted({f"hook_{leaf_of(name)}" for name in names})


def _examples(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" … {names[-1]} ({len(names)} in all)" if len(names) > 4 else "")


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
