"""A page of rendered clips that works from a folder, without a network and without a server."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from vivit_lab.show.html import render

__all__ = ["Card", "Gallery", "write_page"]


@dataclass(frozen=True)
class Card:
    """What the page says of a clip.

    Args:
        clip: its id; the files are ``movies/<clip>.mp4`` and ``thumbnails/<clip>.jpg``.
        title: the video's name.
        path: the video.
        start: first second that was read.
        prediction: the class's name, or None.
        probability: of it, or None.
        label: the right class's name, or None.
        correct: whether they agree, or None.
        scores: name → number, to sort by.
        error: why there is no movie, or None.
    """

    clip: str
    title: str
    path: str
    start: float | None
    prediction: str | None
    probability: float | None
    label: str | None
    correct: bool | None
    scores: dict[str, float]
    error: str | None = None


@dataclass(frozen=True)
class Gallery:
    """A page.

    Args:
        title: what it shows.
        scale: what the relevance is, in words.
        limits: of the colour scale, shared by all clips.
        percentile: of all relevance, where the scale ends.
        colours: RGB levels 0–255 along the scale.
        cards: the clips.
    """

    title: str
    scale: str
    limits: tuple[float, float]
    percentile: float
    colours: list[tuple[int, ...]]
    cards: list[Card]


def write_page(gallery: Gallery, path: Path) -> Path:
    """Write the page.

    Args:
        gallery: what it shows.
        path: of the HTML file, beside ``movies/`` and ``thumbnails/``.

    Returns:
        The path.
    """
    path.write_text(render("gallery.html", title=gallery.title, data=asdict(gallery)), encoding="utf-8")
    return path
