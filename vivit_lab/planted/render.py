"""Draw a scene: its frames, and which pixels show which shape."""

from __future__ import annotations

import numpy as np

from vivit_lab.planted.photos import render_crop
from vivit_lab.planted.scene import Actor, Bar, Scene, track
from vivit_lab.planted.sprites import sprite_alpha

__all__ = ["render_frames", "visible"]

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
