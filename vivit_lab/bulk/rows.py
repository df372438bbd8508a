"""What travels between the stages of a bulk run: a clip to read, the clip read, or why it could not be."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vivit_lab.bulk.marks import VideoMark

__all__ = ["ClipRow", "Decoded", "Failure", "Outcome", "clip_id"]


def clip_id(path: str, start: float | None = None, end: float | None = None) -> str:
    """Return the name of a clip: 16 hex digits of the sha256 of its path and segment.

    Args:
        path: absolute path or URL of the video.
        start: first second of the segment; None is the video's beginning.
        end: where the segment ends, in seconds; None is the video's end.
    """
    segment = f"{path}\0{'' if start is None else float(start)!r}\0{'' if end is None else float(end)!r}"
    return hashlib.sha256(segment.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class ClipRow:
    """One line of a run's manifest.

    Args:
        clip_id: see ``clip_id``.
        path: absolute path or URL of the video.
        start: first second of the segment, or None.
        end: where the segment ends, in seconds, or None.
        label: the class as it was given, or None.
    """

    clip_id: str
    path: str
    start: float | None = None
    end: float | None = None
    label: str | None = None


@dataclass(frozen=True)
class Failure:
    """Why a clip has no result.

    Args:
        stage: ``"fetch"``, ``"decode"`` or ``"model"``.
        kind: the error's class, or ``"crash"`` or ``"timeout"``.
        message: one line.
    """

    stage: str
    kind: str
    message: str

    @classmethod
    def of(cls, stage: str, error: BaseException) -> Failure:
        """Return the failure that an exception tells of."""
        return cls(stage, type(error).__name__, " ".join(str(error).split()) or repr(error))


@dataclass(frozen=True, eq=False)
class Decoded:
    """A clip as the model takes it, and where its frames came from.

    Args:
        pixels: (T, C, h, w) float32.
        frame_indices: of each frame in the file, from 0.
        frame_seconds: when each frame is shown, in seconds from the file's first frame.
        end: when the last frame stops being shown, in seconds.
        size: (height, width) of the file's frames in pixels, as shown.
        decode_warnings: how many times the decoder reported damage.
        notes: what the reader warned of, one text a warning.
        seconds: stage → seconds it took: ``"fetch"`` (downloads), ``"decode"``, ``"prepare"``.
        mark: by what the file is known again.
    """

    pixels: np.ndarray
    frame_indices: list[int]
    frame_seconds: list[float]
    end: float
    size: tuple[int, int]
    decode_warnings: int = 0
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    mark: VideoMark = field(default_factory=VideoMark)

    def columns(self) -> dict[str, Any]:
        """Return what a part says of the clip itself."""
        return {
            "frame_indices": self.frame_indices,
            "frame_seconds": self.frame_seconds,
            "start_seconds": self.frame_seconds[0],
            "end_seconds": self.end,
            "height": self.size[0],
            "width": self.size[1],
            "decode_warnings": self.decode_warnings,
            "notes": self.notes,
            **{f"seconds_{stage}": value for stage, value in self.seconds.items()},
            **self.mark.columns(),
        }


Outcome = Decoded | Failure
