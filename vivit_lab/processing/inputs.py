"""Reads whatever a caller has as a batch of clips: a clip, frames, arrays, tensors, and lists of them.

| given                                                     | read as                  |
|-----------------------------------------------------------|--------------------------|
| a PIL image, a 3-D array or tensor                        | one clip of one frame    |
| a list of those, a 4-D array or tensor, a ``Clip``        | one clip                 |
| a list of such clips, a 5-D array or tensor               | a batch of clips         |
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image

from vivit_lab.errors import InputError
from vivit_lab.video.clip import Clip

__all__ = [
    "CHANNELS_FIRST",
    "CHANNELS_LAST",
    "Frame",
    "Frames",
    "channel_layout",
    "check_frames",
    "check_layout",
    "looks_scaled",
    "read_clips",
]

CHANNELS_FIRST = "channels_first"
CHANNELS_LAST = "channels_last"

Frame: TypeAlias = "Image.Image | np.ndarray | torch.Tensor"
Frames: TypeAlias = "np.ndarray | torch.Tensor | Sequence[Frame]"

_FRAME_TYPES = (Image.Image, np.ndarray, torch.Tensor)
_WANTED = (
    "wanted a Clip, a list of frames (PIL images, 3-D arrays or tensors), a 4-D clip or a 5-D batch of clips, "
    "or a list of clips"
)


def read_clips(videos: Any, layout: str | None = None) -> list[tuple[Frames, str | None]]:
    """Return a batch as a list of clips: each a 4-D array or tensor, or a sequence of frames, and its channel layout.

    Nothing is copied. A ``Clip`` is channels last always, also where its shape could be read otherwise.

    Args:
        videos: what the caller has.
        layout: the channel layout of all that is no ``Clip``, or None where it is to be found from the shape.

    Raises:
        InputError: it is nothing of that, it is empty, or it mixes frames with clips.
    """
    if isinstance(videos, Clip):
        return [(videos.frames, CHANNELS_LAST)]
    if isinstance(videos, _FRAME_TYPES):
        dimensions = _dimensions(videos)
        if dimensions == 5:
            return [(_non_empty(clip), layout) for clip in _non_empty(videos)]
        return [(_non_empty(videos) if dimensions == 4 else [videos], layout)]
    if not isinstance(videos, (list, tuple)):
        raise InputError(f"{_WANTED}; got {type(videos).__name__}")
    levels = {_depth(entry) for entry in _non_empty(videos)}
    if levels == {"frame"}:
        return [(videos, layout)]
    if levels == {"clip"}:
        return [(_one_clip(entry), CHANNELS_LAST if isinstance(entry, Clip) else layout) for entry in videos]
    raise InputError(f"the list mixes frames with clips; {_WANTED}")


def _depth(entry: Any) -> str:
    """Whether an entry of a list is a frame or a clip."""
    if isinstance(entry, (Clip, list, tuple)):
        return "clip"
    if not isinstance(entry, _FRAME_TYPES):
        raise InputError(f"{_WANTED}; got a list with a {type(entry).__name__}")
    dimensions = _dimensions(entry)
    if dimensions == 5:
        raise InputError(f"a list of 5-D batches is one dimension too many; {_WANTED}")
    return "clip" if dimensions == 4 else "frame"


def _one_clip(entry: Any) -> Frames:
    if isinstance(entry, Clip):
        return entry.frames
    for frame in _non_empty(entry) if isinstance(entry, (list, tuple)) else ():
        if not isinstance(frame, _FRAME_TYPES) or _dimensions(frame) != 3:
            raise InputError(f"a clip in a batch must hold frames only, got a {type(frame).__name__}; {_WANTED}")
    return _non_empty(entry)


def _dimensions(value: Any) -> int:
    """Return 3 for a frame, 4 for a clip, 5 for a batch."""
    if isinstance(value, Image.Image):
        bands = len(value.getbands())
        if bands == 1:
            raise InputError(f"a PIL frame of mode {value.mode!r} has no channel axis; give frame.convert('RGB')")
        return 3
    if value.ndim not in (3, 4, 5):
        hint = "; a grey frame needs a channel axis (height, width, 1), or RGB" if value.ndim == 2 else ""
        raise InputError(f"{_WANTED}; got an array of shape {tuple(value.shape)}{hint}")
    return value.ndim


def _non_empty(values: Any) -> Any:
    if not len(values):
        raise InputError(f"got an empty batch or clip; {_WANTED}")
    return values


def looks_scaled(frames: Frames) -> bool:
    """Whether the pixels are no levels but numbers in [0, 1], so that a rescale would make them nearly black.

    uint8 pixels are levels always; frames that are black all over tell nothing and count as levels.
    """
    entries = [frames] if isinstance(frames, (np.ndarray, torch.Tensor)) else frames
    parts = [entry for entry in entries if not isinstance(entry, Image.Image)]
    if not parts or any(part.dtype in (np.uint8, torch.uint8) for part in parts):
        return False
    return all(bool(part.min() >= 0) and bool(part.max() <= 1) for part in parts) and any(
        bool(part.max() > 0) for part in parts
    )


def check_frames(frames: Frames, name: str, *, levels: bool) -> None:
    """Refuse frames whose pixel values would be meaningless.

    Args:
        frames: of one clip.
        name: what the clip is called in the message.
        levels: whether the pixels are levels 0..255, which a rescale will divide.

    Raises:
        InputError: a pixel is NaN or infinite, or outside 0..255 where levels are wanted.
    """
    for number, frame in enumerate(frames):
        if isinstance(frame, Image.Image) or frame.dtype in (np.uint8, torch.uint8):
            continue
        pixels = np.asarray(frame.detach().cpu().double()) if isinstance(frame, torch.Tensor) else frame
        if not pixels.size or pixels.dtype.kind not in "buif":
            continue  # refused for that
        low, high = float(pixels.min()), float(pixels.max())
        if not (-math.inf < low and high < math.inf):
            value = next(end for end in (low, high) if not math.isfinite(end))
            raise InputError(f"frame {number} of {name} holds {value}; pixels must be finite numbers")
        if levels and (low < 0 or high > 255):
            raise InputError(
                f"frame {number} of {name} has values from {low:g} to {high:g}; wanted levels 0..255 (give "
                "do_rescale=False and offset=False for pixels of another range)"
            )


def check_layout(name: str, layout: Any) -> str | None:
    """Return a channel layout given by its name, or None.

    Raises:
        InputError: there is no layout of that name.
    """
    if layout is None:
        return None
    # an enumeration of strings, such as transformers' ChannelDimension, compares equal to its value
    for known in (CHANNELS_FIRST, CHANNELS_LAST):
        if layout == known:
            return known
    raise InputError(f"{name} must be 'channels_first' or 'channels_last', got {layout!r}")


def channel_layout(shape: Sequence[int], given: str | None = None) -> str:
    """Return the layout of a frame of that shape: as given, or found from an axis of 1 or 3.

    A frame that may be read both ways, such as (3, 224, 3), counts as channels first, as in transformers.

    Raises:
        InputError: neither the first nor the last axis has 1 or 3 entries.
    """
    if given is not None:
        return given
    if shape[0] in (1, 3):
        return CHANNELS_FIRST
    if shape[-1] in (1, 3):
        return CHANNELS_LAST
    raise InputError(
        f"a frame of shape {tuple(shape)} has no axis of 1 or 3 channels; say which axis it is by input_data_format="
    )
