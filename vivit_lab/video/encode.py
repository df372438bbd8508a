"""Write frames as a movie, each at its own time.

The time base is 1/90000 s, so frames of a variable-rate video keep their places: every time is rounded to the nearest
tick (at most 5.6 µs off) in mp4 and mov. Matroska stores whole milliseconds. The movie takes its final name only once
it is complete.
"""

from __future__ import annotations

import math
import os
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import ColorRange, Colorspace

from vivit_lab.errors import BackendError, InputError, VideoNotFoundError
from vivit_lab.numbers import checked_numbers

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["TIME_BASE", "MovieWriter"]

TIME_BASE = Fraction(1, 90000)
"""The tick of the written times, in seconds."""

_CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
_CONTAINER_OPTIONS = {
    # The index moves in front of the pictures, so a browser starts before it has the whole file; and without a track
    # time scale of our own the muxer would pick one from the frame rate and move the frames.
    "mp4": {"movflags": "+faststart", "video_track_timescale": str(TIME_BASE.denominator)},
    "mov": {"movflags": "+faststart", "video_track_timescale": str(TIME_BASE.denominator)},
    "matroska": {},
}
_KEYFRAME_EVERY = 30  # a player can jump to any place at once; heat movies are short, so the bytes do not matter
_BT709 = 1  # the number of BT.709 in H.273's tables of primaries, transfer characteristics and matrices alike


