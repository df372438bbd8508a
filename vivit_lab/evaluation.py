"""From a model and videos to a faithfulness report: the steps of ``vivit-lab evaluate``, for scripts and notebooks."""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vivit_lab.attribution.attcat import AttCAT
from vivit_lab.attribution.chefer import CheferRelevance
from vivit_lab.attribution.integrated_gradients import IntegratedGradients
from vivit_lab.attribution.legrad import LeGrad
from vivit_lab.attribution.reading import require_joint_attention, require_one_sequence
from vivit_lab.attribution.registry import METHODS, class_by_name, make_method
from vivit_lab.attribution.rise import Rise
from vivit_lab.attribution.smooth_grad import SmoothGrad
from vivit_lab.attribution.transition import TransitionAttentionMaps
from vivit_lab.attribution.value_norm import ValueNormRollout
from vivit_lab.checkpoints.hub import verify_bundled
from vivit_lab.clips.listing import list_clips
from vivit_lab.errors import InputError, MissingExtraError, ShortClipWarning
from vivit_lab.faithfulness.evaluation import EvaluationBatch, EvaluationData, label_of
from vivit_lab.faithfulness.report import FaithfulnessReport
from vivit_lab.grid import TokenGrid
from vivit_lab.html import page
from vivit_lab.model.config import VivitConfig
from vivit_lab.numbers import checked_numbers
from vivit_lab.planted.clip import planted_batch
from vivit_lab.planted.files import PlantedFile, read_planted
from vivit_lab.planted.scene import PlantedConfig, mask_of_tokens
from vivit_lab.processing.processor import VivitImageProcessor
from vivit_lab.processing.sampling import sampling_of
from vivit_lab.video.clip import Clip
from vivit_lab.video.index import load_index
from vivit_lab.video.read import read_clip, read_frames

__all__ = [
    "PlantedClips",
    "Videos",
    "all_methods",
    "methods_by_name",
    "open_data",
    "stored_report",
    "suitable_methods",
    "write_report",
]

_FAST = {
    "integrated_gradients": IntegratedGradients(steps=16),
    "smooth_grad": SmoothGrad(samples=16),
    "rise": Rise(masks=192),
}


@dataclass(frozen=True)
class PlantedClips:
    """Clips with planted evidence, drawn when they are asked for.

    Args:
        config: which clips.
        count: how many, from the first on.
        grid: the token grid of the model; clips of another size have one of the same tubelets.
        processor: of the model: its range of pixel values; None is -1 … 1.

    Raises:
        InputError: there are no clips.
        GridError: the clips are no whole number of tubelets.
    """

    config: PlantedConfig
    count: int
    grid: TokenGrid
    processor: VivitImageProcessor | None = None

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError(f"wanted at least one planted clip, got {self.count}")
        own = self.grid.resized(self.config.frames, self.config.size, self.config.size)
        object.__setattr__(self, "grid", own)

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: Sequence[int]) -> EvaluationBatch:
        """See ``EvaluationData.batch``."""
        pixels, labels, clips = planted_batch(self.config, indices)
        if self.processor is not None and _range(self.processor) != _range(VivitImageProcessor.trained_range()):
            frames, as_they_are = [clip.frames for clip in clips], {"do_resize": False, "do_center_crop": False}
            pixels = self.processor(frames, return_tensors="pt", **as_they_are).pixel_values
        mask = np.stack([clip.token_mask(self.grid) for clip in clips])
        window = np.stack([clip.token_window(self.grid) for clip in clips])
        names = [f"planted-{index:05d}" for index in indices]
        return EvaluationBatch(pixels, names, labels, torch.from_numpy(mask), torch.from_numpy(window))

    def describe(self) -> dict[str, Any]:
        """See ``EvaluationData.describe``."""
        known = {"kind": "planted", "count": self.count, **self.config.to_dict()}
        if self.processor is None or _range(self.processor) == _range(VivitImageProcessor.trained_range()):
            return known
        return {**known, "range": list(_range(self.processor))}


