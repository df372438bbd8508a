"""Text in pictures, with the font that Pillow carries: measured before it is drawn, so nothing is cut off."""

from __future__ import annotations

import functools
import math
import unicodedata
from dataclasses import dataclass

from PIL import ImageFont

__all__ = ["DARK", "LIGHT", "Theme", "ellipsize", "font", "line_height", "printable", "text_width", "wrap"]

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
