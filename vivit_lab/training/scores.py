"""What a classifier says of labelled clips, clip by clip."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch

from vivit_lab.errors import InputError, VideoError
from vivit_lab.families.views import mean_logits
from vivit_lab.families.vivit import VivitForVideoClassification
from vivit_lab.html import confusion_table
from vivit_lab.numbers import checked_numbers
from vivit_lab.processing.processor import VivitImageProcessor
from vivit_lab.progress import progress_bar
from vivit_lab.statistics.intervals import Interval, wilson_interval
from vivit_lab.text import csv_writer
from vivit_lab.training.data import LabelledClip, ViewClips, path_from

__all__ = ["ClassificationReport", "ClipPrediction", "classify_clips"]


@dataclass(frozen=True)
class ClipPrediction:
    """What a classifier said of one clip.

    Args:
        path: the video.
        label: its class.
        predicted: the class that the model names; empty where the clip could not be read.
        probability: of that class, 0 … 1.
        rank: place of the true class, 1 for the highest; 0 where the clip could not be read.
        error: why the clip could not be read, else empty.
    """

    path: str
    label: str
    predicted: str = ""
    probability: float = 0.0
    rank: int = 0
    error: str = ""


@dataclass(frozen=True)
class ClassificationReport:
    """Predictions of clips, and what they come to.

    Args:
        classes: names in the order of the model.
        rows: one a clip.
        views: windows of each clip whose logits were averaged.
    """

    classes: tuple[str, ...]
    rows: tuple[ClipPrediction, ...]
    views: int

    @checked_numbers()
    def top(self, count: int = 1) -> float:
        """Return the share of clips, 0 … 1, whose class is among the ``count`` highest; unreadable ones do not count.

        Raises:
            InputError: no clip could be read.
        """
        ranks = [row.rank for row in self.rows if not row.error]
        if not ranks:
            raise InputError(f"none of {len(self.rows)} clips could be read, so there is no accuracy")
        return float(np.mean([rank <= count for rank in ranks]))

    @property
    def accuracy(self) -> float:
        """Share of clips, 0 … 1, whose class the model names."""
        return self.top(1)

    @property
    def accuracy_interval(self) -> Interval:
        """The 95 % interval of the accuracy over clips like these (Wilson's score).

        Raises:
            InputError: no clip could be read.
        """
        ranks = [row.rank for row in self.rows if not row.error]
        self.top()  # refuses where there are none
        return wilson_interval(ranks.count(1), len(ranks))

    def confusion(self) -> np.ndarray:
        """Return the counts (class, predicted class)."""
        number = {name: index for index, name in enumerate(self.classes)}
        counts = np.zeros((len(self.classes), len(self.classes)), dtype=np.int64)
        for row in self.rows:
            if not row.error:
                counts[number[row.label], number[row.predicted]] += 1
        return counts

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write a row a clip, errors included, and return the path; paths are relative to the file, as tables' are."""
        target = Path(path)
        with target.open("w", newline="", encoding="utf-8") as file:
            writer = csv_writer(file)
            writer.writerow([item.name for item in fields(ClipPrediction)])
            for row in self.rows:
                rest = [getattr(row, item.name) for item in fields(row) if item.name != "path"]
                writer.writerow([path_from(row.path, target.parent), *rest])
        return target

    def __str__(self) -> str:
        read = sum(not row.error for row in self.rows)
        lost = f", {len(self.rows) - read} could not be read" if read < len(self.rows) else ""
        views = f"{self.views} view{'s' if self.views > 1 else ''}"
        if not read:
            return "no clip could be read"
        low, high = self.accuracy_interval
        return f"accuracy {self.accuracy:.3f} [{low:.3f}, {high:.3f}] on {read} clips, {views} each{lost}"

    def _repr_html_(self) -> str:
        counts = self.confusion()
        return confusion_table(f"{self}; rows: true, columns: predicted", self.classes, counts)


@checked_numbers(stride=(1, None), views=(1, 1000))
def classify_clips(
    model: VivitForVideoClassification,
    processor: VivitImageProcessor,
    clips: Sequence[LabelledClip],
    *,
    stride: int = 2,
    views: int = 4,
    progress: bool | None = None,
) -> ClassificationReport:
    """Classify labelled clips by the mean of the logits of several windows, as the paper does (section 4.1).

    Args:
        model: a classifier; put into evaluation mode for the time.
        processor: prepares its pixels.
        clips: a clip that cannot be read becomes a row with an error.
        stride: distance of the frames of a window.
        views: windows of each clip, spread evenly; 1 takes the middle.
        progress: show a bar; None shows it on a terminal.

    Raises:
        InputError: there are no clips, or a label is not among the model's classes.
    """
    names = tuple((model.config.id2label or {}).values())
    data = ViewClips(clips, names, model.config.num_frames, processor, stride=stride, views=views)
    training, rows = model.training, []
    model.eval()
    try:
        for item in progress_bar(range(len(data)), progress, "classifying", "clip"):
            clip = data.clips[item]
            try:
                pixels = data.read(item)
            except VideoError as error:
                reason = " ".join(str(error).split())
                rows.append(ClipPrediction(str(clip.path), clip.label, error=reason))
                continue
            with torch.inference_mode():
                logits = mean_logits(model, pixels[None].to(model.device)).float()[0]
            best = int(logits.argmax())
            rank = 1 + int((logits > logits[data.labels[item]]).sum())
            likely = float(logits.softmax(-1)[best])
            rows.append(ClipPrediction(str(clip.path), clip.label, names[best], likely, rank))
    finally:
        model.train(training)
    return ClassificationReport(names, tuple(rows), views)
