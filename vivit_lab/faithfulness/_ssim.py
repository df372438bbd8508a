"""Structural similarity of two maps on the token grid."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn import functional

from vivit_lab.errors import InputError

__all__ = ["ssim"]


def ssim(
    a: Float[Tensor, "row t h w"], b: Float[Tensor, "row t h w"], *, window: tuple[int, int, int] = (3, 3, 3)
) -> Float64[Tensor, " row"]:
    """Return the mean structural similarity of pairs of maps (Wang et al. 2004, eq. 13), in space and time.

    Two maps have no common scale, so each is first brought to [0, 1] by its own smallest and largest value (a constant
    one to 0); then K1 = 0.01, K2 = 0.03, L = 1. The windows are boxes with equal weights, only those that lie inside
    the grid; variances are those of the population.

    Args:
        a: (row, t, h, w).
        b: (row, t, h, w).
        window: size of the box in tubelets, (t, h, w); cut where the grid is smaller. (1, n, n) for each row alone.

    Returns:
        (row,) float64, 1 for maps that are alike up to shift and positive scale; NaN where one of the two is constant.

    Raises:
        InputError: the shapes differ, or the window is not three positive sizes.
    """
    if a.shape != b.shape or a.ndim != 4:
        raise InputError(f"ssim wants two tensors (row, t, h, w) of one shape, got {tuple(a.shape)}, {tuple(b.shape)}")
    if len(window) != 3 or min(window) < 1:
        raise InputError(f"window must be three positive sizes in tubelets (t, h, w), got {window}")
    size = [min(wanted, whole) for wanted, whole in zip(window, a.shape[1:], strict=True)]
    (x, some), (y, others) = _unit(a), _unit(b)

    def local(values: Tensor) -> Tensor:
        return functional.avg_pool3d(values.unsqueeze(1), size, stride=1).squeeze(1)

    mean_x, mean_y = local(x), local(y)
    spread_x, spread_y = local(x * x) - mean_x**2, local(y * y) - mean_y**2
    shared = local(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    similarity = ((2 * mean_x * mean_y + c1) * (2 * shared + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (spread_x + spread_y + c2)
    )
    return torch.where(some & others, similarity.mean(dim=(1, 2, 3)), torch.nan)


def _unit(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return maps brought to [0, 1], float64, and which of them are not constant."""
    values = values.double()
    low, high = values.amin(dim=(1, 2, 3), keepdim=True), values.amax(dim=(1, 2, 3), keepdim=True)
    span = high - low
    unit = torch.where(span > 0, (values - low) / torch.where(span > 0, span, 1.0), 0.0)
    return unit, (span > 0).flatten()
