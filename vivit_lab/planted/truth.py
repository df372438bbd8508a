"""The truth about a clip, counted in tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vivit_lab.errors import GridError

if TYPE_CHECKING:
    from vivit_lab.grid import TokenGrid

__all__ = ["mask_of_tokens", "window_of_tokens"]


def mask_of_tokens(mask: np.ndarray, grid: TokenGrid) -> np.ndarray:
    """Return the fraction of each tubelet that a mask covers, (t, h, w) float32 in 0 … 1.

    Args:
        mask: (T, H, W) bool, of the model's frames and pixels.
        grid: the model's grid, of T frames of H × W pixels.

    Raises:
        GridError: the grid is of another number of frames or another size.
    """
    (depth, rows, columns), (t, h, w) = grid.tubelet, grid.shape
    if (grid.num_frames, *grid.image_size) != mask.shape:
        raise GridError(
            f"the grid covers {grid.num_frames} frames of {grid.image_size}, the clip has {mask.shape[0]} of "
            f"{mask.shape[1:]}; make it by TokenGrid.from_video of the clip's frames and size"
        )
    return mask.reshape(t, depth, h, rows, w, columns).mean((1, 3, 5), dtype=np.float32)


def window_of_tokens(window: tuple[int, int], frames: int, grid: TokenGrid) -> np.ndarray:
    """Return the fraction of each tubelet row's frames that lie in a window, (t,) float32 in 0 … 1.

    Args:
        window: half-open span of frames (start, stop).
        frames: how many frames the clip has.
        grid: the model's grid, of as many frames.

    Raises:
        GridError: the grid is of another number of frames.
    """
    if grid.num_frames != frames:
        raise GridError(
            f"the grid covers {grid.num_frames} frames, the clip has {frames}; make it by TokenGrid.from_video of the "
            "clip's frames and size"
        )
    inside = np.zeros(frames, np.float32)
    inside[slice(*window)] = 1
    return inside.reshape(grid.t, grid.tubelet[0]).mean(1)