@dataclass(frozen=True)
class Videos:
    """Windows of video files: the first of each.

    Args:
        paths: the files.
        processor: makes them into pixels.
        config: of the model: its frames, and what its classes are called.
        stride: takes one frame in so many.
        labels: each file's class as an index or a label, or None where they are not known.
        planted: what ``write_planted`` knows of each file, or None.
        segments: start and end of each clip in seconds, None for the video's own; None for whole videos.
        found: what was found where the files come from, in words.

    Raises:
        InputError: there are no files, or not one label a file.
    """

    paths: Sequence[Path]
    processor: VivitImageProcessor
    config: VivitConfig
    stride: int = 1
    labels: Sequence[str] | None = None
    planted: Sequence[PlantedFile] | None = field(default=None, repr=False)
    segments: Sequence[tuple[float | None, float | None]] | None = None
    found: str = ""

    def __post_init__(self) -> None:
        if not self.paths:
            raise InputError("wanted at least one video, got none")
        if self.labels is not None and len(self.labels) != len(self.paths):
            raise InputError(f"wanted a label for each of {len(self.paths)} videos, got {len(self.labels)}")

    def __len__(self) -> int:
        return len(self.paths)

    @cached_property
    def classes(self) -> list[int] | None:
        """Each file's class; None where they are not known, or the model has no classes."""
        if self.labels is None or not self.config.num_labels:
            return None
        return [class_by_name(str(label), self.config) for label in self.labels]

    def batch(self, indices: Sequence[int]) -> EvaluationBatch:
        """See ``EvaluationData.batch``."""
        frames = self.config.num_frames
        clips = [self._read(index, frames) for index in indices]
        pixels = torch.cat([clip.pixel_values for clip in clips if clip.pixel_values is not None])
        labels = None if self.classes is None else torch.tensor([self.classes[index] for index in indices])
        names = [self._names[index] for index in indices]
        if self.planted is None:
            return EvaluationBatch(pixels, names, labels)
        grid = self.config.grid.resized(frames, *pixels.shape[3:])
        both = [(self.planted[index], clip) for index, clip in zip(indices, clips, strict=True)]
        mask = np.stack([mask_of_tokens(_prepared(truth.mask, clip), grid) for truth, clip in both])
        inside = [np.isin(clip.indices, range(*truth.window)) for truth, clip in both]
        window = np.stack(inside).reshape(len(clips), grid.t, -1).mean(-1, dtype=np.float32)
        return EvaluationBatch(pixels, names, labels, torch.from_numpy(mask), torch.from_numpy(window))

    def _read(self, index: int, count: int) -> Clip:
        """Return the first window of a clip's segment; where it is too short, its last frame repeats."""
        start, end = (None, None) if self.segments is None else self.segments[index]
        if start is None and end is None:
            return read_clip(self.paths[index], count, self.stride, processor=self.processor)
        times = load_index(self.paths[index])
        first, stop = times.span(start, end, self.paths[index])
        indices = first + self.stride * np.arange(count)
        if short := int((indices >= stop).sum()):
            text = (
                f"the segment of {self.paths[index]} ends {short} frames before the window does; its last frame repeats"
            )
            warnings.warn(text, ShortClipWarning, stacklevel=2)
        indices = indices.clip(max=stop - 1)
        return self.processor.prepare(read_frames(self.paths[index], indices, index=times))

    @cached_property
    def _names(self) -> list[str]:
        """What each clip is called: its path, with its segment where the file is there more than once."""
        names, often, seen = [], Counter(map(str, self.paths)), Counter()
        for number, path in enumerate(map(str, self.paths)):
            if often[path] > 1:
                start, end = (None, None) if self.segments is None else self.segments[number]
                path += f" [{0 if start is None else start:g} s, {'end' if end is None else f'{end:g} s'}]"
            seen[path] += 1
            names.append(f"{path} ({seen[path]})" if seen[path] > 1 else path)
        return names

    def describe(self) -> dict[str, Any]:
        """See ``EvaluationData.describe``."""
        files = [[str(path), path.stat().st_size] for path in self.paths]
        about = {"stride": self.stride, "labels": self.classes, "processor": self.processor.to_dict()}
        if self.segments is not None and any(segment != (None, None) for segment in self.segments):
            about["segments"] = [list(segment) for segment in self.segments]
        return {"kind": "videos", "files": files, **about}


