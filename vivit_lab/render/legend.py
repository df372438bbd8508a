"""What stands below the frames: what was computed, the colour bar with its numbers, and the time strip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from vivit_lab.render.place import check_pair, outside_text
from vivit_lab.render.strip import TimeStrip
from vivit_lab.render.text import DARK, Theme, font, line_height, printable, text_width, wrap
from vivit_lab.render.timing import shown_frames

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

    from vivit_lab.attribution.base import AttributionMap
    from vivit_lab.render.scale import HeatScale
    from vivit_lab.video.clip import Clip

__all__ = ["Legend", "describe", "draw_colorbar", "draw_lines", "make_legend"]

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
