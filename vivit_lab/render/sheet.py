"""A contact sheet: the whole clip and its relevance on one page, a tile a tubelet row."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from vivit_lab.colormap import format_range
from vivit_lab.errors import InputError
from vivit_lab.numbers import checked_numbers
from vivit_lab.render.legend import (
    LIGHT,
    clip_end,
    describe,
    draw_colorbar,
    draw_lines,
    draw_numbers,
    ellipsize,
    font,
    format_seconds,
    line_height,
    printable,
    row_spans,
    wrap,
)
from vivit_lab.render.painter import GAP, Painter, check_pair, make_painter, outside_text, share_outside

if TYPE_CHECKING:
    from vivit_lab.attribution.base import AttributionMap
    from vivit_lab.colormap import Colormap
    from vivit_lab.video.clip import Clip

__all__ = ["contact_sheet"]

_TILE = 240  # pixels of a picture's longer side
_MARGIN = 24
_NARROWEST = 560  # of what is inside the margins, so that the title and the colour bar have room
_TITLE, _TEXT, _CAPTION = 22, 15, 14  # font sizes in pixels


@checked_numbers(columns=(1, None), max_frames=(1, None))
def contact_sheet(
    clip: Clip,
    map: AttributionMap,
    path: str | os.PathLike[str] | None = None,
    *,
    columns: int | None = None,
    max_frames: int = 16,
    colormap: str | Colormap | None = None,
    alpha: float | None = None,
    normalize: str = "clip",
    limits: tuple[float, float] | None = None,
    percentile: float | None = None,
    interpolation: str = "nearest",
) -> Image.Image:
    """Draw the clip and its relevance on one page, and write it as PNG where a path is given.

    A tile is one tubelet row: its first frame, the same with the relevance drawn over it, when it is shown, which of
    the file's frames it covers and how much relevance it holds. Pictures are scaled to 240 pixels, small ones enlarged
    by a whole number. Method, parameters, target, model and colour scale stand at the top, and as JSON in the PNG's
    text chunk "vivit_lab".

    Args:
        clip: the prepared clip.
        map: its relevance, a batch of one.
        path: where the PNG goes, or None to write nothing.
        columns: tiles in a line, or None to choose.
        max_frames: how many tiles at most; of more tubelet rows, evenly spaced ones are taken and the sheet says so.
        colormap: a name (``COLORMAP_NAMES``) or a ``Colormap``; None takes inferno, and coolwarm for signed relevance.
        alpha: opacity of the heat in [0, 1] everywhere, or None: proportional to the heat, up to 0.8.
        normalize: "clip": one colour scale for all tiles; "frame": one for each, printed below it.
        limits: (low, high) of the colour scale, to compare clips; for signed relevance (-m, m).
        percentile: the colour scale ends at this percentile of the clip's relevance (of its magnitude, if signed), so
            that a few outlying tubelets do not hide all others, and says so; not with ``limits`` or one scale a tile.
        interpolation: "nearest" shows the tubelets as they are; "bilinear" smooths between them.

    Returns:
        The page, an RGB image.

    Raises:
        InputError: an argument is not one of its choices, the clip was not prepared, or the map is not this clip's.
        GridError: the map's grid covers other pixels or frames than the clip.

    Example:
        >>> contact_sheet(clip, rollout, "sheet.png", columns=4)
    """
    if path is not None and Path(path).suffix.lower() != ".png":
        raise InputError(f"a contact sheet is written as PNG: wanted a path that ends in .png, got {os.fspath(path)!r}")
    painter = make_painter(
        clip,
        map,
        layout="overlay",
        colormap=colormap,
        alpha=alpha,
        normalize=normalize,
        limits=limits,
        percentile=percentile,
        interpolation=interpolation,
    )
    rows = sorted({round(row) for row in np.linspace(0, map.grid.t - 1, min(max_frames, map.grid.t))})
    page = _Page.plan(painter.clip.size, len(rows), columns)
    image = _draw(page, painter, clip, map, rows)
    if path is not None:
        image.save(path, pnginfo=_png_text(clip, map, painter, rows))
    return image


@dataclass(frozen=True)
class _Page:
    """Sizes in pixels: of one picture, of a tile (two pictures and its caption), and how many tiles a line has."""

    picture: tuple[int, int]
    tile: tuple[int, int]
    portrait: bool
    columns: int
    lines: int

    @classmethod
    def plan(cls, size: tuple[int, int], tiles: int, columns: int | None) -> _Page:
        height, width = size
        factor = _TILE / max(height, width)
        factor = max(1, math.floor(factor)) if factor >= 1 else factor
        picture = (max(1, round(height * factor)), max(1, round(width * factor)))
        portrait = picture[0] > picture[1]
        pair = (picture[0], 2 * picture[1] + GAP) if portrait else (2 * picture[0] + GAP, picture[1])
        tile = (pair[0] + 3 * line_height(font(_CAPTION)) + 6, max(pair[1], _TILE * 3 // 4))
        if columns is None:
            # the page is a little wider than high, and the last line is not left almost empty
            shapes = [
                (abs(math.log(n * tile[1] / (math.ceil(tiles / n) * tile[0]) / 1.2)), n) for n in range(1, tiles + 1)
            ]
            columns = min((cost + 2 * (-tiles % n) / n, n) for cost, n in shapes)[1]
        columns = min(columns, tiles)
        return cls(picture, tile, portrait, columns, math.ceil(tiles / columns))

    @property
    def width(self) -> int:
        """Width of the tiles and the gaps between them."""
        return self.columns * (self.tile[1] + _MARGIN) - _MARGIN


def _draw(page: _Page, painter: Painter, clip: Clip, map: AttributionMap, rows: list[int]) -> Image.Image:
    inner = max(page.width, _NARROWEST)
    header = _header(painter, map, rows, inner, outside_text(check_pair(clip, map), map))
    height = _MARGIN + header.height + page.lines * (page.tile[0] + _MARGIN)
    image = Image.new("RGB", (inner + 2 * _MARGIN, height), LIGHT.background)
    image.paste(header, (_MARGIN, _MARGIN))
    firsts = [map.grid.frame_span(row)[0] for row in rows]
    for number, (row, first, painted) in enumerate(zip(rows, firsts, painter.paint(firsts), strict=True)):
        line, column = divmod(number, page.columns)
        left = _MARGIN + (inner - page.width) // 2 + column * (page.tile[1] + _MARGIN)
        top = _MARGIN + header.height + line * (page.tile[0] + _MARGIN)
        pair = [_scaled(picture, page.picture) for picture in (painter.clip.frames[first], painted)]
        across, down = (page.picture[1] + GAP, 0) if page.portrait else (0, page.picture[0] + GAP)
        start = left + (page.tile[1] - page.picture[1] - across) // 2
        image.paste(pair[0], (start, top))
        image.paste(pair[1], (start + across, top + down))
        face = font(_CAPTION)
        texts = [ellipsize(printable(text), face, page.tile[1]) for text in _caption(painter, clip, map, row)]
        draw_lines(image, texts, (left, top + down + page.picture[0] + 4), face, LIGHT.ink)
    return image


def _header(painter: Painter, map: AttributionMap, rows: list[int], width: int, outside: str) -> Image.Image:
    """Return the title, what it is of, what is not to be seen, and the colour bar."""
    _, of = describe(map)
    settings = ", ".join(f"{name}={value}" for name, value in map.parameters.items())
    shown = "" if len(rows) == map.grid.t else f"{len(rows)} of {map.grid.t} tubelet rows shown"
    large, small = font(_TITLE), font(_TEXT)
    titles = wrap(map.method, large, width, 2)
    texts = ((settings, 4), (of, 3), (shown, 1), (outside, 1))
    details = [line for text, most in texts for line in wrap(text, small, width, most)]
    scales = wrap(f"{painter.scale.kind}: {map.scale}", small, width, 3)
    line = line_height(small)
    bar_top = len(titles) * line_height(large) + (len(details) + len(scales)) * line + 12
    image = Image.new("RGB", (width, bar_top + 2 * line + _MARGIN), LIGHT.background)
    below = draw_lines(image, titles, (0, 0), large, LIGHT.ink)
    below = draw_lines(image, details, (0, below), small, (90, 92, 98))
    draw_lines(image, scales, (0, below + 6), small, LIGHT.ink)
    bar = (0, bar_top, min(width, 640))
    draw_colorbar(image, bar, painter.scale, small, LIGHT)
    if painter.scale.per_frame:
        ImageDraw.Draw(image).text((0, bar_top + line - 2), "numbers below each tile", font=small, fill=LIGHT.ink)
    else:
        draw_numbers(image, bar, painter.scale, 0, small, LIGHT)
    return image


def _caption(painter: Painter, clip: Clip, map: AttributionMap, row: int) -> list[str]:
    """Return the lines below a tile: when it is shown, which frames of the file it covers, what it holds."""
    start, stop = map.grid.frame_span(row)
    frames = clip.indices[start:stop].tolist()
    span = clip_end(clip) - float(clip.seconds[0])
    begin, end = row_spans(clip, map.grid)[row]
    until = f" - {format_seconds(end, span)}" if end > begin else ""
    mass = map.over_time[0].double()
    if painter.scale.per_frame:
        holds = "scale {} to {}".format(*format_range(painter.scale.low[row], painter.scale.high[row]))
    elif map.signed or not float(mass.sum()):
        holds = f"sum {float(mass[row]):.3g}"
    else:
        holds = f"{100 * float(mass[row] / mass.sum()):.3g} % of the relevance"
    listed = f"{frames[0]}" if len(frames) == 1 else f"{frames[0]}, {frames[1]}" if len(frames) == 2 else None
    return [
        f"{format_seconds(begin, span)}{until}",
        f"frame {listed}" if len(frames) == 1 else f"frames {listed or f'{frames[0]} - {frames[-1]}'}",
        holds,
    ]


def _scaled(frame: np.ndarray, size: tuple[int, int]) -> Image.Image:
    picture = Image.fromarray(frame)
    if size[0] >= frame.shape[0]:  # enlarged by a whole number: pixels stay pixels
        return picture.resize((size[1], size[0]), Image.Resampling.NEAREST)
    return picture.resize((size[1], size[0]), Image.Resampling.LANCZOS, reducing_gap=3.0)


def _png_text(clip: Clip, map: AttributionMap, painter: Painter, rows: list[int]) -> PngInfo:
    """Return the map's metadata and the scale as text chunks; of the clip's path only its name."""
    scale = painter.scale
    metadata = map.metadata()
    if map.sources is not None:
        metadata["sources"] = [
            {**source, "path": None if source["path"] is None else Path(source["path"]).name} for source in map.sources
        ]
    contents: dict[str, Any] = {
        "map": metadata,
        "clip": None if clip.path is None else Path(clip.path).name,
        "rows": rows,
        "seconds": [float(clip.seconds[map.grid.frame_span(row)[0]]) for row in rows],
        "colormap": scale.colormap.name,
        "percentile": scale.percentile,
        "outside": share_outside(check_pair(clip, map), map),
        "limits": [[float(scale.low[row]), float(scale.high[row])] for row in rows],
    }
    text = PngInfo()
    text.add_itxt("Title", " ".join(describe(map)))
    text.add_itxt("Software", "vivit_lab")
    text.add_itxt("vivit_lab", json.dumps(contents))
    return text
