"""What happens in a planted clip, how it is drawn, and the truth about it, counted in tokens."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from math import ceil
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from PIL import Image

from vivit_lab.errors import ConfigError, GridError, InputError
from vivit_lab.numbers import checked_numbers

if TYPE_CHECKING:
    from vivit_lab.grid import TokenGrid

__all__ = [
    "COUNTS",
    "DIRECTIONS",
    "LABELS",
    "LEVELS",
    "RULES",
    "SLOTS",
    "SPLITS",
    "Actor",
    "Bar",
    "Crop",
    "Level",
    "PlantedConfig",
    "Rule",
    "Scene",
    "Split",
    "draw_crop",
    "draw_scene",
    "mask_of_tokens",
    "opposite",
    "outline",
    "photographs",
    "progress",
    "render_crop",
    "render_frames",
    "sprite_alpha",
    "track",
    "visible",
    "window_of_tokens",
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


_SHORT_SIDE = 3  # of a photograph, in sizes of the crop: a crop shows a ninth of it or less
_GAIN = 0.6
_RANGE = (80, 175)  # grey levels left to photographs; shapes take those below and above


@dataclass(frozen=True)
class Crop:
    """A square cut out of a photograph, turned and tinted.

    Args:
        photo: index of the photograph in its split.
        top: place of the cut as a fraction of the room there is, 0 … 1.
        left: the same along columns.
        turn: one of the eight symmetries of a square: quarter turns, plus 4 for mirrored.
        channels: order of the colour channels.
        tint: grey levels added to each channel.
    """

    photo: int
    top: float
    left: float
    turn: int
    channels: tuple[int, int, int]
    tint: tuple[float, float, float]


@cache
def photographs(split: str, size: int) -> tuple[np.ndarray, ...]:
    """Return the photographs of a split, each (rows, columns, 3) float32 with mean 0, short side ``3 * size`` pixels.

    Raises:
        InputError: there is no such split.
    """
    folder = resources.files("vivit_lab.planted") / "photos"
    names = sorted(item.name for item in folder.iterdir() if item.name.startswith(f"{split}-"))
    if not names:
        raise InputError(f"there are no photographs of split {split!r}")
    found = []
    for name in names:
        with (folder / name).open("rb") as file, Image.open(file) as image:
            scale = _SHORT_SIDE * size / min(image.size)
            wanted = (round(image.width * scale), round(image.height * scale))
            pixels = np.asarray(image.convert("RGB").resize(wanted, Image.Resampling.BOX), np.float32)
        pixels = pixels - pixels.mean()
        pixels.flags.writeable = False
        found.append(pixels)
    return tuple(found)


def draw_crop(rng: np.random.Generator, count: int) -> Crop:
    """Draw a crop of one of ``count`` photographs."""
    channels = rng.permutation(3).tolist()
    tint = rng.uniform(-20, 20, 3).tolist()
    top, left = rng.random(2).tolist()
    return Crop(int(rng.integers(count)), top, left, int(rng.integers(8)), tuple(channels), tuple(tint))


def render_crop(crop: Crop, split: str, size: int, scale: int) -> np.ndarray:
    """Return the crop, (size, size, 3) float32 in grey levels 80 … 175.

    Args:
        crop: what to cut.
        split: whose photographs.
        size: rows and columns to cut, in pixels.
        scale: the ``size`` of `photographs`.
    """
    photo = photographs(split, scale)[crop.photo]
    top, left = (round(part * (room - size)) for part, room in zip((crop.top, crop.left), photo.shape, strict=False))
    pixels = photo[top : top + size, left : left + size][..., list(crop.channels)]
    pixels = np.rot90(pixels[:, ::-1] if crop.turn >= 4 else pixels, crop.turn % 4)
    pixels = pixels * np.float32(_GAIN) + np.asarray(crop.tint, np.float32) + np.float32(127.5)
    return np.clip(pixels, *_RANGE)


COUNTS = {"train": 600, "validation": 100, "test": 100}
"""How many outlines a split has."""

_SAMPLES = 4  # per pixel and axis, for smooth edges
_STROKE = 0.2  # of the diameter
_ANGLES = 360


def outline(split: str, sprite: int) -> np.ndarray:
    """Return the radius of a shape in each of 360 directions, one degree apart.

    The shape lies between a circle and a regular polygon of three to six corners, somewhat dented. Its area is that
    of the unit disc, so that no outline looks larger than another.

    Args:
        split: "train", "validation" or "test"; their outlines are drawn from different seeds.
        sprite: index of the outline, below ``COUNTS[split]``.

    Raises:
        InputError: there is no such outline.
    """
    if split not in COUNTS or not 0 <= sprite < COUNTS[split]:
        raise InputError(f"no outline {sprite} of split {split!r}: wanted one of {COUNTS} (outlines of each split)")
    rng = np.random.default_rng([0x5A, SPLITS.index(split), sprite])
    angle = np.arange(_ANGLES) * (2 * np.pi / _ANGLES)
    sector = 2 * np.pi / rng.integers(3, 7)
    polygon = np.cos(sector / 2) / np.cos((angle + rng.uniform(0, 2 * np.pi)) % sector - sector / 2)
    radius = 1 - rng.uniform(0.2, 0.7) * (1 - polygon)
    for waves in (2, 3, 4):
        radius = radius + rng.uniform(0, 0.24 / waves) * np.cos(waves * angle + rng.uniform(0, 2 * np.pi))
    return radius / np.sqrt(np.mean(radius**2))


@cache
def sprite_alpha(split: str, sprite: int, diameter: int, outlined: bool) -> np.ndarray:
    """Return how much of each pixel a shape covers, (n, n) float32 in 0 … 1, n odd, the centre in the middle.

    Args:
        split: as for `outline`.
        sprite: as for `outline`.
        diameter: of the disc of the same area, in pixels.
        outlined: draw a stroke of a fifth of the diameter inside the edge, and leave the rest open.
    """
    radius = outline(split, sprite) * (diameter / 2)
    half = ceil(radius.max())
    place = (np.arange((2 * half + 1) * _SAMPLES) + 0.5) / _SAMPLES - half - 0.5
    rows, columns = np.meshgrid(place, place, indexing="ij")
    distance = np.hypot(rows, columns)
    edge = radius[np.round(np.degrees(np.arctan2(rows, columns))).astype(int) % _ANGLES]
    covered = distance < edge
    if outlined:
        covered &= distance > edge - _STROKE * diameter
    count = 2 * half + 1
    alpha = covered.reshape(count, _SAMPLES, count, _SAMPLES).mean((1, 3), dtype=np.float32)
    alpha.flags.writeable = False  # it is shared by every clip that shows the shape
    return alpha


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


_BYTES = 4


def render_frames(scene: Scene, *, with_target: bool = True) -> np.ndarray:
    """Return the frames, (frames, size, size, 3) uint8 RGB.

    Args:
        scene: what to draw.
        with_target: False leaves the target out, and nothing else; noise and camera stay as they are.
    """
    canvas = _background(scene)
    for actor in (*scene.decoys, scene.target) if with_target else scene.decoys:
        alpha = sprite_alpha(scene.config.split, actor.sprite, actor.diameter, actor.outlined)
        place = _places(scene, actor, len(alpha))
        opacity = alpha[..., None]
        canvas[place] = canvas[place] * (1 - opacity) + opacity * np.asarray(actor.color, np.float32)
    _draw_bars(scene, canvas)
    if scene.config.difficulty.noise:
        canvas += _noise(scene, canvas.shape) * np.float32(scene.config.difficulty.noise)
    np.rint(canvas, out=canvas)
    return np.clip(canvas, 0, 255, out=canvas).astype(np.uint8)


def visible(scene: Scene, actor: Actor) -> np.ndarray:
    """Return which pixels lie inside an actor's edge and behind no bar, (frames, size, size) bool.

    The hole of an outlined shape belongs to it, so that both kinds have masks of one size.
    """
    alpha = sprite_alpha(scene.config.split, actor.sprite, actor.diameter, False)
    config = scene.config
    inside = np.zeros((config.frames, config.size, config.size), bool)
    inside[_places(scene, actor, len(alpha))] = alpha > 0
    return inside & ~_barred(scene)


def _background(scene: Scene) -> np.ndarray:
    """The photograph in every frame, as the shaking camera sees it: what moves in is more of the photograph."""
    config, shake = scene.config, np.array(scene.shake)
    margin = config.shake  # cut also where the level does not shake: a clip keeps its background from level to level
    photo = render_crop(scene.background, config.split, config.size + 2 * margin, config.size)
    canvas = np.empty((config.frames, config.size, config.size, 3), np.float32)
    for frame, (row, column) in enumerate(margin - shake):
        canvas[frame] = photo[row : row + config.size, column : column + config.size]
    return canvas


def _places(scene: Scene, actor: Actor, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Index arrays (frames, count, count) of the pixels around an actor's centre, on the torus."""
    around = np.arange(count) - count // 2
    centre = track(scene, actor)
    rows, columns = ((centre[:, axis, None] + around) % scene.config.size for axis in (0, 1))
    return np.arange(scene.config.frames)[:, None, None], rows[:, :, None], columns[:, None, :]


