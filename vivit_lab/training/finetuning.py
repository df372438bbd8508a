"""Fine-tune a model on a user's own labelled clips, with other classes, frames or sizes than it had."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vivit_lab.clips.listing import ClipList
from vivit_lab.errors import ConfigError, DamagedFileError, InputError
from vivit_lab.families.auto import load_model
from vivit_lab.families.vivit import VivitForVideoClassification, VivitModel
from vivit_lab.files import read_json, read_or_set_aside, write_sealed
from vivit_lab.html import list_of
from vivit_lab.model.config import VivitConfig
from vivit_lab.model.embeddings import interpolate_positions
from vivit_lab.numbers import checked_numbers
from vivit_lab.processing.processor import VivitImageProcessor
from vivit_lab.processing.sampling import note_sampling
from vivit_lab.text import csv_writer
from vivit_lab.training.augment import Augmentation, mirror_of
from vivit_lab.training.config import TrainingConfig, preset_by_name
from vivit_lab.training.data import (
    LabelledClip,
    RunClips,
    ViewClips,
    class_names,
    find_clips,
    path_from,
    readable_clips,
    split_clips,
    usual_fps,
)
from vivit_lab.training.loop import RunFiles, TrainingResult, train
from vivit_lab.training.scores import ClassificationReport, classify_clips

__all__ = ["FinetuneResult", "adapt_model", "adapt_processor", "finetune"]


def adapt_model(
    model: VivitModel | VivitForVideoClassification,
    labels: Sequence[str],
    *,
    num_frames: int | None = None,
    image_size: int | None = None,
    seed: int = 0,
) -> tuple[VivitForVideoClassification, list[str]]:
    """Return a new classifier that starts from a model.

    All weights are copied but for these: the classifier is drawn anew, unless the model has the same class names (it
    then keeps its own order of them, and its ``label_groups``); positions are interpolated for another grid (bicubic in
    space, linear in time); a pooler is left out.

    Args:
        model: to start from; it stays as it is.
        labels: names of the classes, all different, at least two.
        num_frames: frames of a clip; None keeps the model's.
        image_size: height and width in pixels; None keeps the model's.
        seed: of the new classifier.

    Returns:
        The classifier on the device and in the dtype of the model, and a sentence for each thing that did not come
        from it as it was.

    Raises:
        InputError: the class names are fewer than two, or repeat.
        ConfigError: a size does not fit the tubelets.
    """
    if len(labels) < 2 or len(set(labels)) < len(labels):
        raise InputError(f"wanted at least two different class names, got {list(labels)}")
    old, changes = model.config, []
    keeps = isinstance(model, VivitForVideoClassification) and set((old.id2label or {}).values()) == set(labels)
    config = old.replace(
        num_frames=num_frames or old.num_frames,
        image_size=image_size or old.image_size,
        id2label=old.id2label if keeps else dict(enumerate(labels)),
        label_groups=old.label_groups if keeps else None,
        problem_type=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        new = VivitForVideoClassification(config)
    target = new.state_dict()
    for name, value in model.state_dict().items():
        head = name.split(".")[0]
        if head == "pooler" or (head == "classifier" and not keeps):
            continue
        if value.shape != target[name].shape:
            value = _resized(name, value, old, config)
            changes.append(f"{name} interpolated from {_grid(old.grid.shape)} to {_grid(config.grid.shape)} (t×h×w)")
        target[name] = value
    new.load_state_dict(target)
    if not keeps:
        before = f"instead of {old.num_labels}" if isinstance(model, VivitForVideoClassification) else "there was none"
        changes.append(f"classifier drawn anew for {len(labels)} classes ({before})")
        if old.label_groups:
            changes.append(f"label_groups dropped: one classifier in place of {' and '.join(old.label_groups)}")
    if getattr(model, "pooler", None) is not None:
        changes.append("pooler left out")
    new.name_or_path = model.name_or_path
    return new.to(device=model.device, dtype=model.dtype).eval(), changes


def _resized(name: str, value: torch.Tensor, old: VivitConfig, new: VivitConfig) -> torch.Tensor:
    if not name.endswith("position"):
        raise ConfigError(f"{name} does not fit the new sizes, and only positions can be interpolated")
    (t, h, w), (frames, rows, columns) = old.grid.shape, new.grid.shape
    if name != "embed.position":  # of the temporal layers of a factorised encoder
        return interpolate_positions(value, (t, 1, 1), (frames, 1, 1))
    if old.variant == "factorized_encoder":  # its spatial layers have one table for all times
        return interpolate_positions(value, (1, h, w), (1, rows, columns))
    return interpolate_positions(value, old.grid.shape, new.grid.shape, cls=old.grid.cls)


def _grid(shape: tuple[int, int, int]) -> str:
    return "×".join(map(str, shape))


def adapt_processor(processor: VivitImageProcessor, image_size: int) -> VivitImageProcessor:
    """Return a processor that makes square pixels of a size, with the same share of the frame left after the crop.

    Args:
        processor: of the model to start from.
        image_size: height and width in pixels.
    """
    height, width = processor.plan(image_size, image_size).height, processor.plan(image_size, image_size).width
    if processor.do_center_crop and (height, width) == (image_size, image_size):
        return processor
    crop = processor.crop_size if processor.do_center_crop else processor.size
    base = crop.get("height", crop.get("shortest_edge"))
    ratio = image_size / base
    size = {name: max(round(value * ratio), image_size) for name, value in processor.size.items()}
    return replace(processor, size=size, do_center_crop=True, crop_size={"height": image_size, "width": image_size})


@dataclass(frozen=True, eq=False)
class FinetuneResult:
    """What fine-tuning came to.

    Args:
        training: steps, time and accuracies of the run.
        model: the classifier with its last weights, in evaluation mode.
        processor: prepares its pixels.
        changes: what did not come from the model it started from as it was, a sentence each.
        skipped: clips that cannot be read, and why.
        config: how it was trained.
        report: the best model's predictions for the validation clips; None without any.
    """

    training: TrainingResult
    model: VivitForVideoClassification
    processor: VivitImageProcessor
    changes: tuple[str, ...]
    skipped: tuple[tuple[LabelledClip, str], ...]
    config: TrainingConfig
    report: ClassificationReport | None

    @property
    def last(self) -> Path:
        """Directory of the model with its last weights, which everything that takes a model's name loads."""
        return self.training.directory

    @property
    def best(self) -> Path:
        """Directory of the model that was best on the validation clips; the last one without any."""
        return self.last if self.report is None else self.last / "best"

    def summary(self) -> list[str]:
        """Return what happened, a sentence each."""
        lines = [*self.changes, f"{self.training.steps} steps in {self.training.seconds:.0f} s"]
        if self.skipped:
            lines.append(f"{len(self.skipped)} clips cannot be read and were left out: {self.last / 'skipped.csv'}")
        if self.report is not None:
            lines.append(f"best after {self.training.best_step} steps: {self.report}")
        return lines

    def _repr_html_(self) -> str:
        return list_of(self.summary()) + ("" if self.report is None else self.report._repr_html_())


