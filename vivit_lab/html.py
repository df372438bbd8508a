"""Pieces of HTML that need no kernel and no other file: what results show in a notebook is made of them."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from vivit_lab.colormap import Colormap, choose_colormap, format_range, unit_interval, value_limits

__all__ = [
    "colour_scale",
    "facts_table",
    "frame_tiles",
    "report_html",
    "row_of_tiles",
    "rows_table",
    "tile",
    "tiles",
]

_CELL = 6  # CSS pixels of a tubelet; a large grid gets fewer
_LARGE_CELL = 14  # where there is one tile alone
_WIDEST = 168  # CSS pixels of a tile

# Colours are the page's own (currentColor, inherit), so light and dark themes both stay readable.
_STYLE = {
    "box": "font:13px/1.45 system-ui,sans-serif;color:inherit;max-width:1100px",
    "name": "opacity:.7;padding:0 10px 0 0;text-align:left;vertical-align:top;white-space:nowrap;background:none",
    "value": "padding:0;text-align:left;background:none;overflow-wrap:anywhere",
    "cell": "padding:0 14px 0 0;text-align:left;background:none;font-variant-numeric:tabular-nums",
    "tiles": "display:flex;flex-wrap:wrap;gap:6px;margin:6px 0",
    "tile": "margin:0;text-align:center;font-size:11px",
    "picture": "display:block;image-rendering:pixelated;outline:1px solid rgba(128,128,128,.5);max-width:none",
    "scale": "width:280px;margin:8px 0",
    "ramp": "display:block;width:280px;height:12px;max-width:none;margin:0",
    "numbers": "display:flex;justify-content:space-between",
}


def report_html(*parts: str) -> str:
    """Return parts, pieces of HTML, in one box."""
    return f'<div style="{_STYLE["box"]}">{"".join(parts)}</div>'


def facts_table(facts: Mapping[str, str | None]) -> str:
    """Return facts, name → text, as a table of two columns; those that are None are left out."""
    lines = (
        f'<tr style="background:none"><th style="{_STYLE["name"]}">{html.escape(name)}</th>'
        f'<td style="{_STYLE["value"]}">{html.escape(text)}</td></tr>'
        for name, text in facts.items()
        if text is not None
    )
    return f'<table style="border-collapse:collapse;color:inherit;margin:0">{"".join(lines)}</table>'


def rows_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table with a line of headings."""
    head = "".join(f'<th style="{_STYLE["cell"]};opacity:.7">{html.escape(name)}</th>' for name in header)
    lines = ("".join(f'<td style="{_STYLE["cell"]}">{html.escape(text)}</td>' for text in row) for row in [*rows])
    body = "".join(f'<tr style="background:none">{line}</tr>' for line in lines)
    return (
        f'<table style="border-collapse:collapse;color:inherit;margin:8px 0"><tr style="background:none">{head}</tr>'
        f"{body}</table>"
    )


def tiles(values: np.ndarray, labels: Sequence[str], *, signed: bool) -> str:
    """Return matrices (tile, row, column) as pictures on one colour scale, which stands above, each with its label."""
    colormap = choose_colormap(None, signed=signed)
    low, high = value_limits(values, signed=signed)
    made = (
        tile(colormap.apply(unit_interval(matrix, low, high)), label, _LARGE_CELL)
        for matrix, label in zip(values, labels, strict=True)
    )
    return f"{colour_scale(colormap, low, high, signed=signed)}{row_of_tiles(made)}"


def row_of_tiles(made: Iterable[str]) -> str:
    """Return tiles side by side."""
    return f'<div style="{_STYLE["tiles"]}">{"".join(made)}</div>'


def colour_scale(colormap: Colormap, low: float, high: float, *, signed: bool) -> str:
    """Return a colour bar with the numbers at its ends."""
    ends = format_range(low, high)
    numbers = (ends[0], "0", ends[1]) if signed else ends
    below = "".join(f"<span>{number}</span>" for number in numbers)
    return (
        f'<div style="{_STYLE["scale"]}"><img alt="{colormap.name} colour bar" style="{_STYLE["ramp"]}" '
        f'src="{_png(colormap.table[None])}"><div style="{_STYLE["numbers"]}">{below}</div></div>'
    )


def frame_tiles(frames: np.ndarray, labels: Sequence[str], most: int = 6) -> str:
    """Return some frames of a video (frame, height, width, 3) uint8, evenly spaced and small, each with its label."""
    step = -(-max(frames.shape[1:3]) // _WIDEST)
    places = np.linspace(0, len(frames) - 1, min(most, len(frames)))
    chosen: list[int] = sorted({round(place) for place in places.tolist()})
    return row_of_tiles(tile(frames[i, ::step, ::step], labels[i], _WIDEST, showing="video at ") for i in chosen)


def tile(picture: np.ndarray, label: str, cell: int = _CELL, *, showing: str = "relevance in ") -> str:
    """Return one picture (height, width, 3) uint8 with its label below.

    Args:
        picture: the picture.
        label: the text below.
        cell: its magnification; less is taken where the tile would be too wide.
        showing: what stands before the label in the text that replaces the picture.
    """
    height, width = picture.shape[:2]
    cell = max(1, min(cell, _WIDEST // max(height, width)))
    size = f"width:{width * cell}px;height:{height * cell}px"
    return (
        f'<figure style="{_STYLE["tile"]}">'
        f'<img alt="{showing}{label}" style="{_STYLE["picture"]};{size};margin:0" src="{_png(picture)}">'
        f"<figcaption>{label}</figcaption></figure>"
    )


def _png(picture: np.ndarray) -> str:
    """Return (height, width, 3) uint8 RGB as a PNG data URI."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
