"""A movie of the relevance over the clip's own frames, at the size and times at which a player shows them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from vivit_lab.numbers import checked_numbers
from vivit_lab.render.legend import clip_end, make_legend, shown_frames
from vivit_lab.render.painter import make_painter
from vivit_lab.text import visible
from vivit_lab.video.encode import MovieWriter

if TYPE_CHECKING:
    from vivit_lab.attribution.base import AttributionMap
    from vivit_lab.colormap import Colormap
    from vivit_lab.video.clip import Clip

__all__ = ["render_movie"]


@checked_numbers(zoom=(1, 64))
def render_movie(
    clip: Clip,
    map: AttributionMap,
    path: str | os.PathLike[str],
    *,
    layout: str = "overlay",
    colormap: str | Colormap | None = None,
    alpha: float | None = None,
    normalize: str = "clip",
    limits: tuple[float, float] | None = None,
    percentile: float | None = None,
    interpolation: str = "nearest",
    colorbar: bool = True,
    strip: bool = True,
    zoom: int = 1,
    crf: int = 18,
    preset: str = "medium",
    progress: bool = False,
) -> Path:
    """Write the clip with its relevance drawn over it as an H.264 movie that browsers play.

    Every frame is shown at the source's own time, also where its rate varies; the movie starts with the clip's first
    frame. Frames of equal time (a clip longer than its video repeats frames) are shown once, the first of them, and the
    movie says how many were left out.

    Args:
        clip: the prepared clip.
        map: its relevance, a batch of one.
        path: where the movie goes (.mp4, .m4v, .mov or .mkv); an existing file is replaced when the new one is whole.
        layout: "overlay": heat over the frame; "side_by_side": the frame beside the overlay; "heat": the heat alone.
        colormap: a name (``COLORMAP_NAMES``) or a ``Colormap``; None takes inferno, and coolwarm for signed relevance.
        alpha: opacity of the heat in [0, 1] everywhere, or None: proportional to the heat, up to 0.8.
        normalize: "clip": one colour scale for all frames; "frame": one for each tubelet row, its numbers changing.
        limits: (low, high) of the colour scale, to compare clips; for signed relevance (-m, m).
        percentile: the colour scale ends at this percentile of the clip's relevance (of its magnitude, if signed), so
            that a few outlying tubelets do not hide all others, and says so; not with ``limits`` or one scale a row.
        interpolation: "nearest" shows the tubelets as they are; "bilinear" smooths between them.
        colorbar: whether the method, the colour bar, its numbers and what they are stand below the frame.
        strip: whether a time strip stands below: the relevance of each tubelet row over time, with the current frame.
        zoom: whole-number enlargement, for clips too small to look at; 1 is the size that a player shows, which is
            that of the source's frames where its pixels are square.
        crf: quality of the encoder, 0 (best) … 51.
        preset: speed against size of the encoder, "ultrafast" … "veryslow".
        progress: whether a progress bar is shown on stderr.

    Returns:
        The path of the movie.

    Raises:
        InputError: an argument is not one of its choices, the clip was not prepared, or the map is not this clip's.
        GridError: the map's grid covers other pixels or frames than the clip.
        BackendError: this build of FFmpeg cannot encode H.264.
        VideoNotFoundError: the directory is not there; a FileNotFoundError, too.

    Example:
        >>> render_movie(clip, rollout[0], "rollout.mp4", layout="side_by_side", progress=True)
    """
    painter = make_painter(
        clip,
        map,
        layout=layout,
        colormap=colormap,
        alpha=alpha,
        normalize=normalize,
        limits=limits,
        percentile=percentile,
        interpolation=interpolation,
    )
    content = (painter.size[0] * zoom, painter.size[1] * zoom)
    legend = make_legend(clip, map, painter.scale, content[1], colorbar=colorbar, strip=strip)
    height, width = content if legend is None else legend.canvas_size(content)
    shown, path = shown_frames(clip), Path(path)
    with MovieWriter(path, height, width, end=clip_end(clip), crf=crf, preset=preset) as movie:
        bar = tqdm(shown, desc=visible(path.name, lines=False), unit="frame", disable=not progress)
        for index, frame in zip(bar, painter.paint(shown), strict=True):
            if zoom > 1:
                frame = frame.repeat(zoom, axis=0).repeat(zoom, axis=1)
            movie.write(frame if legend is None else legend.under(frame, index), float(clip.seconds[index]))
    return path