@checked_numbers()
def open_data(
    name: str | os.PathLike[str],
    config: VivitConfig,
    processor: VivitImageProcessor,
    *,
    count: int | None = None,
    stride: int | None = None,
) -> EvaluationData:
    """Return the clips that a name stands for.

    Args:
        name: ``"planted"`` (level 3 of the test split), ``"planted:2"`` (another level), ``"planted:level=1,seed=5"``
            (fields of ``PlantedConfig``); a directory that ``write_planted`` wrote; or whatever ``list_clips`` reads:
            class folders, tables with labels and segments, lists, patterns, one video. Names of folders are labels
            where they are classes of the model.
        config: of the model.
        processor: of the model.
        count: how many clips; None for 256 planted ones, or all files.
        stride: of the frames of videos; None takes the model's own, see ``sampling_of``. Planted movies are taken frame
            by frame.

    Raises:
        InputError: there is nothing of that name, or no video in it.
    """
    text = os.fspath(name)
    if text == "planted" or text.startswith("planted:"):
        fields = _planted_fields(text.removeprefix("planted").removeprefix(":"))
        sizes = {"frames": config.num_frames, "size": config.image_size}
        planted = PlantedConfig(**{"split": "test", **sizes, **fields})
        return PlantedClips(planted, count or 256, config.grid, processor)
    path, stride = Path(text), sampling_of(processor, config.num_frames, stride).stride
    if (path / "manifest.json").is_file() and (path / "masks.npz").is_file():
        truth = [entry for entry in read_planted(path) if entry.counterfactual is None][:count]
        labels = [entry.label_name for entry in truth]
        told = f"{len(truth)} planted clips, {len(set(labels))} classes and masks from manifest.json"
        return Videos([entry.path for entry in truth], processor, config, 1, labels, truth, found=told)
    found = list_clips(name).for_classes((config.id2label or {}) if config.num_labels else {})
    rows = found.table.to_pylist()
    if found.labels_from and config.num_labels and (bare := [row for row in rows if row["label"] is None]):
        found = replace(found, notes=(*found.notes, f"left out: {len(bare)} without a label"))
        rows = [row for row in rows if row["label"] is not None]
    rows = rows[:count]
    labels = [row["label"] for row in rows] if found.labels_from else None
    segments = [(row["start"], row["end"]) for row in rows]
    return Videos([Path(row["path"]) for row in rows], processor, config, stride, labels, None, segments, str(found))


def _prepared(mask: np.ndarray, clip: Clip) -> np.ndarray:
    """Return a mask (T, H, W) of a movie's frames as the clip's frames and model pixels lie on them."""
    assert clip.geometry is not None, "a processor prepared the clip"
    found = mask[clip.indices]
    for axis, size in enumerate(clip.geometry.model_size):
        place = (np.arange(size) + 0.5 - clip.geometry.offset[axis]) / clip.geometry.scale[axis]
        within = (place >= 0) & (place < mask.shape[axis + 1])
        found = found.take(np.where(within, place, 0).astype(int), axis + 1)
        found = found & within.reshape((-1, 1) if axis == 0 else (-1,))
    return found


def _range(processor: VivitImageProcessor) -> tuple[Any, ...]:
    """Return the options that say which numbers pixels become."""
    scaled = (processor.rescale_factor, processor.offset) if processor.do_rescale else None
    moved = (list(processor.image_mean), list(processor.image_std)) if processor.do_normalize else None
    return (scaled, moved)


