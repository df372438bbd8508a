"""Position embeddings for another number of frames or pixels than the model was trained on."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, cat, contiguous_format
from torch.nn import functional

from vivit_lab.errors import GridError

__all__ = ["interpolate_positions"]


def interpolate_positions(
    position: Float[Tensor, "1 old_tokens d_model"],
    old: tuple[int, int, int],
    new: tuple[int, int, int],
    *,
    cls: bool = True,
) -> Float[Tensor, "1 new_tokens d_model"]:
    """Resize learned positions on their space-time grid: bicubic in space, linear in time.

    Positions are folded to (t, h, w) first, so that time is never mixed into space. A size that does not change is not
    touched, so the same grid gives the same numbers back.

    Args:
        position: (1, cls + t·h·w, d_model).
        old: the (t, h, w) that the positions were learned on.
        new: the (t, h, w) wanted.
        cls: whether the first entry belongs to a CLS token; it is carried over.

    Returns:
        (1, cls + t'·h'·w', d_model), in the dtype of ``position``.

    Raises:
        GridError: ``position`` does not have the tokens of ``old``.
    """
    if tuple(old) == tuple(new):
        return position
    count, extra = old[0] * old[1] * old[2], int(cls)
    if position.shape[1] != count + extra:
        raise GridError(f"wanted {count + extra} positions for the grid {tuple(old)}, got {position.shape[1]}")
    width = position.shape[-1]
    volume = position.narrow(1, extra, count).float().reshape(*old, width)  # (t, h, w, d_model)
    if old[1:] != new[1:]:
        images = functional.interpolate(
            volume.permute(0, 3, 1, 2).clone(memory_format=contiguous_format),
            size=tuple(new[1:]),
            mode="bicubic",
            align_corners=False,
        )
        volume = images.permute(0, 2, 3, 1)
    if old[0] != new[0]:
        series = volume.permute(1, 2, 3, 0).reshape(1, -1, old[0])  # each place and channel is a series in time
        series = functional.interpolate(series, size=new[0], mode="linear", align_corners=False)
        volume = series.reshape(new[1], new[2], width, new[0]).permute(3, 0, 1, 2)
    resized = volume.reshape(1, -1, width).to(position.dtype)
    return cat((position.narrow(1, 0, extra), resized), dim=1)