def _strip(scene: Scene, bar: Bar) -> np.ndarray:
    """Columns (or rows) that a bar hides in each frame, (frames, width) int64; it shakes with the scene."""
    shake = np.array(scene.shake)[:, int(bar.vertical), None]
    return (bar.start + shake + np.arange(bar.width)) % scene.config.size


def _draw_bars(scene: Scene, canvas: np.ndarray) -> None:
    if not scene.bars:
        return
    front = render_crop(scene.front, scene.config.split, scene.config.size, scene.config.size)
    frames = np.arange(scene.config.frames)[:, None]
    for bar in scene.bars:
        strip = _strip(scene, bar)
        if bar.vertical:
            canvas[frames, :, strip] = front.swapaxes(0, 1)[strip]
        else:
            canvas[frames, strip] = front[strip]


def _barred(scene: Scene) -> np.ndarray:
    """Which pixels a bar hides, (frames, size, size) bool."""
    hidden = np.zeros((scene.config.frames, scene.config.size, scene.config.size), bool)
    frames = np.arange(scene.config.frames)[:, None]
    for bar in scene.bars:
        hidden[(frames, slice(None), _strip(scene, bar)) if bar.vertical else (frames, _strip(scene, bar))] = True
    return hidden


def _noise(scene: Scene, shape: tuple[int, ...]) -> np.ndarray:
    """Noise of mean 0 and standard deviation 1, bell-shaped and at most 3.5: the sum of four random bytes.

    A third of the time of normal deviates, which would be half of the time of a clip.
    """
    rng = np.random.Generator(np.random.SFC64(scene.noise_seed))
    parts = np.frombuffer(rng.bytes(_BYTES * int(np.prod(shape))), np.int8).reshape(_BYTES, *shape)
    total = parts.sum(0, dtype=np.int16).astype(np.float32)
    total += np.float32(_BYTES / 2)  # a signed byte has mean -1/2 …
    total /= np.float32(np.sqrt(_BYTES * (256**2 - 1) / 12))  # … and this variance
    return total


