"""Which classes a mirror image changes: those that are named by a side or a sense of rotation."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["Mirror", "mirror_of"]

_PAIRS = (
    ("left", "right"),
    ("lefts", "rights"),
    ("leftward", "rightward"),
    ("leftwards", "rightwards"),
    ("leftmost", "rightmost"),
    ("lefthand", "righthand"),
    ("lefthanded", "righthanded"),
    ("clockwise", "counterclockwise"),
    ("east", "west"),
    ("eastward", "westward"),
    ("eastwards", "westwards"),
    ("eastbound", "westbound"),
    ("eastern", "western"),
    ("northeast", "northwest"),
    ("southeast", "southwest"),
    ("ltr", "rtl"),
    ("l2r", "r2l"),
    *zip("←↖↙⇐⇖⇙⟵↤⬅⬉⬋◀↰↲↶↺⤶", "→↗↘⇒⇗⇘⟶↦➡⬈⬊▶↱↳↷↻⤷", strict=True),
)
_OPPOSITE = {**dict(_PAIRS), **{b: a for a, b in _PAIRS}}
# a side only where the class of the other one is there too: swipe_l and swipe_r, turnleft and turnright, <- and ->
_FAINT = (
    ("left", "right"),
    ("links", "rechts"),
    ("gauche", "droite"),
    ("izquierda", "derecha"),
    ("esquerda", "direita"),
    ("sinistra", "destra"),
    ("左", "右"),
)
_OTHER = {**dict(_FAINT), **{b: a for a, b in _FAINT}, "l": "r", "r": "l"}
_INSIDE = re.compile("|".join(side for pair in _FAINT for side in pair))
_TURNED = str.maketrans("<>", "><")
_ARROWS = "".join(sign for sign in _OPPOSITE if not sign.isascii())
_WORDS = re.compile(rf"[{_ARROWS}]|[^\W_]+|[^\x00-\x7f\w\s]|<[-=]+>?|[-=]+>|<<+|>>+")


@dataclass(frozen=True)
class Mirror:
    """What exchanging left and right does to the classes of a data set.

    Args:
        partner: class → the class that its mirror image belongs to, where that is another one of the data set.
        alone: classes that a mirror image leaves, without that of the image being one of the data set.
    """

    partner: Mapping[str, str]
    alone: tuple[str, ...]

    def of(self, label: str) -> str | None:
        """Return the class of a mirror image of a clip of a class, or None where it has none."""
        return None if label in self.alone else self.partner.get(label, label)

    def sentences(self) -> list[str]:
        """Return what is done with mirror images, a sentence each; none where they change no class."""
        told = []
        if pairs := sorted({tuple(sorted(pair)) for pair in self.partner.items()}):
            named = ", ".join(f"{a} and {b}" for a, b in pairs)
            told.append(f"mirrored clips of these classes get each other's label: {named}")
        if self.alone:
            told.append(f"clips of classes that a mirror would change are not mirrored: {_few(self.alone)}")
        return told


def mirror_of(classes: Sequence[str]) -> Mirror:
    """Find the classes whose clips a mirror image would turn into something else.

    A class is one if a word of its name is a side (left, right, their -ward and -hand forms, east, west, an arrow that
    points to a side) or a sense of rotation (clockwise, counterclockwise, anticlockwise, cw, ccw, turning arrows).
    Words are told apart at spaces, punctuation, underscores and capitals: ``turn_left``, ``TurnLeft``, ``up-left``. The
    direction templates of Something-Something ("… from left to right") are of this kind. The letters l and r, arrows
    like ``->``, a side within a longer word (``turnleft``) and sides in some other languages count only where
    exchanging them gives another class. Classes that the words do not tell apart ("left 5", "left -5") are each other's
    image only if all other signs are the same. Up and down, and whatever a name does not say, are not looked at.

    Args:
        classes: names of all classes.

    Example:
        >>> mirror_of(["turn_left", "turn_right", "up", "spin clockwise"])
        Mirror(partner={'turn_left': 'turn_right', 'turn_right': 'turn_left'}, alone=('spin clockwise',))
    """
    words = {name: _words(name) for name in classes}
    partner, alone = {}, []
    for name, each in words.items():
        image = tuple(_OPPOSITE.get(word, word) for word in each)
        certain = image != each
        if not certain:
            image = tuple(map(_faint_image, each))
        other = _the_one(name, image, words) if image != each else name
        if other is None and certain:
            alone.append(name)
        elif other not in (None, name):
            partner[name] = other
    return Mirror(MappingProxyType(partner), tuple(alone))


def _the_one(name: str, image: tuple[str, ...], words: Mapping[str, tuple[str, ...]]) -> str | None:
    """Return the class whose words are an image's; where words name several, the one with the same other signs."""
    others = [other for other, each in words.items() if each == image]
    likewise = [other for other, each in words.items() if each == words[name]]
    if len(others) == len(likewise) == 1:
        return others[0]
    others, likewise = ([each for each in group if _signs(each) == _signs(name)] for group in (others, likewise))
    return others[0] if len(others) == len(likewise) == 1 else None


def _faint_image(word: str) -> str:
    if word[0] in "<>-=":
        return word[::-1].translate(_TURNED)
    return _OTHER.get(word) or _INSIDE.sub(lambda side: _OTHER[side[0]], word)


def _signs(name: str) -> list[str]:
    return re.findall(r"[^\w\s]", name)


def _words(name: str) -> tuple[str, ...]:
    """Return the words of a class's name, in lower case, each sense of rotation by one word."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    text = re.sub(r"\b(anti|counter)[\s_-]*(?=clock)", "counter", spaced.lower().replace("_", " "))
    text = re.sub(r"\bccw\b", "counterclockwise", re.sub(r"\bcw\b", "clockwise", text))
    text = re.sub(r"\b(north|south)[\s-]+(?=(east|west)\b)", r"\1", text)
    return tuple(_WORDS.findall(text))


def _few(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
