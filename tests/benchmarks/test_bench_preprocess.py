"""How long 32 frames of 1080p take: the exact path, the fast path, and transformers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from transformers import VivitImageProcessor as PeerProcessor

from vivit_lab.processing import VivitImageProcessor

REPEATS = 5


def _least_seconds(calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """The minimum of several repeats, in turns, so that all of them see the same machine."""
    seconds = dict.fromkeys(calls, float("inf"))
    for _ in range(REPEATS):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    return seconds


@pytest.mark.benchmark
def test_time_of_32_frames_of_1080p(capsys: pytest.CaptureFixture[str]) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (32, 1080, 1920, 3), dtype=np.uint8)
    options = {"do_normalize": False}
    peer, ours = PeerProcessor(**options), VivitImageProcessor(**options)
    listed = list(frames)
    wanted = peer(listed, return_tensors="pt")["pixel_values"]
    assert (ours(frames, return_tensors="pt").pixel_values == wanted).all()
    assert (ours(frames, fast=True).pixel_values - wanted).abs().max() <= 1.001 / 127.5
    seconds = _least_seconds(
        {
            "peer": lambda: peer(listed, return_tensors="pt"),
            "exact": lambda: ours(frames, return_tensors="pt"),
            "fast": lambda: ours(frames, fast=True),
        }
    )
    ratios = {name: value / seconds["peer"] for name, value in seconds.items()}
    with capsys.disabled():
        print(
            "\n32 × 1080p: " + ", ".join(f"{name} {seconds[name] * 1e3:.0f} ms ({ratios[name]:.2f})" for name in ratios)
        )
    assert ratios["exact"] <= 0.7
    assert ratios["fast"] <= 0.35
