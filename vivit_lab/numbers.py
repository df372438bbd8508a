"""Checks of numbers that a caller gives: a wrong one is refused by its name, with what is wanted and what was got.

True and False are Python's integers 1 and 0, text compares with nothing, and NaN passes ``value < low``. So numbers are
checked before they can give a result without meaning or an error from deep inside: by `checked_numbers`, from the
annotations of a function or dataclass, or one by one where more must be known.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Sequence
from functools import wraps
from numbers import Integral, Real
from typing import Any, TypeVar

from vivit_lab.errors import InputError, VivitLabError

__all__ = ["MOST", "check_number", "check_whole", "checked_numbers", "is_number", "is_whole"]

MOST = 1_000_000
"""Most repetitions (masks, samples, steps, resamples) that can be asked for: more would not end, or not fit memory."""

_SEEDS = (0, 2**63 - 1)  # what every generator takes
_ROW = re.compile(r"(tuple|Sequence|list)\[(int|float)(?:, *(?:int|float|\.\.\.))*\]")
_Ends = tuple[float | None, float | None]
_Target = TypeVar("_Target", bound=Callable[..., Any])


def is_whole(value: Any) -> bool:
    """Return whether value is an integer, Python's or numpy's, and neither True nor False."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Return whether value is a finite real number, Python's or numpy's, and neither True nor False."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def check_whole(
    name: str, value: Any, low: float | None = 1, high: float | None = None, *, error: type[VivitLabError] = InputError
) -> None:
    """Refuse what is no integer from low to high.

    Args:
        name: of the argument, as the caller knows it.
        value: what was given.
        low: the least that is allowed, or None.
        high: the largest that is allowed, or None.
        error: what to raise.

    Raises:
        InputError: it is none; or ``error``.
    """
    if is_whole(value) and (low is None or value >= low) and (high is None or value <= high):
        return
    if low is None:
        wanted = "an integer" if high is None else f"an integer up to {high}"
    elif high is not None:
        wanted = f"an integer in {low} … {high}"
    else:
        wanted = "a positive integer" if low == 1 else f"an integer from {low}"
    raise error(f"{name} must be {wanted}, got {value!r:.100}")


def check_number(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    excluded: str = "",
    error: type[VivitLabError] = InputError,
) -> None:
    """Refuse what is no finite number from low to high.

    Args:
        name: of the argument, as the caller knows it.
        value: what was given.
        low: the lower end.
        high: the upper end.
        excluded: the ends that are not allowed themselves: ``"low"``, ``"high"`` or ``"both"``.
        error: what to raise.

    Raises:
        InputError: it is none; or ``error``.
    """
    above, below = excluded in ("low", "both"), excluded in ("high", "both")
    if is_number(value) and (value > low if above else value >= low) and (value < high if below else value <= high):
        return
    if math.isfinite(low) and math.isfinite(high):
        wanted = f"lie in {'(' if above else '['}{low:g}, {high:g}{')' if below else ']'}"
    elif math.isfinite(low):
        least = f"be a number {'above' if above else 'of at least'} {low:g}"
        wanted = "be a positive number" if low == 0 and above else least
    else:
        wanted = "be a finite number"
    raise error(f"{name} must {wanted}, got {value!r:.100}")


def checked_numbers(error: type[VivitLabError] = InputError, **ranges: _Ends) -> Callable[[_Target], _Target]:
    """Return a decorator of a function or dataclass that refuses what its annotations do not allow as a number.

    Arguments annotated ``int``, ``float``, ``tuple[int, int]``, ``Sequence[float]`` and the like, maybe with ``| None``
    and other types, take no True or False, no NaN and no infinity; an ``int`` takes no fraction; and text is refused
    where ``str`` is not among the types. Values of the other types pass. ``seed`` is an integer from 0 everywhere.

    Args:
        error: what to raise.
        ranges: the least and the largest value of an argument, both allowed, or None; others are not checked.

    Raises:
        InputError: when the function is called with such a value; or ``error``.
    """

    def decorate(target: _Target) -> _Target:
        function: Any = target.__init__ if isinstance(target, type) else target
        parameters = inspect.signature(function).parameters
        kinds = {name: kind for name, each in parameters.items() if (kind := _kind(each.annotation))}
        ends = {name: ranges.get(name, _SEEDS if name == "seed" else (None, None)) for name in kinds}
        plain = {name for name, kind in kinds.items() if kind.scalar and ends[name] == (None, None)}
        names = list(parameters)

        @wraps(function)
        def checked(*args: Any, **kwargs: Any) -> Any:
            for name, value in (*zip(names, args, strict=False), *kwargs.items()):
                if value is None or name not in kinds:  # a None that is not allowed has the function's own words
                    continue
                if type(value) is not int or name not in plain:  # what is called in loops gets integers
                    _check(name, value, kinds[name], ends[name], error)
            return function(*args, **kwargs)

        if not isinstance(target, type):
            return checked  # pyright: ignore[reportReturnType]
        target.__init__ = checked
        return target  # pyright: ignore[reportReturnType]

    return decorate


class _Kind:
    """What an annotation allows: a number, a row of numbers, and whether other types too."""

    def __init__(self, parts: list[str]) -> None:
        rows = [match for part in parts if (match := _ROW.fullmatch(part))]
        self.scalar = next((part for part in ("float", "int") if part in parts), None)
        self.row = rows[0][2] if rows else None
        fixed = bool(rows) and rows[0][1] == "tuple" and "..." not in rows[0][0]
        self.length = rows[0][0].count(",") + 1 if fixed else None
        self.others = any(part not in ("int", "float", "None") and not _ROW.fullmatch(part) for part in parts)


def _kind(annotation: Any) -> _Kind | None:
    kind = _Kind(re.split(r" *\| *(?![^\[]*\])", annotation if isinstance(annotation, str) else ""))
    return kind if kind.scalar or kind.row else None


def _check(name: str, value: Any, kind: _Kind, ends: _Ends, error: type[VivitLabError]) -> None:
    is_text = isinstance(value, (str, bytes))
    if kind.row and isinstance(value, Sequence) and not is_text:
        if kind.length not in (None, len(value)):
            raise error(f"{name} must be {kind.length} numbers, got {value!r:.100}")
        for place, each in enumerate(value):
            _check_one(f"{name}[{place}]", each, kind.row, ends, error)
    elif is_text or not isinstance(value, (Real, bool)):
        if not kind.others and not (kind.row and not is_text):
            wanted = kind.scalar or kind.row
            _check_one(name, value, wanted or "float", ends, error)
    elif kind.scalar:
        _check_one(name, value, kind.scalar, ends, error)
    elif not kind.others:
        raise error(f"{name} must be {kind.length or 'several'} numbers, got {value!r:.100}")


def _check_one(name: str, value: Any, kind: str, ends: _Ends, error: type[VivitLabError]) -> None:
    low, high = ends
    if kind == "int":
        # a far upper end is named where it is passed: "from 0" says more than "in 0 … 9223372036854775807"
        names_end = high is not None and (high <= 100 or (is_whole(value) and value > high))
        check_whole(name, value, low, high if names_end else None, error=error)
    else:
        check_number(name, value, -math.inf if low is None else low, math.inf if high is None else high, error=error)