def _planted_fields(text: str) -> dict[str, Any]:
    """Read ``3`` or ``level=3,seed=1``."""
    if re.fullmatch(r"\d+", text):
        return {"level": int(text)}
    fields: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        key, separator, value = part.partition("=")
        if not separator or key not in PlantedConfig.__dataclass_fields__:
            known = ", ".join(PlantedConfig.__dataclass_fields__)
            raise InputError(f"wanted 'planted:LEVEL' or 'planted:field=value,…' with fields of {known}; got {part!r}")
        fields[key] = int(value) if re.fullmatch(r"-?\d+", value) else value
    return fields


def all_methods() -> list[Any]:
    """Return every method of the package, those that sample with few enough samples for a data set."""
    return [*(_FAST.get(name) or METHODS[name]() for name in METHODS), CheferRelevance(centred=True)]


def suitable_methods(methods: Sequence[Any], model: Any) -> tuple[list[Any], list[str]]:
    """Return the methods that have a meaning for a model, and for each of the others why it has none.

    Args:
        methods: of the package, or any others, which are kept.
        model: a ViViT of any variant.
    """
    kept, reasons = [], []
    for method in methods:
        try:
            if isinstance(method, TransitionAttentionMaps):
                require_joint_attention(method, model)
            elif isinstance(method, (AttCAT, LeGrad, ValueNormRollout)):
                require_one_sequence(method, model.config)
        except InputError as error:
            reasons.append(str(error))
        else:
            kept.append(method)
    return kept, reasons


def methods_by_name(text: str) -> list[Any]:
    """Return methods from text.

    Args:
        text: ``"all"``, or names of ``METHODS`` separated by commas; settings of a method follow a colon, separated by
            semicolons: ``"rollout:start_layer=2;head_fusion=max,chefer:centred=true"``.

    Raises:
        InputError: there is no such method or setting, or a method is named twice.
    """
    if text.strip().lower() == "all":
        return all_methods()
    found = []
    for part in _split(text):
        name, _, settings = part.partition(":")
        pairs = [setting.partition("=") for setting in settings.split(";") if setting]
        found.append(make_method(name, {key: value for key, _, value in pairs}))
    labels = [label_of(method) for method in found]
    if not found or len(set(labels)) < len(labels):
        raise InputError(f"wanted different methods, got {', '.join(labels) or 'none'}; choose of {', '.join(METHODS)}")
    return found


def _split(text: str) -> list[str]:
    """Split at the commas between methods, not at those inside a setting (``occlusion:window=2,2,2``)."""
    parts: list[str] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        inside = parts and ":" in parts[-1] and re.match(r"-?\d", part)  # no method begins with a digit
        parts[-1:] = [f"{parts[-1]},{part}"] if inside else [*parts[-1:], part]
    return parts


def stored_report() -> FaithfulnessReport:
    """Return the report of all methods on the bundled planted classifier, as it is stored with the package.

    It was made by ``vivit-lab evaluate`` as its settings and the README tell.

    Raises:
        BundledDataError: the file is missing or was changed.
    """
    return FaithfulnessReport.from_json(verify_bundled("reports/planted_level3.json"))


def write_report(report: FaithfulnessReport, out: str | os.PathLike[str]) -> dict[str, Path]:
    """Write a report as JSON, CSV and a page that needs no other file; with matplotlib, also its figures as PNG.

    Args:
        report: what to write.
        out: a directory; it is made if need be.

    Returns:
        Kind → path: ``json``, ``csv``, ``html``, and ``intervals`` and ``curves`` where they could be drawn.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    files = {kind: folder / f"report.{kind}" for kind in ("json", "csv", "html")}
    report.to_json(files["json"])
    report.to_csv(files["csv"])
    files["html"].write_text(page("Faithfulness report", report._repr_html_()), encoding="utf-8")
    try:
        figures = {"intervals": report.intervals_figure()}
        if report.curves:
            figures["curves"] = report.curves_figure()
    except MissingExtraError:  # the figures are a convenience; the page has its own
        return files
    for name, figure in figures.items():
        files[name] = folder / f"{name}.png"
        figure.savefig(files[name], dpi=100)
    return files
