"""Small videos of every awkward kind, made with PyAV, whose frames carry their number.

Each frame shows its number as eight black or white blocks, large enough to survive lossy coding, over a texture that
moves. So a test can tell *which* frame it was given, and whether it is upright.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

TICK = Fraction(1, 90000)
_BLOCK = 16
_BITS = 6  # of the number; the two other blocks are always white and black, and tell which way is up


def picture(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Return the upright frame (height, width, 3) uint8 of a number in 0 … 63."""
    rows, columns = np.mgrid[:height, :width]
    wave = np.sin((columns + 3 * number) / 5.0) + np.sin((rows - 2 * number) / 4.0)
    frame = np.stack([100 + 40 * wave, 110 - 30 * wave, 90 + 30 * np.roll(wave, 5, 1)], axis=-1)
    bits = [1, *((number >> bit) & 1 for bit in range(_BITS)), 0]
    for place, bit in enumerate(bits):
        top, left = place // 4 * (_BLOCK - 1), place % 4 * (_BLOCK - 1)
        frame[top : top + _BLOCK - 1, left : left + _BLOCK - 1] = 235 if bit else 16
    return frame.round().astype(np.uint8)


def read_number(frame: np.ndarray) -> int:
    """Return the number that a frame shows; fails where the frame is not upright or a block is not plain."""
    levels = []
    for place in range(8):
        top, left = place // 4 * (_BLOCK - 1), place % 4 * (_BLOCK - 1)
        levels.append(frame[top + 4 : top + _BLOCK - 5, left + 4 : left + _BLOCK - 5].mean())
    assert all(level < 85 or level > 170 for level in levels), f"the blocks are not plain: {np.round(levels)}"
    bits = [level > 128 for level in levels]
    assert (bits[0], bits[7]) == (True, False), f"the frame is not upright: {np.round(levels)}"
    return sum(bit << place for place, bit in enumerate(bits[1:7]))


def regular(count: int, fps: float = 25.0, start: float = 0.0) -> list[float]:
    """Return the times of a constant rate, in seconds."""
    return [start + k / fps for k in range(count)]


def irregular(count: int, start: float = 0.0, seed: int = 0) -> list[float]:
    """Return times with gaps of 10 … 200 ms, on whole milliseconds."""
    gaps = np.random.default_rng(seed).integers(10, 200, count)
    return [start + float(milliseconds) / 1000 for milliseconds in np.cumsum(gaps) - gaps[0]]


@dataclass(frozen=True)
class Variant:
    """One kind of file.

    Args:
        name: what the test is called; its suffix chooses the container.
        codec: FFmpeg's name of the encoder.
        times: "regular" or "irregular".
        start: time of the first frame, in seconds.
        rotation: degrees, counter-clockwise, that a player turns the stored picture.
        options: given to the encoder.
        container_options: given to the muxer.
    """

    name: str
    codec: str
    pixel_format: str = "yuv420p"
    times: str = "regular"
    start: float = 0.0
    count: int = 30
    size: tuple[int, int] = (48, 64)
    gop: int = 8
    b_frames: int | None = 0
    rotation: int = 0
    audio: bool = False
    second_stream: bool = False
    container: str | None = None
    options: dict[str, str] = field(default_factory=dict)
    container_options: dict[str, str] = field(default_factory=dict)
    time_base: Fraction = TICK

    @property
    def seconds(self) -> list[float]:
        """Times of the frames, in seconds."""
        return (regular if self.times == "regular" else irregular)(self.count, start=self.start)

    def make(self, directory: Path) -> Path:
        """Write the file and return its path."""
        path = directory / self.name
        write_video(path, self)
        return path


