"""Warnings that point at the line of the caller."""

from __future__ import annotations

import sys
import warnings

__all__ = ["warn_caller"]


def warn_caller(message: str, category: type[Warning]) -> None:
    """Warn at the nearest line that is not the package's own, however deep inside it the warning is given."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "vivit_lab":
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
