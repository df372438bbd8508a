"""What a ViViT preprocessor is told to do: the fields of preprocessor_config.json, and the files that hold them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vivit_lab.checkpoints.checkpoint import PROCESSOR_PARTS, Checkpoint, read_processor
from vivit_lab.checkpoints.files import read_json
from vivit_lab.checkpoints.hub import BUNDLED
from vivit_lab.errors import CheckpointNotFoundError, ConfigError, InputError
from vivit_lab.video.geometry import Geometry

__all__ = [
    "CONFIG_NAME",
    "CropPlan",
    "ProcessorOptions",
    "as_image_processor",
    "read_config",
    "write_config",
]

_SIZE_KEYS = (
    {"shortest_edge"},
    {"height", "width"},
    {"shortest_edge", "longest_edge"},
    {"longest_edge"},
    {"max_height", "max_width"},
)
_FLAGS = ("do_resize", "do_center_crop", "do_rescale", "offset", "do_normalize")


@dataclass(frozen=True)
class CropPlan:
    """Where the pixels of one frame go.

    Args:
        resized: (height, width) of the whole frame after the resize.
        top: row of the resized frame that becomes row 0; negative where zeros come first.
        left: column of the resized frame that becomes column 0; negative where zeros come first.
        height: rows of the result.
        width: columns of the result.
    """

    resized: tuple[int, int]
    top: int
    left: int
    height: int
    width: int

    @property
    def visible(self) -> tuple[int, int, int, int]:
        """The box (top, left, bottom, right) of the resized frame that the result shows."""
        return (
            max(self.top, 0),
            max(self.left, 0),
            min(self.top + self.height, self.resized[0]),
            min(self.left + self.width, self.resized[1]),
        )


_LARGEST_SIDE = 2**15  # pixels; frames are at most 16K, and a wrong number must not fill the memory


@dataclass(frozen=True)
class ProcessorOptions:
    """The options of a ViViT preprocessor, in the order and with the defaults of transformers.

    Args:
        do_resize: whether to resize.
        size: ``{"shortest_edge": n}`` (or n) keeps the aspect ratio, the longer edge truncated to an integer;
            ``{"height": h, "width": w}`` (or (h, w)) does not. A ``longest_edge`` beside ``shortest_edge`` has no
            effect, as in transformers.
        resample: Pillow's number of the filter: 0 nearest, 1 Lanczos, 2 bilinear, 3 bicubic, 4 box, 5 Hamming.
        do_center_crop: whether to crop to ``crop_size``, filling up with black where the frame is smaller.
        crop_size: ``{"height": h, "width": w}``, (h, w), or n for a square.
        do_rescale: whether to multiply by ``rescale_factor``.
        rescale_factor: 1/127.5 with ``offset``, or 1/255 without, are the sensible ones.
        offset: whether to subtract 1 after the rescale.
        do_normalize: whether to subtract ``image_mean`` and divide by ``image_std``.
        image_mean: one number, or one a channel.
        image_std: one number, or one a channel.
        extra: fields of a configuration file that ViViT's processor has no use for; kept and written back.

    Raises:
        ConfigError: a field has the wrong type or value.
    """

    # dictionaries and lists have no hash: processors that differ only there share theirs, but are not equal
    do_resize: bool = True
    size: Any = field(default=None, hash=False)
    resample: int = 2
    do_center_crop: bool = True
    crop_size: Any = field(default=None, hash=False)
    do_rescale: bool = True
    rescale_factor: float = 1 / 127.5
    offset: bool = True
    do_normalize: bool = True
    image_mean: Any = field(default=None, hash=False)
    image_std: Any = field(default=None, hash=False)
    extra: dict[str, Any] = field(default_factory=dict, kw_only=True, repr=False, hash=False)

    def __post_init__(self) -> None:
        for name in _FLAGS:
            if not isinstance(getattr(self, name), (bool, np.bool_)):
                raise ConfigError(f"{name} must be True or False, got {getattr(self, name)!r}")
            object.__setattr__(self, name, bool(getattr(self, name)))
        object.__setattr__(self, "size", _size_dict("size", {"shortest_edge": 256} if self.size is None else self.size))
        crop_size = {"height": 224, "width": 224} if self.crop_size is None else self.crop_size
        object.__setattr__(self, "crop_size", _size_dict("crop_size", crop_size))
        if isinstance(self.resample, bool) or self.resample not in [*Image.Resampling]:
            known = ", ".join(f"{filter_.value} {filter_.name.lower()}" for filter_ in sorted(Image.Resampling))
            raise ConfigError(f"resample must be one of Pillow's filters ({known}), got {self.resample!r}")
        object.__setattr__(self, "resample", int(self.resample))
        if not _is_number(self.rescale_factor):
            raise ConfigError(f"rescale_factor must be a finite number, got {self.rescale_factor!r}")
        if isinstance(self.rescale_factor, np.number):
            object.__setattr__(self, "rescale_factor", self.rescale_factor.item())
        for name in ("image_mean", "image_std"):
            object.__setattr__(self, name, _channel_numbers(name, getattr(self, name)))
        mean, std = self.image_mean, self.image_std
        if isinstance(mean, list) and isinstance(std, list) and len(mean) != len(std):
            raise ConfigError(f"image_mean has {len(mean)} channels and image_std {len(std)}: wanted the same number")

    def check_usable(self) -> None:
        """Refuse options that contradict each other; transformers, too, says so only when they are used.

        Raises:
            ConfigError: ``offset`` without ``do_rescale``, or a size that is no target for the step that needs it.
        """
        if self.offset and not self.do_rescale:
            raise ConfigError("offset=True needs do_rescale=True; to leave pixels unscaled give offset=False as well")
        if self.do_resize and not ("shortest_edge" in self.size or "height" in self.size):
            raise ConfigError(f"size must have 'shortest_edge', or 'height' and 'width', got {self.size}")
        if self.do_center_crop and "height" not in self.crop_size:
            raise ConfigError(f"crop_size must have 'height' and 'width', got {self.crop_size}")

    def plan(self, height: int, width: int) -> CropPlan:
        """Return where the pixels of a frame of that size go.

        Raises:
            ConfigError: the options contradict each other.
            InputError: the frame has no pixels.
        """
        self.check_usable()
        if height < 1 or width < 1:
            raise InputError(f"a frame must have at least one pixel, got {height}×{width}")
        resized = self._resized(height, width) if self.do_resize else (height, width)
        if not self.do_center_crop:
            return CropPlan(resized, 0, 0, *resized)
        rows, columns = self.crop_size["height"], self.crop_size["width"]
        # floor division: with an odd number of missing rows the extra one comes first
        return CropPlan(resized, (resized[0] - rows) // 2, (resized[1] - columns) // 2, rows, columns)

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if "shortest_edge" not in self.size:
            return (self.size["height"], self.size["width"])
        short = self.size["shortest_edge"]
        if width <= height:
            return (int(short * height / width), short)
        return (short, int(short * width / height))

    def geometry(self, height: int, width: int) -> Geometry:
        """Return how a frame of (height, width) pixels lies in the processor's output.

        The longer edge is truncated to whole pixels, so the two axes may have slightly different scales.

        Raises:
            ConfigError: the options contradict each other.
            InputError: the frame has no pixels.
        """
        plan = self.plan(height, width)
        resized = Geometry.identity(height, width).resize(*plan.resized)
        return resized.crop(plan.top, plan.left, plan.height, plan.width)

    def arithmetic(self, pixels: np.ndarray) -> np.ndarray:
        """Rescale, offset and normalise pixels (..., channels), in the dtypes and the order of transformers.

        The result is float32 after a rescale; without one, a floating input keeps its dtype and with neither step
        the pixels stay as they are.
        """
        if self.do_rescale:
            pixels = (pixels.astype(np.float64) * self.rescale_factor).astype(np.float32)
            if self.offset:
                pixels = pixels - 1
        if self.do_normalize:
            if not np.issubdtype(pixels.dtype, np.floating):
                pixels = pixels.astype(np.float32)
            mean, std = self.channel_statistics(pixels.shape[-1])
            pixels = (pixels - np.array(mean, pixels.dtype)) / np.array(std, pixels.dtype)
        return pixels

    def channel_statistics(self, channels: int) -> tuple[list[float], list[float]]:
        """Return the mean and standard deviation of each channel.

        Raises:
            ConfigError: ``image_mean`` or ``image_std`` is of another number of channels.
        """
        statistics = []
        for name in ("image_mean", "image_std"):
            value = getattr(self, name)
            value = value if isinstance(value, list) else [value] * channels
            if len(value) != channels:
                raise ConfigError(f"{name} has {len(value)} channels, the frames have {channels}")
            statistics.append(value)
        return statistics[0], statistics[1]

    def gain_and_bias(self, channels: int) -> tuple[list[float], list[float]]:
        """Return, for each channel, ``gain`` and ``bias`` of the fused arithmetic ``level · gain + bias``."""
        gain, bias = (self.rescale_factor, -float(self.offset)) if self.do_rescale else (1.0, 0.0)
        mean, std = self.channel_statistics(channels) if self.do_normalize else ([0.0] * channels, [1.0] * channels)
        return (
            [float(gain / s) for s in std],
            [(bias - m) / s for m, s in zip(mean, std, strict=True)],
        )

    @property
    def value_range(self) -> tuple[float, float]:
        """The smallest and largest output of uint8 pixels (0 and 255), over all channels."""
        given = [value for value in (self.image_mean, self.image_std) if isinstance(value, list)]
        gain, bias = self.gain_and_bias(len(given[0]) if given else 1)
        ends = [*bias, *(255 * g + b for g, b in zip(gain, bias, strict=True))]
        return (min(ends), max(ends))

    @property
    def normalizes_twice(self) -> bool:
        """Whether ``offset`` already centres the pixels and ``do_normalize`` then moves them out of [−1, 1]."""
        if not (self.do_rescale and self.offset and self.do_normalize):
            return False
        low, high = self.value_range
        return abs(low + 1) > 0.01 or abs(high - 1) > 0.01


def _is_number(value: Any) -> bool:
    """Whether the value is a finite real number (a bool is not)."""
    if isinstance(value, int) and abs(value) > 2**1000:  # no float holds it
        return False
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and math.isfinite(value)


def _size_dict(name: str, size: Any) -> dict[str, int]:
    """Return a size in the form of a dictionary, from the shorter forms that older configurations have."""
    if isinstance(size, (int, np.integer)) and not isinstance(size, bool):
        size = {"shortest_edge": size} if name == "size" else {"height": size, "width": size}
    elif isinstance(size, (list, tuple)) and len(size) == 2:
        size = {"height": size[0], "width": size[1]}
    if not isinstance(size, Mapping) or set(size) not in _SIZE_KEYS:
        wanted = "'shortest_edge', or 'height' and 'width'" if name == "size" else "'height' and 'width'"
        raise ConfigError(f"{name} must be an integer, a pair or a dictionary with {wanted}, got {size!r}")
    for key, value in size.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise ConfigError(f"{name}[{key!r}] must be a positive number of pixels, got {value!r}")
        if value > _LARGEST_SIDE:
            raise ConfigError(f"{name}[{key!r}] is {value} pixels; wanted at most {_LARGEST_SIDE}")
    return {key: int(value) for key, value in size.items()}


def _channel_numbers(name: str, value: Any) -> float | list[float]:
    """Return a mean or deviation as one float, or a list of one a channel."""
    if value is None:
        return [0.5, 0.5, 0.5]
    single = not isinstance(value, Collection) or isinstance(value, str)
    numbers: list[Any] = [value] if single else list(value)
    if not numbers or not all(_is_number(number) for number in numbers):
        raise ConfigError(f"{name} must be a number or a list of one a channel, got {value!r}")
    if name == "image_std" and 0 in numbers:
        raise ConfigError(f"image_std must not be 0, got {value!r}")
    floats = [float(number) for number in numbers]
    return floats[0] if single else floats


CONFIG_NAME = "preprocessor_config.json"
_VIDEO_NAME = "video_preprocessor_config.json"


def read_config(source: str | os.PathLike[str] | Checkpoint, **place: Any) -> dict[str, Any]:
    """Return the content of a processor's configuration file, as a preprocessor_config.json has it.

    Of a checkpoint's files the first of these is read, which is transformers 5's order for a video:
    processor_config.json where the processor is one of its parts, video_preprocessor_config.json,
    preprocessor_config.json.

    Args:
        source: a directory that holds such a file, a JSON file, a Hub id, ``"bundled"`` or ``"planted"``, or an opened
            checkpoint.
        **place: for a Hub id: ``revision``, ``cache_dir``, ``local_files_only`` and ``token``.

    Raises:
        CheckpointNotFoundError: there is no such file.
        ConfigError: the file is not a processor configuration.
    """
    if not isinstance(source, Checkpoint) and source not in BUNDLED and Path(source).is_file():
        return read_processor(Path(source))
    checkpoint = Checkpoint.open(source, **place)
    config = checkpoint.processor
    if config is None:
        raise CheckpointNotFoundError(
            f"{checkpoint.name} has no {CONFIG_NAME}; write one by processor.save_pretrained, or build "
            "VivitImageProcessor(...)"
        )
    return dict(config)


def as_image_processor(config: dict[str, Any]) -> dict[str, Any]:
    """Return the content of transformers 5's video processor as that of its image processor; any other unchanged."""
    kind = config.get("video_processor_type")
    if kind is None:
        return config
    config = {name: value for name, value in config.items() if name != "video_processor_type"}
    config["image_processor_type"] = str(kind).replace("VideoProcessor", "ImageProcessor")
    # the video processor has no option for it: what it rescales, it moves to [-1, 1] too
    return {**config, "offset": config.get("do_rescale", True) is not False}