def write_video(path: Path, kind: Variant) -> None:
    """Encode the numbered frames of a variant."""
    with av.open(str(path), "w", format=kind.container, options=kind.container_options) as container:
        if kind.second_stream:
            _add_stream(container, kind, kind.rotation)
        _add_stream(container, kind, kind.rotation)
        sound = container.add_stream("aac", rate=8000) if kind.audio else None
        for number, seconds in enumerate(kind.seconds):
            # the first of two streams counts backwards, so the two cannot be mistaken for each other
            for target in container.streams.video:
                shown = kind.count - 1 - number if kind.second_stream and target.index == 0 else number
                container.mux(target.encode(_frame(kind, shown, seconds)))
        for target in container.streams.video:
            container.mux(target.encode(None))
        if sound is not None:
            _add_sound(container, sound, kind.seconds[-1])


def _add_stream(container: Any, kind: Variant, rotation: int) -> Any:
    stream = container.add_stream(kind.codec, rate=25)
    height, width = kind.size if rotation % 180 == 0 else kind.size[::-1]
    context = stream.codec_context
    context.height, context.width, context.pix_fmt = height, width, kind.pixel_format
    context.time_base = kind.time_base
    context.gop_size = kind.gop
    if kind.b_frames is not None:
        context.max_b_frames = kind.b_frames
    context.thread_type = "FRAME"  # sliced threads, PyAV's default, would hide what frame threads do
    context.thread_count = 1
    quiet = {"libx265": {"x265-params": "log-level=error:pools=1:frame-threads=1"}, "libsvtav1": {"preset": "12"}}
    context.options = {**quiet.get(kind.codec, {}), **kind.options}
    if rotation:
        stream.set_display_rotation(rotation)
    return stream


def _frame(kind: Variant, number: int, seconds: float) -> av.VideoFrame:
    upright = picture(number, *kind.size)
    stored = np.ascontiguousarray(np.rot90(upright, -kind.rotation // 90))
    frame = av.VideoFrame.from_ndarray(stored, format="rgb24").reformat(format=kind.pixel_format)
    frame.pts, frame.time_base = round(seconds / kind.time_base), kind.time_base
    return frame


def _add_sound(container: Any, stream: Any, seconds: float) -> None:
    silence = av.AudioFrame.from_ndarray(np.zeros((1, int(8000 * (seconds + 0.1))), np.float32), "fltp", "mono")
    silence.sample_rate = 8000
    silence.pts, silence.time_base = 0, Fraction(1, 8000)
    container.mux(stream.encode(silence))
    container.mux(stream.encode(None))


STILLS = {
    "png": ("png", "rgb24"),
    "jpg": ("mjpeg", "yuvj444p"),
    "webp": ("libwebp", "bgra"),
    "bmp": ("bmp", "bgr24"),
    "gif": ("gif", "rgb8"),
}
"""Encoder and pixel format of each kind of still image."""


def write_still(path: Path, pixels: np.ndarray, codec: str, pixel_format: str) -> Path:
    """Write one picture (height, width, 3) uint8 as a still image."""
    if codec == "gif":
        with av.open(str(path), "w") as container:
            stream: Any = container.add_stream(codec, rate=25)
            stream.height, stream.width, stream.pix_fmt = *pixels.shape[:2], pixel_format
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=pixel_format)
            for packet in [*stream.encode(frame), *stream.encode(None)]:
                container.mux(packet)
        return path
    encoder: Any = av.CodecContext.create(codec, "w")
    encoder.height, encoder.width, encoder.pix_fmt = *pixels.shape[:2], pixel_format
    encoder.time_base = Fraction(1, 25)
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=pixel_format)
    path.write_bytes(b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)]))
    return path


MS, FRAME = Fraction(1, 1000), Fraction(1, 25)

