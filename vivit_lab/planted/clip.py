"""Planted clips with their truth, one or many; with one thing changed, or as versions that show a shortcut."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset

from vivit_lab.errors import InputError
from vivit_lab.html import frame_tiles, report_html
from vivit_lab.numbers import checked_numbers
from vivit_lab.planted.scene import (
    LABELS,
    SLOTS,
    Actor,
    PlantedConfig,
    Scene,
    draw_scene,
    mask_of_tokens,
    opposite,
    progress,
    render_frames,
    track,
    visible,
    window_of_tokens,
)
from vivit_lab.video.clip import Clip

if TYPE_CHECKING:
    from vivit_lab.grid import TokenGrid

__all__ = [
    "COUNTERFACTUALS",
    "PlantedClip",
    "PlantedDataset",
    "backwards",
    "move_window",
    "normalise",
    "planted_batch",
    "planted_clip",
    "reorder",
    "reverse_target",
    "shuffled",
    "single_frame",
    "stack_clips",
    "turn_around_frame",
]


def reverse_target(scene: Scene) -> Scene:
    """Return the scene in which the target goes its way backwards, in the same window; the label is the opposite one.

    Nothing else changes, so the two clips differ in the target's pixels alone. Twice gives the scene itself.
    (A decoy may now move in the target's direction, in a window of its own, which no clip does as it is drawn.)
    """
    target = scene.target
    end = _shifted(scene, target.start, target.velocity, scene.config.moves)
    label = opposite(scene.label)
    return replace(scene, label=label, target=replace(target, start=end, direction=label))


def move_window(scene: Scene) -> Scene:
    """Return the scene in which the target goes the same way in the next window (after the last, the first).

    A decoy that moved then moves in the window that became free. The label stays. Three times gives the scene itself.
    """

    def later(actor: Actor) -> Actor:
        return actor if actor.slot is None else replace(actor, slot=(actor.slot + 1) % SLOTS)

    return replace(scene, target=later(scene.target), decoys=tuple(later(actor) for actor in scene.decoys))


def turn_around_frame(scene: Scene, label: int, frame: int) -> Scene:
    """Return the equally likely scene of class ``label`` with the very same frame ``frame``.

    All directions turn by the same angle, and every shape starts where it must to be in that frame where it was. Starts
    are uniform over the torus, so this is a bijection between the scenes of two classes: the reason why no frame tells.
    """
    turn = label - scene.label

    def turned(actor: Actor) -> Actor:
        steps = int(progress(scene, actor)[frame])
        other = replace(actor, direction=(actor.direction + turn) % len(LABELS))
        there = _shifted(scene, actor.start, actor.velocity, steps)
        return replace(other, start=_shifted(scene, there, other.velocity, -steps))

    return replace(
        scene, label=label, target=turned(scene.target), decoys=tuple(turned(actor) for actor in scene.decoys)
    )


COUNTERFACTUALS: dict[str, Callable[[Scene], Scene]] = {"reverse": reverse_target, "window": move_window}
"""The changes by name."""


def _shifted(scene: Scene, place: tuple[int, int], velocity: tuple[int, int], steps: int) -> tuple[int, int]:
    size = scene.config.size
    return ((place[0] + velocity[0] * steps) % size, (place[1] + velocity[1] * steps) % size)


@dataclass(frozen=True, eq=False, repr=False)
class PlantedClip:
    """One clip of `planted_clip`, drawn when its pixels or masks are first asked for.

    Args:
        scene: all of the clip but its pixels.
    """

    scene: Scene

    def __repr__(self) -> str:
        config, (start, stop) = self.scene.config, self.window
        return (
            f"PlantedClip({config.split} {self.scene.index}, level {config.level}: {self.label_name!r}, "
            f"{config.frames} frames {config.size}×{config.size}, evidence in frames {start} … {stop - 1})"
        )

    def _repr_html_(self) -> str:
        """Say what was planted, above some of the frames."""
        labels = [f"frame {number}" for number in range(len(self.frames))]
        return report_html(repr(self), frame_tiles(self.frames, labels, most=8))

    @cached_property
    def frames(self) -> np.ndarray:
        """(T, H, W, 3) uint8 RGB."""
        return _frozen(render_frames(self.scene))

    @cached_property
    def frames_without_target(self) -> np.ndarray:
        """(T, H, W, 3) uint8 RGB: the same clip with the target left out, and nothing else."""
        return _frozen(render_frames(self.scene, with_target=False))

    @property
    def label(self) -> int:
        """The class, 0 … 7."""
        return self.scene.label

    @property
    def label_name(self) -> str:
        """The class's name: the direction in which the target moves."""
        return LABELS[self.scene.label]

    @property
    def window(self) -> tuple[int, int]:
        """Half-open span of frames (start, stop) between whose first and last the target moves."""
        return self._window(self.scene.target)

    @cached_property
    def track(self) -> np.ndarray:
        """(T, 2) float64: the target's centre in each frame, (row, column) in edge coordinates, on the torus."""
        return _frozen(track(self.scene, self.scene.target) + 0.5)

    @cached_property
    def presence(self) -> np.ndarray:
        """(T, H, W) bool: pixels inside the target's edge and behind no bar, in every frame, moving or not."""
        return _frozen(visible(self.scene, self.scene.target))

    @cached_property
    def mask(self) -> np.ndarray:
        """(T, H, W) bool: the evidence. ``presence`` in the frames of ``window``, empty elsewhere."""
        return _frozen(self._moving(self.scene.target, self.presence))

    @cached_property
    def decoy_mask(self) -> np.ndarray:
        """(T, H, W) bool: where decoys are while they move, less what the target hides: motion that is no evidence."""
        hidden = np.zeros_like(self.presence)
        for actor in self.scene.decoys:
            if actor.slot is not None:
                hidden |= self._moving(actor, visible(self.scene, actor))
        return _frozen(hidden & ~self.presence)

    def token_mask(self, grid: TokenGrid) -> np.ndarray:
        """Return the fraction of each tubelet that ``mask`` covers, (t, h, w) float32.

        Raises:
            GridError: the grid is of another number of frames or another size.
        """
        return mask_of_tokens(self.mask, grid)

    def token_window(self, grid: TokenGrid) -> np.ndarray:
        """Return the fraction of each tubelet row's frames that lie in ``window``, (t,) float32.

        Raises:
            GridError: the grid is of another number of frames.
        """
        return window_of_tokens(self.window, self.scene.config.frames, grid)

    @checked_numbers()
    def clip(self, fps: float = 8.0) -> Clip:
        """Return the frames as a `Clip` of a constant rate, in frames a second."""
        return Clip.from_frames(self.frames, fps)

    def counterfactual(self, kind: str) -> PlantedClip:
        """Return the same clip with one thing changed.

        Args:
            kind: "reverse": the target goes its way backwards in the same window, so the label is the opposite one.
                "window": the target, and each moving decoy, moves in the next of the three windows; same label,
                evidence elsewhere in time.

        Raises:
            InputError: there is no such kind.
        """
        if kind not in COUNTERFACTUALS:
            raise InputError(f"counterfactual must be one of {', '.join(COUNTERFACTUALS)}, got {kind!r}")
        return PlantedClip(COUNTERFACTUALS[kind](self.scene))

    @checked_numbers()
    def twin(self, label: int, frame: int) -> PlantedClip:
        """Return an equally likely clip of another class that has the very same frame, bit for bit.

        Args:
            label: the twin's class, 0 … 7.
            frame: which frame to keep, 0 … T - 1.

        Raises:
            InputError: there is no such class or frame.
        """
        for name, value, count in (("label", label, len(LABELS)), ("frame", frame, self.scene.config.frames)):
            if not 0 <= value < count:
                raise InputError(f"{name} must lie in 0 … {count - 1}, got {value}")
        return PlantedClip(turn_around_frame(self.scene, label, frame))

    def describe(self) -> dict[str, Any]:
        """Return label, window, track and all actors as JSON-able values; pixels and masks are left out."""
        return {
            "index": self.scene.index,
            "label": self.label,
            "label_name": self.label_name,
            "window": list(self.window),
            "track": self.track.tolist(),
            "target": self._describe(self.scene.target),
            "decoys": [self._describe(actor) for actor in self.scene.decoys],
        }

    def _window(self, actor: Actor) -> tuple[int, int]:
        assert actor.slot is not None
        start = self.scene.slots[actor.slot]
        return (start, start + self.scene.config.moves + 1)

    def _moving(self, actor: Actor, where: np.ndarray) -> np.ndarray:
        moving = np.zeros_like(where)
        window = slice(*self._window(actor))
        moving[window] = where[window]
        return moving

    def _describe(self, actor: Actor) -> dict[str, Any]:
        direction = LABELS[actor.direction] if actor.slot is not None else None
        window = list(self._window(actor)) if actor.slot is not None else None
        return {**asdict(actor), "direction": direction, "window": window}


@checked_numbers(index=(0, None))
def planted_clip(config: PlantedConfig, index: int, label: int | None = None) -> PlantedClip:
    """Return clip ``index`` of a configuration: the same one whenever and wherever it is asked for.

    Args:
        config: size, level, split and seed.
        index: which clip, from 0; there is no last one.
        label: the class; by default ``index`` modulo 8, so that any run of clips is balanced. The class changes the
            directions and nothing else that is drawn.

    Raises:
        InputError: the index is no whole number from 0, or there is no such class.

    Example:
        >>> clip = planted_clip(PlantedConfig(level=0), 3)
        >>> clip.label_name, clip.frames.shape, clip.mask.any((1, 2)).sum()
        ('down-left', (16, 48, 48, 3), 5)
    """
    whole = isinstance(index, (int, np.integer)) and not isinstance(index, bool)
    if not whole or index < 0:
        raise InputError(f"index must be an integer from 0, got {index!r}")
    label = index % len(LABELS) if label is None else label
    if not 0 <= label < len(LABELS):
        raise InputError(f"label must lie in 0 … {len(LABELS) - 1}, got {label}")
    return PlantedClip(draw_scene(config, int(index), int(label)))


def _frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False  # it is kept, and handed out again
    return array


def normalise(frames: np.ndarray) -> torch.Tensor:
    """Return uint8 frames (..., T, H, W, 3) as a float32 tensor (..., T, 3, H, W) in -1 … 1: value / 127.5 - 1."""
    return torch.from_numpy(np.moveaxis(frames, -1, -3).astype(np.float32, order="C")).div_(127.5).sub_(1)


def stack_clips(clips: Sequence[PlantedClip]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return clips as a batch.

    Args:
        clips: at least one, all of the same frames and size.

    Returns:
        ``(pixel_values, labels)``: float32 (B, T, 3, H, W) in -1 … 1, and int64 (B,).

    Raises:
        InputError: there are no clips, or they differ in frames or size.
    """
    shapes = sorted({clip.frames.shape for clip in clips})
    if len(shapes) != 1:
        raise InputError(f"wanted at least one clip, all of one shape (T, H, W, 3), got {len(clips)} of {shapes}")
    pixel_values = torch.stack([normalise(clip.frames) for clip in clips])
    return pixel_values, torch.tensor([clip.label for clip in clips])


def planted_batch(
    config: PlantedConfig, indices: Iterable[int]
) -> tuple[torch.Tensor, torch.Tensor, list[PlantedClip]]:
    """Return clips of a configuration as a batch, with their truth.

    Args:
        config: what to draw.
        indices: which clips, each from 0.

    Returns:
        ``(pixel_values, labels, clips)``: float32 (B, T, 3, H, W) in -1 … 1, int64 (B,), and the clips, which know
        their masks.

    Raises:
        InputError: there are no indices, or one is not a whole number from 0.

    Example:
        >>> pixel_values, labels, clips = planted_batch(PlantedConfig(), range(8))
        >>> truth = clips[0].token_mask(TokenGrid.from_video(16, 48, 48, (2, 8, 8)))
    """
    clips = [planted_clip(config, index) for index in indices]
    return (*stack_clips(clips), clips)


@checked_numbers()
class PlantedDataset(Dataset[tuple[torch.Tensor, int]]):
    """``length`` clips of a configuration; item i is the same tensor in every process and epoch.

    An item is ``(pixel_values, label)``: float32 (T, 3, H, W) in -1 … 1, and an int 0 … 7. Clips are drawn when they
    are asked for (about 4 ms each at the default size and hardest level, on one core) and not kept.

    Args:
        config: size, level, split and seed.
        length: how many clips; any run of eight holds each class once.
        start: index of the first clip.

    Raises:
        InputError: the length is not positive or the start is negative.
    """

    def __init__(self, config: PlantedConfig, length: int, start: int = 0) -> None:
        if length < 1 or start < 0:
            raise InputError(f"wanted a positive length and a start from 0, got length={length}, start={start}")
        self.config, self.length, self.start = config, int(length), int(start)

    def __len__(self) -> int:
        return self.length

    @checked_numbers()
    def clip(self, item: int) -> PlantedClip:
        """Return an item with its truth.

        Raises:
            IndexError: there is no such item (the protocol by which ``for`` ends).
        """
        if not -self.length <= item < self.length:
            raise IndexError(f"item {item} of a dataset of {self.length} clips")
        return planted_clip(self.config, self.start + item % self.length)

    def __getitem__(self, item: int) -> tuple[torch.Tensor, int]:
        clip = self.clip(item)
        return normalise(clip.frames), clip.label


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
