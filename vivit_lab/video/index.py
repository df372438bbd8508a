"""The index of a video stream: when each frame is shown, and where decoding may begin.

It is built from the table of the file, where the file has one, else from its packets; without decoding, and never from
a frame rate or a header's count. Where the packets cannot tell (an AVI with B-frames has no presentation times, a raw
stream has none at all), the stream is decoded once to number its frames, and reading starts from the first frame each
time.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from av.error import FFmpegError

from vivit_lab.errors import DecodeError, InputError, StorageError
from vivit_lab.numbers import check_whole, checked_numbers
from vivit_lab.video.keyframes import is_clean_start, lasting_settings
from vivit_lab.video.source import DECODER_ERRORS, Source, exact, open_video, source_name
from vivit_lab.video.tables import Packet, table_packets

__all__ = [
    "INTRA_ONLY",
    "FrameIndex",
    "decode_packets",
    "index_decoded",
    "index_packets",
    "load_index",
    "remember_index",
]

# Codecs in which every packet makes one frame, and a key frame needs nothing before it. Others (GIF draws each frame
# on the last one; VP8 hides packets) are decoded from the start.
_SEEKABLE = frozenset(
    "h264 hevc vp9 libvpx-vp9 av1 libdav1d libaom-av1 mpeg4 mpeg2video mpeg1video mjpeg ffv1 prores dnxhd huffyuv "
    "ffvhuff rawvideo png".split()
)
INTRA_ONLY = frozenset("mjpeg prores dnxhd huffyuv ffvhuff rawvideo png".split())
_NEWS = ("palette", "new_extradata", "param_change")  # what a packet may bring that holds for later ones too


@dataclass(frozen=True, eq=False)
class FrameIndex:
    """Where the frames of one video stream are.

    Args:
        pts: (n,) int64, presentation time of each frame in ticks of ``time_base``, increasing.
        keyframes: (k,) int64, presentation times of the frames at which decoding may begin, increasing.
        time_base: seconds a tick.
        last_duration: how long the last frame is shown, in ticks.
        rate: nominal frames a second, or None where the file does not say.
        obstacle: why frames cannot be found by their time, or None when they can.
        missing: how many frames the file's own table lists beyond the end of the file: it was cut off.
        header_seconds: duration that the header gives, or None.
        from_start: packets bring palettes or headers that later ones need, each once: reading begins with the first
            packet of a file that was just opened.
    """

    pts: np.ndarray
    keyframes: np.ndarray
    time_base: Fraction
    last_duration: int
    rate: Fraction | None = None
    obstacle: str | None = None
    missing: int = 0
    header_seconds: float | None = None
    from_start: bool = False
    seconds: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "time_base", exact(self.time_base))
        object.__setattr__(self, "rate", exact(self.rate))
        ticks = self.pts - self.pts[0] if len(self.pts) else self.pts
        # multiplied first: numerator and denominator are exact, their quotient is not
        for shared in (self.pts, self.keyframes):
            shared.setflags(write=False)
        object.__setattr__(self, "seconds", ticks * self.time_base.numerator / self.time_base.denominator)

    def __len__(self) -> int:
        return len(self.pts)

    @property
    def seekable(self) -> bool:
        """Whether decoding can begin at a key frame in the middle."""
        return self.obstacle is None and not self.from_start and len(self.keyframes) > 1

    @property
    def end(self) -> float:
        """When the last frame stops being shown, in seconds from the first frame."""
        return float(self.seconds[-1] + self.last_duration * self.time_base)

    @property
    def fps(self) -> float:
        """Average frames a second; 25 where neither times nor header say."""
        return len(self) / self.end if self.end > 0 else float(self.rate or 25)

    @property
    def vfr(self) -> bool:
        """Whether the gaps between frames differ by more than rounding to the tick, or to a millisecond, explains."""
        gaps = np.diff(self.pts)
        tolerance = max(1.0, 0.00101 / float(self.time_base))
        return bool(len(gaps)) and int(gaps.max() - gaps.min()) > tolerance

    def end_of(self, frame: int) -> float:
        """Return when a frame stops being shown, in seconds from the first frame."""
        check_whole("frame", frame, 0, len(self) - 1)
        return float(self.seconds[frame + 1]) if frame + 1 < len(self) else self.end

    @checked_numbers()
    def frame_at(self, seconds: float) -> int:
        """Return the frame that is shown at a time, in seconds from the first frame; the last one after the end."""
        # half a tick of grace: 3 * 0.04 is a little less than the 0.12 s of the file
        place = np.searchsorted(self.seconds, seconds + float(self.time_base) / 2, side="right")
        return max(int(place) - 1, 0)

    @checked_numbers()
    def span(self, start: float | None, end: float | None, name: object = "the video") -> tuple[int, int]:
        """Return the half-open span of frames (first, stop) of a segment, at least one.

        Args:
            start: seconds from the first frame; None is the video's beginning.
            end: likewise; the frame that is shown at the end's very moment is not in it. None is the video's end.
            name: what an error calls the video.

        Raises:
            InputError: the segment begins before the video or after its end.
        """
        if start is not None and not 0 <= start < self.end:
            raise InputError(f"the segment begins at {start} s, outside {name}, which lasts {self.end:.3f} s")
        first = 0 if start is None else self.frame_at(start)
        if end is None:
            return first, len(self)
        return first, max(first + 1, int(np.searchsorted(self.seconds, end - float(self.time_base) / 2)))

    def keyframe_before(self, frame: int) -> int:
        """Return the place in ``keyframes`` of the last key frame that is shown no later than a frame."""
        check_whole("frame", frame, 0, len(self) - 1)
        return int(np.searchsorted(self.keyframes, self.pts[frame], side="right")) - 1


@checked_numbers()
def load_index(path: Source, stream: int = 0, *, folder: str | os.PathLike[str] | None = None) -> FrameIndex:
    """Index a video stream: by its file's own table if there is one, else by its packets, else by decoding it once.

    MP4, MOV, Matroska and WebM are not read whole for it; fragmented MP4, MPEG-TS, AVI and others are. The indices of
    files are kept in memory for as long as path, size and time of change stay the same.

    Args:
        path: the path of a video file, its bytes, or a binary file object.
        stream: which of its video streams, from 0.
        folder: where indices are kept on disk too, for later processes; None keeps none there.

    Raises:
        VideoNotFoundError: there is no such file.
        NotAVideoError: the file is no video.
        InputError: there is no video stream of that number.
        DecodeError: the stream holds no frame.
        StorageError: the folder cannot be written.

    Example:
        >>> index = load_index("long.mp4", folder="indices")
        >>> clip = read_clip("long.mp4", 16, start=600.0, index=index)
    """
    key = _file_key(path, stream)
    index = _CACHE.get(key)
    place = None if folder is None or key is None else _stored_place(folder, key)
    stored = None if place is None else _load_stored(place, key)
    index = index or stored or _read_index(path, stream)
    if place is not None and stored is None:
        _store(place, key, index)
    _CACHE.put(key, index)
    return index


def remember_index(path: Source, stream: int, index: FrameIndex) -> None:
    """Keep in memory an index that decoding has shown to be the right one for a file.

    Args:
        path: the file; bytes and file objects are not remembered.
        stream: which of its video streams, from 0.
        index: the index.
    """
    _CACHE.put(_file_key(path, stream), index)


def _read_index(path: Source, stream: int) -> FrameIndex:
    with open_video(path, stream) as (container, chosen):
        packets = table_packets(container, chosen, path) if isinstance(path, (str, os.PathLike)) else None
        index = None if packets is None else index_packets(container, chosen, packets)
    if index is None:
        with open_video(path, stream) as (container, chosen):
            index = index_packets(container, chosen)
    if index.obstacle is not None:
        # one thread: where a file is damaged, more of them lose a number of frames that differs from run to run
        with open_video(path, stream, threads=1) as (container, chosen):
            index = index_decoded(container, chosen, index.obstacle)
    if not len(index):
        raise DecodeError(f"{source_name(path)}: no frame of its video stream {stream} can be read")
    return index


_Key = tuple[str, int, int, int]  # path, size, time of change, stream


def _file_key(path: Source, stream: int) -> _Key | None:
    if not isinstance(path, (str, os.PathLike)):
        return None
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None  # opening it says what is wrong
    if abs(time.time_ns() - status.st_mtime_ns) < _TOO_NEW:
        return None
    return (os.path.abspath(os.fsdecode(path)), status.st_size, status.st_mtime_ns, stream)


class _Cache:
    """The indices that were used last, for all threads of a process."""

    def __init__(self, frames: int) -> None:
        self._room, self._held = frames, 0
        self._lock = threading.Lock()
        self._indices: OrderedDict[_Key, FrameIndex] = OrderedDict()

    def get(self, key: _Key | None) -> FrameIndex | None:
        with self._lock:
            if key not in self._indices:
                return None
            self._indices.move_to_end(key)
            return self._indices[key]

    def put(self, key: _Key | None, index: FrameIndex) -> None:
        if key is None:
            return
        with self._lock:
            old = self._indices.pop(key, None)
            self._held += len(index) - (0 if old is None else len(old))
            self._indices[key] = index
            while len(self._indices) > 1 and (self._held > self._room or len(self._indices) > _MOST_FILES):
                self._held -= len(self._indices.popitem(last=False)[1])


_MOST_FILES = 8192
_TOO_NEW = 50_000_000  # nanoseconds: a file that is written again so soon may keep its time of change
_CACHE = _Cache(frames=4_000_000)  # at most 100 MB: three numbers of eight bytes each
if hasattr(os, "register_at_fork"):  # a thread may hold the lock in the very moment of a fork
    os.register_at_fork(after_in_child=lambda: setattr(_CACHE, "_lock", threading.Lock()))

_STORED_VERSION = 1


def _stored_place(folder: str | os.PathLike[str], key: _Key) -> Path:
    name = hashlib.sha256(f"{key[0]}\0{key[3]}".encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return Path(folder) / f"{name}.index"


def _store(place: Path, key: _Key | None, index: FrameIndex) -> None:
    """Write an index as one array of bytes: a line of JSON, then the times."""
    assert key is not None, "only files are stored"
    facts = {
        "version": _STORED_VERSION, "file": key, "frames": len(index), "keyframes": len(index.keyframes),
        "time_base": str(index.time_base), "last_duration": index.last_duration,
        "rate": None if index.rate is None else str(index.rate), "obstacle": index.obstacle,
        "missing": index.missing, "header_seconds": index.header_seconds, "from_start": index.from_start,
    }  # fmt: skip
    times = np.concatenate([index.pts, index.keyframes]).astype("<i8").tobytes()
    contents = json.dumps(facts).encode() + b"\n" + times
    draft = place.with_name(f".{place.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(contents)
        os.replace(draft, place)
    except OSError as error:
        raise StorageError(
            error.errno,
            f"the index of {key[0]} cannot be kept in {place.parent}: {error.strerror}; choose another folder=",
        ) from error
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def _load_stored(place: Path, key: _Key | None) -> FrameIndex | None:
    """Return a stored index; None where there is none, it is of another state of the file, or it is damaged."""
    try:
        head, _, rest = place.read_bytes().partition(b"\n")
        facts = json.loads(head)
        if facts["version"] != _STORED_VERSION or tuple(facts["file"]) != key:
            return None
        times = np.frombuffer(rest, "<i8").astype(np.int64)
        count, keys = facts["frames"], facts["keyframes"]
        if len(times) != count + keys or count < 1 or np.any(np.diff(times[:count]) <= 0):
            return None
        rate = None if facts["rate"] is None else Fraction(facts["rate"])
        return FrameIndex(
            times[:count], times[count:], Fraction(facts["time_base"]), facts["last_duration"], rate,
            facts["obstacle"], facts["missing"], facts["header_seconds"], facts["from_start"],
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def index_packets(container: Any, stream: Any, packets: list[Packet] | None = None) -> FrameIndex:
    """Index a stream by its packets, read from the place where the container is; nothing is decoded.

    Args:
        container: an open PyAV container.
        stream: its video stream.
        packets: its packets in the order of the file, where they are known already.

    Returns:
        The index; without frames, and with an ``obstacle``, where the packets do not tell.
    """
    if packets is None:
        packets = _read_packets(container, stream)
    obstacle = _obstacle(container, stream, packets)
    if obstacle is not None:
        empty = np.zeros(0, np.int64)
        return FrameIndex(empty, empty, stream.time_base, 0, stream.average_rate, obstacle)
    shown = sorted((packet.pts, packet.duration) for packet in packets if packet.pts is not None and not packet.hidden)
    pts = np.array([one[0] for one in shown], np.int64)
    return FrameIndex(
        pts,
        np.array(sorted(packet.pts for packet in packets if packet.key and packet.pts is not None), np.int64),
        stream.time_base,
        _last_duration(pts, shown[-1][1] if shown else 0, stream),
        stream.average_rate,
        missing=_missing(container, stream),
        header_seconds=_header_seconds(container, stream),
        from_start=_palette_once(stream) or any(packet.news for packet in packets[1:]),
    )


def _palette_once(stream: Any) -> bool:
    """Whether the palette of a stream may come with its first packet only."""
    context = stream.codec_context
    return context.name == "rawvideo" and context.pix_fmt == "pal8"


def _read_packets(container: Any, stream: Any) -> list[Packet]:
    codec, extradata = stream.codec_context.name, stream.codec_context.extradata
    packets, first = [], None
    try:
        for packet in container.demux(stream):
            if packet.size:
                settings = lasting_settings(codec, packet)
                first = settings if first is None else first
                key = packet.is_keyframe and is_clean_start(codec, packet, extradata)
                news = settings != first or any(packet.has_sidedata(kind) for kind in _NEWS)
                packets.append(Packet(packet.pts, packet.duration or 0, key, packet.is_discard, news))
    except FFmpegError:
        pass  # what was read before the damage can still be decoded; reading on says where it ends
    return packets


def _obstacle(container: Any, stream: Any, packets: list[Packet]) -> str | None:
    """Say why the packets do not tell which frames will be decoded, or None if they do."""
    codec, kind = stream.codec_context.name, container.format.name
    if codec not in _SEEKABLE:
        return f"{codec} frames cannot be found by their time"
    if kind == "avi" and codec not in INTRA_ONLY:
        return "AVI keeps no presentation times"
    times = [packet.pts for packet in packets if packet.pts is not None]
    if len(set(times)) < len(packets):
        return "presentation times are missing or repeat"
    key = np.array([packet.key for packet in packets], bool)
    if codec in INTRA_ONLY:
        key[:1] = True  # reading begins there even if it is damaged
    if not key[:1].all():
        return "the stream does not begin with a key frame"
    if not _in_order(np.array(times, np.int64), key):
        return "presentation times jump back"
    return None


def _in_order(times: np.ndarray, key: np.ndarray) -> bool:
    """Return whether each key frame parts the times before it from those after it.

    A key frame is shown after all that was sent before it. Times that jump back (joined files) break that, and pictures
    before the first key frame in time have lost the ones they refer to. Pictures that are shown before their key frame
    follow it at once: one that comes later has a wrong time.

    Args:
        times: (n,) presentation times in the order of the packets.
        key: (n,) whether decoding may begin there; the first one is true.
    """
    if not len(times):
        return True
    latest = np.concatenate([times[:1], np.maximum.accumulate(times)[:-1]])
    if times.min() < times[0] or np.any(times[key] < latest[key]):
        return False
    begin = times[np.flatnonzero(key)][np.cumsum(key) - 1]
    follows = np.maximum.accumulate(np.cumsum(key) * 2 + (times > begin)) % 2 == 1  # one of its group did already
    return not np.any(follows & (times < begin))


def index_decoded(container: Any, stream: Any, obstacle: str) -> FrameIndex:
    """Index a stream by decoding all of it, from the place where the container is; pixels are not kept.

    Args:
        container: an open PyAV container.
        stream: its video stream.
        obstacle: why its packets did not do.
    """
    times: list[int | None] = []
    try:
        for _, frames, _ in decode_packets(container, stream):  # damage is reported when the frames are read
            times += [frame.pts for frame in frames]
    except FFmpegError:
        pass  # the same
    base, pts = stream.time_base, _increasing(times, reorder=container.format.name == "avi")
    if pts is None:
        base, pts = 1 / (stream.average_rate or Fraction(25)), np.arange(len(times), dtype=np.int64)
    empty = np.zeros(0, np.int64)
    return FrameIndex(pts, empty, base, _last_duration(pts, 0, stream), stream.average_rate, obstacle)


def _increasing(times: list[int | None], *, reorder: bool) -> np.ndarray | None:
    """Return the times of frames in the order they are decoded, made increasing; None where the file has no times.

    Args:
        times: presentation times as decoded, in ticks.
        reorder: the times are right, but in the order of the packets. Otherwise up to three frames in a row may have a
            wrong time: they are spread between their neighbours. Any other step back is where two files were joined:
            what follows is moved to continue there, after a usual gap.
    """
    known = np.array([time for time in times if time is not None], np.int64)
    if len(known) < len(times) or not len(known):
        return None
    if reorder:
        known = np.unique(known)
        return known if len(known) == len(times) else None
    known = _without_strays(known)
    gaps = np.diff(known)
    forward = gaps[gaps > 0]
    if not len(forward) and len(gaps):
        return None
    usual = int(np.median(forward)) if len(forward) else 0
    return known[0] + np.concatenate([np.zeros(1, np.int64), np.cumsum(np.where(gaps > 0, gaps, usual))])


def _without_strays(times: np.ndarray) -> np.ndarray:
    """Return times in which a few that are out of order were put between their neighbours; as they were if not few."""
    kept = _longest_rise(times)
    gaps = np.diff(kept)
    room = np.diff(times[kept])
    if kept[0] != 0 or kept[-1] != len(times) - 1 or np.any(gaps > 4) or np.any(room < gaps):
        return times
    return np.interp(np.arange(len(times)), kept, times[kept] - times[0]).astype(np.int64) + times[0]


def _longest_rise(times: np.ndarray) -> np.ndarray:
    """Return the places of a longest strictly rising subsequence."""
    tails: list[int] = []  # the least last time of a rising subsequence of each length
    ends: list[int] = []
    before = np.full(len(times), -1)
    for place, tick in enumerate(times.tolist()):
        length = bisect_left(tails, tick)
        tails[length : length + 1], ends[length : length + 1] = [tick], [place]
        before[place] = ends[length - 1] if length else -1
    kept = []
    place = ends[-1]
    while place >= 0:
        kept.append(place)
        place = int(before[place])
    return np.array(kept[::-1])


def decode_packets(container: Any, stream: Any) -> Iterator[tuple[Any, list[Any], Exception | None]]:
    """Decode a stream from the place where the container is, past packets that cannot be decoded.

    Args:
        container: an open PyAV container.
        stream: its video stream.

    Yields:
        Each packet, the frames that came out, and the decoder's error, if it gave one.

    Raises:
        FFmpegError: the file cannot be read on.
    """
    stale, failed = stream.codec_context.name == "libdav1d", False
    for packet in container.demux(stream):
        if failed and stale and packet.is_keyframe:
            # this decoder keeps what it could not decode and stumbles over it again, past the next key frame too
            stream.codec_context.flush_buffers()
            failed = False
        try:
            yield packet, packet.decode(), None
        except DECODER_ERRORS as error:
            failed = True
            yield packet, [], error


def _last_duration(pts: np.ndarray, known: int, stream: Any) -> int:
    """Ticks that the last frame is shown: what the file says, else the average gap, else the nominal rate's."""
    if known > 0:
        return int(known)
    if len(pts) > 1:
        return round((int(pts[-1]) - int(pts[0])) / (len(pts) - 1))
    return round(1 / (stream.average_rate * stream.time_base)) if stream.average_rate else 0


def _missing(container: Any, stream: Any) -> int:
    """Count the frames of the file's table that begin beyond the end of the file."""
    size = container.size
    return sum(entry.pos >= size for entry in stream.index_entries) if size > 0 else 0


def _header_seconds(container: Any, stream: Any) -> float | None:
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return container.duration / 1_000_000 if container.duration else None
