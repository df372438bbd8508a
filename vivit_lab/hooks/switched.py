"""Switching flags of a model off for a while, with several threads in it at once.

One thread must not see a flag that another has switched off, take it for the flag's own state, and go on after the
other has switched it on again. So each flag counts who needs it off, and the last one to leave restores it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

__all__ = ["Switch"]


class Switch:
    """A boolean attribute of any objects, to be switched off for a while.

    Args:
        name: the attribute, such as ``"training"``.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._lock = Lock()
        self._held: dict[int, tuple[Any, int]] = {}  # id → the object, which keeps its id, and how many need it off

    @contextmanager
    def off(self, objects: Iterable[Any]) -> Iterator[None]:
        """Switch the attribute off, and on again where it was on as soon as nobody needs it off."""
        with self._lock:
            mine = [one for one in objects if id(one) in self._held or getattr(one, self.name)]
            for one in mine:
                setattr(one, self.name, False)
                self._held[id(one)] = (one, self._held.get(id(one), (one, 0))[1] + 1)
        try:
            yield
        finally:
            with self._lock:
                for one in mine:
                    count = self._held[id(one)][1] - 1
                    if count:
                        self._held[id(one)] = (one, count)
                    else:
                        del self._held[id(one)]
                        setattr(one, self.name, True)