@checked_numbers(height=(1, 32_768), width=(1, 32_768), end=(None, 1e7))
class MovieWriter:
    """Write uint8 RGB frames to a movie file at given times; a context manager.

    The default is H.264 in yuv420p tagged BT.709, which every browser plays. That format needs even sizes: an odd
    height or width gets one more row or column, a copy of the last one, so no pixel is rescaled or moved.

    The frames go to a temporary file beside ``path``, which takes the final name when the block ends well. After an
    exception, neither a half movie nor the temporary file is left, and a file that was there before is untouched.

    Args:
        path: where the movie goes: .mp4, .m4v, .mov or .mkv; an existing file is replaced.
        height: rows of a frame, in pixels.
        width: columns of a frame, in pixels.
        end: when the last frame stops being shown, in seconds on the clock of ``write``.
        crf: quality of the x264 and x265 encoders: 0 (best) … 51 (worst).
        preset: speed against size of those encoders, "ultrafast" … "veryslow".
        codec: the encoder's name in FFmpeg. Exact RGB: "libx264rgb" with ``crf=0``, or "ffv1" (.mkv).
        pixel_format: what the encoder stores; None chooses "yuv420p", or RGB for "libx264rgb" and "ffv1".

    Raises:
        InputError: the size, end, crf or file name suffix is not usable.
        BackendError: this build of FFmpeg has no such encoder, or the encoder refuses the settings.
        VideoNotFoundError: the directory is not there; a FileNotFoundError, too.

    Example:
        >>> with MovieWriter("heat.mp4", 224, 224, end=1.0) as movie:
        ...     for frame, seconds in zip(clip.frames, clip.seconds):
        ...         movie.write(frame, seconds)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        height: int,
        width: int,
        *,
        end: float,
        crf: int = 18,
        preset: str = "medium",
        codec: str = "libx264",
        pixel_format: str | None = None,
    ) -> None:
        self.path = Path(path)
        self.height, self.width, self.end = int(height), int(width), float(end)
        self.pixel_format = pixel_format or {"libx264rgb": "rgb24", "ffv1": "bgr0"}.get(codec, "yuv420p")
        self._check(crf)
        self._part = self.path.with_name(f".{self.path.name}.{os.getpid()}-{id(self):x}.part")
        kind = _CONTAINERS[self.path.suffix.lower()]
        self._encoder = _encoder(codec)
        self._container = av.open(f"file:{self._part}", "w", format=kind, options=_CONTAINER_OPTIONS[kind])
        self._codec = codec
        self._durations: dict[int, int] = {}
        self._waiting: tuple[av.VideoFrame, int] | None = None
        self._first: float | None = None
        self._open = True
        try:
            self._stream = self._add_stream(crf, preset)
        except BaseException:
            self.abort()
            raise

    def _check(self, crf: int) -> None:
        if self.path.suffix.lower() not in _CONTAINERS:
            raise InputError(
                f"cannot tell the container of {self.path.name!r}: wanted a name that ends in {', '.join(_CONTAINERS)}"
            )
        if not self.path.parent.is_dir():
            raise VideoNotFoundError(f"cannot write {self.path}: there is no directory {self.path.parent}")
        if self.height < 1 or self.width < 1:
            raise InputError(f"wanted a positive frame size, got {self.height}×{self.width}")
        if not math.isfinite(self.end):
            raise InputError(f"end must be a finite time in seconds, got {self.end}")
        if not 0 <= crf <= 51:
            raise InputError(f"crf must lie in 0 … 51, got {crf}")
        try:
            av.VideoFormat(self.pixel_format)
        except ValueError as error:
            raise InputError(
                f"FFmpeg has no pixel format {self.pixel_format!r}; wanted one such as 'yuv420p'"
            ) from error

    @property
    def padded_size(self) -> tuple[int, int]:
        """(height, width) of the movie: the frame's, or one more where the pixel format needs even sizes."""
        down, across = (2 if self._chroma(axis) else 1 for axis in (0, 1))
        return (-(-self.height // down) * down, -(-self.width // across) * across)

    def _chroma(self, axis: int) -> bool:
        """Whether the pixel format keeps colours at half resolution along rows (0) or columns (1)."""
        chroma = av.VideoFormat(self.pixel_format, 16, 16)
        return (chroma.chroma_height(16), chroma.chroma_width(16))[axis] < 16

    def _add_stream(self, crf: int, preset: str) -> Any:
        stream: Any = self._container.add_stream(self._encoder, rate=30)
        context = stream.codec_context
        context.height, context.width = self.padded_size
        context.pix_fmt = self.pixel_format
        context.time_base = TIME_BASE
        context.gop_size = _KEYFRAME_EVERY
        # mp4 stores decoding-order durations: with B-frames the last picture's own duration would be lost
        context.max_b_frames = 0
        # sliced threads, the default of PyAV, cost quality for a delay that no file needs
        context.thread_type = "FRAME"
        if "x26" in self._codec:
            # x265 writes to the terminal on its own
            quiet = {"x265-params": "log-level=error"} if self._codec == "libx265" else {}
            context.options = {"crf": str(crf), "preset": preset, **quiet}
        if not self._is_rgb:
            context.color_primaries = context.color_trc = context.colorspace = _BT709
            context.color_range = ColorRange.MPEG
        try:
            context.open()
        except (FFmpegError, ValueError) as error:
            raise BackendError(
                f"the encoder {self._codec} refuses {self.pixel_format} at {context.height}×{context.width}, "
                f"crf {crf}, preset {preset!r}: {error}"
            ) from error
        return stream

    @property
    def _is_rgb(self) -> bool:
        return av.VideoFormat(self.pixel_format, 16, 16).is_rgb

    @checked_numbers()
    def write(self, frame: np.ndarray, seconds: float) -> None:
        """Add one frame.

        Args:
            frame: (height, width, 3) uint8 RGB; it is copied.
            seconds: when it is shown, in seconds, later than the frame before. Only differences count: the movie
                starts with its first frame.

        Raises:
            InputError: the frame has another shape or dtype, or the time is not after the last one and before ``end``.
        """
        if not self._open:
            raise InputError(f"{self.path} is closed: no frame can be added")
        if frame.shape != (self.height, self.width, 3) or frame.dtype != np.uint8:
            raise InputError(
                f"wanted a ({self.height}, {self.width}, 3) uint8 RGB frame, got {frame.shape} {frame.dtype}"
            )
        if not math.isfinite(seconds):
            raise InputError(f"a frame's time must be finite seconds, got {seconds}")
        self._first = seconds if self._first is None else self._first
        ticks = self._ticks(seconds)
        if self._waiting is not None and ticks <= self._waiting[1]:
            raise InputError(
                f"times must increase: {seconds} s is not after the last frame at "
                f"{self._first + float(self._waiting[1] * TIME_BASE)} s (one tick is {TIME_BASE} s)"
            )
        if ticks >= self._ticks(self.end):
            raise InputError(f"a frame at {seconds} s does not fit before the movie's end at {self.end} s")
        picture = self._picture(frame)
        self._flush_waiting(ticks)
        self._waiting = (picture, ticks)

    def _ticks(self, seconds: float) -> int:
        assert self._first is not None
        return round((seconds - self._first) * TIME_BASE.denominator)

    def _picture(self, frame: np.ndarray) -> av.VideoFrame:
        rows, columns = (padded - size for padded, size in zip(self.padded_size, frame.shape[:2], strict=True))
        if rows or columns:
            frame = np.pad(frame, ((0, rows), (0, columns), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        if self._is_rgb:
            return picture.reformat(format=self.pixel_format)
        return picture.reformat(
            format=self.pixel_format, dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
        )

    def _flush_waiting(self, until: int) -> None:
        """Encode the frame that waited for its duration to be known."""
        if self._waiting is None:
            return
        picture, ticks = self._waiting
        self._waiting = None
        picture.pts, picture.time_base = ticks, TIME_BASE
        self._durations[ticks] = until - ticks
        self._mux(picture)

    def _mux(self, picture: av.VideoFrame | None) -> None:
        try:
            for packet in self._stream.encode(picture):
                packet.duration = self._durations.pop(packet.pts, 0)
                self._container.mux(packet)
        except FFmpegError as error:
            raise BackendError(f"the encoder {self._codec} failed on {self.path}: {error}") from error

    def close(self) -> None:
        """Finish the movie and give it its name. Closing twice is no error.

        Raises:
            InputError: no frame was written.
        """
        if not self._open:
            return
        try:
            if self._waiting is None:
                raise InputError(f"no frame was written to {self.path}; a movie has at least one")
            self._flush_waiting(self._ticks(self.end))
            self._mux(None)
            self._container.close()
            os.replace(self._part, self.path)
            self._open = False
        finally:
            self.abort()

    def abort(self) -> None:
        """Give the movie up and remove the temporary file; no error after ``close``."""
        if not self._open:
            return
        self._open = False
        with suppress(FFmpegError, OSError):
            self._container.close()
        self._part.unlink(missing_ok=True)

    def __enter__(self) -> MovieWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def _encoder(name: str) -> str:
    try:
        codec = av.Codec(name, "w")
    except ValueError as error:
        raise BackendError(
            f"this build of FFmpeg (PyAV {av.__version__}) has no encoder {name!r}; "
            "install PyAV's wheel from PyPI, or choose another codec, such as 'ffv1' with a .mkv name"
        ) from error
    if codec.type != "video":
        raise BackendError(f"{name!r} encodes {codec.type}, not video; wanted a video encoder such as 'libx264'")
    return name
