"""Augmentation of clips: where, when and in which colours a clip is seen, and which classes a mirror would change."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vivit_lab.errors import ConfigError
from vivit_lab.numbers import MOST, checked_numbers
from vivit_lab.processing.processor import VivitImageProcessor, fast_clip

__all__ = ["Augmentation", "Mirror", "jitter_colours", "mirror_of"]

_PAIRS = (
    ("left", "right"),
    ("lefts", "rights"),
    ("leftward", "rightward"),
    ("leftwards", "rightwards"),
    ("leftmost", "rightmost"),
    ("lefthand", "righthand"),
    ("lefthanded", "righthanded"),
    ("clockwise", "counterclockwise"),
    ("east", "west"),
    ("eastward", "westward"),
    ("eastwards", "westwards"),
    ("eastbound", "westbound"),
    ("eastern", "western"),
    ("northeast", "northwest"),
    ("southeast", "southwest"),
    ("ltr", "rtl"),
    ("l2r", "r2l"),
    *zip("←↖↙⇐⇖⇙⟵↤⬅⬉⬋◀↰↲↶↺⤶", "→↗↘⇒⇗⇘⟶↦➡⬈⬊▶↱↳↷↻⤷", strict=True),
)
_OPPOSITE = {**dict(_PAIRS), **{b: a for a, b in _PAIRS}}
# a side only where the class of the other one is there too: swipe_l and swipe_r, turnleft and turnright, <- and ->
_FAINT = (
    ("left", "right"),
    ("links", "rechts"),
    ("gauche", "droite"),
    ("izquierda", "derecha"),
    ("esquerda", "direita"),
    ("sinistra", "destra"),
    ("左", "右"),
)
_OTHER = {**dict(_FAINT), **{b: a for a, b in _FAINT}, "l": "r", "r": "l"}
_INSIDE = re.compile("|".join(side for pair in _FAINT for side in pair))
_TURNED = str.maketrans("<>", "><")
_ARROWS = "".join(sign for sign in _OPPOSITE if not sign.isascii())
_WORDS = re.compile(rf"[{_ARROWS}]|[^\W_]+|[^\x00-\x7f\w\s]|<[-=]+>?|[-=]+>|<<+|>>+")


@dataclass(frozen=True)
class Mirror:
    """What exchanging left and right does to the classes of a data set.

    Args:
        partner: class → the class that its mirror image belongs to, where that is another one of the data set.
        alone: classes that a mirror image leaves, without that of the image being one of the data set.
    """

    partner: Mapping[str, str]
    alone: tuple[str, ...]

    def of(self, label: str) -> str | None:
        """Return the class of a mirror image of a clip of a class, or None where it has none."""
        return None if label in self.alone else self.partner.get(label, label)

    def sentences(self) -> list[str]:
        """Return what is done with mirror images, a sentence each; none where they change no class."""
        told = []
        if pairs := sorted({tuple(sorted(pair)) for pair in self.partner.items()}):
            named = ", ".join(f"{a} and {b}" for a, b in pairs)
            told.append(f"mirrored clips of these classes get each other's label: {named}")
        if self.alone:
            told.append(f"clips of classes that a mirror would change are not mirrored: {_few(self.alone)}")
        return told


def mirror_of(classes: Sequence[str]) -> Mirror:
    """Find the classes whose clips a mirror image would turn into something else.

    A class is one if a word of its name is a side (left, right, their -ward and -hand forms, east, west, an arrow that
    points to a side) or a sense of rotation (clockwise, counterclockwise, anticlockwise, cw, ccw, turning arrows).
    Words are told apart at spaces, punctuation, underscores and capitals: ``turn_left``, ``TurnLeft``, ``up-left``. The
    direction templates of Something-Something ("… from left to right") are of this kind. The letters l and r, arrows
    like ``->``, a side within a longer word (``turnleft``) and sides in some other languages count only where
    exchanging them gives another class. Classes that the words do not tell apart ("left 5", "left -5") are each other's
    image only if all other signs are the same. Up and down, and whatever a name does not say, are not looked at.

    Args:
        classes: names of all classes.

    Example:
        >>> mirror_of(["turn_left", "turn_right", "up", "spin clockwise"])
        Mirror(partner={'turn_left': 'turn_right', 'turn_right': 'turn_left'}, alone=('spin clockwise',))
    """
    words = {name: _words(name) for name in classes}
    partner, alone = {}, []
    for name, each in words.items():
        image = tuple(_OPPOSITE.get(word, word) for word in each)
        certain = image != each
        if not certain:
            image = tuple(map(_faint_image, each))
        other = _the_one(name, image, words) if image != each else name
        if other is None and certain:
            alone.append(name)
        elif other not in (None, name):
            partner[name] = other
    return Mirror(MappingProxyType(partner), tuple(alone))


def _the_one(name: str, image: tuple[str, ...], words: Mapping[str, tuple[str, ...]]) -> str | None:
    """Return the class whose words are an image's; where words name several, the one with the same other signs."""
    others = [other for other, each in words.items() if each == image]
    likewise = [other for other, each in words.items() if each == words[name]]
    if len(others) == len(likewise) == 1:
        return others[0]
    others, likewise = ([each for each in group if _signs(each) == _signs(name)] for group in (others, likewise))
    return others[0] if len(others) == len(likewise) == 1 else None


