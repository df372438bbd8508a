"""Files that are broken, odd, or no video at all, made from good ones by changing bytes."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np

from tests.video.make_video import TICK, Variant, picture


def cut(path: Path, share: float = 0.6) -> Path:
    """Leave only the first part of a file's bytes."""
    contents = path.read_bytes()
    path.write_bytes(contents[: int(len(contents) * share)])
    return path


def flip(path: Path, low: float, high: float, count: int = 12, seed: int = 0) -> Path:
    """Invert some bytes between two places, given as shares of the file."""
    contents = bytearray(path.read_bytes())
    for place in np.random.default_rng(seed).integers(int(low * len(contents)), int(high * len(contents)), count):
        contents[place] ^= 0xFF
    path.write_bytes(contents)
    return path


def claim_frames(path: Path, count: int) -> Path:
    """Change how many frames an AVI's headers claim."""
    contents = bytearray(path.read_bytes())
    for tag, offset in ((b"avih", 8 + 16), (b"strh", 8 + 32)):
        place = contents.index(tag) + offset
        contents[place : place + 4] = struct.pack("<I", count)
    path.write_bytes(contents)
    return path


def trim_by_edit_list(path: Path, first: int, count: int) -> Path:
    """Let an mp4's edit list show only some of its frames (25 a second, 1/90000 s ticks); all stay in the file."""
    contents = bytearray(path.read_bytes())
    place = contents.index(b"elst")
    entries, _, media_time = struct.unpack(">IIi", contents[place + 8 : place + 20])
    assert entries == 1
    movie = contents.index(b"mvhd")
    (ticks,) = struct.unpack(">I", contents[movie + 16 : movie + 20])  # a second; not each version of FFmpeg's is 1000
    new = struct.pack(">IIi", 1, count * ticks // 25, media_time + first * 3600)
    contents[place + 8 : place + 20] = new
    path.write_bytes(contents)
    return path


def joined(directory: Path) -> Path:
    """Two MPEG-TS recordings in one file: the clock starts again in the middle."""
    parts = [Variant(f"part{k}.ts", "libx264", b_frames=2, count=20, start=start) for k, start in ((0, 0.5), (1, 0.23))]
    path = directory / "joined.ts"
    path.write_bytes(b"".join(part.make(directory).read_bytes() for part in parts))
    return path


def sound_only(directory: Path, *, cover: bool = False) -> Path:
    """A file with a second of silence, perhaps with a cover picture."""
    path = directory / ("cover.mp3" if cover else "sound.m4a")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libmp3lame" if cover else "aac", rate=44100)
        picture_stream = container.add_stream("mjpeg") if cover else None
        if picture_stream is not None:
            picture_stream.width, picture_stream.height, picture_stream.pix_fmt = 64, 48, "yuvj420p"
            picture_stream.disposition = av.stream.Disposition.attached_pic
            frame = av.VideoFrame.from_ndarray(picture(1), format="rgb24").reformat(format="yuvj420p")
            container.mux(picture_stream.encode(frame))
            container.mux(picture_stream.encode(None))
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), "fltp", "mono")
        silence.sample_rate = 44100
        container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
    return path


def growing(directory: Path) -> Path:
    """An MPEG-TS recording whose frames become larger after the eighth."""
    path = directory / "growing.ts"
    kinds = [((48, 64), 0.0), ((96, 128), 0.32)]
    parts = [Variant("part.ts", "libx264", count=8, size=size, start=start) for size, start in kinds]
    path.write_bytes(b"".join(part.make(directory).read_bytes() for part in parts))
    return path


def blank(path: Path) -> Path:
    """Overwrite all the pictures of an mp4 with zeros; its table stays."""
    contents = bytearray(path.read_bytes())
    begin = contents.index(b"mdat") + 4
    contents[begin:] = bytes(len(contents) - begin)
    path.write_bytes(contents)
    return path


def turned(directory: Path, degrees: int, *, mirror: bool) -> Path:
    """One frame with a display matrix that turns, then perhaps mirrors it; stored so that it shows upright."""
    path = directory / "turned.mp4"
    upright = picture(37)
    stored = np.ascontiguousarray(np.rot90(upright[:, ::-1] if mirror else upright, -degrees // 90))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = *stored.shape[:2], "yuv420p"
        stream.codec_context.time_base = TICK
        stream.set_display_rotation(degrees, hflip=mirror)
        frame = av.VideoFrame.from_ndarray(stored, format="rgb24")
        frame.pts, frame.time_base = 0, TICK
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_edit_list(path: Path, edits: list[tuple[float, float]]) -> Path:
    """Give an mp4 that ends with its table another edit list: (seconds shown, first frame's place or -1) of each edit.

    Frames are 1/25 s apart, in ticks of 1/90000 s or what the file's media clock says. An edit from -1 shows nothing.
    """
    contents = bytearray(path.read_bytes())
    movie = contents.index(b"moov") - 4
    (ticks,) = struct.unpack(">I", contents[contents.index(b"mvhd") + 16 :][:4])
    (media,) = struct.unpack(">I", contents[contents.index(b"mdhd") + 16 :][:4])
    place = contents.index(b"elst") - 4
    size, _, _, _, _, origin = struct.unpack(">I4sIIIi", contents[place : place + 24])
    rows = b"".join(
        struct.pack(">IiI", round(seconds * ticks), -1 if first < 0 else origin + round(first * media / 25), 1 << 16)
        for seconds, first in edits
    )
    new = struct.pack(">I4sII", 16 + len(rows), b"elst", 0, len(edits)) + rows
    contents[place : place + size] = new
    for box in (b"moov", b"trak", b"edts"):
        at = movie if box == b"moov" else contents.index(box, movie) - 4
        (old,) = struct.unpack(">I", contents[at : at + 4])
        contents[at : at + 4] = struct.pack(">I", old + len(new) - size)
    path.write_bytes(contents)
    return path


def remux(good: Path, path: Path, change: Callable[[list[Any]], list[Any]]) -> Path:
    """Write the packets of a video anew after a change of them; packets that the muxer refuses are lost."""
    with av.open(str(good)) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        copy: Any = target.add_stream_from_template(stream, opaque=True)
        for packet in change([packet for packet in source.demux(stream) if packet.size]):
            packet.stream = copy
            try:
                target.mux(packet)
            except (av.error.FFmpegError, ValueError):
                continue
    return path
