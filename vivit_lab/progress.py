"""A progress bar where somebody looks, and none elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

__all__ = ["progress_bar"]


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
    return tqdm(steps, desc=name, unit=unit, total=total, initial=initial, disable=hide, leave=False)
