"""How a record shows itself in a notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vivit_lab.show.html import report_html, text_line, tiles

if TYPE_CHECKING:
    from vivit_lab.hooks.record import AttentionRecord

__all__ = ["record_html"]


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
