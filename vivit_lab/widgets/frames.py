"""A clip as the browser gets it, once: JPEG frames, their times, and where the tokens lie on their pixels."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from vivit_lab.errors import GridError, InputError
from vivit_lab.render.legend import clip_end, row_spans
from vivit_lab.render.painter import source_place
from vivit_lab.video.clip import Clip

if TYPE_CHECKING:
    from vivit_lab.grid import TokenGrid
    from vivit_lab.video.geometry import Geometry

__all__ = ["ShippedClip", "display_geometry", "ship_clip"]

_LONGEST_SIDE = 640  # pixels; a notebook shows no more
_MOST_BYTES = 8_000_000  # of the 10 MB that a widget may send


@dataclass(frozen=True, eq=False)
class ShippedClip:
    """What the browser needs of a clip.

    Args:
        frames: the JPEG files, one behind the other.
        ends: where each ends in ``frames``.
        facts: JSON-able: ``width``, ``height`` (of the shipped frames, in pixels), ``times`` (of the frames, s),
            ``end`` (s), ``spans`` (of the tubelet rows, from when until when, s), ``visible`` (top, left, bottom, right
            of what the model saw), ``rows`` and ``columns`` (the y and x of each visible pixel row and column),
            ``frames_per_row``, ``grid`` (t, h, w, cls), ``name``.
    """

    frames: bytes
    ends: list[int]
    facts: dict[str, Any]


def ship_clip(
    clip: Clip, grid: TokenGrid, *, longest: int = _LONGEST_SIDE, quality: int = 90, most_bytes: int = _MOST_BYTES
) -> ShippedClip:
    """Encode a clip's frames and find out where the grid lies on them.

    Frames are shown in square pixels. Those larger than ``longest`` are shrunk, and further so if they took more than
    ``most_bytes``; a token's place is then computed on the shrunk pixels by the renderer's own rule (``source_place``).

    Args:
        clip: a prepared clip.
        grid: the token grid of the model that sees it.
        longest: the longer side of a shipped frame, in pixels, at most.
        quality: of the JPEG files, 1 … 95.
        most_bytes: of all frames together.

    Raises:
        InputError: the clip was not prepared.
        GridError: the grid covers other pixels or frames than the clip was prepared at.
    """
    if not isinstance(clip, Clip):
        raise InputError(
            f"wanted a clip with the frames of a video, got {type(clip).__name__}: pixel values alone have no picture "
            "to show; pass processor.prepare(clip)"
        )
    clip = clip.displayed()
    if clip.geometry is None:
        raise InputError(
            "the clip was not prepared, so it is not known which of its pixels the model saw: "
            "use clip = processor.prepare(clip)"
        )
    if grid.image_size != tuple(clip.geometry.model_size) or grid.num_frames != len(clip):
        raise GridError(
            f"the model sees {grid.num_frames} frames of {'×'.join(map(str, grid.image_size))} pixels, the clip was "
            f"prepared as {len(clip)} frames of {'×'.join(map(str, clip.geometry.model_size))}: prepare it with the "
            "model's own processor"
        )
    geometry = display_geometry(clip.geometry, longest)
    files = _encode(clip.frames, geometry.source_size, quality)
    while sum(map(len, files)) > most_bytes and max(geometry.source_size) > 64:
        geometry = display_geometry(clip.geometry, max(geometry.source_size) * 3 // 4)
        files = _encode(clip.frames, geometry.source_size, quality)
    place = source_place(geometry, grid)
    height, width = geometry.source_size
    facts = {
        "width": width,
        "height": height,
        "times": clip.seconds.tolist(),
        "end": clip_end(clip),
        "spans": row_spans(clip, grid).tolist(),
        "visible": list(place.visible),
        "rows": place.rows.tolist(),
        "columns": place.columns.tolist(),
        "frames_per_row": grid.tubelet[0],
        "grid": grid.to_dict(),
        "name": Path(clip.path).name if clip.path else "clip",
    }
    return ShippedClip(b"".join(files), np.cumsum([len(file) for file in files]).tolist(), facts)


def display_geometry(geometry: Geometry, longest: int) -> Geometry:
    """Return the geometry of the same model pixels, cut from frames whose longer side is at most ``longest`` pixels."""
    height, width = geometry.source_size
    share = min(1.0, longest / max(height, width))
    return geometry.of_resized_source(max(1, round(height * share)), max(1, round(width * share)))


def _encode(frames: np.ndarray, size: tuple[int, int], quality: int) -> list[bytes]:
    files = []
    for frame in frames:
        image = Image.fromarray(frame)
        if image.size != (size[1], size[0]):
            image = image.resize((size[1], size[0]), Image.Resampling.BOX, reducing_gap=None)
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=quality)
        files.append(buffer.getvalue())
    return files
