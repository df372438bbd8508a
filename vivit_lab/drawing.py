"""How a result is drawn: by a function that is registered for its type, and that the result itself does not know."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeVar

from vivit_lab.errors import InputError

__all__ = ["draw", "drawer"]

_Drawer = TypeVar("_Drawer", bound=Callable[..., Any])
_DRAWERS: dict[tuple[type, str], Callable[..., Any]] = {}


def drawer(kind: type, form: str = "html") -> Callable[[_Drawer], _Drawer]:
    """Register a function that draws results of a type, and of those made from it.

    Args:
        kind: the type.
        form: what it draws: ``"html"`` is what a notebook shows; figures have names of their own.

    Example:
        >>> @drawer(MyResult)
        ... def my_result_html(result):
        ...     return page_of(result)
    """

    def register(function: _Drawer) -> _Drawer:
        _DRAWERS[kind, form] = function
        return function

    return register


def draw(result: Any, form: str = "html", *args: Any, **options: Any) -> Any:
    """Draw a result in one of its forms, with the function of the nearest of its types that has one.

    Raises:
        InputError: there is none.
    """
    package = import_module(__name__.partition(".")[0])
    for kind in type(result).__mro__:
        if (kind, form) not in _DRAWERS and kind.__module__.startswith(f"{package.__name__}."):
            module = package.DRAWN_BY.get(kind.__name__)
            if module:
                import_module(f"{package.__name__}.{module}")
        if (kind, form) in _DRAWERS:
            return _DRAWERS[kind, form](result, *args, **options)
    raise InputError(f"nothing draws {type(result).__name__} as {form!r}; register a function with drawer()")
