"""The ViViT image processor: from frames, arrays or clips to the pixel values a model wants, exactly or fast."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from vivit_lab.checkpoints.checkpoint import Checkpoint
from vivit_lab.errors import BackendError, ConfigError, DoubleNormalizationWarning, InputError, VivitLabWarning
from vivit_lab.processing.inputs import (
    CHANNELS_FIRST,
    CHANNELS_LAST,
    Frame,
    Frames,
    channel_layout,
    check_frames,
    check_layout,
    looks_scaled,
    read_clips,
)
from vivit_lab.processing.options import CropPlan, ProcessorOptions, as_image_processor, read_config, write_config
from vivit_lab.video.clip import Clip
from vivit_lab.warn import warn_caller

__all__ = [
    "BatchFeature",
    "ExactPath",
    "VivitImageProcessor",
    "aligned_span",
    "fast_clip",
    "resample_matrix",
    "resize_by_matrices",
    "to_levels",
]

_FEWEST_PIXELS = 4096  # in a part that noise can prove to be exact


@dataclass(frozen=True)
class ExactPath:
    """Turns frames into model inputs, one after the other or in threads.

    Args:
        options: what to do.
        input_layout: the channel layout of the frames, or None to find it from each frame's shape.
        output_layout: the channel layout of the result, or None to keep that of the frame.
    """

    options: ProcessorOptions
    input_layout: str | None = None
    output_layout: str | None = CHANNELS_FIRST
    _tables: dict[tuple[int, bool], np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    def clip(self, frames: Frames) -> list[np.ndarray]:
        """Return the processed frames of one clip, as many threads at work as torch is allowed."""
        frames = list(frames)
        for frame in frames:
            if isinstance(frame, Image.Image):
                frame.load()  # reading the file behind a lazy image is not safe in threads
        workers = min(torch.get_num_threads(), len(frames))
        if workers == 1:
            return [self.frame(frame) for frame in frames]
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(self.frame, frames))

    def frame(self, frame: Frame) -> np.ndarray:
        """Return one processed frame.

        Raises:
            ConfigError: the options contradict each other or the number of channels.
            InputError: the frame's shape, dtype or values cannot be processed.
        """
        if isinstance(frame, Image.Image) and frame.mode == "RGB" and self.options.do_resize:
            layout = channel_layout((frame.height, frame.width, 3), self.input_layout)
            if layout == CHANNELS_LAST:  # it need not become an array only to be made an image again
                plan = self.options.plan(frame.height, frame.width)
                return self._finish(_resized_region(frame, plan, self.options.resample), plan, layout)
        pixels = _as_array(frame)
        layout = channel_layout(pixels.shape, self.input_layout)
        pixels = pixels if layout == CHANNELS_LAST else np.moveaxis(pixels, 0, -1)
        plan = self.options.plan(*pixels.shape[:2])
        if not self.options.do_resize:
            top, left, bottom, right = plan.visible
            return self._finish(pixels[top:bottom, left:right], plan, layout)
        levels, unit = to_levels(pixels)
        region = _resized_region(_to_image(levels), plan, self.options.resample)
        return self._finish(region, plan, layout, unit)

    def _finish(self, pixels: np.ndarray, plan: CropPlan, layout: str, unit: bool = False) -> np.ndarray:
        """Return the result from the pixels that the crop shows: filled up, scaled, in the layout asked for."""
        pixels = _filled_up(pixels, plan)
        to_first = (self.output_layout or layout) == CHANNELS_FIRST
        if pixels.dtype == np.uint8:
            return _look_up(self._table(pixels.shape[-1], unit), pixels, to_first)
        pixels = self.options.arithmetic(pixels)
        # a copy, so that the result never shares memory with the caller's frames
        return (np.moveaxis(pixels, -1, 0) if to_first else pixels).copy()

    def _table(self, channels: int, unit: bool) -> np.ndarray:
        """Return (256, channels): what each uint8 level becomes."""
        key = (channels, unit)
        if key not in self._tables:
            levels = np.repeat(np.arange(256, dtype=np.uint8)[:, None], channels, axis=1)
            # frames that came as floats in [0, 1] are brought back to them after the resize
            given = (levels.astype(np.float64) * (1 / 255)).astype(np.float32) if unit else levels
            self._tables[key] = self.options.arithmetic(given)
        return self._tables[key]


def _as_array(frame: Frame) -> np.ndarray:
    if isinstance(frame, torch.Tensor):
        frame = frame.detach().cpu()
        # numpy has no bfloat16; float32 holds each of its values
        pixels = (frame.float() if frame.dtype == torch.bfloat16 else frame).numpy()
    else:
        pixels = np.asarray(frame)
    if pixels.dtype.kind not in "buif":
        raise InputError(f"a frame must hold real numbers, got {pixels.dtype}")
    return pixels


def to_levels(pixels: np.ndarray) -> tuple[np.ndarray, bool]:
    """Return pixels as the uint8 levels that a resize works on, and whether they were in [0, 1].

    Raises:
        InputError: the values are neither whole numbers in [0, 255] nor numbers in [0, 1].
    """
    if pixels.dtype == np.uint8:
        return pixels, False
    advice = ""
    if pixels.size and np.isfinite(pixels).all():
        low, high = pixels.min(), pixels.max()
        # the order matters: a frame of only 0 and 1 counts as whole numbers
        if low >= 0 and high <= 255 and np.allclose(pixels, pixels.astype(int)):
            return pixels.astype(np.uint8), False
        if low >= 0 and high <= 1:
            return (pixels.astype(np.float64) * 255).astype(np.float32).astype(np.uint8), True
        found = f"values from {low} to {high}"
        advice = ", or give do_resize=False" if low >= 0 and high <= 255 else advice
    else:
        found = "values that are not finite"
    raise InputError(
        f"to be resized, a frame must be uint8, or hold whole numbers in [0, 255] or numbers in [0, 1]; got {found} "
        f"({pixels.dtype}); convert it{advice}"
    )


def _to_image(levels: np.ndarray) -> Image.Image:
    channels = levels.shape[-1]
    if channels not in (1, 2, 3, 4):
        raise InputError(
            f"a frame of {channels} channels cannot be resized, only 1 to 4 can; is input_data_format right?"
        )
    return Image.fromarray(levels[..., 0] if channels == 1 else levels)


def _resized_region(image: Image.Image, plan: CropPlan, resample: int) -> np.ndarray:
    """Return the part of the resized frame that the crop shows, (rows, columns, channels)."""
    top, left, bottom, right = plan.visible
    y0, y1 = aligned_span(image.height, plan.resized[0], top, bottom)
    x0, x1 = aligned_span(image.width, plan.resized[1], left, right)
    spans = (y0, y1, x0, x1)
    if resample == Image.Resampling.BILINEAR and _part_is_exact(image.size, plan.resized, spans):
        part = np.asarray(_resize_part(image, plan.resized, spans))
    else:
        y0, x0 = 0, 0
        part = np.asarray(image.resize((plan.resized[1], plan.resized[0]), resample))
    part = part[..., None] if part.ndim == 2 else part
    return part[top - y0 : bottom - y0, left - x0 : right - x0]


def _resize_part(image: Image.Image, resized: tuple[int, int], spans: tuple[int, int, int, int]) -> Image.Image:
    """Return rows y0 to y1 and columns x0 to x1 of the bilinear resize, computing no others."""
    (width, height), (y0, y1, x0, x1) = image.size, spans
    box = (x0 * width / resized[1], y0 * height / resized[0], x1 * width / resized[1], y1 * height / resized[0])
    return image.resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR, box=box)


@lru_cache(maxsize=4096)
def _part_is_exact(size: tuple[int, int], resized: tuple[int, int], spans: tuple[int, int, int, int]) -> bool:
    """Whether resizing the part gives the bits of resizing the whole, found out on noise of that size.

    Newer versions of Pillow choose by the sizes which axis they resize first, and round in between. Where the part's
    order differs from the whole frame's, several pixels in a hundred of a noise differ, whatever the installed
    version's rule is. A part of few pixels could pass by chance, and is not worth the test.
    """
    y0, y1, x0, x1 = spans
    if (y1 - y0, x1 - x0) == resized or (y1 - y0) * (x1 - x0) < _FEWEST_PIXELS:
        return False
    noise = np.random.default_rng(0).integers(0, 256, size[::-1], dtype=np.uint8)
    image = Image.fromarray(noise)
    whole = np.asarray(image.resize((resized[1], resized[0]), Image.Resampling.BILINEAR))
    return np.array_equal(whole[y0:y1, x0:x1], np.asarray(_resize_part(image, resized, spans)))


def aligned_span(source: int, target: int, start: int, stop: int) -> tuple[int, int]:
    """Return a span of a resized axis that holds [start, stop) and may be resized alone, to the very same bits.

    Pillow resizes a box of the source, but takes the box's edges in single precision. So both ends of the span must
    lie on source positions of at most six binary places. With the scale p/q in lowest terms those are multiples of
    q's odd part. The box then has the very same scale as a double, and the centres of its pixels differ by rounding
    in the last place only. That cannot change a weight of the bilinear filter, which Pillow rounds to 22 binary
    places: weights are fractions with a denominator below 2^16 here, so none is close to halfway between two steps.

    Args:
        source: pixels of the axis before the resize.
        target: pixels after it.
        start: first pixel wanted, after the resize.
        stop: end of the pixels wanted.

    Returns:
        (start, stop) of the span to compute; all of the axis where nothing smaller is safe.
    """
    common = math.gcd(source, target)
    p, q = source // common, target // common
    power = q & -q
    step = q // power if power <= 64 else q
    if source >= 2**13 or 4 * max(p, q) * (p // q + 2) >= 2**16:
        return (0, target)
    return (start // step * step, min(-(-stop // step) * step, target))


def _filled_up(pixels: np.ndarray, plan: CropPlan) -> np.ndarray:
    """Return the visible pixels with zeros around them where the resized frame was smaller than the crop."""
    top, left, bottom, right = plan.visible
    if pixels.shape[:2] == (plan.height, plan.width):
        return pixels
    result = np.zeros((plan.height, plan.width, pixels.shape[-1]), pixels.dtype)
    result[top - plan.top : bottom - plan.top, left - plan.left : right - plan.left] = pixels
    return result


def _look_up(table: np.ndarray, levels: np.ndarray, to_first: bool) -> np.ndarray:
    """Return table[level, channel] for levels (rows, columns, channels)."""
    rows, columns, channels = levels.shape
    result = np.empty((channels, rows, columns) if to_first else levels.shape, table.dtype)
    for channel in range(channels):
        out = result[channel] if to_first else result[..., channel]
        out[...] = table[:, channel][levels[..., channel]]
    return result


_CHUNK = 2**24  # float64 numbers that the matrix path holds at once: 128 MB
_CLEARLY = 2 / 3  # of its size a frame keeps at most, where torch's own resize is trusted
_WEIGHT_UNIT = 2.0**-22  # Pillow's weights are whole multiples of it


def fast_clip(
    frames: Frames,
    options: ProcessorOptions,
    input_layout: str | None = None,
    output_layout: str | None = CHANNELS_FIRST,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """Return the processed frames (T, C, h, w) of one clip, or (T, h, w, C).

    Args:
        frames: uint8 frames of one size: a 4-D array or tensor, or a list of frames.
        options: what to do.
        input_layout: the channel layout of the frames, or None to find it from their shape.
        output_layout: the channel layout of the result, or None to keep that of the frames.
        device: where to compute; None is where the frames are.

    Raises:
        ConfigError: the options contradict each other or the number of channels.
        InputError: the frames are not uint8, not of one size, or have neither 1 nor 3 channels.
        BackendError: the device has no such filter.
    """
    clip = _as_tensor(frames)
    if clip.dtype != torch.uint8:
        raise InputError(f"the fast path wants uint8 frames, got {clip.dtype}; convert them, or give fast=False")
    layout = channel_layout(clip.shape[1:], input_layout)
    clip = clip if layout == CHANNELS_FIRST else clip.permute(0, 3, 1, 2)
    clip = clip if device is None else clip.to(device)
    channels = clip.shape[1]
    if channels not in (1, 3):
        raise InputError(f"the fast path wants frames of 1 or 3 channels, got {channels}; give fast=False")
    plan = options.plan(*clip.shape[2:])
    if clip.device.type == "cpu" and options.do_resize and not _torch_resizes_well(clip, plan, options):
        return torch.from_numpy(np.stack(ExactPath(options, CHANNELS_FIRST, output_layout or layout).clip(clip)))
    levels = _resized_and_cropped(clip, plan, options)
    last = (output_layout or layout) == CHANNELS_LAST
    levels = levels.permute(0, 2, 3, 1) if last else levels
    if not (options.do_rescale or options.do_normalize):
        return levels.clone(memory_format=torch.contiguous_format)
    gain, bias = (
        torch.tensor(numbers, dtype=torch.float32, device=levels.device).view((channels,) if last else (channels, 1, 1))
        for numbers in options.gain_and_bias(channels)
    )
    # contiguous in the order of the result, whatever that of the source's memory was
    return levels.to(torch.float32, memory_format=torch.contiguous_format).mul_(gain).add_(bias)


def _as_tensor(frames: Frames) -> torch.Tensor:
    if isinstance(frames, (torch.Tensor, np.ndarray)):
        return _one_tensor(frames)
    tensors = [_one_tensor(frame) for frame in frames]
    kinds = {(tuple(tensor.shape), tensor.dtype) for tensor in tensors}
    if len(kinds) > 1:
        found = " and ".join(f"{list(shape)} {dtype}" for shape, dtype in sorted(kinds, key=str))
        raise InputError(f"the fast path wants frames of one size and dtype, got {found}; give fast=False")
    return torch.stack(tensors)


def _one_tensor(pixels: Frame) -> torch.Tensor:
    if isinstance(pixels, torch.Tensor):
        return pixels.detach()
    array = np.asarray(pixels)
    # torch takes no array that is read backwards, and warns of one that may not be written
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()
    try:
        return torch.from_numpy(array)
    except TypeError as error:
        raise InputError(f"the fast path wants uint8 frames, got {array.dtype}") from error


def _resized_and_cropped(clip: torch.Tensor, plan: CropPlan, options: ProcessorOptions) -> torch.Tensor:
    """Return the levels (T, C, h, w) uint8 that the crop shows, zeros where there is nothing to show."""
    top, left, bottom, right = plan.visible
    if tuple(clip.shape[2:]) != plan.resized:
        if clip.device.type != "cpu":
            return resize_by_matrices(clip, plan, options.resample)
        clip = functional.interpolate(clip, size=plan.resized, mode="bilinear", antialias=True)
    clip = clip.narrow(2, top, bottom - top).narrow(3, left, right - left)
    before = (top - plan.top, left - plan.left)
    after = (plan.height - before[0] - clip.shape[2], plan.width - before[1] - clip.shape[3])
    return functional.pad(clip, (before[1], after[1], before[0], after[0])) if any(before + after) else clip


def _torch_resizes_well(clip: torch.Tensor, plan: CropPlan, options: ProcessorOptions) -> bool:
    """Whether torch's uint8 resize is at most one level off Pillow's.

    Torch's rounder weights put a few pixels of each pass one level off. A pass that shrinks averages several of them;
    one that enlarges, or hardly shrinks, may add its own level to that of a single one.
    """
    if tuple(clip.shape[2:]) == plan.resized:
        return True
    shrinks = all(target <= _CLEARLY * size for size, target in zip(clip.shape[2:], plan.resized, strict=True))
    return options.resample == Image.Resampling.BILINEAR and shrinks


def resize_by_matrices(clip: torch.Tensor, plan: CropPlan, resample: int) -> torch.Tensor:
    """Resize and crop a clip (T, C, H, W) uint8 by two matrix products, on any device.

    Returns:
        (T, C, height, width) uint8, zeros where the resized frame does not reach. Pillow's own levels, except on a
        device without float64 (MPS), see the module.

    Raises:
        BackendError: there are no matrices for that filter.
    """
    if resample not in _SUPPORT:
        name = Image.Resampling(resample).name
        raise BackendError(f"the fast path has no filter {name} ({resample}) on {clip.device}; give fast=False")
    (height, width), device = clip.shape[2:], clip.device
    rows, y0, y1 = resample_matrix(height, plan.resized[0], plan.top, plan.height, resample)
    columns, x0, x1 = resample_matrix(width, plan.resized[1], plan.left, plan.width, resample)
    dtype = torch.float32 if device.type in _NO_FLOAT64 else torch.float64
    vertical = torch.tensor(rows, dtype=dtype, device=device)
    horizontal = torch.tensor(columns, dtype=dtype, device=device).T
    products = [lambda levels: levels @ horizontal, lambda levels: vertical @ levels]
    if _vertical_first((height, width), plan.resized):
        products.reverse()
    step = max(1, _CHUNK // (clip.shape[1] * (y1 - y0) * (x1 - x0)))
    results = []
    for part in clip.narrow(2, y0, y1 - y0).narrow(3, x0, x1 - x0).split(step):
        for product in products:  # each rounds halves up, as Pillow does
            part = product(part.to(dtype)).add_(0.5).floor_().clamp_(0, 255)
        results.append(part.to(torch.uint8))
    return torch.cat(results)


def _vertical_first(size: tuple[int, int], resized: tuple[int, int]) -> bool:
    """Whether the installed Pillow resizes the vertical axis first; filters with negative weights show the order."""
    rows_lost, columns_lost = size[0] - resized[0], size[1] - resized[1]
    return rows_lost > max(0, 2 * columns_lost) and _pillow_weighs_its_passes()


@lru_cache(maxsize=1)
def _pillow_weighs_its_passes() -> bool:
    """Whether the installed Pillow chooses the order of its passes (13 does), found out on a little noise."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8))
    rows_last = image.resize((128, 64), Image.Resampling.BILINEAR).resize((128, 32), Image.Resampling.BILINEAR)
    return image.resize((128, 32), Image.Resampling.BILINEAR).tobytes() != rows_last.tobytes()


