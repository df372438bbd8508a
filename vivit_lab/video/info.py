"""What a video file holds, counted and not only read from its header; its colours too."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from av.error import FFmpegError

from vivit_lab.errors import DecodeError
from vivit_lab.numbers import checked_numbers
from vivit_lab.video.folder import first_picture, index_of, is_folder
from vivit_lab.video.geometry import displayed_size
from vivit_lab.video.index import FrameIndex
from vivit_lab.video.source import (
    DECODER_ERRORS,
    Source,
    exact,
    open_video,
    orientation,
    pixel_aspect,
    source_name,
)

__all__ = ["Colours", "VideoInfo", "probe"]

# Numbers of ITU-T H.273, named as FFmpeg does; 2 is "unspecified" in each.
_MATRICES = {
    0: "gbr", 1: "bt709", 4: "fcc", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "ycgco", 9: "bt2020nc",
    10: "bt2020c", 11: "smpte2085", 12: "chroma-derived-nc", 13: "chroma-derived-c", 14: "ictcp", 15: "ipt-c2",
    16: "ycgco-re", 17: "ycgco-ro",
}  # fmt: skip
_PRIMARIES = {
    1: "bt709", 4: "bt470m", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "film", 9: "bt2020", 10: "smpte428",
    11: "smpte431", 12: "smpte432", 22: "ebu3213",
}  # fmt: skip
_TRANSFERS = {
    1: "bt709", 4: "gamma22", 5: "gamma28", 6: "smpte170m", 7: "smpte240m", 8: "linear", 9: "log100", 10: "log316",
    11: "iec61966-2-4", 12: "bt1361e", 13: "iec61966-2-1", 14: "bt2020-10", 15: "bt2020-12", 16: "smpte2084",
    17: "smpte428", 18: "arib-std-b67",
}  # fmt: skip
_RANGES = {1: "limited", 2: "full"}
_HDR = {16: "PQ", 18: "HLG"}


@dataclass(frozen=True)
class Colours:
    """What a frame says of its colours, in FFmpeg's names; None where it says nothing.

    Args:
        matrix: from brightness and colour differences to RGB, such as "bt709".
        range: "limited" (16 … 235 of 255) or "full".
        transfer: the curve from values to light, such as "bt709", "smpte2084" (PQ) or "arib-std-b67" (HLG).
        primaries: which red, green and blue, such as "bt709" or "bt2020".
        hdr: "PQ" or "HLG" where the transfer is one of these.
    """

    matrix: str | None = None
    range: str | None = None
    transfer: str | None = None
    primaries: str | None = None
    hdr: str | None = None

    @classmethod
    def of(cls, frame: Any) -> Colours:
        """Return what a decoded PyAV frame says."""
        transfer = int(frame.color_trc)
        return cls(
            _name(_MATRICES, frame.colorspace),
            _RANGES.get(int(frame.color_range)),
            _name(_TRANSFERS, transfer),
            _name(_PRIMARIES, frame.color_primaries),
            _HDR.get(transfer),
        )

    @property
    def caution(self) -> str | None:
        """Why the RGB values are not what a player shows, or None."""
        if self.hdr is None:
            return None
        return (
            f"it is HDR ({self.hdr}), and its frames are read without tone mapping: they look flat beside what a "
            "player shows and models were trained on; convert the file to SDR first, with ffmpeg's tonemap filter"
        )


def _name(names: dict[int, str], number: Any) -> str | None:
    number = int(number)
    return None if number == 2 else names.get(number, f"number {number} of H.273")


@dataclass(frozen=True)
class VideoInfo:
    """Facts of one video stream of a file.

    Args:
        path: the file; of bytes and nameless files, what they are.
        container: FFmpeg's name of the file format, such as "mov,mp4,m4a,3gp,3g2,mj2"; "folder" of one of pictures.
        codec: FFmpeg's name of the video codec, such as "h264".
        width: columns of a frame as shown (rotation applied), in pixels.
        height: rows of a frame as shown, in pixels.
        coded_size: (height, width) of a frame as stored.
        rotation: degrees counter-clockwise, 0, 90, 180 or 270, that a player turns the stored frame.
        mirrored: whether a player mirrors the frame left to right after turning it.
        fps: average frames a second: counted frames over ``duration``.
        frames: how many frames the stream has, counted.
        header_frames: how many the header claims, or None where it does not say.
        duration: from the first frame to the end of the last one, in seconds.
        header_duration: duration that the header claims, in seconds, or None.
        start: time of the first frame on the file's own clock, in seconds. (A clip's times begin at its first frame.)
        time_base: seconds a tick of the file's clock.
        vfr: whether the frames are unevenly spaced.
        pixel_format: FFmpeg's name of the stored pixel format, such as "yuv420p10le".
        bit_depth: bits a colour component.
        palette: whether each stored pixel is an entry of a table of colours.
        matrix: how colours are stored, in FFmpeg's names, such as "bt709"; None where the file does not say: then
            frames are read by BT.601, as FFmpeg does.
        color_range: "limited" or "full"; None where the file does not say: then limited, as FFmpeg does.
        transfer: the curve from values to light, such as "bt709"; None where the file does not say.
        primaries: which red, green and blue, such as "bt709"; None where the file does not say.
        hdr: "PQ" or "HLG" for high dynamic range, which is read without tone mapping; else None.
        field_order: "progressive"; or "tt", "bb", "tb", "bt" (which field is coded first, which shown first) or
            "interlaced" (order not known): two moments in the lines of one frame, which are read as they are. None
            where the file does not say, or PyAV does not (before 18).
        pixel_aspect: width of a stored pixel over its height; frames are read as stored, not stretched.
        display_size: (height, width) at which a player shows a frame: turned, and stretched by ``pixel_aspect``.
        key_frames: at how many frames decoding can begin; 1 where reading always begins at the start.
        seekable: whether reading a late frame can skip the earlier ones.
        truncated: how many frames the file's table lists beyond its end; above 0 the file was cut off.
        video_streams: how many video streams the file has; cover pictures do not count.
        audio_streams: how many audio streams it has.
    """

    path: str
    container: str
    codec: str
    width: int
    height: int
    coded_size: tuple[int, int]
    rotation: int
    mirrored: bool
    fps: float
    frames: int
    header_frames: int | None
    duration: float
    header_duration: float | None
    start: float
    time_base: Fraction
    vfr: bool
    pixel_format: str
    bit_depth: int
    palette: bool
    matrix: str | None
    color_range: str | None
    transfer: str | None
    primaries: str | None
    hdr: str | None
    field_order: str | None
    pixel_aspect: Fraction
    display_size: tuple[int, int]
    key_frames: int
    seekable: bool
    truncated: int
    video_streams: int
    audio_streams: int

    @property
    def interlaced(self) -> bool:
        """Whether a frame holds two moments, in its even and its odd lines."""
        return self.field_order not in (None, "progressive")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-able values; fractions as "1/90000"."""
        fields = asdict(self)
        fields |= {"coded_size": list(self.coded_size), "display_size": list(self.display_size)}
        return {name: str(value) if isinstance(value, Fraction) else value for name, value in fields.items()}

    def __repr__(self) -> str:
        notes = []
        if self.header_frames not in (None, self.frames):
            notes.append(f"header says {self.header_frames} frames")
        if self.truncated:
            notes.append(f"cut off: {self.truncated} more frames are listed")
        if self.rotation or self.mirrored:
            notes.append(f"rotated {self.rotation}°" + ", mirrored" * self.mirrored)
        if self.pixel_aspect != 1:
            notes.append(f"shown at {self.display_size[1]}×{self.display_size[0]}")
        if self.hdr:
            notes.append(f"HDR ({self.hdr})")
        if self.interlaced:
            notes.append("interlaced")
        if self.palette:
            notes.append("palette")
        if self.start:
            notes.append(f"starts at {self.start:.3f} s")
        if self.video_streams > 1:
            notes.append(f"{self.video_streams} video streams")
        rate = f"{'variable, on average ' if self.vfr else ''}{self.fps:.4g} fps"
        return (
            f"VideoInfo({self.path}: {self.codec} in {self.container}, {self.width}×{self.height}, "
            f"{self.frames} frames, {self.duration:.3f} s, {rate}, {self.pixel_format}"
            f"{''.join(f', {note}' for note in notes)})"
        )


