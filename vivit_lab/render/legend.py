"""What stands below the frames, and when they are shown: what was computed, the colour bar, the time strip."""

from __future__ import annotations

import functools
import math
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vivit_lab.colormap import format_range
from vivit_lab.render.painter import check_pair, outside_text

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

    from vivit_lab.attribution.base import AttributionMap
    from vivit_lab.colormap import Colormap
    from vivit_lab.grid import TokenGrid
    from vivit_lab.render.painter import HeatScale
    from vivit_lab.video.clip import Clip

__all__ = [
    "DARK",
    "LIGHT",
    "Legend",
    "Theme",
    "TimeStrip",
    "clip_end",
    "describe",
    "draw_colorbar",
    "draw_lines",
    "ellipsize",
    "font",
    "format_seconds",
    "line_height",
    "make_legend",
    "printable",
    "row_spans",
    "shown_frames",
    "text_width",
    "wrap",
]

_TICK = 1.5 / 90000  # times closer than this may be one time in a movie file


def shown_frames(clip: Clip) -> list[int]:
    """Return the indices of the frames that have a time of their own.

    A clip that is longer than its video repeats frames at the same time; a movie can show a time only once, so the
    first of equal times is kept.
    """
    kept = [0]
    for index in range(1, len(clip)):
        if clip.seconds[index] - clip.seconds[kept[-1]] > _TICK:
            kept.append(index)
    return kept


def clip_end(clip: Clip) -> float:
    """Return when the last frame stops being shown, in seconds; if the clip does not say, one usual frame later."""
    last = float(clip.seconds[-1])
    if clip.end - last > _TICK:
        return float(clip.end)
    steps = np.diff(clip.seconds)
    steps = steps[steps > _TICK]
    if len(steps):
        return last + float(np.median(steps))
    return last + (1.0 / clip.fps if clip.fps > 0 else 0.04)


def row_spans(clip: Clip, grid: TokenGrid) -> np.ndarray:
    """Return (t, 2) float64: from when until when, in seconds, the frames of each tubelet row are shown."""
    edges = np.append(clip.seconds, clip_end(clip))
    return np.array([[edges[start], edges[stop]] for start, stop in map(grid.frame_span, range(grid.t))])


def format_seconds(seconds: float, span: float) -> str:
    """Return a time as text, in hundredths of a second, or in milliseconds where all there is spans under 2 s."""
    return f"{seconds:.{3 if span < 2 else 2}f} s"


Color = tuple[int, int, int]


@dataclass(frozen=True)
class Theme:
    """Colours of what surrounds the frames.

    Args:
        background: behind everything.
        ink: text that must be read.
        faint: what may stay in the back.
    """

    background: Color
    ink: Color
    faint: Color


DARK = Theme((17, 17, 20), (236, 236, 238), (110, 112, 120))
LIGHT = Theme((255, 255, 255), (24, 24, 28), (150, 152, 158))

# The font that comes with Pillow has ASCII and these; everything else would be drawn as an empty box.
_EXTRA_GLYPHS = frozenset("©«°±´·»‘’“”…‹›™")
_SPELT = str.maketrans(
    {
        "×": "x",
        "–": "-",
        "—": "-",
        "−": "-",
        "→": "->",
        "≤": "<=",
        "≥": ">=",
        "≈": "~",
        "∝": "~",
        "µ": "u",
        "ß": "ss",
        "æ": "ae",
        "ø": "o",
        "ł": "l",
        "√": "sqrt",
        "Σ": "sum",
        "∑": "sum",
    }
)


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Return Pillow's own font at a size in pixels."""
    loaded = ImageFont.load_default(size=size)
    assert isinstance(loaded, ImageFont.FreeTypeFont)
    return loaded


def printable(text: object) -> str:
    """Return the text on one line, in characters that the font has: accents are dropped, the unknown becomes "?"."""
    spelt = unicodedata.normalize("NFKD", str(text).translate(_SPELT).replace("…", "\0")).replace("\0", "…")
    kept = (character for character in spelt if not unicodedata.combining(character))
    characters = (
        character if " " <= character <= "~" or character in _EXTRA_GLYPHS else " " if character.isspace() else "?"
        for character in kept
    )
    return " ".join("".join(characters).split())


