"""Whether decoding may really begin at a packet that its file calls a key frame.

An H.264 encoder may refresh the picture a stripe at a time: the file then calls a packet a key frame from which the
picture only *becomes* right some frames later, and the decoder need not say so. Such a packet says in how many frames
(the recovery point message of Annex D), so it can be told from one at which everything is there at once.

In a damaged file a key frame may have lost its kind, or the tables that its pixels need. Decoding in order then goes on
with what earlier frames left behind, which decoding from there does not have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["HEAD_BYTES", "is_clean_start", "lasting_settings"]

#: How much of a packet tells whether it is a clean start.
HEAD_BYTES = 8192

_SLICE, _IDR, _SEI = 1, 5, 6  # kinds of H.264 unit: picture that refers to others, picture that refers to none, message
_RECOVERY_POINT = 6  # kind of message


def is_clean_start(codec: str, packet: Any, extradata: bytes | None) -> bool:
    """Return whether a packet marked as a key frame is one from which every later frame decodes exactly.

    Args:
        codec: FFmpeg's name of the codec; those that are not known here are believed.
        packet: the packet, as bytes or as PyAV's buffer; its first ``HEAD_BYTES`` do.
        extradata: the codec's configuration from the file's header.
    """
    check = _CHECKS.get(codec)
    if check is None:
        return True
    # the scans of a JPEG picture may lie anywhere in it
    return check(bytes(packet if codec == "mjpeg" else memoryview(packet)[:HEAD_BYTES]), extradata or b"")


def _h264(packet: bytes, extradata: bytes) -> bool:
    width = (extradata[4] & 3) + 1 if extradata[:1] == b"\x01" and len(extradata) > 4 else 0
    for unit in _units(packet, width):
        kind = unit[0] & 0x1F if unit else 0
        if kind == _IDR:
            return True
        if kind == _SEI and _recovers_at_once(unit):
            return True
        if kind == _SLICE:
            return False
    return False


def _hevc(packet: bytes, extradata: bytes) -> bool:
    """Whether the first picture of a packet is one of H.265's random access kinds, 16 to 21."""
    width = (extradata[21] & 3) + 1 if extradata[:1] == b"\x01" and len(extradata) > 21 else 0
    for unit in _units(packet, width):
        kind = (unit[0] >> 1) & 0x3F if unit else 64
        if kind < 32:
            return 16 <= kind <= 21
    return False


def _mjpeg(packet: bytes, _: bytes) -> bool:
    """Whether a JPEG picture's headers lead without a gap to its pixels, and it holds all its colours and their tables.

    Huffman tables may be left out: the standard's own ones are meant then, as in most AVI files.
    """
    headers = list(_segments(packet))
    if not headers or headers[-1][0] != _SCAN:
        return bool(headers) and headers[-1][0] == _BEYOND  # headers longer than what was looked at are believed
    tables: dict[int, set[int]] = {_QUANTISATION: set(), _HUFFMAN: set()}
    size = b""
    for kind, contents in headers:
        if kind in tables:
            mask = 0x0F if kind == _QUANTISATION else 0x1F  # without the width of its numbers
            tables[kind].update(place & mask for place in _table_places(kind, contents))
        elif kind in _SIZES:
            size = contents
    colours = {size[at]: size[at + 2] for at in range(6, len(size) - 2, 3)}  # number of each, and of its table
    if not colours or not tables[_QUANTISATION].issuperset(colours.values()):
        return False
    scans = [headers[-1][1]]
    place = packet.find(b"\xff\xda", sum(len(contents) + 4 for _, contents in headers))
    while place >= 0:  # colours may come one after another
        scans.append(packet[place + 4 : place + 2 + int.from_bytes(packet[place + 2 : place + 4], "big")])
        place = packet.find(b"\xff\xda", place + 2)
    drawn = []
    for scan in scans:
        pairs = [(scan[at], scan[at + 1]) for at in range(1, min(1 + 2 * scan[0], len(scan) - 1), 2)] if scan else []
        codes = {code for _, pair in pairs for code in (pair >> 4, 0x10 | pair & 15)}
        if len({colour for colour, _ in pairs}) < len(pairs) or not colours.keys() >= {colour for colour, _ in pairs}:
            return False
        if len(scans) == 1 and tables[_HUFFMAN] and not codes <= tables[_HUFFMAN]:
            return False
        drawn += [colour for colour, _ in pairs]
    return set(drawn) == set(colours) or len(packet) == HEAD_BYTES


