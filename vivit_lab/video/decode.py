"""Decode exactly the frames that were asked for, and notice when the file or the decoder does not deliver.

A frame is found by its presentation time after a seek to the key frame before it, and is bit for bit the frame that
decoding from the start gives. To be sure of that, the decoder is told to refuse what it would otherwise conceal, and
must give exactly the frames that the index announces, one after the other. Whenever it complains, leaves one out or
gives another, the file is decoded again from its first frame, in one thread and with the decoder's own concealment:
that is the reference, and with more threads the concealed pixels would differ from run to run. Where the times of the
frames turn out not to be in order there, the frames are numbered anew, in the order in which they are decoded.

Damage that the format or its decoder has no means to notice (VP9, many flipped bits in H.265, FFV1 in FFmpeg 8) stays
unnoticed; it is the same by a seek and in order.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter

from vivit_lab.errors import ColorWarning, DecodeError
from vivit_lab.memory import require_bytes
from vivit_lab.video.index import INTRA_ONLY, FrameIndex, decode_packets, index_decoded
from vivit_lab.video.info import Colours
from vivit_lab.video.keyframes import is_clean_start
from vivit_lab.video.source import Source, open_video, orientation, pixel_aspect, source_name, upright
from vivit_lab.warn import warn_caller

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["DecodedFrames", "Decoding", "decode_frames", "rewind"]

_LATE = 32  # decoders hold back 16 frames at most


def decode_frames(
    source: Source,
    index: FrameIndex,
    wanted: np.ndarray,
    *,
    stream: int = 0,
    threads: int | str = "auto",
    as_shown: bool = True,
    renumber: bool = False,
) -> DecodedFrames:
    """Decode frames of a file.

    Args:
        source: the path of a video file, its bytes, or a binary file object.
        index: the index of that stream.
        wanted: (n,) frame indices, inside the video; order and repetition are kept.
        stream: which of its video streams, from 0.
        threads: decoding threads, or "auto".
        as_shown: whether to turn frames as the file asks, or leave them as stored.
        renumber: where the times of the index turn out to be in disorder, return no frames but the right index, for the
            caller to choose again.

    Returns:
        The frames, how many times the decoder reported damage, the shape of their pixels, and the index by which they
        were numbered: another one than was given where decoding showed that its times are not in order.

    Raises:
        DecodeError: a frame cannot be decoded or converted to RGB, or frames differ in size.
        OutOfMemoryBudgetError: the frames would not fit into the free memory.

    Warns:
        ColorWarning: the frames are HDR.
    """
    name = source_name(source)

    def attempt(index: FrameIndex, threads: int | str, *, strict: bool, seek: bool) -> Decoding:
        decoding = Decoding(index, wanted, as_shown=as_shown)
        with open_video(source, stream, threads=threads, strict=strict) as (container, chosen):
            _check_memory(name, chosen, len(wanted))
            decoding.pixel_aspect = pixel_aspect(chosen)
            decoding.run(container, chosen, seek=seek and index.seekable)
        return decoding

    complaints = 0
    decoding = attempt(index, threads, strict=True, seek=True)
    if not decoding.sound:
        # A key frame may need frames before it after all; then there is nothing to complain of from the start.
        complaints = attempt(index, 1, strict=True, seek=False).troubles
        decoding = attempt(index, 1, strict=False, seek=False)
    if decoding.disorder is not None:
        with open_video(source, stream, threads=1) as (container, chosen):
            index = index_decoded(container, chosen, decoding.disorder)
        if renumber:
            return DecodedFrames(np.zeros((0, 0, 0, 3), np.uint8), 0, decoding.pixel_aspect, index)
        if wanted.max() >= len(index):
            raise DecodeError(
                f"{name}: frame {int(wanted.max())} cannot be decoded: the file lists it, but only {len(index)} frames "
                "come out of the decoder; wanted an index below that"
            )
        complaints = attempt(index, 1, strict=True, seek=False).troubles
        decoding = attempt(index, 1, strict=False, seek=False)
    if decoding.missing:
        raise decoding.error(name)
    if (caution := decoding.colours.caution) is not None:
        warn_caller(f"{name}: {caution}", ColorWarning)
    return DecodedFrames(decoding.frames(), max(decoding.troubles, complaints), decoding.pixel_aspect, index)


@dataclass(frozen=True, eq=False)
class DecodedFrames:
    """What decoding gave.

    Args:
        frames: (n, H, W, 3) uint8 RGB.
        troubles: how many times the decoder reported damage.
        pixel_aspect: width of a pixel of ``frames`` over its height.
        numbering: the index by which the frames were numbered.
    """

    frames: np.ndarray
    troubles: int
    pixel_aspect: Fraction
    numbering: FrameIndex


class Decoding:
    """Frames on their way from a stream into one array.

    Args:
        index: the stream's index.
        wanted: (n,) frame indices, inside the video.
        as_shown: whether to turn frames as the file asks, or leave them as stored.
    """

    def __init__(self, index: FrameIndex, wanted: np.ndarray, *, as_shown: bool = True) -> None:
        self.index = index
        self.as_shown = as_shown
        self.troubles = 0
        #: why the index does not hold for what the decoder gives, or None
        self.disorder: str | None = None
        self.colours = Colours()
        #: width of a pixel of the frames over its height
        self.pixel_aspect = Fraction(1)
        self._failure: str | None = None
        self._rgb = _RgbReader()
        self._unique, self._places = np.unique(wanted, return_inverse=True)
        self._found = np.zeros(len(self._unique), bool)
        self._pixels: np.ndarray | None = None

    @property
    def missing(self) -> list[int]:
        """The frames that were wanted and have not come yet."""
        return self._unique[~self._found].tolist()

    @property
    def sound(self) -> bool:
        """Whether each frame came, in its place, and without a complaint."""
        return not self.missing and not self.troubles and self.disorder is None

    def frames(self) -> np.ndarray:
        """Return the (n, H, W, 3) uint8 frames in the order they were wanted."""
        assert self._pixels is not None
        in_order = np.array_equal(self._places.ravel(), np.arange(len(self._unique)))
        return self._pixels if in_order else self._pixels[self._places.ravel()]

    def error(self, name: str) -> DecodeError:
        """Return the error that names the first missing frame, its time, and what the decoder said."""
        first, *more = self.missing
        others = f" and {len(more)} more" if more else ""
        said = f" ({self._failure})" if self._failure else ""
        return DecodeError(
            f"{name}: frame {first}{others} cannot be decoded{said}; it should show at "
            f"{self.index.seconds[first]:.3f} s. The file is damaged or cut off there; "
            "frames before and after it may still be read"
        )

    def run(self, container: Any, stream: Any, *, seek: bool) -> None:
        """Decode until nothing is missing, from where the container is, or after seeking.

        Raises:
            DecodeError: frames differ in size.
        """
        for key, last in self._stretches() if seek else [(None, int(self._unique[-1]))]:
            if key is not None and not self._seek(container, stream, key):
                return
            frames = self._decoded(container, stream)
            if self.index.obstacle is None:
                self._stretch(frames, None if key is None else int(self.index.keyframes[key]), last)
            else:
                self._count(frames, last)
            if self.disorder is not None:
                return

    def _stretches(self) -> Iterator[tuple[int | None, int]]:
        """Yield (key frame to seek to, last frame wanted), anew where a whole group of pictures can be left out."""
        keys = [self.index.keyframe_before(int(frame)) for frame in self._unique]
        begin = 0
        for place in range(1, len(keys) + 1):
            if place == len(keys) or keys[place] > keys[place - 1] + 1:
                # nothing to leave out before the first key frame
                yield (keys[begin] if keys[begin] or begin else None), int(self._unique[place - 1])
                begin = place

    def _seek(self, container: Any, stream: Any, key: int) -> bool:
        try:
            container.seek(int(self.index.keyframes[key]), stream=stream, backward=True)
        except FFmpegError as error:  # the frames stay missing, so the file will be decoded from the start
            self._failure = error.strerror
            return False
        return True

    def _count(self, frames: Iterator[Any], last: int) -> None:
        """Keep frames by their place in the order of decoding."""
        for number, frame in enumerate(frames):
            self._keep(frame, number)
            if number >= last:
                return

    def _stretch(self, frames: Iterator[Any], begin: int | None, last: int) -> None:
        """Keep frames by their time, which must go through the index one by one.

        Args:
            frames: as decoded.
            begin: time of the key frame at which decoding began, or None at the start; pictures before it are passed
                over.
            last: the last frame wanted.
        """
        pts = self.index.pts
        expected = int(np.searchsorted(pts, begin)) if begin is not None else 0
        lost, beyond = False, 0
        for frame in frames:
            if begin is not None and frame.pts is not None and frame.pts < begin:
                continue
            number = len(pts) if frame.pts is None else int(np.searchsorted(pts, frame.pts))
            if number < expected or number >= len(pts) or pts[number] != frame.pts:
                self.disorder = "the decoder gives frames in another order than that of their times"
                return
            if number > expected:
                lost = True
                self._report(f"the decoder gave no frame for {self.index.seconds[expected]:.3f} s")
            expected = number + 1
            if number <= last:
                self._keep(frame, number)
            if number >= last:
                # a frame that was left out may only be late, and then the times are in disorder
                beyond += 1
                if not lost or beyond > _LATE:
                    return

    def _decoded(self, container: Any, stream: Any) -> Iterator[Any]:
        """Yield frames, past packets that cannot be decoded."""
        codec = stream.codec_context.name
        try:
            for packet, frames, error in decode_packets(container, stream):
                if codec in INTRA_ONLY and packet.size and not is_clean_start(codec, packet, None):
                    # the decoder would fill it with what it still holds of other frames, and not say so
                    self._report("a picture lacks its pixels or the tables that they need")
                if error is not None:
                    self._report(getattr(error, "strerror", None) or str(error))
                for frame in frames:
                    if frame.is_corrupt:
                        self._report("the decoder marked a frame as damaged")
                    yield frame
        except FFmpegError as error:
            self._report(error.strerror)

    def _report(self, what: str | None) -> None:
        self.troubles += 1
        self._failure = self._failure or what

    def _keep(self, frame: Any, number: int) -> None:
        place = int(np.searchsorted(self._unique, number))
        if place == len(self._unique) or self._unique[place] != number:
            return
        pixels = self._rgb(frame)
        if self.as_shown:
            turns, mirrored = orientation(frame)
            pixels = upright(pixels, turns, mirrored)
            if self._pixels is None and turns % 2:
                self.pixel_aspect = 1 / self.pixel_aspect
        if self._pixels is None:
            self.colours = Colours.of(frame)
        if self._pixels is None:
            self._pixels = np.empty((len(self._unique), *pixels.shape), np.uint8)
        if pixels.shape != self._pixels.shape[1:]:
            height, width = self._pixels.shape[1:3]
            raise DecodeError(
                f"frame {number} at {self.index.seconds[number]:.3f} s is {pixels.shape[0]}×{pixels.shape[1]}, frames "
                f"before it are {height}×{width}: a clip has one size; read the parts of the video separately"
            )
        self._pixels[place] = pixels
        self._found[place] = True


class _RgbReader:
    """Turns frames into RGB as ``frame.to_ndarray(format="rgb24")`` does, at less cost.

    One converter serves all frames, where each frame would set up its own, with a pool of threads; and the pixels are
    a view of its result, to be copied once.
    """

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def __call__(self, frame: Any) -> np.ndarray:
        try:
            rgb = self._reformatter.reformat(frame, format="rgb24", threads=1)
        except FFmpegError as error:
            raise DecodeError(
                f"FFmpeg cannot convert its {frame.format.name} frames with the matrix {Colours.of(frame).matrix} to "
                f"RGB ({error.strerror}): convert the video to another format first"
            ) from error
        plane: Any = rgb.planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: rgb.height, : 3 * rgb.width]
        return rows.reshape(rgb.height, rgb.width, 3)


def rewind(container: Any) -> None:
    """Bring an open container back to its first packet."""
    start = container.start_time
    container.seek(min(0, start) if start is not None else 0)


def _check_memory(name: str, stream: Any, count: int) -> None:
    wanted = count * stream.codec_context.height * stream.codec_context.width * 3
    instead = "read fewer frames, or parts of the video one after another (num_frames=, stride=, start=)"
    require_bytes(wanted, "cpu", f"{count} RGB frames of {name}", instead)