def _faint_image(word: str) -> str:
    if word[0] in "<>-=":
        return word[::-1].translate(_TURNED)
    return _OTHER.get(word) or _INSIDE.sub(lambda side: _OTHER[side[0]], word)


def _signs(name: str) -> list[str]:
    return re.findall(r"[^\w\s]", name)


def _words(name: str) -> tuple[str, ...]:
    """Return the words of a class's name, in lower case, each sense of rotation by one word."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    text = re.sub(r"\b(anti|counter)[\s_-]*(?=clock)", "counter", spaced.lower().replace("_", " "))
    text = re.sub(r"\bccw\b", "counterclockwise", re.sub(r"\bcw\b", "clockwise", text))
    text = re.sub(r"\b(north|south)[\s-]+(?=(east|west)\b)", r"\1", text)
    return tuple(_WORDS.findall(text))


def _few(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


_LUMA = (0.299, 0.587, 0.114)
_PROBABILITIES = ("scale_probability", "flip", "colour", "grey")
_AMOUNTS = ("brightness", "saturation", "contrast", "hue")


@checked_numbers(error=ConfigError)
@dataclass(frozen=True)
class Augmentation:
    """How training clips are varied. The defaults are those released with Arnab et al. 2021 for Kinetics 400.

    The amounts of colour are those of the paper's data pipeline (DMVR). All randomness comes from the generator of a
    call, so that a clip of a run is a function of the run's seed and the clip's place in it.

    Args:
        stride: lowest and highest distance of sampled frames, in frames; drawn evenly among the whole numbers between.
        random_start: begin the window anywhere in the video; False takes the middle.
        scale: the frame, already resized as the processor does, is scaled by factors drawn between these two, height
            and width each their own; never to less than the crop.
        scale_probability: of scaling at all, 0 … 1.
        random_crop: crop anywhere; False crops the centre.
        resized_crop: instead of scale and crop: cut a box of this share of the frame's area (lowest, highest; 0 … 1)
            and resize it to the model's input. None is off. Not in the paper.
        aspect: lowest and highest ratio of width to height of that box.
        flip: probability of a mirror image, left and right exchanged. ``"auto"`` is one half, but for classes that a
            mirror image changes (left and right, senses of rotation, see ``mirror_of``): those whose mirror image is
            another class get its label, others are not mirrored. A number mirrors clips of all classes alike and keeps
            their labels. What no name tells (text that is read, a left-hand drive) needs a 0.
        colour: probability of a change of colours.
        brightness: largest shift, as a share of the range of levels.
        saturation: colours are multiplied by 1 ± this much, at most.
        contrast: the distance to a frame's mean is multiplied by 1 ± this much, at most.
        hue: largest turn of the colour circle, in turns.
        grey: probability of losing all colour.

    Raises:
        ConfigError: a field is out of its range.

    Example:
        >>> Augmentation(flip=0.0, stride=(1, 4))(frames, np.random.default_rng(0), processor).shape
        torch.Size([32, 3, 224, 224])
    """

    stride: tuple[int, int] = (2, 2)
    random_start: bool = True
    scale: tuple[float, float] = (0.9, 1.33)
    scale_probability: float = 1.0
    random_crop: bool = True
    resized_crop: tuple[float, float] | None = None
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float | str = "auto"
    colour: float = 0.8
    brightness: float = 32 / 255
    saturation: float = 0.4
    contrast: float = 0.4
    hue: float = 0.2
    grey: float = 0.1

    def __post_init__(self) -> None:
        for name, low, high in (("stride", 1, math.inf), ("scale", 1e-3, 1e3), ("aspect", 1e-3, 1e3)):
            self._check_span(name, low, high)
        if self.resized_crop is not None:
            self._check_span("resized_crop", 1e-6, 1)
        if any(isinstance(value, bool) or not isinstance(value, (int, np.integer)) for value in self.stride):
            raise ConfigError(f"stride must be two whole numbers of frames, got {self.stride!r}")
        if isinstance(self.flip, str) and self.flip != "auto":
            raise ConfigError(f"flip must be 'auto' or a probability, 0 … 1, got {self.flip!r}")
        for name in _PROBABILITIES:
            if name == "flip" and self.flip == "auto":
                continue
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be a probability, 0 … 1, got {getattr(self, name)!r}")
        for name in _AMOUNTS:
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must lie in 0 … 1, got {getattr(self, name)!r}")
        for name in ("random_start", "random_crop"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} must be True or False, got {getattr(self, name)!r}")

    def _check_span(self, name: str, low: float, high: float) -> None:
        span = getattr(self, name)
        if isinstance(span, list):
            object.__setattr__(self, name, tuple(span))
            span = tuple(span)
        if not isinstance(span, tuple) or len(span) != 2 or not low <= span[0] <= span[1] <= high:
            raise ConfigError(f"{name} must be two numbers, the lower first, of {low:g} … {high:g}; got {span!r}")

    @classmethod
    @checked_numbers(error=ConfigError)
    def none(cls, stride: int = 2) -> Augmentation:
        """Return the augmentation that changes nothing: the middle window, as the processor prepares it."""
        return cls(
            stride=(stride, stride),
            random_start=False,
            scale_probability=0.0,
            random_crop=False,
            flip=0.0,
            colour=0.0,
            grey=0.0,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-able values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @checked_numbers(count=(1, MOST))
    def frame_indices(self, start: int, stop: int, count: int, generator: np.random.Generator) -> np.ndarray:
        """Return the frames of a window inside a stretch of a video.

        Args:
            start: first frame of the stretch.
            stop: one past its last frame; more than ``start``.
            count: frames of a clip.
            generator: of stride and place.

        Returns:
            (count,) int64, not decreasing. A stretch shorter than the window is followed by repeats of its last frame.
        """
        stride = int(generator.integers(self.stride[0], self.stride[1], endpoint=True))
        room = max(stop - start - (stride * (count - 1) + 1), 0)
        first = start + (int(generator.integers(room, endpoint=True)) if self.random_start else room // 2)
        return (first + stride * np.arange(count)).clip(max=stop - 1)

    def __call__(
        self,
        frames: UInt8[np.ndarray, "frame height width 3"],
        generator: np.random.Generator,
        processor: VivitImageProcessor,
    ) -> Float[Tensor, "frame 3 new_height new_width"]:
        """Return a varied clip as the model's pixel values.

        Args:
            frames: (frame, height, width, 3) uint8 RGB.
            generator: of all that is drawn.
            processor: gives sizes, resampling, and range of the pixel values.

        Returns:
            (frame, 3, height, width) float32 of the model's size, normalised as the processor does. With
            ``flip="auto"`` it is not mirrored, since the clip's class is not known here: see ``vary``.
        """
        return self.vary(frames, generator, processor, 0.0 if isinstance(self.flip, str) else self.flip)[0]

    @checked_numbers(flip=(0, 1))
    def vary(
        self,
        frames: UInt8[np.ndarray, "frame height width 3"],
        generator: np.random.Generator,
        processor: VivitImageProcessor,
        flip: float,
    ) -> tuple[Float[Tensor, "frame 3 new_height new_width"], bool]:
        """Return a varied clip as from a call, and whether it is a mirror image.

        Args:
            frames: (frame, height, width, 3) uint8 RGB.
            generator: of all that is drawn.
            processor: gives sizes, resampling, and range of the pixel values.
            flip: probability of a mirror image, in place of the field.
        """
        levels = self._place(frames, generator, processor)
        mirrored = bool(generator.random() < flip)
        if mirrored:
            levels = levels.flip(-1)
        pixels = levels.to(torch.float32)
        if generator.random() < self.colour:
            shift = 255 * self.brightness * float(generator.uniform(-1, 1))
            saturation = 1 + self.saturation * float(generator.uniform(-1, 1))
            contrast = 1 + self.contrast * float(generator.uniform(-1, 1))
            turn = self.hue * float(generator.uniform(-1, 1))
            pixels = jitter_colours(pixels, shift, saturation, contrast, turn)
        if generator.random() < self.grey:
            pixels = _luma(pixels).expand_as(pixels)
        gain, bias = (torch.tensor(values).reshape(3, 1, 1) for values in processor.gain_and_bias(3))
        return (pixels * gain + bias).contiguous(), mirrored

    def _place(self, frames: np.ndarray, generator: np.random.Generator, processor: VivitImageProcessor) -> Tensor:
        """Return the levels (frame, 3, height, width) uint8 of the part of the frames that is shown."""
        plain = replace(processor, do_rescale=False, offset=False, do_normalize=False)
        rows, columns = frames.shape[1:3]
        plan = plain.plan(rows, columns)
        wanted = {"height": plan.height, "width": plan.width}
        if self.resized_crop is not None:
            top, left, height, width = self._box(rows, columns, generator)
            part = np.ascontiguousarray(frames[:, top : top + height, left : left + width])
            return fast_clip(part, replace(plain, do_resize=True, size=wanted, do_center_crop=False))
        scaled = plan.resized
        if generator.random() < self.scale_probability:
            factors = generator.uniform(*self.scale, size=2)
            scaled = tuple(round(size * factor) for size, factor in zip(plan.resized, factors, strict=True))
        if scaled == plan.resized and not self.random_crop:
            return fast_clip(frames, plain)
        size = {"height": max(scaled[0], plan.height), "width": max(scaled[1], plan.width)}
        whole = fast_clip(frames, replace(plain, do_resize=True, size=size, do_center_crop=False))
        room = (size["height"] - plan.height, size["width"] - plan.width)
        top, left = (int(generator.integers(free, endpoint=True)) if self.random_crop else free // 2 for free in room)
        return whole.narrow(2, top, plan.height).narrow(3, left, plan.width)

    def _box(self, rows: int, columns: int, generator: np.random.Generator) -> tuple[int, int, int, int]:
        """Return top, left, height and width of a box of the wanted area and aspect, as far as it fits."""
        assert self.resized_crop is not None, "asked for only where it is on"
        area = rows * columns * float(generator.uniform(*self.resized_crop))
        aspect = math.exp(float(generator.uniform(*np.log(self.aspect))))
        height = min(max(round(math.sqrt(area / aspect)), 1), rows)
        width = min(max(round(math.sqrt(area * aspect)), 1), columns)
        top, left = (int(generator.integers(free, endpoint=True)) for free in (rows - height, columns - width))
        return top, left, height, width


def jitter_colours(
    levels: Float[Tensor, "frame 3 height width"], shift: float, saturation: float, contrast: float, hue: float
) -> Float[Tensor, "frame 3 height width"]:
    """Change the colours of a clip, all frames alike: brightness, saturation, contrast, hue, in this order.

    Args:
        levels: (frame, 3, height, width), 0 … 255.
        shift: added to all levels.
        saturation: the distance to the pixel's grey is multiplied by this.
        contrast: the distance to the frame's mean of each channel is multiplied by this.
        hue: turn about the axis of greys, in turns (in YIQ, so that the grey stays).

    Returns:
        The same shape, cut to 0 … 255.
    """
    levels = levels + shift
    grey = _luma(levels)
    levels = grey + saturation * (levels - grey)
    mean = levels.mean(dim=(-2, -1), keepdim=True)
    levels = mean + contrast * (levels - mean)
    if hue:
        levels = torch.einsum("oc,fchw->fohw", _hue_matrix(hue), levels)
    return levels.clamp(0, 255)


def _luma(levels: Tensor) -> Tensor:
    weights = torch.tensor(_LUMA, dtype=levels.dtype).reshape(3, 1, 1)
    return (levels * weights).sum(-3, keepdim=True)


def _hue_matrix(hue: float) -> Tensor:
    """Return the (3, 3) matrix that turns colours about the axis of greys."""
    to_yiq = torch.tensor([_LUMA, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)], dtype=torch.float64)
    cosine, sine = math.cos(math.tau * hue), math.sin(math.tau * hue)
    turn = torch.tensor([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]], dtype=torch.float64)
    return (torch.linalg.inv(to_yiq) @ turn @ to_yiq).to(torch.float32)