@lru_cache(maxsize=64)
def resample_matrix(source: int, target: int, first: int, count: int, resample: int) -> tuple[np.ndarray, int, int]:
    """Return Pillow's resize of one axis as a matrix.

    Args:
        source: pixels of the axis before the resize.
        target: pixels after it.
        first: the pixel after the resize that is row 0 of the matrix; may be negative.
        count: rows of the matrix. A row of a pixel outside the axis is zero.
        resample: Pillow's number of the filter.

    Returns:
        (count, stop - start) float64, multiples of 2^-22, and the span (start, stop) of source pixels that its columns
        stand for.
    """
    lowest, highest = max(first, 0), min(first + count, target)
    matrix = np.zeros((count, source))
    scale = source / target
    if resample == Image.Resampling.NEAREST or source == target:
        # Pillow steps along the axis, and so do we, to round as it does
        centres = np.cumsum([scale * 0.5] + [scale] * (target - 1))[lowest:highest]
        matrix[np.arange(lowest, highest) - first, centres.astype(int)] = 1
    else:
        # the order of these operations is Pillow's: a weight may lie halfway between two multiples
        stretch = max(scale, 1.0)
        support = _SUPPORT[resample] * stretch
        for pixel in range(lowest, highest):
            centre = (pixel + 0.5) * scale
            start, stop = max(int(centre - support + 0.5), 0), min(int(centre + support + 0.5), source)
            weights = _weights(resample, (np.arange(start, stop) - centre + 0.5) * (1.0 / stretch))
            units = weights / np.cumsum(weights)[-1] / _WEIGHT_UNIT
            matrix[pixel - first, start:stop] = np.trunc(units + np.copysign(0.5, units)) * _WEIGHT_UNIT
    used = np.flatnonzero(matrix.any(axis=0))
    start, stop = int(used[0]), int(used[-1]) + 1
    return matrix[:, start:stop].copy(), start, stop