def write_config(directory: str | os.PathLike[str], config: dict[str, Any]) -> str:
    """Write a processor's configuration into a directory, which is made, and return the file's path.

    Where the directory holds a file of transformers 5 that would be read first, that is brought up to date too.

    Raises:
        InputError: there is a file at that path.
    """
    folder = Path(directory)
    if folder.is_file():
        raise InputError(f"{directory} is a file, wanted a directory to write {CONFIG_NAME} into")
    folder.mkdir(parents=True, exist_ok=True)
    newer = _newer_files(folder, config)  # first, as it may refuse
    for path, contents in {folder / CONFIG_NAME: config, **newer}.items():
        path.write_text(json.dumps(contents, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return str(folder / CONFIG_NAME)


def _newer_files(folder: Path, config: dict[str, Any]) -> dict[Path, dict[str, Any]]:
    """Return the new contents of those files of transformers 5 that are there and would be read in its place."""
    written = {}
    video, parts = folder / _VIDEO_NAME, folder / "processor_config.json"
    if video.is_file():
        written[video] = _as_video_processor(config)
    contents = read_json(parts) if parts.is_file() else {}
    video_part, image_part = PROCESSOR_PARTS
    named = {image_part: config}
    if video_part in contents:
        named[video_part] = _as_video_processor(config)
    if not contents.keys().isdisjoint(named):
        written[parts] = {**contents, **{part: value for part, value in named.items() if part in contents}}
    return written


def _as_video_processor(config: dict[str, Any]) -> dict[str, Any]:
    if config["offset"] != config["do_rescale"]:
        raise ConfigError(
            f"transformers' video processor moves what it rescales to [-1, 1], so offset={config['offset']} with "
            f"do_rescale={config['do_rescale']} cannot be written for it, and the directory has a file of it: save "
            "into another, or remove that file first"
        )
    kept = {name: value for name, value in config.items() if name not in ("offset", "image_processor_type")}
    return {**kept, "video_processor_type": "VivitVideoProcessor"}