def text_width(text: str, face: ImageFont.FreeTypeFont) -> int:
    """Return how many pixels a line of text is wide, rounded up."""
    return math.ceil(face.getlength(text))


def line_height(face: ImageFont.FreeTypeFont) -> int:
    """Return the distance between two lines of text, in pixels."""
    ascent, descent = face.getmetrics()
    return ascent + descent + 2


def ellipsize(text: str, face: ImageFont.FreeTypeFont, room: int) -> str:
    """Return the text, or as much of it as fits into ``room`` pixels with "…" behind; "" where not even that fits."""
    if text_width(text, face) <= room:
        return text
    end = _fitting(text, face, room, "…")
    return text[:end].rstrip() + "…" if end or text_width("…", face) <= room else ""


def _fitting(text: str, face: ImageFont.FreeTypeFont, room: int, suffix: str = "") -> int:
    """Return how many characters of a text that is too long fit into ``room`` pixels, with a suffix behind."""
    fits, too_long = 0, len(text)
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if text_width(text[:middle].rstrip() + suffix, face) <= room:
            fits = middle
        else:
            too_long = middle
    return fits


def wrap(text: str, face: ImageFont.FreeTypeFont, room: int, lines: int) -> list[str]:
    """Break text at spaces into lines that fit.

    A word that is longer than a line is broken anywhere; what does not fit into the last line ends in "…".

    Args:
        text: one line of text.
        face: the font it is drawn in.
        room: width of a line, in pixels.
        lines: how many lines there may be, at least 1.
    """
    words = printable(text).split(" ")
    broken: list[str] = []
    while words and len(broken) < lines - 1:
        line = words.pop(0)
        while words and text_width(f"{line} {words[0]}", face) <= room:
            line += " " + words.pop(0)
        if text_width(line, face) > room:
            end = max(1, _fitting(line, face, room))
            line, rest = line[:end], line[end:]
            words.insert(0, rest)
        broken.append(line)
    if words:
        broken.append(ellipsize(" ".join(words), face, room))
    return [line for line in broken if line]


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


_NARROWEST = 360  # pixels; below that no line of text says anything