_NO_FLOAT64 = frozenset({"mps"})
_SUPPORT = {
    int(Image.Resampling.NEAREST): 0.0,
    int(Image.Resampling.BOX): 0.5,
    int(Image.Resampling.BILINEAR): 1.0,
    int(Image.Resampling.HAMMING): 1.0,
    int(Image.Resampling.BICUBIC): 2.0,
    int(Image.Resampling.LANCZOS): 3.0,
}


def _weights(resample: int, x: np.ndarray) -> np.ndarray:
    """Return a filter at distances ``x`` from its centre, zero outside its support, in Pillow's own arithmetic."""
    distance = np.abs(x)
    if resample == Image.Resampling.BOX:
        return ((x > -0.5) & (x <= 0.5)).astype(float)
    if resample == Image.Resampling.BILINEAR:
        return np.clip(1 - distance, 0, None)
    if resample == Image.Resampling.HAMMING:
        angle = distance * math.pi
        a, b = float(np.float32(0.54)), float(np.float32(0.46))  # Pillow has the two in single precision
        window = np.where(x == 0, 1.0, a + b * _each(math.cos, angle))
        return np.where(distance < 1, _sinc(distance) * window, 0.0)
    if resample == Image.Resampling.LANCZOS:
        return np.where((x >= -3) & (x < 3), _sinc(x) * _sinc(x / 3), 0.0)
    # Keys' cubic with a = -1/2
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = (((distance - 5) * distance + 8) * distance - 4) * -0.5
    return np.where(distance < 1, near, np.where(distance < 2, far, 0.0))