@checked_numbers()
def probe(path: Source, *, stream: int = 0, fps: float | None = None) -> VideoInfo:
    """Describe a video, from its packets and its first frame.

    Decodes one frame only, and reads no pictures but that of MP4, MOV, Matroska and WebM; other formats are read whole.
    The few whose packets do not tell how many frames they make (H.264 and MPEG-4 in AVI, raw streams, GIF, VP8) are
    decoded once.

    Args:
        path: a video: the path of its file, its bytes, a binary file object that can seek, or a folder of numbered
            pictures.
        stream: which of its video streams, from 0.
        fps: pictures a second, for a folder; None takes 25 and says so.

    Raises:
        VideoNotFoundError: there is no such file.
        NotAVideoError: it is no video: audio only, a still image, a playlist, a pipe, not media.
        InputError: the file has no video stream of that number.
        DecodeError: no frame can be decoded.
    """
    index, name = index_of(path, stream, fps), source_name(path)
    if is_folder(path):
        frame, codec = first_picture(name)
        return VideoInfo(
            path=name,
            container="folder",
            codec=codec,
            **_counted(index),
            header_frames=None,
            start=0.0,
            time_base=index.time_base,
            **_pictured(frame, Fraction(1)),
            field_order=None,
            pixel_format=frame.format.name,
            video_streams=1,
            audio_streams=0,
        )
    with open_video(path, stream) as (container, chosen):
        frame = _first_frame(name, container, chosen)
        origin = chosen.start_time if chosen.start_time is not None else 0
        context, clock = chosen.codec_context, exact(chosen.time_base) or Fraction(1)
        videos = [one for one in container.streams.video if not one.disposition & type(one.disposition).attached_pic]
        return VideoInfo(
            path=name,
            container=container.format.name,
            codec=context.codec.canonical_name,
            **_counted(index),
            header_frames=chosen.frames or None,
            start=float((index.pts[0] if index.obstacle is None else origin) * clock),
            time_base=clock,
            **_pictured(frame, pixel_aspect(chosen)),
            field_order=_field_order(context, frame),
            pixel_format=context.pix_fmt,
            video_streams=len(videos),
            audio_streams=len(container.streams.audio),
        )


