"""What a planted clip may be: classes, levels, splits and sizes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from vivit_lab.errors import ConfigError, InputError
from vivit_lab.numbers import checked_numbers

__all__ = [
    "DIRECTIONS",
    "LABELS",
    "LEVELS",
    "RULES",
    "SLOTS",
    "SPLITS",
    "Level",
    "PlantedConfig",
    "Rule",
    "Split",
    "opposite",
]

Split = Literal["train", "validation", "test"]

Rule = Literal["outlined", "odd"]

RULES: tuple[str, ...] = get_args(Rule)
"""Which shape is the target: the outlined one among filled ones; or the odd one out, of either kind."""

SPLITS: tuple[str, ...] = get_args(Split)
"""The splits; no two share an outline or a photograph."""

LABELS = ("right", "down-right", "down", "down-left", "left", "up-left", "up", "up-right")
"""Class names: the direction in which the target moves, clockwise from "right"."""

DIRECTIONS = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))
"""(rows, columns) of one step in each class's direction; rows count downwards."""

SLOTS = 3
"""How many windows of time a clip has. From level 1 on they share no step; each holds at most one moving shape."""


def opposite(label: int) -> int:
    """Return the class of the same motion played backwards.

    Raises:
        InputError: there is no such class.
    """
    if not 0 <= label < len(LABELS):
        raise InputError(f"label must lie in 0 … {len(LABELS) - 1}, got {label}")
    return (label + len(LABELS) // 2) % len(LABELS)


@dataclass(frozen=True)
class Level:
    """What makes a level hard.

    Args:
        moving_decoys: how many of the three decoys move.
        noise: standard deviation of the noise of each frame and pixel, in grey levels (0 … 255).
        bars: how many strips of another photograph lie in front of everything.
        shake: whether the camera wanders about its place, a pixel now and then.
        long: whether the target moves for two thirds of the clip, so that motion is easy to come upon.
    """

    moving_decoys: int
    noise: float
    bars: int
    shake: bool
    long: bool = False


LEVELS = (Level(0, 0.0, 0, False, long=True), Level(1, 0.0, 0, False), Level(2, 8.0, 1, False), Level(2, 10.0, 1, True))
"""The levels 0 (only the target moves) to 3 (decoys, noise, occlusion, camera shake)."""


@checked_numbers(error=ConfigError, frames=(8, 10_000), size=(32, 4096), level=(0, len(LEVELS) - 1))
@dataclass(frozen=True)
class PlantedConfig:
    """What to draw. Together with an index it determines a clip to the last bit.

    (As long as NumPy draws the same numbers and Pillow decodes a JPEG to the same pixels; both have for years.)

    Args:
        frames: frames of a clip, at least 8.
        size: rows and columns of a frame in pixels, at least 32. Shapes and steps grow with it.
        level: difficulty, 0 (easy) … 3 (hardest).
        split: "train", "validation" or "test".
        rule: "outlined": the target is the outlined shape among filled ones, so one look at a shape tells, and the
            evidence lies nowhere else. "odd": the target is the one that differs from the rest, filled or outlined;
            harder, because resting decoys are evidence too, of which kind is odd. Nothing else differs between them.
        seed: any non-negative integer; another seed gives other clips of the same outlines and photographs.

    Raises:
        ConfigError: a field is out of its range.

    Example:
        >>> PlantedConfig(level=0).moves, PlantedConfig().speeds, PlantedConfig().diameters
        (4, (2, 3), (12, 15))
    """

    frames: int = 16
    size: int = 48
    level: int = 3
    split: Split = "train"
    rule: Rule = "outlined"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("frames", "size", "level", "seed"):
            object.__setattr__(self, name, int(getattr(self, name)))
        for name, known in (("split", SPLITS), ("rule", RULES)):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")

    @property
    def difficulty(self) -> Level:
        """What the level adds."""
        return LEVELS[self.level]

    @property
    def shake(self) -> int:
        """How far the camera of the hardest level wanders from its place, in pixels along each axis."""
        return max(1, round(self.size / 48))

    @property
    def speeds(self) -> tuple[int, int]:
        """Slowest and fastest motion, in pixels a frame along each axis that changes."""
        slow = max(1, round(self.size / 24))
        return (slow, slow + 1)

    @property
    def moves(self) -> int:
        """Steps that a shape takes in its window, which so spans one frame more.

        Three windows leave room to vary, and no shape goes further than a third of the torus, where the way back
        round would look as short. Level 0 has one mover and long windows that overlap: two thirds of the clip.
        """
        if self.difficulty.long:
            return (self.frames - 1) * 2 // 3
        return max(2, min((self.frames - 1) // SLOTS - 1, self.size // (SLOTS * self.speeds[1])))

    @property
    def diameters(self) -> tuple[int, int]:
        """Smallest and largest diameter of a disc of a shape's area, in pixels."""
        return (round(self.size / 4), round(self.size * 15 / 48))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-able values."""
        return asdict(self)
