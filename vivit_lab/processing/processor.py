"""The ViViT image processor: from frames, arrays or clips to the pixel values a model wants.

Bit for bit transformers 4.56.2's ``VivitImageProcessor``, from and to the same preprocessor_config.json, but it also
takes arrays of four and five axes and clips, says where each pixel went, and has a fast path.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Any

import numpy as np
import torch

from vivit_lab.checkpoints.checkpoint import Checkpoint
from vivit_lab.errors import ConfigError, DoubleNormalizationWarning, InputError, VivitLabWarning
from vivit_lab.processing.config import as_image_processor, read_config, write_config
from vivit_lab.processing.exact import ExactPath
from vivit_lab.processing.fast import fast_clip
from vivit_lab.processing.inputs import CHANNELS_FIRST, check_frames, check_layout, looks_scaled, read_clips
from vivit_lab.processing.options import ProcessorOptions
from vivit_lab.video.clip import Clip

__all__ = ["BatchFeature", "VivitImageProcessor"]

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
        warnings.warn(message, category, stacklevel=_levels_to_the_caller())
        _announced.add(key)


def _levels_to_the_caller() -> int:
    """Return the ``stacklevel``, seen from `_announce`, of the nearest frame that is not the package's own."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("vivit_lab."):
        frame, level = frame.f_back, level + 1
    return level


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