@checked_numbers(num_frames=(1, 100_000), image_size=(1, None), views=(1, 1000), stride=(1, 1_000_000))
def finetune(
    model: VivitModel | VivitForVideoClassification,
    processor: VivitImageProcessor,
    data: str | os.PathLike[str] | ClipList | Sequence[LabelledClip],
    out: str | os.PathLike[str],
    *,
    preset: str = "small",
    augmentation: Augmentation | None = None,
    num_frames: int | None = None,
    image_size: int | None = None,
    epochs: float | None = None,
    validation: float = 0.2,
    views: int = 4,
    stride: int | None = None,
    on_error: str = "skip",
    resume: bool = False,
    cpu: bool = False,
    progress: bool | None = None,
    **changes: Any,
) -> FinetuneResult:
    """Train a model on labelled clips, from where it is, and save it.

    Written to ``out``: the last model and its processor; the best of the validation clips in ``out/best``; and
    ``finetune.json`` (settings), ``training.json``, ``log.jsonl``, ``checkpoints/``, ``validation.csv`` (a row a
    clip), ``skipped.csv``. Both directories load in everything that takes a model's name. A run that was cut off, even
    by ``kill -9``, ends bit for bit where an uninterrupted one does, on one machine with as many threads.

    Args:
        model: to start from; it stays as it is.
        processor: of the model.
        data: a folder of class folders or a table (see ``find_clips``), what ``list_clips`` made of it, or clips.
        out: a directory.
        preset: where settings that are not given come from, a name of ``PRESETS``.
        augmentation: how clips are varied.
        num_frames: frames of a clip; None keeps the model's. Positions are interpolated.
        image_size: height and width in pixels; likewise.
        epochs: how often each clip is seen; or give ``steps``.
        validation: share of each class to validate on, where the data has no split of its own; 0 for none.
        views: windows of a validation clip whose logits are averaged.
        stride: distance of the frames of those; None is the lowest of the augmentation.
        on_error: ``"skip"`` leaves out clips that cannot be read, and lists them; ``"raise"`` refuses to begin.
        resume: continue the run in ``out``, or begin where there is none.
        cpu: stay on the CPU although there is a GPU.
        progress: show bars; None shows them on a terminal.
        **changes: fields of ``TrainingConfig``.

    Raises:
        InputError: data, split, labels or ``on_error`` are not usable; or ``out`` holds another run.
        ConfigError: a setting is wrong, epochs and steps are both given, or the run in ``out`` had others, or other
            videos of the same names.
        MissingExtraError: Accelerate is not installed.

    Example:
        >>> result = finetune(*load_pair("planted"), "my_videos", "run", epochs=5, freeze_layers=3)
    """
    chosen = preset_by_name(preset)
    varied = chosen.augmentation if augmentation is None else augmentation
    stride = varied.stride[0] if stride is None else stride
    good, bad = _usable(data, on_error, progress=progress)
    training, held = split_clips(good, validation, changes.get("seed", 0))
    sizes = {"num_frames": num_frames, "image_size": image_size}
    network, told = adapt_model(model, class_names(training), seed=changes.get("seed", 0), **sizes)
    names, frames = list((network.config.id2label or {}).values()), network.config.num_frames
    told += _about_mirrors(varied, names)
    processor = adapt_processor(processor, network.config.image_size)
    processor = note_sampling(processor, frames, stride, usual_fps(training))
    world = int(os.environ.get("WORLD_SIZE", "1"))  # set by ``accelerate launch``
    config = chosen.config(len(training), epochs=epochs, processes=world, **changes)
    total = config.steps * config.batch_size * config.accumulate * world
    run = RunClips(training, names, total, frames, processor, varied, seed=config.seed, shuffle=config.shuffle)
    check = ViewClips(held, names, frames, processor, stride=stride, views=views) if held else None
    settings = {
        "model": model.name_or_path,
        "classes": names,
        "num_frames": frames,
        "image_size": network.config.image_size,
        "training": _digest(training),
        "validation": _digest(held),
        "shuffle": config.shuffle,
        "views": views,
        "stride": stride,
        "augmentation": varied.to_dict(),
        "processor": processor.to_dict(),
        "changes": told,
    }
    ordered = replace(config, shuffle=False)  # the clips of the run are in their order already
    sizes_of_files = _same_videos(Path(out), good, resume=resume)
    _write_down(Path(out), ordered, settings, bad, processor, resume=resume)
    if _is_main():
        write_sealed(Path(out) / "videos.json", sizes_of_files)
    done = train(
        network, run, ordered, out, evaluation=check, keep_best=True, resume=resume, cpu=cpu, progress=progress
    )
    report = None
    if check is not None:
        best: Any = load_model(done.directory / "best", device=network.device)
        report = classify_clips(best, processor, held, stride=stride, views=views, progress=progress)
        if _is_main():
            report.to_csv(done.directory / "validation.csv")
    return FinetuneResult(done, network, processor, tuple(told), tuple(bad), config, report)