def _counted(index: FrameIndex) -> dict[str, Any]:
    """Return the fields that the index tells."""
    return {
        "fps": index.fps,
        "frames": len(index),
        "duration": index.end,
        "header_duration": index.header_seconds,
        "vfr": index.vfr,
        "key_frames": max(len(index.keyframes), 1),
        "seekable": index.seekable,
        "truncated": index.missing,
    }


def _pictured(frame: Any, aspect: Fraction) -> dict[str, Any]:
    """Return the fields that a decoded frame tells, whose stored pixels have an aspect."""
    (turns, mirrored), stored, colours = orientation(frame), (frame.height, frame.width), Colours.of(frame)
    size = stored[::-1] if turns % 2 else stored
    return {
        "width": size[1],
        "height": size[0],
        "coded_size": stored,
        "rotation": 90 * turns,
        "mirrored": mirrored,
        "bit_depth": max(component.bits for component in frame.format.components),
        "palette": frame.format.has_palette,
        "matrix": colours.matrix,
        "color_range": colours.range,
        "transfer": colours.transfer,
        "primaries": colours.primaries,
        "hdr": colours.hdr,
        "pixel_aspect": aspect,
        "display_size": displayed_size(size, 1 / aspect if turns % 2 else aspect),
    }


def _first_frame(name: str, container: Any, stream: Any) -> Any:
    """Return the first frame that decodes."""
    failure = "it holds no frame"
    try:
        for packet in container.demux(stream):
            try:
                for frame in packet.decode():
                    return frame
            except DECODER_ERRORS as error:
                failure = getattr(error, "strerror", None) or str(error)
    except FFmpegError as error:
        failure = str(error.strerror)
    raise DecodeError(f"{name}: none of its frames can be decoded ({failure})")


def _field_order(context: Any, frame: Any) -> str | None:
    known = {1: "progressive", 2: "tt", 3: "bb", 4: "tb", 5: "bt"}.get(int(getattr(context, "field_order", 0)))
    if frame.interlaced_frame and known in (None, "progressive"):
        return "interlaced"
    return known
