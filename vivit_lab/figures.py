"""Matplotlib figures without pyplot, so that no global state is touched."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from vivit_lab.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["new_figure"]


def new_figure(rows: int, columns: int, size: tuple[float, float], **options: Any) -> tuple[Figure, Any]:
    """Return a figure that a notebook shows by itself, and its axes (rows, columns).

    Args:
        rows: of panels.
        columns: of panels.
        size: (width, height) in inches.
        **options: as for ``Figure.subplots``.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.text import Text
    except ImportError as error:
        raise MissingExtraError("figures need matplotlib: pip install 'vivit-lab[lab]'") from error

    class Picture(Figure):
        def _repr_png_(self) -> bytes:  # a figure without pyplot has no display hook of its own
            buffer = io.BytesIO()
            self.savefig(buffer, format="png", dpi=self.dpi)
            return buffer.getvalue()

        def draw(self, renderer: Any) -> None:
            for text in self.findobj(Text):  # names of classes and clips are text, in which "$" is a letter
                text.set_parse_math(False)
            super().draw(renderer)

    figure = Picture(figsize=size, dpi=110, layout="constrained", facecolor="white")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)
