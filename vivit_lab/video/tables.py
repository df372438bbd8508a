"""What the packets of a video stream are, from the tables of its file alone: the pictures themselves are not read.

MP4 and MOV hold a table of all their samples. FFmpeg reads it when it opens the file, and applies the edit list; PyAV
gives the result (``index_entries``), but without presentation times. Those are added here from the file's own table
of time offsets. Matroska and WebM have no such table (their cues list key frames only), but each block says how long
it is, so one can go from block to block and skip the pictures.

Where a file holds anything that is not understood here, the answer is None, and the packets are read instead.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from typing import IO, Any, NamedTuple

import numpy as np
from av.error import FFmpegError

from vivit_lab.errors import DecodeError
from vivit_lab.video.keyframes import HEAD_BYTES, is_clean_start, lasting_settings

__all__ = ["Packet", "table_packets"]

_KEY, _DISCARD = 1, 2  # flags of FFmpeg's index entries


class Packet(NamedTuple):
    """What is known of a packet without decoding it.

    Args:
        pts: presentation time in ticks, or None where the file gives none.
        duration: in ticks, 0 where unknown.
        key: decoding may begin here.
        hidden: an edit list leaves its frame out.
        news: a palette or a header comes with it, which holds for later packets too.
    """

    pts: int | None
    duration: int
    key: bool
    hidden: bool = False
    news: bool = False


def table_packets(container: Any, stream: Any, path: str | os.PathLike[str]) -> list[Packet] | None:
    """Return the packets of a stream in the order of the file, from the file's tables; None where they do not tell.

    Args:
        container: the file as PyAV opened it, at its first packet.
        stream: the video stream.
        path: of the same file.
    """
    kinds = container.format.name.split(",")
    try:
        with open(path, "rb", buffering=0) as file:
            if "mp4" in kinds:
                return _mp4(file, container, stream)
            if "matroska" in kinds:
                return _matroska(file, container, stream)
    except (OSError, ValueError, LookupError, DecodeError, FFmpegError):
        pass  # a table that is damaged does not tell
    return None


# MP4 and MOV ----------------------------------------------------------------------------------------------------------


def _mp4(file: IO[bytes], container: Any, stream: Any) -> list[Packet] | None:
    size = os.fstat(file.fileno()).st_size
    movie = _movie_box(file, size)
    if movie is None or any(kind == b"mvex" for kind, _ in _boxes(movie)):
        return None  # the samples of a fragmented file are in its fragments
    table = _sample_table(movie, stream.id)
    entries = list(stream.index_entries)
    if table is None or not entries:
        return None
    samples = _Samples.of(table)
    if samples is None:
        return None
    positions = np.array([entry.pos for entry in entries], np.int64)
    ends = positions + np.array([entry.size for entry in entries], np.int64)
    if ends.max() > size:
        return None  # cut off: reading tells where
    order = np.argsort(samples.positions, kind="stable")
    place = np.searchsorted(samples.positions, positions, sorter=order)
    if place.max() >= len(order) or np.any(samples.positions[order[place]] != positions):
        return None
    dts = np.array([entry.timestamp for entry in entries], np.int64)
    flags = np.array([entry.flags for entry in entries], np.int64)
    pts = dts + samples.offsets[order[place]]
    # FFmpeg moves all presentation times by a constant where offsets are negative; its first packets tell by how much
    first = [packet for packet in islice(container.demux(stream), 4) if packet.size]
    shifts = {packet.pts - int(time) for packet, time in zip(first, pts, strict=False) if packet.pts is not None}
    if len(shifts) != 1 or any(
        packet.pts is None or packet.dts != time for packet, time in zip(first, dts, strict=False)
    ):
        return None
    pts += shifts.pop()
    durations = np.append(np.diff(dts), samples.last_duration)
    if durations.min() < 0:
        return None
    heads = _Heads(file, stream)
    return [
        Packet(time, duration, *heads.look(bool(flag & _KEY), bool(flag & _DISCARD), at, length))
        for time, duration, flag, at, length in zip(
            pts.tolist(),
            durations.tolist(),
            flags.tolist(),
            positions.tolist(),
            (ends - positions).tolist(),
            strict=True,
        )
    ]


class _Heads:
    """Reads the first bytes of key packets, which say whether decoding may begin there."""

    def __init__(self, file: IO[bytes], stream: Any) -> None:
        self._file = file
        self._codec, self._extradata = stream.codec_context.name, stream.codec_context.extradata
        self._settings: bytes | None = None

    def look(self, key: bool, hidden: bool, place: int, length: int) -> tuple[bool, bool, bool]:
        """Return whether a packet is a clean start, whether it is hidden, and whether it changes lasting settings."""
        if not key:
            return False, hidden, False
        head = os.pread(self._file.fileno(), min(length, HEAD_BYTES), place)
        settings = lasting_settings(self._codec, head)
        self._settings = settings if self._settings is None else self._settings
        return is_clean_start(self._codec, head, self._extradata), hidden, settings != self._settings


class _Samples(NamedTuple):
    positions: np.ndarray  # (n,) int64, where each sample is in the file
    offsets: np.ndarray  # (n,) int64, presentation time less decoding time, in ticks
    last_duration: int

    @classmethod
    def of(cls, table: dict[bytes, bytes]) -> _Samples | None:
        """Read the boxes of a sample table; None where it has more than one kind of sample, or contradicts itself."""
        if int.from_bytes(table.get(b"stsd", b"")[4:8], "big") != 1:
            return None  # headers change on the way
        sizes = _sizes(table)
        if sizes is None or not len(sizes):
            return None
        wide = b"co64" in table
        chunks = _column(table[b"co64" if wide else b"stco"], ">u8" if wide else ">u4", 1)[:, 0]
        runs = _column(table[b"stsc"], ">u4", 3)
        if not len(runs) or runs[0, 0] != 1 or np.any(np.diff(runs[:, 0]) <= 0) or np.any(runs[:, 2] != 1):
            return None
        repeats = np.diff(np.append(runs[:, 0], len(chunks) + 1))
        if np.any(repeats < 0) or np.any(runs[:, 1] > len(sizes)):
            return None
        held = np.repeat(runs[:, 1], repeats)
        if held.sum() < len(sizes):
            return None
        first = np.concatenate([[0], np.cumsum(held)[:-1]])
        chunk = np.searchsorted(first, np.arange(len(sizes)), side="right") - 1
        before = np.concatenate([[0], np.cumsum(sizes)])
        positions = chunks[chunk] + before[:-1] - before[first[chunk]]
        offsets = np.zeros(len(sizes), np.int64)
        if b"ctts" in table:
            pairs = _column(table[b"ctts"], ">i4", 2)
            if pairs[:, 0].min(initial=0) < 0 or pairs[:, 0].sum() > 2 * len(sizes):
                return None
            values = np.repeat(pairs[:, 1], pairs[:, 0])[: len(sizes)]
            offsets[: len(values)] = values
        times = _column(table[b"stts"], ">u4", 2)
        return cls(positions, offsets, int(times[-1, 1]) if len(times) else 0)


def _sizes(table: dict[bytes, bytes]) -> np.ndarray | None:
    box = table.get(b"stsz", b"")
    if len(box) < 12:
        return None
    same, count = (int.from_bytes(box[at : at + 4], "big") for at in (4, 8))
    if same:
        return np.full(count, same, np.int64) if count < 1 << 26 else None
    sizes = np.frombuffer(box, ">u4", offset=12)
    return sizes[:count].astype(np.int64) if len(sizes) >= count else None


def _column(box: bytes, kind: str, width: int) -> np.ndarray:
    """Return the rows of a table box, (n, width) int64; the box begins with version and flags, then the count."""
    count = int.from_bytes(box[4:8], "big")
    rows = np.frombuffer(box, kind, offset=8, count=count * width)
    return rows.reshape(count, width).astype(np.int64)


def _movie_box(file: IO[bytes], size: int) -> bytes | None:
    """Return the contents of the box that describes the movie, wherever in the file it is."""
    place = 0
    while place + 8 <= size:
        head = os.pread(file.fileno(), 16, place)
        length, begin = int.from_bytes(head[:4], "big"), 8
        if length == 1:
            length, begin = int.from_bytes(head[8:16], "big"), 16
        elif length == 0:
            length = size - place
        if length < begin:
            return None
        if head[4:8] == b"moov":
            return os.pread(file.fileno(), min(length, size - place) - begin, place + begin)
        place += length
    return None


def _boxes(contents: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and contents of the boxes inside one."""
    place = 0
    while place + 8 <= len(contents):
        length = int.from_bytes(contents[place : place + 4], "big")
        if length < 8:
            return
        yield contents[place + 4 : place + 8], contents[place + 8 : place + length]
        place += length


