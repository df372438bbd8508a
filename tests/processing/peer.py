"""What transformers' processor makes of the same frames, and frames to give to both."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from transformers import VivitImageProcessor as PeerProcessor

from vivit_lab.processing import VivitImageProcessor
from vivit_lab.processing import processor as preprocess

__all__ = ["PeerProcessor", "assert_equal_to_peer", "frames_of", "silence_announcements"]


def frames_of(height: int, width: int, count: int = 2, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Frames (count, height, width, channels) uint8: noise, so that every pixel of a filter matters."""
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, channels), dtype=np.uint8)


def assert_equal_to_peer(frames: Any, options: dict[str, Any] | None = None, **call: Any) -> np.ndarray:
    """Both processors give the same numbers in the same dtype; returns them."""
    options = options or {}
    wanted = PeerProcessor(**options)(list(frames), return_tensors="np", **call)["pixel_values"]
    got = VivitImageProcessor(**options)(frames, return_tensors="np", **call)["pixel_values"]
    assert got.dtype == wanted.dtype
    assert got.shape == wanted.shape
    np.testing.assert_array_equal(got, wanted)
    return got


def silence_announcements(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process have heard the warnings that are said once, so that no test depends on another's order."""
    monkeypatch.setattr(preprocess, "_announced", _Everything())


class _Everything(set):
    def __contains__(self, key: object) -> bool:
        return True
