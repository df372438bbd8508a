"""Where the content of each tubelet is at other times: from planted truth, or estimated from the pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vivit_lab.errors import InputError
from vivit_lab.grid import TokenGrid
from vivit_lab.heads.clips import ClipSet
from vivit_lab.numbers import check_whole, checked_numbers
from vivit_lab.planted.clip import PlantedClip, planted_clip
from vivit_lab.planted.scene import PlantedConfig, mask_of_tokens

__all__ = ["estimate_motion", "motion_of", "planted_motion"]


@checked_numbers()
def planted_motion(clips: Sequence[PlantedClip], grid: TokenGrid, *, coverage: float = 0.25) -> Tensor:
    """Return where the target of planted clips is, for ``head_statistics(motion=…)``.

    Args:
        clips: planted clips.
        grid: the model's token grid.
        coverage: a tubelet belongs to the target if it covers this share of it, in (0, 1].

    Returns:
        (clips, tubelets, t) int64: of a tubelet of the target, the place y·w + x where that part of the target is at
        each time; -1 for all others. Shapes that leave on one side come in on the other, and so do places.

    Raises:
        InputError: ``coverage`` is out of range, or there are no clips.
        GridError: the clips do not fit the grid.
    """
    if not 0 < coverage <= 1 or not len(clips):
        raise InputError(f"wanted clips and a coverage in (0, 1], got {len(clips)} clips and {coverage}")
    depth, *patch = grid.tubelet
    found = []
    for clip in clips:
        covered = mask_of_tokens(clip.presence, grid) >= coverage
        track = clip.track.reshape(grid.t, depth, 2)[:, depth // 2]  # the middle of each tubelet
        size = np.array(grid.image_size)
        moved = (track[None] - track[:, None] + size / 2) % size - size / 2  # (t, t', 2), the short way round
        steps = np.rint(moved / np.array(patch)).astype(np.int64)
        t, y, x = np.nonzero(covered)
        rows, columns = (y[:, None] + steps[t, :, 0]) % grid.h, (x[:, None] + steps[t, :, 1]) % grid.w
        places = np.full((grid.num_tubelets, grid.t), -1, dtype=np.int64)
        places[(t * grid.h + y) * grid.w + x] = rows * grid.w + columns
        found.append(torch.from_numpy(places))
    return torch.stack(found)


@checked_numbers()
def estimate_motion(pixel_values: Tensor, grid: TokenGrid, *, radius: int | None = None, gain: float = 0.5) -> Tensor:
    """Estimate where each tubelet's content is at other times, by matching blocks from one tubelet row to the next.

    A tubelet's mean picture is compared with the next (and the previous) row's at all shifts up to ``radius`` pixels;
    the shift of the smallest squared difference is taken if that is at most ``gain`` times the difference without a
    shift, else the content is taken to stay. Steps are chained. No model is involved; things that turn, that are hidden
    or that have no texture are missed.

    Args:
        pixel_values: (clips, frames, channels, height, width).
        grid: the token grid of such clips.
        radius: largest shift between two rows in pixels; a tubelet's larger side where None.
        gain: in (0, 1].

    Returns:
        (clips, tubelets, t) int64 places y·w + x, as ``planted_motion`` gives; -1 for tubelets that stay all the time,
        and at times at which the path leaves the picture. Where content leaves, the next step is a guess: it may be
        taken to stay, or for something like it.

    Raises:
        InputError: the clips do not have the grid's size, or an option is out of range.

    Cost: (2·radius/step + 1)² shifts of every picture, step = radius/8 at least 1; no forward pass.
    """
    _, frames, _, *size = pixel_values.shape if pixel_values.ndim == 5 else (0, 0, 0, 0, 0)
    got, wanted = (frames, *size), (grid.num_frames, *grid.image_size)
    if got != wanted or not 0 < gain <= 1:
        raise InputError(
            f"wanted clips of (frames, height, width) = {wanted} and a gain in (0, 1], got {got} and {gain}"
        )
    radius = max(grid.tubelet[1:]) if radius is None else radius
    check_whole("radius", radius, 1, max(grid.image_size))
    pictures = pixel_values.float().unflatten(1, (grid.t, grid.tubelet[0])).mean(dim=(2, 3))  # (clip, t, H, W)
    found = []
    for clip in pictures.unbind():
        later = _shifts(clip[:-1], clip[1:], grid, radius, gain)  # (t - 1, h, w, 2) pixels
        earlier = _shifts(clip[1:], clip[:-1], grid, radius, gain)
        found.append(_chained(later, earlier, grid))
    return torch.stack(found)


def _shifts(start: Tensor, end: Tensor, grid: TokenGrid, radius: int, gain: float) -> Tensor:
    """Return the shift in pixels (pair, h, w, 2) that takes each block of one picture to the other."""
    step = max(1, radius // 8)
    offsets = [0, *(sign * size for size in range(step, radius + 1, step) for sign in (1, -1))]
    padded = functional.pad(end.unsqueeze(1), (radius,) * 4, value=float("inf")).squeeze(1)
    height, width = start.shape[-2:]
    best = still = torch.empty(0)
    shift = start.new_zeros(len(start), grid.h, grid.w, 2)
    for dy in offsets:  # no shift is the first, and wins among equals
        for dx in offsets:
            moved = padded[:, radius + dy : radius + dy + height, radius + dx : radius + dx + width]
            error = functional.avg_pool2d((moved - start).square().unsqueeze(1), grid.tubelet[1:]).squeeze(1)
            if dy == dx == 0:
                best = still = error
                continue
            better = (error < best) & (error <= gain * still)
            best = torch.where(better, error, best)
            shift = torch.where(better.unsqueeze(-1), shift.new_tensor([dy, dx]), shift)
    return shift


def _chained(later: Tensor, earlier: Tensor, grid: TokenGrid) -> Tensor:
    """Return (tubelet, t) places from the shifts of neighbouring rows."""
    t, h, w = grid.shape
    patch = later.new_tensor(grid.tubelet[1:])
    start = torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"), dim=-1).to(later)
    places = torch.full((t, h, w, t), -1, dtype=torch.long, device=later.device)
    own = (start[..., 0] * w + start[..., 1]).long()
    for time in range(t):
        places[time, ..., time] = own
        for order, shifts in ((range(time, t - 1), later), (range(time - 1, -1, -1), earlier)):
            where, inside = start.clone(), torch.ones(h, w, dtype=torch.bool, device=later.device)
            for pair in order:
                now = where.round().long()
                near = now.clamp_min(0).minimum(now.new_tensor([h - 1, w - 1]))
                where = where + shifts[pair, near[..., 0], near[..., 1]] / patch
                then = where.round().long()
                inside &= ((then >= 0) & (then < then.new_tensor([h, w]))).all(dim=-1)
                reached = pair + 1 if shifts is later else pair
                places[time, ..., reached] = torch.where(inside, then[..., 0] * w + then[..., 1], -1)
    flat = places.flatten(0, 2)
    stays = ((flat == own.flatten().repeat(t).unsqueeze(1)) | (flat < 0)).all(dim=1)
    return flat.masked_fill(stays.unsqueeze(1), -1)


def motion_of(data: Any, clips: ClipSet, grid: TokenGrid) -> Tensor:
    """Return the motion of a data set's clips: the truth where they are planted, else an estimate from their pixels.

    Args:
        data: what ``clips`` was made of; planted data have a ``PlantedConfig`` as ``config``.
        clips: the clips.
        grid: the model's token grid; clips of another size have a grid of the same tubelets.
    """
    config = getattr(data, "config", None)
    if isinstance(config, PlantedConfig):
        start = getattr(data, "start", 0)  # of a PlantedDataset
        own = grid.resized(config.frames, config.size, config.size)
        return planted_motion([planted_clip(config, start + index) for index in clips.indices], own)
    pixels = (batch.pixel_values for batch in clips.batches(4))
    return torch.cat([estimate_motion(some, grid.resized(some.shape[1], *some.shape[3:])) for some in pixels])
