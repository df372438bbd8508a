"""The fast path: whole clips as uint8 tensors, on their own device, at most one level off the exact path.

On the CPU torch's own uint8 resize does the work for the bilinear filter where it shrinks clearly, and the exact path
elsewhere. On other devices a resize is two matrix products that compute only the rows and columns that the crop keeps.
Their matrices hold Pillow's weights, multiples of 2^-22, and each product is rounded to whole levels, as Pillow does.
float64 holds every such sum exactly, whatever its order, so the levels are Pillow's own. MPS has no float64: float32
sums there may fall on the other side of a half, and such levels are one off, or after two passes two.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from vivit_lab.errors import BackendError, InputError
from vivit_lab.processing.exact import ExactPath
from vivit_lab.processing.inputs import CHANNELS_FIRST, CHANNELS_LAST, Frame, Frames, channel_layout
from vivit_lab.processing.options import CropPlan, ProcessorOptions

__all__ = ["fast_clip", "resample_matrix", "resize_by_matrices"]

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