def _sinc(x: np.ndarray) -> np.ndarray:
    angle = x * math.pi
    return np.where(x == 0, 1.0, _each(math.sin, angle) / np.where(x == 0, 1.0, angle))


def _each(function: Callable[[float], float], values: np.ndarray) -> np.ndarray:
    """Return a function of the C library at each value; numpy's own may differ from it in the last place."""
    return np.array([function(value) for value in values.tolist()])


_announced: set[tuple[type[Warning], str]] = set()  # what this process has been told already, of which options


class BatchFeature(dict):
    """A dictionary whose entries are attributes too: ``features["pixel_values"]`` or ``features.pixel_values``."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no entry {name!r}, only {sorted(self)}") from None

    def to(self, *args: Any, **kwargs: Any) -> BatchFeature:
        """Send every tensor through ``tensor.to(...)`` and return these same features, as in transformers.

        A dtype is for floating tensors: others change their device only. Entries that are no tensors stay as they are.
        """
        for name, value in self.items():
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                self[name] = value.to(*args, **kwargs)
            elif isinstance(value, torch.Tensor):
                device = torch.empty(0, device=value.device).to(*args, **kwargs).device
                self[name] = value.to(device, non_blocking=kwargs.get("non_blocking", False))
        return self


@dataclass(frozen=True)
class VivitImageProcessor(ProcessorOptions):
    """Resizes, crops, rescales and normalises clips as ViViT wants them.

    The fields are those of `ProcessorOptions`. A processor is frozen: ``dataclasses.replace(processor, ...)`` makes
    another, and every option can be given for a single call.

    The defaults are those of transformers, and so normalise twice: pixels 0/127/255 become −3/−1.0078/1, while the
    published models were trained on −1/−0.0039/1. The first use of each such configuration in a process says so in a
    `DoubleNormalizationWarning`; `trained_range` is the repaired preset.

    Example:
        >>> processor = VivitImageProcessor.trained_range()
        >>> pixel_values = processor(frames, return_tensors="pt").pixel_values  # (1, T, 3, 224, 224) in [-1, 1]
        >>> processor.geometry(1080, 1920).to_source((0, 0, 224, 224))
    """

    @classmethod
    def trained_range(cls, **overrides: Any) -> VivitImageProcessor:
        """Return the preset for the range the published ViViT models were trained on, [−1, 1]."""
        return cls(**{"do_normalize": False, **overrides})

    @classmethod
    def imagenet(cls, **overrides: Any) -> VivitImageProcessor:
        """Return the preset of models started from ImageNet weights: [0, 1] less ImageNet's mean, by its deviation."""
        preset = {
            "rescale_factor": 1 / 255,
            "offset": False,
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
        }
        return cls(**{**preset, **overrides})

    def __call__(self, videos: Any, **arguments: Any) -> BatchFeature:
        """Process videos; the arguments are those of `preprocess`."""
        return self.preprocess(videos, **arguments)

    def preprocess(
        self,
        videos: Any,
        *,
        return_tensors: str | None = None,
        data_format: str | None = CHANNELS_FIRST,
        input_data_format: str | None = None,
        fast: bool = False,
        device: torch.device | str | None = None,
        **overrides: Any,
    ) -> BatchFeature:
        """Return the pixel values of one clip or a batch of clips.

        Args:
            videos: a `Clip`, a list of frames (PIL images, 3-D arrays or tensors), a 4-D array or tensor, or a list of
                such clips, or a 5-D array or tensor. Pixels are levels 0–255 of any dtype; numbers in [0, 1] want
                ``do_rescale=False, offset=False``. A single frame is a clip of one.
            return_tensors: ``"pt"`` for a tensor, ``"np"`` for an array; None, transformers' default, for a list of
                clips, each a list of frames as arrays. The fast path gives a tensor for None, too.
            data_format: channel layout of the result, ``"channels_first"`` or ``"channels_last"``; None keeps that of
                the input.
            input_data_format: channel layout of the frames; None finds it from an axis of 1 or 3. A `Clip` is channels
                last always.
            fast: compute with tensors, at most one uint8 level off (two on MPS, which has no float64); wants uint8
                frames of 1 or 3 channels.
            device: for tensors, where they shall be; the fast path computes there. None is where the frames are.
            **overrides: any option, for this call only; None keeps the processor's own.

        Returns:
            ``pixel_values`` (batch, frames, channels, height, width); float32, unless rescale and normalisation are
            both off (then the levels), or normalisation alone is on and the frames were float16 or float64.

        Raises:
            ConfigError: an option is unknown, wrong, or contradicts another.
            InputError: the videos or another argument cannot be read, clips do not fit into one tensor, or a pixel is
                NaN, infinite or, where it is to be rescaled, outside 0..255.
        """
        processor = self._for_call(overrides)
        if return_tensors not in (None, "pt", "np"):
            raise InputError(f"return_tensors must be None, 'pt' or 'np', got {return_tensors!r}")
        if device is not None and return_tensors != "pt" and not fast:
            raise InputError(f"device={device!s} needs tensors: give return_tensors='pt' or fast=True")
        input_layout = check_layout("input_data_format", input_data_format)
        output_layout = check_layout("data_format", data_format)
        clips = read_clips(videos, input_layout)
        processor.check_usable()
        for number, (clip, _) in enumerate(() if processor.do_resize else clips):  # a resize refuses more itself
            check_frames(clip, f"clip {number}" if len(clips) > 1 else "the clip", levels=processor.do_rescale)
        if processor.normalizes_twice:
            low, high = processor.value_range
            _announce(_NORMALIZES_TWICE.format(low, high), DoubleNormalizationWarning, processor)
        if fast:
            pixels = _stack([fast_clip(clip, processor, layout, output_layout, device) for clip, layout in clips])
            return BatchFeature(pixel_values=pixels.cpu().numpy() if return_tensors == "np" else pixels)
        path = ExactPath(processor, None, output_layout)
        results = [replace(path, input_layout=layout).clip(clip) for clip, layout in clips]
        if processor.do_rescale and any(looks_scaled(clip) for clip, _ in clips):
            _announce(_LOOKS_SCALED, VivitLabWarning, processor)
        if return_tensors is None:
            return BatchFeature(pixel_values=results)
        pixels = _stack_arrays(results)
        return BatchFeature(pixel_values=pixels if return_tensors == "np" else torch.from_numpy(pixels).to(device))

    def prepare(self, clip: Clip, *, fast: bool = False, device: torch.device | str | None = None) -> Clip:
        """Return the clip with ``pixel_values`` (1, T, 3, h, w) float32 and the geometry they were cut by.

        Args:
            clip: the clip; its frames stay as they are.
            fast: whether to take the fast path.
            device: where the pixel values shall be.
        """
        pixels = self.preprocess(clip, return_tensors="pt", fast=fast, device=device).pixel_values
        return clip.prepared(pixels.to(torch.float32), self.geometry(*clip.size))

    def _for_call(self, overrides: dict[str, Any]) -> VivitImageProcessor:
        given = {name: value for name, value in overrides.items() if value is not None}
        _check_names(overrides)
        return replace(self, **given) if given else self

    def to_dict(self) -> dict[str, Any]:
        """Return the content of a preprocessor_config.json, fields that were only kept included."""
        options = {name: getattr(self, name) for name in _option_names()}
        # through JSON: the caller may change what it gets
        return json.loads(json.dumps({**self.extra, **options, "image_processor_type": "VivitImageProcessor"}))

    @classmethod
    def from_dict(cls, config: dict[str, Any], **overrides: Any) -> VivitImageProcessor:
        """Return the processor of a preprocessor_config.json's content.

        Args:
            config: fields that ViViT's processor does not have are kept in ``extra``, and written back by `to_dict`.
                That of transformers 5's video processor is taken too, which computes what the fast path here does.
            **overrides: options that take the place of the file's.

        Raises:
            ConfigError: a field is wrong, an override is unknown, or the content is of another model's processor.
        """
        _check_names(overrides)
        config = as_image_processor(config)
        kind = config.get("image_processor_type") or config.get("feature_extractor_type") or "VivitImageProcessor"
        if not str(kind).startswith("Vivit"):
            raise ConfigError(
                f"the configuration is of a {kind}, whose missing fields have other defaults than ViViT's (offset, "
                "rescale_factor); build VivitImageProcessor(...) with the options you want"
            )
        known = set(_option_names())
        options = {name: value for name, value in config.items() if name in known}
        ignored = {*known, "image_processor_type", "feature_extractor_type"}
        extra = {name: value for name, value in config.items() if name not in ignored}
        return cls(**{**options, **overrides}, extra=extra)

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str] | Checkpoint,
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        **overrides: Any,
    ) -> VivitImageProcessor:
        """Return the processor that a model was saved with.

        Args:
            source: a directory with a preprocessor_config.json, or transformers 5's video_preprocessor_config.json;
                such a file; a Hub id, ``"bundled"`` or ``"planted"``; or an opened `Checkpoint`.
            revision: branch, tag or commit of the Hub repository.
            cache_dir: where downloads are kept; None is the Hub client's cache.
            local_files_only: look into the cache only.
            token: the Hub token; None is the one that the Hub client finds.
            **overrides: options that take the place of the file's.

        Raises:
            CheckpointNotFoundError: there is no such file.
            ConfigError: the file is not a processor configuration.
        """
        place = {"revision": revision, "cache_dir": cache_dir, "local_files_only": local_files_only, "token": token}
        return cls.from_dict(read_config(source, **place), **overrides)

    def save_pretrained(self, directory: str | os.PathLike[str]) -> list[str]:
        """Write preprocessor_config.json, which transformers reads too, and return its path in a list.

        Raises:
            InputError: there is a file at that path.
        """
        return [write_config(directory, self.to_dict())]


