"""Whether decoding may really begin at a packet that its file calls a key frame.

An H.264 encoder may refresh the picture a stripe at a time: the file then calls a packet a key frame from which the
picture only *becomes* right some frames later, and the decoder need not say so. Such a packet says in how many frames
(the recovery point message of Annex D), so it can be told from one at which everything is there at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["is_clean_start"]

_SLICE, _IDR, _SEI = 1, 5, 6  # kinds of H.264 unit: picture that refers to others, picture that refers to none, message
_RECOVERY_POINT = 6  # kind of message


def is_clean_start(codec: str, packet: Any, extradata: bytes | None) -> bool:
    """Return whether a packet marked as a key frame is one from which every later frame decodes exactly.

    Args:
        codec: FFmpeg's name of the codec; other codecs than H.264 are believed.
        packet: the packet, as bytes or as PyAV's buffer.
        extradata: the codec's configuration from the file's header.
    """
    if codec != "h264":
        return True
    for unit in _units(bytes(packet), extradata or b""):
        kind = unit[0] & 0x1F if unit else 0
        if kind == _IDR:
            return True
        if kind == _SEI and _recovers_at_once(unit):
            return True
        if kind == _SLICE:
            return False
    return False


def _units(packet: bytes, extradata: bytes) -> Iterator[bytes]:
    """Yield the packet's units: mp4 and mkv write each one's length before it, other formats a start code."""
    if extradata[:1] == b"\x01" and len(extradata) > 4:
        width, place = (extradata[4] & 3) + 1, 0
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