VARIANTS = [
    Variant("h264.mp4", "libx264"),
    Variant("h264_b_frames.mp4", "libx264", b_frames=3),
    Variant("h264_vfr_offset.mp4", "libx264", b_frames=3, times="irregular", start=1.5),
    Variant("h264_open_gop.mkv", "libx264", b_frames=2, options={"x264-params": "open-gop=1:scenecut=0"}),
    Variant("h264_pyramid_refs.mp4", "libx264", b_frames=4, gop=12, options={"x264-params": "ref=4:b-pyramid=normal"}),
    Variant("h264_intra_refresh.mp4", "libx264", options={"x264-params": "intra-refresh=1"}),
    Variant(
        "h264_intra_refresh_long.mp4",
        "libx264",
        count=60,
        gop=20,
        b_frames=2,
        options={"x264-params": "intra-refresh=1"},
    ),
    Variant("h264_fragmented.mp4", "libx264", container_options={"movflags": "frag_keyframe+empty_moov"}),
    Variant("h264_one_key_frame.mp4", "libx264", b_frames=2, gop=250),
    Variant("h264.ts", "libx264", b_frames=2),
    Variant("h264_vfr.ts", "libx264", b_frames=2, times="irregular"),
    Variant("h264_vfr_offset.mkv", "libx264", b_frames=2, times="irregular", start=3.0),
    Variant("h264_no_times.avi", "libx264", b_frames=2, time_base=FRAME),
    Variant("h264_raw.h264", "libx264", b_frames=2),
    Variant("h264_odd_444.mp4", "libx264", pixel_format="yuv444p", size=(47, 61)),
    Variant("h264_10_bit.mp4", "libx264", pixel_format="yuv420p10le", b_frames=2),
    Variant("h264_422.mov", "libx264", pixel_format="yuv422p"),
    Variant("h264_sound.mp4", "libx264", audio=True, b_frames=2),
    Variant("h264_rotated_90.mp4", "libx264", rotation=90),
    Variant("h264_rotated_180.mp4", "libx264", rotation=180),
    Variant("h264_rotated_270.mov", "libx264", rotation=-90, b_frames=2),
    Variant("h265.mp4", "libx265", b_frames=3),
    Variant("h265_vfr.mkv", "libx265", b_frames=2, times="irregular", start=0.7),
    Variant("h265_10_bit.mp4", "libx265", pixel_format="yuv420p10le"),
    Variant("vp9.webm", "libvpx-vp9", b_frames=None, options={"deadline": "realtime", "cpu-used": "8"}),
    Variant("vp9_alt_ref.webm", "libvpx-vp9", b_frames=None, options={"auto-alt-ref": "1", "lag-in-frames": "16"}),
    Variant("vp9_odd_444.webm", "libvpx-vp9", pixel_format="yuv444p", size=(45, 63), b_frames=None, times="irregular"),
    Variant("vp8_alt_ref.webm", "libvpx", b_frames=None, options={"auto-alt-ref": "1", "lag-in-frames": "16"}),
    Variant("av1.mkv", "libsvtav1", size=(64, 96), b_frames=None),
    Variant("av1_vfr.mp4", "libsvtav1", size=(64, 96), b_frames=None, times="irregular"),
    Variant("mpeg4_b_frames.avi", "mpeg4", b_frames=2, time_base=FRAME),
    Variant("mpeg4_vfr.mp4", "mpeg4", b_frames=2, time_base=MS, times="irregular"),
    Variant("mpeg2_open_gop.mpg", "mpeg2video", b_frames=2, time_base=FRAME),
    Variant("mpeg2.ts", "mpeg2video", b_frames=2, time_base=FRAME),
    Variant("mjpeg.avi", "mjpeg", pixel_format="yuvj420p", time_base=FRAME),
    Variant("mjpeg_vfr.mov", "mjpeg", pixel_format="yuvj420p", time_base=MS, times="irregular"),
    Variant("ffv1.mkv", "ffv1", time_base=MS),
    Variant("ffv1_rgb_odd.mkv", "ffv1", pixel_format="bgr0", size=(47, 61), time_base=MS, times="irregular"),
    Variant("gif.gif", "gif", pixel_format="rgb8", time_base=Fraction(1, 100)),
]
"""Every kind that the laws of decoding are checked on."""

TWO_STREAMS = Variant("two_streams.mkv", "libx264", b_frames=2, second_stream=True)
"""The first stream counts backwards, the second forwards."""
