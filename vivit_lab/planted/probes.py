"""Versions of clips that show a shortcut, if a model takes one: one frame, frames in another order.

What only motion tells is gone from a frame that stands still; a bag of frames leaves at most the axis of the motion;
and backwards it is the opposite motion. (The versions that need the scene, ``PlantedClip.counterfactual`` and
``frames_without_target``, change the target alone.) All are views or copies of the same frames: nothing is drawn anew,
so noise, brightness and shapes stay exactly what the model knows.
"""

from __future__ import annotations

import torch

from vivit_lab.errors import InputError
from vivit_lab.planted.clip import PlantedClip
from vivit_lab.planted.dataset import stack_clips

__all__ = ["backwards", "reorder", "shuffled", "single_frame"]


def reorder(clip: torch.Tensor | PlantedClip, order: torch.Tensor) -> torch.Tensor:
    """Return clips with their frames in another order, (B, T', 3, H, W).

    Args:
        clip: (B, T, 3, H, W), or a planted clip, which becomes a batch of one.
        order: which frame each place shows, 0 … T - 1: int64 (T',) for all clips alike, or (B, T').

    Raises:
        InputError: the clips or the order have another shape, or there is no such frame.
    """
    pixel_values = _batch(clip)
    count, frames = pixel_values.shape[:2]
    if order.is_floating_point() or not (order.ndim == 1 or (order.ndim == 2 and len(order) == count)):
        raise InputError(
            f"order must be integers of shape (frames,) or ({count}, frames), got {tuple(order.shape)} {order.dtype}"
        )
    if order.numel() == 0 or int(order.min()) < 0 or int(order.max()) >= frames:
        raise InputError(f"order must name at least one frame, each 0 … {frames - 1}, got {order.tolist()}")
    rows = torch.arange(count, device=pixel_values.device)[:, None]
    return pixel_values[rows, order.to(pixel_values.device).expand(count, -1)]


def single_frame(clip: torch.Tensor | PlantedClip, frame: int | torch.Tensor) -> torch.Tensor:
    """Return clips that stand still: one frame of each, as often as the clip has frames; (B, T, 3, H, W).

    On planted clips no model can beat chance, 1/8, whichever frames it is given: see ``PlantedClip.twin``.

    Args:
        clip: (B, T, 3, H, W), or a planted clip, which becomes a batch of one.
        frame: 0 … T - 1, for all clips alike or int64 (B,).

    Raises:
        InputError: the clips are no batch, or there is no such frame.
    """
    pixel_values = _batch(clip)
    which = torch.as_tensor(frame)
    if which.ndim > 1:
        raise InputError(f"frame must be an integer, or one a clip, got shape {tuple(which.shape)}")
    return reorder(pixel_values, which[..., None].expand(*which.shape, pixel_values.shape[1]))


def shuffled(clip: torch.Tensor | PlantedClip, seed: int | torch.Generator) -> torch.Tensor:
    """Return clips with the frames of each in an order of its own, every order as likely; (B, T, 3, H, W).

    On planted clips no model can be right more than half of the time: the opposite motion leaves the same frames.

    Args:
        clip: (B, T, 3, H, W), or a planted clip, which becomes a batch of one.
        seed: of the orders, or a generator on the CPU.

    Raises:
        InputError: the clips are no batch.
    """
    pixel_values = _batch(clip)
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    return reorder(pixel_values, torch.rand(pixel_values.shape[:2], generator=generator).argsort(1))


def backwards(clip: torch.Tensor | PlantedClip) -> torch.Tensor:
    """Return clips played backwards, (B, T, 3, H, W): on planted clips, clips of the opposite class.

    Args:
        clip: (B, T, 3, H, W), or a planted clip, which becomes a batch of one.

    Raises:
        InputError: the clips are no batch.
    """
    pixel_values = _batch(clip)
    return reorder(pixel_values, torch.arange(pixel_values.shape[1]).flip(0))


def _batch(clip: torch.Tensor | PlantedClip) -> torch.Tensor:
    if isinstance(clip, PlantedClip):
        return stack_clips([clip])[0]
    if clip.ndim != 5:
        raise InputError(f"wanted clips (batch, frames, channels, rows, columns), got {tuple(clip.shape)}")
    return clip
