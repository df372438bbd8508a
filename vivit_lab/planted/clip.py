"""A planted clip: frames, label and the truth about them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from vivit_lab.errors import InputError
from vivit_lab.numbers import checked_numbers
from vivit_lab.planted.config import LABELS, PlantedConfig
from vivit_lab.planted.counterfactual import COUNTERFACTUALS, turn_around_frame
from vivit_lab.planted.render import render_frames, visible
from vivit_lab.planted.scene import Actor, Scene, draw_scene, track
from vivit_lab.planted.truth import mask_of_tokens, window_of_tokens
from vivit_lab.show.html import frame_tiles, report_html
from vivit_lab.video.clip import Clip

if TYPE_CHECKING:
    from vivit_lab.grid import TokenGrid

__all__ = ["PlantedClip", "planted_clip"]


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
