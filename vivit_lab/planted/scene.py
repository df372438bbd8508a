"""What happens in a planted clip, as numbers: who is where, moves when, behind and in front of what."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vivit_lab.planted.config import DIRECTIONS, LABELS, SLOTS, SPLITS, PlantedConfig
from vivit_lab.planted.photos import Crop, draw_crop, photographs
from vivit_lab.planted.sprites import COUNTS

__all__ = ["Actor", "Bar", "Scene", "draw_scene", "progress", "track"]

_DECOYS = 3


@dataclass(frozen=True)
class Actor:
    """A shape and what it does.

    Args:
        sprite: index of its outline in the split.
        outlined: whether only its outline is drawn.
        diameter: of the disc of the same area, in pixels.
        color: RGB, 0 … 255.
        start: (row, column) of the pixel at its centre before it moves, on the torus.
        direction: index into ``DIRECTIONS``.
        speed: pixels a frame along each axis that changes.
        slot: the window in which it moves, or None for a shape that rests.
    """

    sprite: int
    outlined: bool
    diameter: int
    color: tuple[int, int, int]
    start: tuple[int, int]
    direction: int
    speed: int
    slot: int | None

    @property
    def velocity(self) -> tuple[int, int]:
        """(rows, columns) a frame while it moves."""
        rows, columns = DIRECTIONS[self.direction]
        return (rows * self.speed, columns * self.speed)


@dataclass(frozen=True)
class Bar:
    """A strip of another photograph in front of everything.

    Args:
        vertical: whether it runs from top to bottom.
        start: its first column (or row), on the torus.
        width: in pixels.
    """

    vertical: bool
    start: int
    width: int


@dataclass(frozen=True)
class Scene:
    """All of a clip but its pixels.

    Args:
        config: what it was drawn from.
        index: which clip of the configuration.
        label: the class, index into ``LABELS``.
        target: the outlined one, or the odd one out.
        decoys: the others, in drawing order; the target is drawn last.
        slots: first frame of each window of ``config.moves`` steps.
        background: the photograph.
        front: the photograph that bars are cut from.
        bars: what lies in front.
        shake: (row, column) displacement of the whole scene in each frame, in pixels.
        noise_seed: seed of the noise.
    """

    config: PlantedConfig
    index: int
    label: int
    target: Actor
    decoys: tuple[Actor, ...]
    slots: tuple[int, ...]
    background: Crop
    front: Crop
    bars: tuple[Bar, ...]
    shake: tuple[tuple[int, int], ...]
    noise_seed: int


def progress(scene: Scene, actor: Actor) -> np.ndarray:
    """Return how many steps an actor has taken by each frame, (frames,) int64."""
    frames = np.arange(scene.config.frames)
    if actor.slot is None:
        return np.zeros_like(frames)
    return np.clip(frames - scene.slots[actor.slot], 0, scene.config.moves)


def track(scene: Scene, actor: Actor) -> np.ndarray:
    """Return the pixel (row, column) at an actor's centre in each frame, (frames, 2) int64, on the torus."""
    moved = progress(scene, actor)[:, None] * np.array(actor.velocity) + np.array(actor.start)
    return (moved + np.array(scene.shake)) % scene.config.size


def draw_scene(config: PlantedConfig, index: int, label: int) -> Scene:
    """Draw everything about clip ``index``.

    The same numbers are drawn on every level, and what the level does without is left out afterwards; so a clip
    keeps its shapes, places and target from level to level.
    """
    rng = np.random.default_rng([config.seed, SPLITS.index(config.split), index])
    level = config.difficulty
    order = rng.permutation(SLOTS).tolist()
    outlined = bool(rng.integers(2)) or config.rule == "outlined"
    # all directions in a clip differ: a detector that takes any mover for the target cannot be right by luck
    turns = rng.permutation(np.arange(1, len(LABELS)))[:_DECOYS].tolist()
    target = _draw_actor(rng, config, outlined, label, order[0])
    decoys = []
    for number, turn in enumerate(turns):
        slot = order[number + 1] if number < level.moving_decoys else None
        decoys.append(_draw_actor(rng, config, not outlined, (label + turn) % len(LABELS), slot))
    crops = [draw_crop(rng, len(photographs(config.split, config.size))) for _ in range(2)]
    wide = max(2, round(config.size / 24))
    bars = [Bar(bool(rng.integers(2)), int(rng.integers(config.size)), wide) for _ in range(2)][: level.bars]
    shake = _draw_shake(rng, config) * level.shake
    noise_seed = int(rng.integers(2**63))
    return Scene(
        config=config,
        index=index,
        label=label,
        target=target,
        decoys=tuple(decoys),
        slots=_draw_slots(config, index),
        background=crops[0],
        front=crops[1],
        bars=tuple(bars),
        shake=tuple((row, column) for row, column in shake.tolist()),
        noise_seed=noise_seed,
    )


def _draw_slots(config: PlantedConfig, index: int) -> tuple[int, ...]:
    # a generator of its own: how much it draws depends on the level, and all else should not
    rng = np.random.default_rng([config.seed, SPLITS.index(config.split), index, 1])
    if config.difficulty.long:
        starts = np.sort(rng.choice(config.frames - config.moves, SLOTS, replace=False))
    else:
        gaps = rng.multinomial(config.frames - 1 - SLOTS * config.moves, np.full(SLOTS + 1, 1 / (SLOTS + 1)))
        starts = np.cumsum(gaps[:SLOTS]) + np.arange(SLOTS) * config.moves
    return tuple(starts.tolist())


def _draw_shake(rng: np.random.Generator, config: PlantedConfig) -> np.ndarray:
    """Draw where the camera is in each frame, (frames, 2) int64: a lazy walk about its place, uniform at any time.

    Steps up and down are as likely, and one that would lead too far is not taken; so the walk is reversible, and
    as likely backwards.
    """
    steps = rng.integers(0, 8, (config.frames, 2))
    steps = (steps == 1).astype(int) - (steps == 0)
    places = [rng.integers(-config.shake, config.shake + 1, 2)]
    for step in steps[1:]:
        moved = places[-1] + step
        places.append(np.where(np.abs(moved) <= config.shake, moved, places[-1]))
    return np.stack(places)


def _draw_actor(
    rng: np.random.Generator, config: PlantedConfig, outlined: bool, direction: int, slot: int | None
) -> Actor:
    shade = rng.integers(0, 41, 3)
    color = shade if rng.integers(2) else 255 - shade
    return Actor(
        sprite=int(rng.integers(COUNTS[config.split])),
        outlined=outlined,
        diameter=int(rng.integers(config.diameters[0], config.diameters[1] + 1)),
        color=tuple(color.tolist()),
        start=tuple(rng.integers(0, config.size, 2).tolist()),
        direction=direction,
        speed=int(rng.integers(config.speeds[0], config.speeds[1] + 1)),
        slot=slot,
    )
