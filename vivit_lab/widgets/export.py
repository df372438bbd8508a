"""What an explorer shows as files: a picture, a movie, numbers, an offline page."""

from __future__ import annotations

import io
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from vivit_lab.colormap import get_colormap
from vivit_lab.render.legend import Legend, make_legend
from vivit_lab.render.painter import Painter, make_painter
from vivit_lab.render.timing import clip_end, shown_frames
from vivit_lab.show.html import picture
from vivit_lab.video.encode import MovieWriter

if TYPE_CHECKING:
    from vivit_lab.attribution.base import AttributionMap
    from vivit_lab.widgets.clip_explorer import ClipExplorer

__all__ = ["MIME", "PAGE_BYTES", "arrays_of", "file_of", "movie_of", "painter_of", "picture_html", "picture_of"]

MIME = {"png": "image/png", "mp4": "video/mp4", "npz": "application/octet-stream", "html": "text/html"}
"""The files that an explorer can be saved as."""
PAGE_BYTES = 1_950_000
"""Of an offline page, at most."""
_NARROWEST = 360  # pixels; smaller frames are enlarged by a whole factor


def picture_html(explorer: ClipExplorer, map: AttributionMap) -> str:
    """Return the picture as HTML, for where no widget can run."""
    buffer = io.BytesIO()
    picture_of(explorer, map).convert("RGB").save(buffer, format="JPEG", quality=88)
    alt = f"{type(explorer).__name__}: the frame that was shown, with heat"
    return picture(alt, buffer.getvalue())


def painter_of(explorer: ClipExplorer, map: AttributionMap) -> Painter:
    """Return the renderer's painter with the explorer's settings: it draws what the browser does, at source size."""
    wanted = explorer.colormap
    suits = wanted is not None and get_colormap(wanted).diverging == map.signed
    heat_only = explorer.view == "heat"
    painter = make_painter(
        explorer.clip,
        map,
        layout=explorer.view,
        colormap=wanted if suits else None,
        alpha=None if heat_only else explorer.alpha,
        normalize="frame" if explorer.normalize == "frame" else "clip",
        percentile=99.0 if explorer.normalize == "clip99" else None,
    )
    if not explorer.threshold or heat_only:
        return painter
    level = np.arange(256)
    share = (np.abs(level - 127.5) - 0.5) / 127 if painter.scale.colormap.diverging else level / 255
    drawn = share >= explorer.threshold
    return replace(
        painter,
        colors=painter.colors * drawn[:, None].astype(np.uint16),
        clear=np.where(drawn, painter.clear, 256).astype(np.uint16),
    )


def _legend(explorer: ClipExplorer, map: AttributionMap, painter: Painter, width: int) -> Legend:
    legend = make_legend(explorer.clip, map, painter.scale, width, colorbar=True, strip=True)
    assert legend is not None
    return legend


def _zoom(painter: Painter) -> int:
    return max(1, -(-_NARROWEST // painter.size[1]))


def _enlarged(frame: np.ndarray, zoom: int) -> np.ndarray:
    return frame.repeat(zoom, axis=0).repeat(zoom, axis=1) if zoom > 1 else frame


def picture_of(explorer: ClipExplorer, map: AttributionMap) -> Image.Image:
    """Return the frame that an explorer shows, with its heat and the legend."""
    painter = painter_of(explorer, map)
    zoom = _zoom(painter)
    (frame,) = painter.paint([explorer.frame])
    legend = _legend(explorer, map, painter, painter.size[1] * zoom)
    return Image.fromarray(legend.under(_enlarged(frame, zoom), explorer.frame))


def movie_of(explorer: ClipExplorer, map: AttributionMap, path: Path) -> Path:
    """Write all frames at their own times; ``render_movie`` with a threshold, made of its own parts."""
    painter = painter_of(explorer, map)
    zoom = _zoom(painter)
    legend = _legend(explorer, map, painter, painter.size[1] * zoom)
    clip = explorer.clip
    shown = shown_frames(clip)
    size = legend.canvas_size((painter.size[0] * zoom, painter.size[1] * zoom))
    with MovieWriter(path, *size, end=clip_end(clip)) as movie:
        for index, frame in zip(shown, painter.paint(shown), strict=True):
            movie.write(legend.under(_enlarged(frame, zoom), index), float(clip.seconds[index]))
    return path


def arrays_of(explorer: ClipExplorer, map: AttributionMap) -> bytes:
    """Return an .npz file of the numbers; see ``ClipExplorer.save_npz``."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        relevance=map.relevance[0].cpu().numpy(),
        seconds=explorer.clip.seconds,
        frame_indices=explorer.clip.indices,
        metadata=np.array(json.dumps(map.metadata())),
    )
    return buffer.getvalue()


def file_of(explorer: ClipExplorer, map: AttributionMap, kind: str) -> bytes:
    """Return the file that a button asks for, ``kind`` being a key of ``MIME``."""
    if kind == "html":
        return explorer.to_html().encode()
    if kind == "npz":
        return arrays_of(explorer, map)
    if kind == "png":
        buffer = io.BytesIO()
        picture_of(explorer, map).save(buffer, format="PNG")
        return buffer.getvalue()
    with tempfile.TemporaryDirectory() as directory:
        return movie_of(explorer, map, Path(directory) / "clip.mp4").read_bytes()