def _usable(
    data: str | os.PathLike[str] | ClipList | Sequence[LabelledClip], on_error: str, *, progress: bool | None
) -> tuple[list[LabelledClip], list[tuple[LabelledClip, str]]]:
    if on_error not in ("skip", "raise"):
        raise InputError(f"on_error must be 'skip' or 'raise', got {on_error!r}")
    clips = find_clips(data) if isinstance(data, (str, os.PathLike, ClipList)) else list(data)
    good, bad = readable_clips(clips, progress=progress)
    if bad and (on_error == "raise" or not good):
        raise InputError(f"{len(bad)} of {len(clips)} clips cannot be read, the first {bad[0][0].path}: {bad[0][1]}")
    return good, bad


def _about_mirrors(augmentation: Augmentation, classes: Sequence[str]) -> list[str]:
    """Return what mirror images do to the classes, a sentence each."""
    mirror = mirror_of(classes)
    if augmentation.flip == "auto":
        return mirror.sentences()
    changed = [*mirror.partner, *mirror.alone]
    if not augmentation.flip or not changed:
        return []
    return [
        f"flip={augmentation.flip} mirrors clips whose class a mirror changes, and keeps their label: "
        f"{', '.join(sorted(changed)[:8])}; flip='auto' does not"
    ]


def _is_main() -> bool:
    return os.environ.get("RANK", "0") == "0"  # set by ``accelerate launch``


