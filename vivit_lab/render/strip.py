"""The time strip: how much relevance each tubelet row holds, over true time, with the current frame marked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from vivit_lab.colormap import format_range
from vivit_lab.render.text import DARK, ellipsize, line_height, text_width
from vivit_lab.render.timing import clip_end, format_seconds, row_spans

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

    from vivit_lab.attribution.base import AttributionMap
    from vivit_lab.colormap import Colormap
    from vivit_lab.video.clip import Clip

__all__ = ["TimeStrip"]


@dataclass(frozen=True, eq=False)
class TimeStrip:
    """Bars over time; the caption above, the seconds below.

    A bar is as wide as its tubelet row is shown and as high as its relevance sums to, from zero; negative relevance
    hangs below the line of zero. A row whose frames are all repeats is shown for no time and has no bar.

    Args:
        box: (left, top, right, bottom) of the bars, in pixels of the legend.
        bars: (t, 4) left, top, right, bottom of each row's bar, and (t, 4) of what hangs below zero.
        marks: (T,) column of each frame's time.
        seconds: (T,) the text of each frame's time.
        ends: the texts of when the clip starts and ends.
        caption: what the bars are.
        frames_per_row: how many frames a row covers.
        colors: of the bars above and below zero.
        face: the font.
    """

    box: tuple[int, int, int, int]
    bars: tuple[np.ndarray, np.ndarray]
    marks: np.ndarray
    seconds: list[str]
    ends: tuple[str, str]
    caption: str
    frames_per_row: int
    colors: tuple[tuple[int, int, int], tuple[int, int, int]]
    face: FreeTypeFont

    @classmethod
    def at(
        cls,
        clip: Clip,
        map: AttributionMap,
        colormap: Colormap,
        corner: tuple[int, int],
        width: int,
        face: FreeTypeFont,
    ) -> TimeStrip:
        """Lay the strip out from a corner (left, top), ``width`` pixels wide."""
        left, top = corner
        line = line_height(face)
        box = (left, top + line + 4, left + width, top + line + 4 + 2 * line)
        start, end = float(clip.seconds[0]), clip_end(clip)
        column = lambda seconds: left + (np.asarray(seconds) - start) / (end - start) * width  # noqa: E731
        values = map.relevance[0].double().cpu().numpy()
        gains, losses = values.clip(min=0).sum(axis=(1, 2)), values.clip(max=0).sum(axis=(1, 2))
        times = [format_seconds(seconds, end - start) for seconds in clip.seconds]
        room = width - max(text_width(text, face) for text in times) - line
        low, high = format_range(float(losses.min()), float(gains.max()))
        words = f"relevance of each tubelet row, {low if map.signed else 0} to {high}"
        if text_width(words, face) > room:
            words = f"sum per tubelet row, {low if map.signed else 0} to {high}"
        return cls(
            box=box,
            bars=_bars(box, column(row_spans(clip, map.grid)), gains, losses),
            marks=column(clip.seconds),
            seconds=times,
            ends=(format_seconds(start, end - start), format_seconds(end, end - start)),
            caption=ellipsize(words, face, room),
            frames_per_row=map.grid.tubelet[0],
            colors=_bar_colors(colormap),
            face=face,
        )

    @property
    def bottom(self) -> int:
        """The first row below the strip and its seconds."""
        return self.box[3] + 4 + line_height(self.face)

    def draw(self, image: Image.Image) -> None:
        """Draw what stays: the caption, all bars dimmed, and the ends of the axis of seconds."""
        draw = ImageDraw.Draw(image)
        left, top, right, bottom = self.box
        draw.text((left, top - 4 - line_height(self.face)), self.caption, font=self.face, fill=DARK.ink)
        for row in range(len(self.bars[0])):
            self._bar(draw, row, dimmed=True)
        draw.line((left, bottom, right - 1, bottom), fill=DARK.faint)
        draw.text((left, bottom + 4), self.ends[0], font=self.face, fill=DARK.ink)
        end = right - text_width(self.ends[1], self.face)
        draw.text((end, bottom + 4), self.ends[1], font=self.face, fill=DARK.ink)

    def mark(self, image: Image.Image, index: int) -> None:
        """Draw what moves: the bars of the current tubelet row bright, a line at the frame's time, and the time."""
        draw = ImageDraw.Draw(image)
        left, top, right, bottom = self.box
        self._bar(draw, index // self.frames_per_row, dimmed=False)
        thick = max(1, line_height(self.face) // 12)
        column = int(np.clip(round(float(self.marks[index])), left, right - thick))
        draw.rectangle((column, top - 3, column + thick - 1, bottom + 2), fill=DARK.ink)
        text = self.seconds[index]
        place = (right - text_width(text, self.face), top - 4 - line_height(self.face))
        draw.text(place, text, font=self.face, fill=DARK.ink)

    def _bar(self, draw: ImageDraw.ImageDraw, row: int, *, dimmed: bool) -> None:
        for boxes, color in zip(self.bars, self.colors, strict=True):
            left, top, right, bottom = (int(edge) for edge in boxes[row])
            if right > left and bottom > top:
                shade = tuple((level + 2 * dark) // 3 for level, dark in zip(color, DARK.faint, strict=True))
                draw.rectangle((left, top, right - 1, bottom - 1), fill=shade if dimmed else color)


def _bars(
    box: tuple[int, int, int, int], spans: np.ndarray, gains: np.ndarray, losses: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the boxes of what is above and what is below zero, on one common scale."""
    _, top, _, bottom = box
    edges = np.rint(spans).astype(int)
    # one pixel between neighbours, where they are wide enough to spare it
    edges[:, 1] -= (edges[:, 1] - edges[:, 0] >= 4).astype(int)
    reach = float(gains.max() - losses.min()) or 1.0
    zero = top + float(gains.max()) / reach * (bottom - top) if losses.min() < 0 else float(bottom)
    ups = np.rint(zero - gains / reach * (bottom - top)).astype(int)
    downs = np.rint(zero - losses / reach * (bottom - top)).astype(int)
    middle = np.full(len(gains), round(zero))
    return (
        np.stack([edges[:, 0], ups, edges[:, 1], middle], axis=1),
        np.stack([edges[:, 0], middle, edges[:, 1], downs], axis=1),
    )


def _bar_colors(colormap: Colormap) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Return a colour of the map for what is positive and one for what is negative, both visible on dark."""
    table = colormap.table
    up = table[220] if colormap.diverging else table[200]
    red, green, blue = (int(level) for level in up)
    low = tuple(int(level) for level in table[35])
    return ((red, green, blue), (low[0], low[1], low[2]))