@dataclass(frozen=True, eq=False)
class Legend:
    """The picture below the frames: drawn once, but for the numbers and the mark that move.

    Args:
        base: what stays, (height, width).
        scale: whose numbers stand below the colour bar.
        frames_per_row: how many frames a tubelet row covers.
        bar: (left, top, width) of the colour bar in ``base``, or None.
        strip: the time strip, or None.
        face: the font.
    """

    base: Image.Image
    scale: HeatScale
    frames_per_row: int
    bar: tuple[int, int, int] | None
    strip: TimeStrip | None
    face: FreeTypeFont

    def canvas_size(self, content: tuple[int, int]) -> tuple[int, int]:
        """Return the (height, width) of a picture of that content with the legend below."""
        return (content[0] + self.base.height, self.base.width)

    def draw(self, index: int) -> np.ndarray:
        """Return the legend of the clip's frame ``index``, (height, width, 3) uint8 RGB."""
        image = self.base.copy()
        if self.bar is not None and self.scale.per_frame:
            draw_numbers(image, self.bar, self.scale, index // self.frames_per_row, self.face, DARK)
        if self.strip is not None:
            self.strip.mark(image, index)
        return np.asarray(image)

    def under(self, frame: np.ndarray, index: int) -> np.ndarray:
        """Return a painted frame with its legend below; a frame narrower than the legend is put in the middle."""
        height, width = frame.shape[:2]
        canvas = np.empty((*self.canvas_size((height, width)), 3), dtype=np.uint8)
        left = (canvas.shape[1] - width) // 2
        canvas[:height] = DARK.background
        canvas[:height, left : left + width] = frame
        canvas[height:] = self.draw(index)
        return canvas


def make_legend(
    clip: Clip, map: AttributionMap, scale: HeatScale, content_width: int, *, colorbar: bool, strip: bool
) -> Legend | None:
    """Return the legend for frames of a width in pixels, or None if neither the colour bar nor the strip is wanted."""
    if not (colorbar or strip):
        return None
    width = max(content_width, _NARROWEST)
    face = font(int(np.clip(width / 60, 12, 40)))
    pad, line = line_height(face) // 2, line_height(face)
    room = width - 2 * pad
    lines = _clip_lines(clip, map, face, room)
    scale_lines = wrap(f"{scale.kind}: {map.scale}", face, room, 3) if colorbar else []
    # first everything is placed, then an image of the height that this took is made and drawn into
    text_top = pad
    scale_top = text_top + line * len(lines) + (pad if colorbar else 0)
    bar_top = scale_top + line * len(scale_lines)
    bar_bottom = bar_top + (line * 2 if colorbar else 0)
    time = TimeStrip.at(clip, map, scale.colormap, (pad, bar_bottom + pad), room, face) if strip else None
    base = Image.new("RGB", (width, (time.bottom if time else bar_bottom) + pad), DARK.background)
    draw_lines(base, lines, (pad, text_top), face, DARK.ink)
    draw_lines(base, scale_lines, (pad, scale_top), face, DARK.ink)
    bar = (pad, bar_top, room) if colorbar else None
    if bar is not None:
        draw_colorbar(base, bar, scale, face, DARK)
        if not scale.per_frame:
            draw_numbers(base, bar, scale, 0, face, DARK)
    if time is not None:
        time.draw(base)
    return Legend(base, scale, map.grid.tubelet[0], bar, time, face)


def describe(map: AttributionMap) -> tuple[str, str]:
    """Return what was computed, and of what: "method(parameters)", "target: … · model: …" (without what is unknown)."""
    settings = ", ".join(f"{name}={value}" for name, value in map.parameters.items())
    of = [f"{name}: {value}" for name, value in (("target", map.target), ("model", map.model_id)) if value is not None]
    return (printable(f"{map.method}({settings})" if settings else map.method), printable(" · ".join(of)))


def draw_lines(image: Image.Image, lines: list[str], at: tuple[int, int], face: FreeTypeFont, color: tuple) -> int:
    """Draw lines of text below one another from (left, top), and return the row where the next one would start."""
    draw, (left, top) = ImageDraw.Draw(image), at
    for number, text in enumerate(lines):
        draw.text((left, top + number * line_height(face)), text, font=face, fill=color)
    return top + len(lines) * line_height(face)


def draw_colorbar(
    image: Image.Image, bar: tuple[int, int, int], scale: HeatScale, face: FreeTypeFont, theme: Theme
) -> None:
    """Draw the colours of a scale from left to right, most of a line of text high, at (left, top, width)."""
    left, top, width = bar
    height = line_height(face) - 4
    ramp = scale.colormap.apply((np.arange(width) + 0.5) / width)
    picture = Image.fromarray(np.repeat(ramp[None], height, axis=0))
    image.paste(picture, (left, top))
    ImageDraw.Draw(image).rectangle((left, top, left + width - 1, top + height - 1), outline=theme.faint)


def draw_numbers(
    image: Image.Image, bar: tuple[int, int, int], scale: HeatScale, row: int, face: FreeTypeFont, theme: Theme
) -> None:
    """Draw the numbers of tubelet row ``row`` below a colour bar at (left, top, width)."""
    left, top, width = bar
    labels = scale.labels(row)
    draw = ImageDraw.Draw(image)
    for number, label in enumerate(labels):
        share = number / (len(labels) - 1)
        place = left + round(share * (width - text_width(label, face)))
        draw.text((place, top + line_height(face) - 2), label, font=face, fill=theme.ink)


def _clip_lines(clip: Clip, map: AttributionMap, face: FreeTypeFont, room: int) -> list[str]:
    title, of = describe(map)
    hidden = len(clip) - len(shown_frames(clip))
    repeats = f"{hidden} of {len(clip)} frames repeat a time" if hidden else ""
    details = printable(" · ".join(part for part in (of, repeats) if part))
    geometry = check_pair(clip, map)
    outside = outside_text(geometry, map)
    return wrap(title, face, room, 3) + wrap(details, face, room, 2) + wrap(outside, face, room, 2)
