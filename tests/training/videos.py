"""Tiny labelled videos whose class is their colour, and a model and processor that fit them."""

import numpy as np
import torch

from tests.training.tiny_run import SHAPE
from vivit_lab.families import VivitForVideoClassification
from vivit_lab.processing import VivitImageProcessor
from vivit_lab.video import MovieWriter

CLASSES = ("blue", "green", "red")
PROCESSOR = VivitImageProcessor.trained_range(size={"shortest_edge": 10}, crop_size={"height": 8, "width": 8})


def write_video(path, label, frames=12, seed=0):
    """A few frames of noise, 20×24, brighter in the channel of the class, at ten frames a second."""
    random = np.random.default_rng([seed, CLASSES.index(label)])
    path.parent.mkdir(parents=True, exist_ok=True)
    with MovieWriter(path, 20, 24, end=frames / 10) as movie:
        for number in range(frames):
            frame = random.integers(0, 60, (20, 24, 3), dtype=np.uint8)
            frame[..., 2 - CLASSES.index(label)] += 150
            movie.write(frame, number / 10)
    return path


def write_folders(root, each=4, frames=12):
    """FOLDER/CLASS/n.mp4."""
    for label in CLASSES:
        for number in range(each):
            write_video(root / label / f"{number}.mp4", label, frames, number)
    return root


def write_broken(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"this is no video")
    return path


def save_tiny(directory, labels=CLASSES):
    """A tiny checkpoint with its processor."""
    torch.manual_seed(0)
    VivitForVideoClassification(SHAPE.replace(id2label=dict(enumerate(labels)))).save_pretrained(directory)
    PROCESSOR.save_pretrained(directory)
    return directory