def _digest(clips: Sequence[LabelledClip]) -> dict[str, Any]:
    """Return how many clips there are and a hash of them, by which a changed data set shows."""
    rows = [[os.fspath(clip.path), clip.label, clip.start, clip.end] for clip in clips]
    return {"clips": len(rows), "sha256": hashlib.sha256(json.dumps(rows).encode()).hexdigest()}


def _same_videos(out: Path, clips: Sequence[LabelledClip], *, resume: bool) -> dict[str, Any]:
    """Return the size of each video in bytes, having made sure that a run that goes on sees those it began with.

    Raises:
        ConfigError: videos have another size than when the run began.
    """
    sizes = {os.fspath(clip.path): os.stat(clip.path).st_size for clip in clips}
    known = out / "videos.json"
    stored = (read_or_set_aside(known) or {}) if resume else {}
    if changed := [path for path, size in sizes.items() if stored.get(path, size) != size]:
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise ConfigError(
            f"the run in {out} cannot continue: {len(changed)} videos have changed since it began: "
            f"{', '.join(changed[:5])}{more}; put the old ones back, or name another directory"
        )
    return sizes


def _write_down(
    out: Path,
    config: TrainingConfig,
    settings: dict[str, Any],
    bad: Sequence[tuple[LabelledClip, str]],
    processor: VivitImageProcessor,
    *,
    resume: bool,
) -> None:
    """Write what the run is made of, having made sure that the directory holds no other."""
    newest = RunFiles(out, config).newest(resume=resume)
    path = out / "finetune.json"
    if newest is not None and path.is_file():
        try:
            stored = dict(read_json(path))
        except (InputError, TypeError, ValueError) as error:
            raise DamagedFileError(
                f"{path} is damaged ({error}), so nobody knows which settings the run had; put back a copy of it, "
                "or name another directory"
            ) from error
        if different := [name for name in settings if stored.get(name) != json.loads(json.dumps(settings[name]))]:
            raise ConfigError(
                f"the run in {out} cannot continue: other {', '.join(different)} than then; name another directory"
            )
    if not _is_main():
        return
    for folder in (out, out / "best") if settings["validation"]["clips"] else (out,):
        processor.save_pretrained(folder)
    draft = path.with_suffix(".part")
    draft.write_text(json.dumps(settings, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    draft.replace(path)
    with (out / "skipped.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv_writer(file)
        writer.writerows(
            [["path", "label", "error"], *([path_from(clip.path, out), clip.label, why] for clip, why in bad)]
        )
