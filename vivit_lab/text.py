"""Text that holds names from data, as a terminal, Markdown or CSV takes it."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from typing import Any, TextIO

__all__ = ["HIDDEN", "csv_writer", "markdown_row", "visible"]

HIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What steers a terminal instead of being seen: control characters but tab and line feed, separators of lines, marks
that turn the direction of writing, and halves of characters (bytes of a file name that are no UTF-8)."""


def visible(text: Any, *, lines: bool = True) -> str:
    r"""Return a text with what would steer a terminal written out: ``\x1b`` for an escape, ``\r`` for a return.

    Args:
        text: any text, or what ``str`` makes one of. Tabs stay.
        lines: whether line feeds stay too.
    """
    plain = HIDDEN.sub(lambda found: ascii(found[0])[1:-1], str(text))
    return plain if lines else plain.replace("\n", "\\n")


def markdown_row(cells: Iterable[Any]) -> str:
    """Return a row of a Markdown table; a cell with bars, backslashes or line breaks stays one cell of text."""
    plain = (visible(" ".join(str(cell).split())) for cell in cells)
    escaped = (cell.replace("\\", "\\\\").replace("|", "\\|") for cell in plain)
    return f"| {' | '.join(escaped)} |"


def csv_writer(file: TextIO) -> Any:
    """Return a ``csv.writer`` that puts quotes around every text, whatever it holds or begins with.

    Args:
        file: opened with ``newline=""``.
    """
    return csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
