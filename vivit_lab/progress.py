"""A progress bar where somebody looks, and none elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from tqdm import tqdm

__all__ = ["progress_bar", "watching_progress"]

Watcher = Callable[[int, int | None], None]

_WATCHER: ContextVar[Watcher | None] = ContextVar("vivit_lab.progress watcher", default=None)


def progress_bar(
    steps: Iterable[Any] | None,
    progress: bool | None,
    name: str,
    unit: str,
    total: int | None = None,
    initial: int = 0,
) -> Any:
    """Return a tqdm bar.

    Args:
        steps: what to go through, or None for a bar that is moved by hand (``bar.update``).
        progress: whether to show it; None shows it where standard error is a terminal.
        name: what is running.
        unit: what one step is.
        total: how many steps, where ``steps`` does not tell.
        initial: how many were done before.
    """
    hide = None if progress is None else not progress
    watcher = _WATCHER.get()
    if watcher is not None:
        return _WatchedBar(watcher, steps, name, unit, total, initial)
    return tqdm(steps, desc=name, unit=unit, total=total, initial=initial, disable=hide, leave=False)


@contextmanager
def watching_progress(watcher: Watcher) -> Iterator[None]:
    """Send the progress of whatever runs in this block, in this thread, to a function instead of to standard error.

    Args:
        watcher: is called with (steps done, steps in all or None) at every step; what it raises ends the work.
    """
    token = _WATCHER.set(watcher)
    try:
        yield
    finally:
        _WATCHER.reset(token)


class _WatchedBar(tqdm):
    """A bar that nobody sees: it tells its watcher instead."""

    def __init__(
        self,
        watcher: Watcher,
        steps: Iterable[Any] | None,
        name: str,
        unit: str,
        total: int | None,
        initial: int,
    ) -> None:
        super().__init__(steps, desc=name, unit=unit, total=total, initial=initial, disable=True)
        if total is None and hasattr(steps, "__len__"):
            total = len(steps)  # type: ignore[arg-type]
        self._watcher, self._done, self._total = watcher, initial, total

    def __iter__(self) -> Iterator[Any]:
        for step in self.iterable:
            yield step
            self.update()

    def update(self, n: float | None = 1) -> None:
        self._done += int(n or 0)
        self._watcher(self._done, self._total)