def mask_of_tokens(mask: np.ndarray, grid: TokenGrid) -> np.ndarray:
    """Return the fraction of each tubelet that a mask covers, (t, h, w) float32 in 0 … 1.

    Args:
        mask: (T, H, W) bool, of the model's frames and pixels.
        grid: the model's grid, of T frames of H × W pixels.

    Raises:
        GridError: the grid is of another number of frames or another size.
    """
    (depth, rows, columns), (t, h, w) = grid.tubelet, grid.shape
    if (grid.num_frames, *grid.image_size) != mask.shape:
        raise GridError(
            f"the grid covers {grid.num_frames} frames of {grid.image_size}, the clip has {mask.shape[0]} of "
            f"{mask.shape[1:]}; make it by TokenGrid.from_video of the clip's frames and size"
        )
    return mask.reshape(t, depth, h, rows, w, columns).mean((1, 3, 5), dtype=np.float32)


def window_of_tokens(window: tuple[int, int], frames: int, grid: TokenGrid) -> np.ndarray:
    """Return the fraction of each tubelet row's frames that lie in a window, (t,) float32 in 0 … 1.

    Args:
        window: half-open span of frames (start, stop).
        frames: how many frames the clip has.
        grid: the model's grid, of as many frames.

    Raises:
        GridError: the grid is of another number of frames.
    """
    if grid.num_frames != frames:
        raise GridError(
            f"the grid covers {grid.num_frames} frames, the clip has {frames}; make it by TokenGrid.from_video of the "
            "clip's frames and size"
        )
    inside = np.zeros(frames, np.float32)
    inside[slice(*window)] = 1
    return inside.reshape(grid.t, grid.tubelet[0]).mean(1)
