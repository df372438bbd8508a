"""The one way from text to HTML: jinja2 templates that escape whatever they are given.

A piece is ``Markup``, a str that is known to be safe; a plain str that is passed in is text and is escaped. What is
whole (a box of pieces, a page) is a plain str, ready to be shown. All of it needs no kernel and no other file. The
templates are in ``templates``.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from vivit_lab.colormap import Colormap, choose_colormap, format_range, unit_interval, value_limits

__all__ = [
    "Markup",
    "colour_scale",
    "confusion_table",
    "facts_table",
    "frame_tiles",
    "list_of",
    "message",
    "page",
    "picture",
    "plain_table",
    "render",
    "report_html",
    "row_of_tiles",
    "rows_table",
    "text_line",
    "tile",
    "tiles",
]

_CELL = 6  # CSS pixels of a tubelet; a large grid gets fewer
_LARGE_CELL = 14  # where there is one tile alone
_WIDEST = 168  # CSS pixels of a tile

# C0 and C1 controls but for tab and newline: none has a place in HTML, and a NUL makes parsers guess
_CONTROLS = dict.fromkeys((*range(9), 11, 12, *range(14, 32), *range(127, 160)), "\N{REPLACEMENT CHARACTER}")


def _finished(value: Any) -> Any:
    """Return what a template writes: text without control characters."""
    return value.translate(_CONTROLS) if isinstance(value, str) and not isinstance(value, Markup) else value


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finished,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    return environment


def render(template: str, **values: Any) -> str:
    """Return a template of ``templates`` with values filled in; those that are not ``Markup`` are escaped."""
    return _environment().get_template(template).render(**values)


def _piece(name: str, *values: Any) -> Markup:
    """Return a macro of ``pieces.html`` with its values filled in."""
    return Markup(getattr(_environment().get_template("pieces.html").module, name)(*values))


def report_html(*parts: str) -> str:
    """Return parts in one box: pieces as they are, other strings as text."""
    return str(_piece("box", parts))


def text_line(text: str) -> Markup:
    """Return a line of text."""
    return _piece("line", text)


def message(text: str) -> str:
    """Return a paragraph, for where there is nothing else to show."""
    return str(_piece("paragraph", text))


def list_of(lines: Iterable[str]) -> str:
    """Return lines of text as a list with bullets."""
    return str(_piece("bullets", list(lines)))


def page(title: str, body: str) -> str:
    """Return a page: a title, which is text, and what one of the functions here or ``_repr_html_`` returned."""
    return render("plain_page.html", title=title, body=Markup(body))


def facts_table(facts: Mapping[str, str | None]) -> Markup:
    """Return facts, name → text, as a table of two columns; those that are None are left out."""
    return _piece("facts", [(name, text) for name, text in facts.items() if text is not None])


def rows_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Markup:
    """Return a table with a line of headings."""
    return _piece("rows", header, list(rows))


def plain_table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]], remarks: Sequence[str]) -> str:
    """Return a table in the page's own style, with a caption above and remarks below."""
    return str(_piece("plain_table", title, header, list(rows), remarks))


def confusion_table(caption: str, names: Sequence[str], counts: np.ndarray) -> str:
    """Return counts (true class, predicted class) as a table, darker where there are more."""
    shares = (counts / max(int(counts.max()), 1)).round(2)
    rows = [
        (name, list(zip(row.tolist(), share.tolist(), strict=True)))
        for name, row, share in zip(names, counts, shares, strict=True)
    ]
    return str(_piece("confusion", caption, names, rows))


def tiles(values: np.ndarray, labels: Sequence[str], *, signed: bool) -> Markup:
    """Return matrices (tile, row, column) as pictures on one colour scale, which stands above, each with its label."""
    colormap = choose_colormap(None, signed=signed)
    low, high = value_limits(values, signed=signed)
    made = (
        tile(colormap.apply(unit_interval(matrix, low, high)), label, _LARGE_CELL)
        for matrix, label in zip(values, labels, strict=True)
    )
    return colour_scale(colormap, low, high, signed=signed) + row_of_tiles(made)


def row_of_tiles(made: Iterable[str]) -> Markup:
    """Return tiles side by side."""
    return _piece("tiles", list(made))


def colour_scale(colormap: Colormap, low: float, high: float, *, signed: bool) -> Markup:
    """Return a colour bar with the numbers at its ends."""
    ends = format_range(low, high)
    numbers = (ends[0], "0", ends[1]) if signed else ends
    return _piece("scale", colormap.name, _data_uri(colormap.table[None]), numbers)


def frame_tiles(frames: np.ndarray, labels: Sequence[str], most: int = 6) -> Markup:
    """Return some frames of a video (frame, height, width, 3) uint8, evenly spaced and small, each with its label."""
    step = -(-max(frames.shape[1:3]) // _WIDEST)
    places = np.linspace(0, len(frames) - 1, min(most, len(frames)))
    chosen: list[int] = sorted({round(place) for place in places.tolist()})
    return row_of_tiles(tile(frames[i, ::step, ::step], labels[i], _WIDEST, showing="video at ") for i in chosen)


def tile(pixels: np.ndarray, label: str, cell: int = _CELL, *, showing: str = "relevance in ") -> Markup:
    """Return one picture (height, width, 3) uint8 with its label below.

    Args:
        pixels: the picture.
        label: the text below.
        cell: its magnification; less is taken where the tile would be too wide.
        showing: what stands before the label in the text that replaces the picture.
    """
    height, width = pixels.shape[:2]
    cell = max(1, min(cell, _WIDEST // max(height, width)))
    return _piece("tile", showing, label, width * cell, height * cell, _data_uri(pixels))


def picture(alt: str, jpeg: bytes) -> str:
    """Return a JPEG as wide as its place, with the text that replaces it."""
    return str(_piece("picture", alt, _uri("image/jpeg", jpeg)))


def _data_uri(pixels: np.ndarray) -> Markup:
    """Return (height, width, 3) uint8 RGB as a PNG data URI."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG", optimize=True)
    return _uri("image/png", buffer.getvalue())


def _uri(mime: str, data: bytes) -> Markup:
    return Markup(f"data:{mime};base64,{base64.b64encode(data).decode()}")