def lasting_settings(codec: str, packet: Any) -> bytes:
    """Return what a packet sets in the decoder beyond its own picture; b"" where that is nothing, or not known.

    The decoder of JPEG pictures keeps restart interval, size and the notes of applications for the pictures after it:
    where they differ from packet to packet, decoding from the middle need not be decoding in order.

    Args:
        codec: FFmpeg's name of the codec.
        packet: the packet, as bytes or as PyAV's buffer.
    """
    if codec != "mjpeg":
        return b""
    tables = (_QUANTISATION, _HUFFMAN)  # each picture's own, of which the places count
    return b"".join(
        bytes([kind]) + (bytes(_table_places(kind, contents)) if kind in tables else contents)
        for kind, contents in _segments(bytes(memoryview(packet)[:HEAD_BYTES]))
    )


_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_HUFFMAN, _SCAN, _QUANTISATION, _BEYOND = 0xC4, 0xDA, 0xDB, 0x00


def _segments(packet: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield kind and contents of a JPEG picture's headers, the last one 0xDA, or 0 where the bytes do not reach so far.

    Headers that do not follow upon each other yield no more.
    """
    if packet[:2] != b"\xff\xd8":
        return
    place = 2
    while place + 4 <= len(packet) and packet[place] == 0xFF:
        if packet[place + 1] == 0xFF:  # padding
            place += 1
            continue
        length = int.from_bytes(packet[place + 2 : place + 4], "big")
        yield packet[place + 1], packet[place + 4 : place + 2 + length]
        if packet[place + 1] == _SCAN:
            return
        place += 2 + length
    if place + 4 > len(packet) >= HEAD_BYTES:
        yield _BEYOND, b""


def _table_places(kind: int, contents: bytes) -> list[int]:
    places, at = [], 0
    while at < len(contents):
        places.append(contents[at])
        if kind == _QUANTISATION:
            at += 129 if contents[at] >> 4 else 65
        else:
            at += 17 + sum(contents[at + 1 : at + 17])
    return places


def _mpeg4(packet: bytes, _: bytes) -> bool:
    place = packet.find(b"\0\0\1\xb6")
    return 0 <= place < len(packet) - 4 and not packet[place + 4] & 0xC0  # its two bits of kind say: intra


def _mpeg12(packet: bytes, _: bytes) -> bool:
    place = packet.find(b"\0\0\1\0")
    return 0 <= place < len(packet) - 5 and packet[place + 5] >> 3 & 7 == 1


def _vp9(packet: bytes, _: bytes) -> bool:
    if not packet or packet[0] >> 6 != 2:
        return False
    reserved = 1 if packet[0] & 0x30 == 0x30 else 0  # profile 3 has one more bit
    return not packet[0] << reserved & 0x0C  # no frame shown again, and a key frame


_CHECKS: dict[str, Callable[[bytes, bytes], bool]] = {
    "h264": _h264,
    "hevc": _hevc,
    "mjpeg": _mjpeg,
    "mpeg4": _mpeg4,
    "mpeg1video": _mpeg12,
    "mpeg2video": _mpeg12,
    "vp9": _vp9,
    "libvpx-vp9": _vp9,
}


def _units(packet: bytes, width: int) -> Iterator[bytes]:
    """Yield a packet's units: mp4 and mkv write each one's length before it, in so many bytes, others a start code."""
    if width:
        place = 0
        while place + width < len(packet):
            size = int.from_bytes(packet[place : place + width], "big")
            yield packet[place + width : place + width + min(size, 4096)]
            place += width + size
        return
    place = packet.find(b"\0\0\1")
    while place >= 0:
        yield packet[place + 3 : place + 3 + 4096]
        place = packet.find(b"\0\0\1", place + 3)


def _recovers_at_once(unit: bytes) -> bool:
    """Read the messages of a unit: is one a recovery point zero frames away?"""
    message = unit[1:].replace(b"\0\0\3", b"\0\0")
    place = 0
    while place + 2 < len(message):
        numbers = []
        for _ in range(2):  # the message's kind and its size, each as bytes of 255 and a rest
            number = 0
            while place < len(message) and message[place] == 255:
                number, place = number + 255, place + 1
            if place >= len(message):
                return False
            numbers.append(number + message[place])
            place += 1
        if numbers[0] == _RECOVERY_POINT and place < len(message):
            return bool(message[place] & 0x80)  # the count is coded so that a first bit of one means zero
        place += numbers[1]
    return False
