"""How maps and records show themselves in a notebook."""

from __future__ import annotations

from vivit_lab.attribution.base import AttributionMap, is_fake
from vivit_lab.colormap import choose_colormap, unit_interval, value_limits
from vivit_lab.drawing import drawer
from vivit_lab.html import Markup, colour_scale, facts_table, report_html, row_of_tiles, text_line, tile, tiles
from vivit_lab.records.attention import AttentionRecord

__all__ = ["map_html", "pictures", "record_html"]

_MOST_CLIPS, _MOST_ROWS = 4, 64


@drawer(AttributionMap)
def map_html(map: AttributionMap) -> str:
    """Return a map as HTML: a table of what it is, a colour bar with its range, and a tile a tubelet row.

    All clips of a batch share one colour scale. Of a large batch the first 4 clips are shown, of a long clip the first
    64 tubelet rows, and the text says so. A fake or meta tensor has only a shape, and no tiles.
    """
    return report_html(_facts(map), "" if is_fake(map.relevance) else pictures(map))


def _facts(map: AttributionMap) -> str:
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
    return facts_table(entries)


@drawer(AttributionMap, "pictures")
def pictures(map: AttributionMap) -> Markup:
    """Return the colour bar of a map, and a tile for each tubelet row of its clips."""
    values = map.relevance.cpu().numpy()
    colormap = choose_colormap(None, signed=map.signed)
    low, high = value_limits(values, signed=map.signed)
    parts = [colour_scale(colormap, low, high, signed=map.signed)]
    for number, clip in enumerate(values[:_MOST_CLIPS]):
        made = (
            tile(colormap.apply(unit_interval(row, low, high)), _frames(map, t))
            for t, row in enumerate(clip[:_MOST_ROWS])
        )
        if len(values) > 1:
            parts.append(text_line(f"clip {number}"))
        parts.append(row_of_tiles(made))
    for count, most, what in ((len(values), _MOST_CLIPS, "clips"), (map.grid.t, _MOST_ROWS, "tubelet rows")):
        if count > most:
            parts.append(text_line(f"{count - most} more {what} are not shown."))
    return Markup("").join(parts)


def _frames(map: AttributionMap, t: int) -> str:
    start, stop = map.grid.frame_span(t)
    return f"frame {start}" if stop - start == 1 else f"frames {start}–{stop - 1}"


@drawer(AttentionRecord)
def record_html(record: AttentionRecord) -> str:
    """Return what a record holds, and where one token looks in its last layer: CLS, else the tubelet in the middle.

    The picture is the first clip's, the mean over heads, on one scale, a tile a tubelet row.
    """
    grid, layer = record.grid, record.layers[-1]
    token = 0 if grid.cls else grid.token(grid.t // 2, grid.h // 2, grid.w // 2)
    row = record.rows(layer, token)[0].mean(dim=0)[0]
    about = text_line(repr(record))
    looked = row[int(grid.cls) :].reshape(grid.t, grid.h, grid.w).cpu().numpy()
    who = "the CLS token" if grid.cls else "the tubelet in the middle"
    say = text_line(f"Where {who} looks in layer {layer}, mean over heads, first clip.")
    return report_html(about, say, tiles(looked, [f"t {t}" for t in range(grid.t)], signed=False))
