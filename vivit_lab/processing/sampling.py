"""Which frames of a video a model is given: the one rule that every command and function follows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from vivit_lab.checkpoints.checkpoint import SAMPLING_KEY
from vivit_lab.errors import ConfigError
from vivit_lab.numbers import checked_numbers
from vivit_lab.processing.processor import VivitImageProcessor

__all__ = ["Sampling", "note_sampling", "sampling_of"]


@dataclass(frozen=True)
class Sampling:
    """How frames are taken from a video.

    Args:
        frames: of a clip.
        stride: one frame in so many.
        fps: of the videos that the model was trained on, frames a second; None where it is not known.
        source: where the stride comes from: "asked for", "noted" in the processor's file, or "assumed".
    """

    frames: int
    stride: int
    fps: float | None
    source: str

    def __str__(self) -> str:
        why = {
            "asked for": "as asked for",
            "noted": "as the processor's file says",
            "assumed": f"which is usual for {self.frames} frames, since the checkpoint does not say how it was trained",
        }[self.source]
        return f"clips are {self.frames} frames, stride {self.stride}, {why}"


@checked_numbers(num_frames=(1, None), stride=(1, None))
def sampling_of(processor: VivitImageProcessor | None, num_frames: int, stride: int | None = None) -> Sampling:
    """Return how a model's frames are taken: as asked for, else as it was trained, else as is usual.

    Training notes frames, stride and fps under the key ``vivit_lab_sampling`` of preprocessor_config.json. Without
    that, a model of 32 frames takes one frame in two, as those that Arnab et al. 2021 published, and any other takes
    each frame.

    Args:
        processor: of the model; None where there is none.
        num_frames: frames of a clip of the model.
        stride: one frame in so many; None leaves it to the rule.

    Raises:
        InputError: the stride is no positive whole number.
        ConfigError: what the processor's file notes is no stride.
    """
    noted = {} if processor is None else processor.extra.get(SAMPLING_KEY) or {}
    fps = noted.get("fps") if isinstance(noted, dict) else None
    if stride is not None:
        return Sampling(num_frames, stride, fps, "asked for")
    if noted:
        known = noted.get("stride") if isinstance(noted, dict) else None
        if isinstance(known, bool) or not isinstance(known, int) or known < 1:
            raise ConfigError(
                f"the processor's file notes {SAMPLING_KEY}={noted!r}; wanted a stride of 1 or more there, or no such "
                "entry"
            )
        return Sampling(num_frames, known, fps, "noted")
    return Sampling(num_frames, 2 if num_frames == 32 else 1, None, "assumed")


@checked_numbers(frames=(1, None), stride=(1, None))
def note_sampling(
    processor: VivitImageProcessor, frames: int, stride: int, fps: float | None = None
) -> VivitImageProcessor:
    """Return a processor that knows how the frames of its model's training clips were taken.

    ``save_pretrained`` writes it into preprocessor_config.json, where transformers ignores it.

    Args:
        processor: of the model.
        frames: of a clip.
        stride: one frame in so many.
        fps: of the videos, frames a second, where it is known.
    """
    noted: dict[str, Any] = {"frames": frames, "stride": stride, "fps": None if fps is None else round(fps, 3)}
    return replace(processor, extra={**processor.extra, SAMPLING_KEY: noted})