def _option_names() -> list[str]:
    return [field.name for field in fields(ProcessorOptions) if field.name != "extra"]


def _check_names(overrides: dict[str, Any]) -> None:
    for name in overrides:
        if name not in _option_names():
            close = get_close_matches(name, _option_names(), n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"the options are {', '.join(_option_names())}"
            raise ConfigError(f"the processor has no option {name!r}; {hint}")


def _announce(message: str, category: type[Warning], options: ProcessorOptions) -> None:
    """Warn once of each configuration; where warnings are errors, each use of it is one."""
    key = (category, repr(options))
    if key not in _announced:
        warn_caller(message, category)
        _announced.add(key)


def _stack(clips: list[torch.Tensor]) -> torch.Tensor:
    shapes = {tuple(clip.shape) for clip in clips}
    if len(shapes) > 1:
        raise InputError(_RAGGED.format(" and ".join(map(str, sorted(shapes)))))
    return clips[0].unsqueeze(0) if len(clips) == 1 else torch.stack(clips)


def _stack_arrays(clips: list[list[np.ndarray]]) -> np.ndarray:
    shapes = {(len(clip), *frame.shape) for clip in clips for frame in clip}
    if len(shapes) > 1:
        raise InputError(_RAGGED.format(" and ".join(map(str, sorted(shapes)))))
    return np.stack([np.stack(clip) for clip in clips])


_NORMALIZES_TWICE = (
    "this processor normalises twice: offset maps pixels to [-1, 1], which ViViT was trained on, and do_normalize maps "
    "them on to [{:.4g}, {:.4g}]; VivitImageProcessor.trained_range() is the preset for the trained range "
    "(do_normalize=False does the same). This is said once of a configuration"
)
_LOOKS_SCALED = (
    "the pixels lie in [0, 1] already, and rescaling them makes them nearly black; give do_rescale=False and "
    "offset=False, or levels 0-255. This is said once of a configuration"
)
_RAGGED = (
    "the clips do not fit into one tensor, their (frames, ...) are {}: give clips of as many frames, keep the centre "
    "crop, or give return_tensors=None"
)
