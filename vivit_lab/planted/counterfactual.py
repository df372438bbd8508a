"""Change one thing about a scene and keep the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from vivit_lab.planted.config import LABELS, SLOTS, opposite
from vivit_lab.planted.scene import Actor, Scene, progress

__all__ = ["COUNTERFACTUALS", "move_window", "reverse_target", "turn_around_frame"]


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
