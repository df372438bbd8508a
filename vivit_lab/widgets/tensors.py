"""Tensors as the browser gets them: little-endian float32, or bytes where a picture needs no more."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["float_bytes", "floats_of", "root_bytes"]


def floats_of(values: Any) -> Tensor:
    """Return numbers as a float32 tensor on the CPU, apart from any graph."""
    return torch.as_tensor(values).detach().to("cpu", torch.float32)


def float_bytes(values: Any) -> bytes:
    """Return numbers as little-endian float32, in row-major order."""
    return floats_of(values).contiguous().numpy().astype("<f4").tobytes()


def root_bytes(values: Tensor) -> tuple[bytes, Tensor]:
    """Return maps as bytes: value = peak·(byte/255)², a peak for each map.

    Square roots keep small values apart; the error is at most 0.4 % of the peak.

    Args:
        values: (map, place), not negative.

    Returns:
        The bytes, a byte for each place, and the peaks (map,) float32.
    """
    values = floats_of(values)
    peaks = values.amax(dim=1)
    share = values / torch.where(peaks > 0, peaks, torch.ones_like(peaks)).unsqueeze(1)
    return (share.sqrt() * 255).round().to(torch.uint8).numpy().tobytes(), peaks