def _sample_table(movie: bytes, track: int) -> dict[bytes, bytes] | None:
    """Return the boxes of the sample table of a track, by its number."""
    for kind, trak in _boxes(movie):
        if kind != b"trak":
            continue
        boxes = dict(_boxes(trak))
        header = boxes.get(b"tkhd", b"\0")
        place = 20 if header[0] == 1 else 12
        if int.from_bytes(header[place : place + 4], "big") == track:
            media = dict(_boxes(boxes.get(b"mdia", b"")))
            return dict(_boxes(dict(_boxes(media.get(b"minf", b""))).get(b"stbl", b"")))
    return None


# Matroska and WebM ----------------------------------------------------------------------------------------------------

_SEGMENT, _CLUSTER, _INFO, _TRACKS, _TRACK = 0x18538067, 0x1F43B675, 0x1549A966, 0x1654AE6B, 0xAE
_TIMESTAMP, _SIMPLE_BLOCK, _BLOCK_GROUP, _BLOCK = 0xE7, 0xA3, 0xA0, 0xA1
_BLOCK_DURATION, _REFERENCE = 0x9B, 0xFB
_VOID, _CHECKSUM = 0xEC, 0xBF
_TOP = {_CLUSTER, _INFO, _TRACKS, _VOID, _CHECKSUM} | {
    0x114D9B74, 0x1C53BB6B, 0x1043A770, 0x1254C367, 0x1941A469,  # seek heads, cues, chapters, tags, attachments
}  # fmt: skip
_IN_CLUSTER = {_TIMESTAMP, _SIMPLE_BLOCK, _BLOCK_GROUP, _VOID, _CHECKSUM, 0xA7, 0xAB}  # and its place, and a length
_IN_GROUP = {_BLOCK, _BLOCK_DURATION, _REFERENCE, _VOID, _CHECKSUM}


