"""The exact path: every output is bit for bit what transformers 4.56.2 computes, at a fraction of the time.

Three things save time and change no bit: frames are resized in a few threads (Pillow releases the lock), pixels that
the crop would drop are mostly never computed, and the arithmetic on uint8 levels is a table of 256 entries that was
filled by the slow arithmetic itself.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from PIL import Image

from vivit_lab.errors import InputError
from vivit_lab.processing.inputs import CHANNELS_FIRST, CHANNELS_LAST, Frame, Frames, channel_layout
from vivit_lab.processing.options import CropPlan, ProcessorOptions

__all__ = ["ExactPath", "aligned_span", "to_levels"]

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
