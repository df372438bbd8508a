"""Configurations and figures that the tests of the planted clips share."""

from dataclasses import replace
from functools import cache

import numpy as np

from vivit_lab.planted import PlantedClip, PlantedConfig, planted_clip
from vivit_lab.planted.scene import SLOTS, Scene, opposite

SMALL = PlantedConfig(frames=10, size=32)
HARD = PlantedConfig(split="validation")


@cache
def clips(config: PlantedConfig, count: int) -> tuple[PlantedClip, ...]:
    return tuple(planted_clip(config, index) for index in range(count))


def wrapped(difference: np.ndarray, size: int) -> np.ndarray:
    """The shortest way on the torus."""
    return (np.asarray(difference) + size // 2) % size - size // 2


def played_backwards(scene: Scene) -> Scene:
    """The scene of the same frames in reverse order, but for the noise."""
    config = scene.config

    def back(actor):
        rows, columns = actor.velocity
        steps = config.moves if actor.slot is not None else 0
        end = ((actor.start[0] + rows * steps) % config.size, (actor.start[1] + columns * steps) % config.size)
        slot = None if actor.slot is None else SLOTS - 1 - actor.slot
        return replace(actor, start=end, direction=opposite(actor.direction), slot=slot)

    return replace(
        scene,
        label=opposite(scene.label),
        target=back(scene.target),
        decoys=tuple(back(actor) for actor in scene.decoys),
        slots=tuple(config.frames - 1 - config.moves - start for start in reversed(scene.slots)),
        shake=scene.shake[::-1],
    )