class _Element(NamedTuple):
    kind: int
    begin: int  # of its contents in the file
    end: int  # or -1 where its length is not written: then it ends where the next of its kind begins
    head: bytes  # the first bytes of its contents


class _Block(NamedTuple):
    track: int
    time: int
    key: bool
    duration: int
    begin: int  # of the picture
    end: int


class _Blocks:
    """Goes through the blocks of a Matroska file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._number = file.fileno()
        self.size = os.fstat(self._number).st_size
        self.info: dict[int, bytes] = {}
        self.tracks: list[dict[int, bytes]] = []

    def __iter__(self) -> Iterator[_Block]:
        """Yield blocks in the order of the file.

        Raises:
            DecodeError: there is something that is not understood.
        """
        segment = self._element(self._element(0).end)
        if segment.kind != _SEGMENT:
            raise DecodeError("there is no segment")
        place, cluster = segment.begin, 0
        end = self.size if segment.end < 0 else segment.end
        inside = -1  # where the cluster ends, -1 where that is not known or there is none
        while place < end:
            inside = -1 if place >= inside else inside
            element = self._element(place)
            if element.kind == _CLUSTER:
                place, inside = element.begin, element.end
                continue
            if element.end < 0:
                raise DecodeError("an element has no length")
            if element.kind in _TOP:
                self._top(element)
            elif element.kind not in _IN_CLUSTER:
                raise DecodeError(f"there is an element {element.kind:#x}")
            elif element.kind == _TIMESTAMP:
                cluster = int.from_bytes(self._contents(element), "big")
            elif element.kind == _SIMPLE_BLOCK:
                yield self._block(element, cluster, bool(element.head[3] & 0x80), 0)
            elif element.kind == _BLOCK_GROUP:
                yield self._group(element, cluster)
            place = element.end
            if 0 <= inside < place:
                raise DecodeError("a block is longer than its cluster")

    def _element(self, place: int) -> _Element:
        head = os.pread(self._number, 32, place)
        kind, width = _variable(head, 0, marked=True)
        length, after = _variable(head, width)
        unknown = length == (1 << 7 * (after - width)) - 1
        end = -1 if unknown else place + after + length
        if end > self.size:
            raise DecodeError("an element is longer than the file")
        return _Element(kind, place + after, end, head[after:])

    def _contents(self, element: _Element) -> bytes:
        if element.end - element.begin > 1 << 24:
            raise DecodeError("a header is too long")
        return os.pread(self._number, element.end - element.begin, element.begin)

    def _top(self, element: _Element) -> None:
        if element.kind == _INFO:
            self.info = dict(_children(self._contents(element)))
        elif element.kind == _TRACKS:
            self.tracks = [
                dict(_children(entry)) for kind, entry in _children(self._contents(element)) if kind == _TRACK
            ]

    def _group(self, group: _Element, cluster: int) -> _Block:
        place, block, key, duration = group.begin, None, True, 0
        while place < group.end:
            element = self._element(place)
            if element.kind not in _IN_GROUP or element.end < 0:
                raise DecodeError(f"there is an element {element.kind:#x} in a group")
            if element.kind == _BLOCK:
                block = element
            elif element.kind == _BLOCK_DURATION:
                duration = int.from_bytes(self._contents(element), "big")
            elif element.kind == _REFERENCE:
                key = False
            place = element.end
        if block is None:
            raise DecodeError("a group has no block")
        return self._block(block, cluster, key, duration)

    def _block(self, element: _Element, cluster: int, key: bool, duration: int) -> _Block:
        track, width = _variable(element.head, 0)
        time = int.from_bytes(element.head[width : width + 2], "big", signed=True)
        if element.head[width + 2] & 0x06:
            track = -track  # several pictures in a block
        return _Block(track, cluster + time, key, duration, element.begin + width + 3, element.end)


def _variable(contents: bytes, place: int, *, marked: bool = False) -> tuple[int, int]:
    """Return a number of variable length, and where it ends; ``marked`` keeps the bit that tells its length."""
    first = contents[place]
    width = 9 - first.bit_length()
    if width > 8 or place + width > len(contents):
        raise DecodeError("a number is longer than 8 bytes")
    value = int.from_bytes(contents[place : place + width], "big")
    return (value if marked else value & (1 << 7 * width) - 1), place + width


def _children(contents: bytes) -> Iterator[tuple[int, bytes]]:
    place = 0
    while place < len(contents):
        kind, place = _variable(contents, place, marked=True)
        length, place = _variable(contents, place)
        yield kind, contents[place : place + length]
        place += length


def _matroska(file: IO[bytes], container: Any, stream: Any) -> list[Packet] | None:
    blocks = _Blocks(file)
    if hasattr(os, "posix_fadvise"):  # or the system would read ahead what is skipped
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
    found = list(blocks)
    video = [track for track in blocks.tracks if track.get(0x83) == b"\x01"]
    track = video[container.streams.video.index(stream)]
    if any(kind in track for kind in (0x6D80, 0x23314F)):  # compressed, or on a clock of its own
        return None
    number = int.from_bytes(track[0xD7], "big")
    if any(block.track == -number for block in found):
        return None
    own = [block for block in found if block.track == number]
    first = [packet for packet in islice(container.demux(stream), 4) if packet.size]
    if any(
        (packet.pts, packet.size) != (block.time, block.end - block.begin)
        for packet, block in zip(first, own, strict=False)
    ):
        return None
    scale = int.from_bytes(blocks.info.get(0x2AD7B1, b"\x0f\x42\x40"), "big")
    if Fraction(scale, 10**9) != Fraction(stream.time_base.numerator, stream.time_base.denominator):
        return None
    usual = int.from_bytes(track.get(0x23E383, b""), "big") // scale
    heads = _Heads(file, stream)
    return [
        Packet(block.time, block.duration or usual, *heads.look(block.key, False, block.begin, block.end - block.begin))
        for block in own
    ]
