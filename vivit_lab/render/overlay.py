"""Relevance over the source frames of its own clip: as numbers, and as pictures for one's own plots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vivit_lab.numbers import checked_numbers
from vivit_lab.render.legend import make_legend
from vivit_lab.render.painter import check_pair, make_painter, source_place

if TYPE_CHECKING:
    from vivit_lab.attribution.base import AttributionMap
    from vivit_lab.colormap import Colormap
    from vivit_lab.video.clip import Clip

__all__ = ["heat_on_source", "to_frames"]


def heat_on_source(clip: Clip, map: AttributionMap, *, interpolation: str = "nearest") -> np.ndarray:
    """Return the relevance that lies on each pixel of each source frame.

    A source pixel takes the tubelet that its centre falls in; the frames of a tubelet share its value. The value of a
    tubelet is repeated, not divided: it is the relevance of the whole tubelet. Relevance on padding (a crop larger than
    the frame) lies on no source pixel and is not in the result; the pictures with a legend say how much that is.

    Args:
        clip: the prepared clip, T frames of H×W pixels.
        map: its relevance, a batch of one.
        interpolation: "nearest", or "bilinear" between the centres of tubelets of the same frame.

    Returns:
        (T, H, W) float32 on the stored pixels (``clip.frames``, also where these are not square), in the map's own
        units; NaN where the model did not see the pixel. Four bytes a pixel:
        265 MB for 32 frames of 1080p (``to_frames`` works frame by frame).

    Raises:
        InputError: the map is a batch of several, the clip was not prepared, or the two do not belong together.
        GridError: the map's grid covers other pixels or frames than the clip.

    Example:
        >>> heat = heat_on_source(clip, rollout)
        >>> inside = np.nansum(heat[:, 100:200, 300:400]) / np.nansum(heat)
    """
    geometry = check_pair(clip, map)
    place = source_place(geometry, map.grid, interpolation)
    heat = np.full((len(clip), *clip.size), np.nan, dtype=np.float32)
    for row, values in enumerate(map.relevance[0].cpu().numpy()):
        heat[slice(*map.grid.frame_span(row)), *place.window] = place.spread(values)
    return heat


@checked_numbers()
def to_frames(
    clip: Clip,
    map: AttributionMap,
    *,
    layout: str = "overlay",
    colormap: str | Colormap | None = None,
    alpha: float | None = None,
    normalize: str = "clip",
    limits: tuple[float, float] | None = None,
    percentile: float | None = None,
    interpolation: str = "nearest",
    colorbar: bool = False,
    strip: bool = False,
) -> np.ndarray:
    """Return the clip's frames with the relevance drawn over them, at source size in square pixels.

    The heat of a tubelet lies on exactly its frames and its pixels (see ``heat_on_source``). What the model never saw
    of a frame (outside its crop) is grey, dark and hatched, and takes no heat.

    Args:
        clip: the prepared clip.
        map: its relevance, a batch of one.
        layout: "overlay": heat over the frame; "side_by_side": the frame, a gap of 8 pixels, the overlay; "heat": the
            heat alone.
        colormap: a name (``COLORMAP_NAMES``) or a ``Colormap``; None takes inferno, and coolwarm for signed relevance.
        alpha: opacity of the heat in [0, 1] everywhere, or None: proportional to the heat, up to 0.8.
        normalize: "clip": one colour scale for all frames; "frame": one for each tubelet row.
        limits: (low, high) of the colour scale, to compare clips; for signed relevance (-m, m).
        percentile: the colour scale ends at this percentile of the clip's relevance (of its magnitude, if signed), so
            that a few outlying tubelets do not hide all others, and says so; not with ``limits`` or one scale a row.
        interpolation: "nearest" shows the tubelets as they are; "bilinear" smooths between them.
        colorbar: whether a colour bar with its numbers and the method's name is put below.
        strip: whether a time strip (relevance of each tubelet row, the frame's own time marked) is put below.

    Returns:
        (T, H', W', 3) uint8 RGB. H×W is the size of ``clip.displayed()``, which a player shows. Without a colour bar
        and strip H' = H, and W' = W (2·W + 8 side by side); with one, the frame is at the top, in the middle of a
        picture at least 360 pixels wide.

    Raises:
        InputError: an argument is not one of its choices, the clip was not prepared, or the map is not this clip's.
        GridError: the map's grid covers other pixels or frames than the clip.

    Example:
        >>> frames = to_frames(clip, rollout, alpha=0.5)
        >>> plt.imshow(frames[0])
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
    legend = make_legend(clip, map, painter.scale, painter.size[1], colorbar=colorbar, strip=strip)
    height, width = painter.size if legend is None else legend.canvas_size(painter.size)
    frames = np.empty((len(clip), height, width, 3), dtype=np.uint8)
    for index, painted in enumerate(painter.paint()):
        frames[index] = painted if legend is None else legend.under(painted, index)
    return frames
