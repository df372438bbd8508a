"""What a video says of its colours, and what of that the conversion to RGB honours.

Frames become RGB by the matrix and the range that the file declares. Where it declares none, FFmpeg's rule holds: the
matrix of BT.601, and the limited range (full for the pixel formats that are full by definition, such as yuvj420p), at
any size. Transfer curve and primaries are never changed: RGB values keep the curve of the file. So HDR (PQ or HLG)
without tone mapping looks flat and grey beside what a player shows and what models were trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Colours"]

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
