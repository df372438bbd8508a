"""A tiny model, with and without CLS, and clips for it."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.model.tiny import TINY
from vivit_lab.families import VivitForVideoClassification, VivitModel
from vivit_lab.model import VivitConfig
from vivit_lab.processing import VivitImageProcessor
from vivit_lab.video import Clip


@pytest.fixture
def classifier() -> VivitForVideoClassification:
    torch.manual_seed(0)
    names = {index: f"class {index}" for index in range(5)}
    return VivitForVideoClassification(VivitConfig(**TINY, num_labels=5, id2label=names)).eval()


@pytest.fixture
def backbone() -> VivitModel:
    torch.manual_seed(0)
    return VivitModel(VivitConfig(**TINY)).eval()


@pytest.fixture
def clip() -> Clip:
    """Four frames of 40×56 at uneven times, of which the model sees the middle 32×32 (36 on the shorter side)."""
    options: dict[str, Any] = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}
    processor = VivitImageProcessor.trained_range(**options)
    frames = np.random.default_rng(0).integers(0, 255, (4, 40, 56, 3), dtype=np.uint8)
    raw = Clip(frames, np.array([0.0, 0.1, 0.4, 0.5]), np.array([0, 3, 12, 15]), 30.0, 0.6)
    return processor.prepare(raw)
