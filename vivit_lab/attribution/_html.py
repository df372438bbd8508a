"""How an attribution map shows itself in a notebook: one piece of HTML that needs no kernel and no other file."""

from __future__ import annotations

import base64
import html
import io
from typing import TYPE_CHECKING

import numpy as np

from vivit_lab.colormap import Colormap, choose_colormap, format_range, unit_interval, value_limits

if TYPE_CHECKING:
    from vivit_lab.attribution.base import AttributionMap

__all__ = ["map_html"]

_MOST_CLIPS, _MOST_ROWS = 4, 64
_CELL = 6  # CSS pixels of a tubelet; a large grid gets fewer
_WIDEST = 168  # CSS pixels of a tile

# Colours are the page's own (currentColor, inherit), so light and dark themes both stay readable.
_STYLE = {
    "box": "font:13px/1.45 system-ui,sans-serif;color:inherit;max-width:1100px",
    "name": "opacity:.7;padding:0 10px 0 0;text-align:left;vertical-align:top;white-space:nowrap;background:none",
    "value": "padding:0;text-align:left;background:none;overflow-wrap:anywhere",
    "tiles": "display:flex;flex-wrap:wrap;gap:6px;margin:6px 0",
    "tile": "margin:0;text-align:center;font-size:11px",
    "picture": "display:block;image-rendering:pixelated;outline:1px solid rgba(128,128,128,.5);max-width:none",
    "scale": "width:280px;margin:8px 0",
    "ramp": "display:block;width:280px;height:12px;max-width:none;margin:0",
    "numbers": "display:flex;justify-content:space-between",
}


def map_html(map: AttributionMap, *, has_values: bool = True) -> str:
    """Return a map as HTML: a table of what it is, a colour bar with its range, and a tile a tubelet row.

    All clips of a batch share one colour scale. Of a large batch the first 4 clips are shown, of a long clip the first
    64 tubelet rows, and the text says so.

    Args:
        map: the map.
        has_values: whether the tensor holds numbers (a fake or meta tensor has only a shape).
    """
    pictures = _pictures(map) if has_values else ""
    return f'<div style="{_STYLE["box"]}">{_table(map)}{pictures}</div>'


def _table(map: AttributionMap) -> str:
    grid = map.grid
    settings = ", ".join(f"{name}={value!r}" for name, value in map.parameters.items())
    depth, rows, columns = grid.tubelet
    entries = {
        "method": f"{map.method}({settings})",
        "target": map.target,
        "model": map.model_id,
        "grid": f"{grid.t}×{grid.h}×{grid.w} tubelets of {depth}×{rows}×{columns} "
        f"(time × height × width){', after a CLS token' if grid.cls else ''}",
        "clips": str(len(map)) if len(map) > 1 else None,
        "scale": map.scale,
    }
    lines = (
        f'<tr style="background:none"><th style="{_STYLE["name"]}">{name}</th>'
        f'<td style="{_STYLE["value"]}">{html.escape(text)}</td></tr>'
        for name, text in entries.items()
        if text is not None
    )
    return f'<table style="border-collapse:collapse;color:inherit;margin:0">{"".join(lines)}</table>'


def _pictures(map: AttributionMap) -> str:
    values = map.relevance.cpu().numpy()
    colormap = choose_colormap(None, signed=map.signed)
    low, high = value_limits(values, signed=map.signed)
    parts = [_scale(colormap, low, high, signed=map.signed)]
    for number, clip in enumerate(values[:_MOST_CLIPS]):
        tiles = (
            _tile(colormap.apply(unit_interval(row, low, high)), _frames(map, t))
            for t, row in enumerate(clip[:_MOST_ROWS])
        )
        if len(values) > 1:
            parts.append(f"<div>clip {number}</div>")
        parts.append(f'<div style="{_STYLE["tiles"]}">{"".join(tiles)}</div>')
    for count, most, what in ((len(values), _MOST_CLIPS, "clips"), (map.grid.t, _MOST_ROWS, "tubelet rows")):
        if count > most:
            parts.append(f"<div>{count - most} more {what} are not shown.</div>")
    return "".join(parts)


def _scale(colormap: Colormap, low: float, high: float, *, signed: bool) -> str:
    ends = format_range(low, high)
    numbers = (ends[0], "0", ends[1]) if signed else ends
    below = "".join(f"<span>{number}</span>" for number in numbers)
    return (
        f'<div style="{_STYLE["scale"]}"><img alt="{colormap.name} colour bar" style="{_STYLE["ramp"]}" '
        f'src="{_png(colormap.table[None])}"><div style="{_STYLE["numbers"]}">{below}</div></div>'
    )


def _tile(picture: np.ndarray, label: str) -> str:
    height, width = picture.shape[:2]
    cell = max(1, min(_CELL, _WIDEST // max(height, width)))
    size = f"width:{width * cell}px;height:{height * cell}px"
    return (
        f'<figure style="{_STYLE["tile"]}">'
        f'<img alt="relevance in {label}" style="{_STYLE["picture"]};{size};margin:0" src="{_png(picture)}">'
        f"<figcaption>{label}</figcaption></figure>"
    )


def _frames(map: AttributionMap, t: int) -> str:
    start, stop = map.grid.frame_span(t)
    return f"frame {start}" if stop - start == 1 else f"frames {start}–{stop - 1}"


def _png(picture: np.ndarray) -> str:
    """Return (height, width, 3) uint8 RGB as a PNG data URI."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
