"""Which hook points a name, a short form or a filter means. Names are module paths of the model, never a fixed list."""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor

from vivit_lab.errors import InputError

__all__ = [
    "LARGE_POINTS",
    "NameLike",
    "NamesFilter",
    "layer_index",
    "layer_of",
    "leaf_of",
    "resolve_name",
    "select_names",
]

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
