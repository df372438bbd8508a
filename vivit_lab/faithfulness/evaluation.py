"""Judge methods on a data set: each method's map of each clip by each measure, in parts that survive a crash."""

from __future__ import annotations

import json
import math
import os
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from vivit_lab._version import __version__
from vivit_lab.checkpoints.checkpoint import weights_digest
from vivit_lab.errors import ConfigError, InputError, VideoError
from vivit_lab.faithfulness.controls import CONTROLS
from vivit_lab.faithfulness.localisation import localise
from vivit_lab.faithfulness.masking import CleanClips
from vivit_lab.faithfulness.measures import Infidelity, Perturbation, SaCo, SensitivityN
from vivit_lab.faithfulness.report import Curve, FaithfulnessReport
from vivit_lab.faithfulness.sanity import SanityResult, check_sanity
from vivit_lab.families.vivit import VivitForVideoClassification, VivitModel
from vivit_lab.files import read_or_set_aside, read_sealed, write_sealed
from vivit_lab.numbers import checked_numbers
from vivit_lab.processes import die_with_parent, working
from vivit_lab.progress import progress_bar
from vivit_lab.records.targets import OwnEmbedding

__all__ = [
    "CHECK",
    "PART",
    "EvaluationBatch",
    "EvaluationData",
    "EvaluationPlan",
    "assemble",
    "evaluate",
    "label_of",
    "readable",
    "write_part",
]


@dataclass(frozen=True, eq=False)
class EvaluationBatch:
    """Some clips of a data set.

    Args:
        pixel_values: (batch, frames, channels, height, width), normalised.
        names: what each clip is called; all different in the data set.
        labels: (batch,) classes, or None where they are not known.
        mask: (batch, t, h, w), the share of each tubelet that the evidence covers; None where it is not known.
        window: (batch, t), the share of each tubelet row that lies in the evidence's window; None likewise.
    """

    pixel_values: Tensor
    names: Sequence[str]
    labels: Tensor | None = None
    mask: Tensor | None = None
    window: Tensor | None = None

    @classmethod
    def joined(cls, batches: Sequence[EvaluationBatch]) -> EvaluationBatch:
        """Return batches of one data set as one, in their order."""

        def along(name: str) -> Tensor | None:
            parts = [part for batch in batches if (part := getattr(batch, name)) is not None]
            return torch.cat(parts) if parts else None

        names = [name for batch in batches for name in batch.names]
        pixels = torch.cat([batch.pixel_values for batch in batches])
        return cls(pixels, names, along("labels"), along("mask"), along("window"))

    def take(self, keep: Tensor) -> EvaluationBatch:
        """Return the clips at some indices."""
        parts = {name: getattr(self, name) for name in ("labels", "mask", "window")}
        taken: dict[str, Any] = {name: None if part is None else part[keep] for name, part in parts.items()}
        names = [self.names[index] for index in keep.tolist()]
        return replace(self, pixel_values=self.pixel_values[keep], names=names, **taken)


class EvaluationData(Protocol):
    """A data set to judge methods on. It must be picklable where there are several workers."""

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int]) -> EvaluationBatch:
        """Return some clips."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return what the data are, JSON-able: another description is another run."""
        ...


def readable(data: EvaluationData, indices: list[int]) -> tuple[EvaluationBatch | None, list[int], list[str]]:
    """Return the clips that can be read (None where none can), their indices, and why the others cannot."""
    try:
        return data.batch(indices), indices, []
    except (VideoError, FileNotFoundError):
        found, kept, failed = [], [], []
    for index in indices:  # which of them is it?
        try:
            found.append(data.batch([index]))
            kept.append(index)
        except (VideoError, FileNotFoundError) as error:
            failed.append(" ".join(str(error).split()))
    return EvaluationBatch.joined(found) if found else None, kept, failed


_AGAIN = "start the same evaluation again, and it is computed again"


PART = ("clips", "seen", "scores", "curves", "seconds")
"""What a part of the clips holds."""

CHECK = ("method", "result")
"""What the sanity checks of a method hold."""


def write_part(path: Path, value: dict[str, Any]) -> None:
    """Write a file whole or not at all; NaN is written as null."""
    write_sealed(path, _without_nan(value))


def assemble(
    folder: Path, settings: dict[str, Any], controls: tuple[str, ...], model_id: str | None
) -> FaithfulnessReport:
    """Return the report of all parts in a folder.

    Raises:
        InputError: no clip was left.
        DamagedFileError: a part is damaged.
    """
    parts = [read_sealed(path, PART, _AGAIN) for path in sorted(folder.glob("part-*.json"))]
    full = [part for part in parts if part["clips"]]
    seen, clips = sum(part["seen"] for part in parts), [name for part in full for name in part["clips"]]
    failed = [text for part in parts for text in part.get("failed", [])]
    if not clips and not seen:
        raise InputError(f"none of {len(failed)} videos can be read, the first: {''.join(failed[:1])}")
    if not clips:
        raise InputError(f"the model names none of {seen} clips rightly, so nothing was judged; is it the right model?")
    scores, curves, seconds = {}, {}, {}
    for name in full[0]["scores"]:
        scores[name] = {
            metric: [math.nan if value is None else value for part in full for value in part["scores"][name][metric]]
            for metric in full[0]["scores"][name]
        }
        curves[name] = {key: _pooled([part["curves"][name][key] for part in full]) for key in full[0]["curves"][name]}
        weights = [len(part["clips"]) for part in full]
        seconds[name] = round(float(np.average([part["seconds"][name] for part in full], weights=weights)), 4)
    about = {"clips_seen": seen, "clips_judged": len(clips), "seconds_per_clip": seconds}
    about |= {"clips_failed": failed} if failed else {}
    checks = [read_sealed(path, CHECK, _AGAIN) for path in folder.glob("sanity-*.json")]
    checks.sort(key=lambda check: list(scores).index(check["method"]))
    return FaithfulnessReport(
        scores,
        clips,
        controls=controls,
        model_id=model_id,
        settings={**settings, **about},
        sanity={check["method"]: _sanity(check["result"]) for check in checks if check["result"] is not None},
        curves=curves if any(curves.values()) else {},
    )


def _pooled(parts: list[dict[str, Any]]) -> Curve:
    weights = [part["n"] for part in parts]
    morf, lerf = (np.average([part[name] for part in parts], axis=0, weights=weights) for name in ("morf", "lerf"))
    return Curve(tuple(parts[0]["fractions"]), tuple(morf.tolist()), tuple(lerf.tolist()), sum(weights))


def _sanity(stored: dict[str, Any]) -> SanityResult:
    fields = {name: _with_nan(value) for name, value in stored.items()}
    return SanityResult(**{**fields, "stages": tuple(fields["stages"])})


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _with_nan(value: Any) -> Any:
    """Undo it inside lists, where nothing else is null."""
    if isinstance(value, list):
        return [math.nan if each is None else _with_nan(each) for each in value]
    return value


Model = VivitModel | VivitForVideoClassification

_CURVES = (
    Perturbation(baseline="drop", steps=20),
    Perturbation(baseline="blur", steps=5),
    Perturbation(region="time", baseline="drop", steps=4),
    Perturbation(region="space", baseline="drop", steps=6),
)


@checked_numbers(error=ConfigError, sanity_clips=(0, None), batch_size=(1, None))
@dataclass(frozen=True)
class EvaluationPlan:
    """What is measured.

    Args:
        curves: perturbation curves; the first gives the metrics ``srg``, ``deletion`` and ``insertion``, the rest bear
            their region and baseline in the name (``srg_blur``, ``srg_time_drop``).
        saco: or None to leave it out.
        sensitivity: or None.
        infidelity: or None; it reads what ``sensitivity`` samples where their subsets are the same.
        sanity_clips: clips for the sanity checks of each method; 0 for none.
        only_correct: leave out clips that the model names wrongly: where it errs, it did not see the evidence.
        batch_size: clips a part, and versions of clips a forward pass.
    """

    curves: tuple[Perturbation, ...] = _CURVES
    saco: SaCo | None = field(default_factory=SaCo)
    sensitivity: SensitivityN | None = field(default_factory=lambda: SensitivityN(subsets=25))
    infidelity: Infidelity | None = field(default_factory=lambda: Infidelity(subsets=25))
    sanity_clips: int = 8
    only_correct: bool = True
    batch_size: int = 8

    def __post_init__(self) -> None:
        names = [curve_name(curve, number) for number, curve in enumerate(self.curves)]
        if len(set(names)) < len(names):
            raise ConfigError(f"two curves of one region and baseline would share a name; got {names}")

    def for_model(self, model: Model) -> EvaluationPlan:
        """Return the plan as the model can be judged: tokens of a factorised one, which cannot be dropped, are blurred.

        A curve that would then have the region and baseline of one before it is left out. SaCo has no more groups than
        the model has tubelets.
        """
        tubelets = model.config.grid.num_tubelets
        if self.saco is not None and self.saco.groups > tubelets:
            few = None if tubelets < 2 else replace(self.saco, groups=tubelets)
            return replace(self, saco=few).for_model(model)
        if model.config.variant == "spacetime":
            return self
        curves = [replace(curve, baseline="blur") if curve.baseline == "drop" else curve for curve in self.curves]
        first = {(curve.region, curve.baseline): curve for curve in reversed(curves)}
        return replace(self, curves=tuple(curve for curve in curves if curve is first[curve.region, curve.baseline]))


def curve_name(curve: Perturbation, number: int) -> str:
    """Return what is added to the metrics of a plan's curve: nothing for the first."""
    region = "" if curve.region == "space_time" else f"_{curve.region}"
    return f"{region}_{curve.baseline}" if number else ""


def label_of(method: Any) -> str:
    """Return what a report calls a method: its class, and the fields that are not the default."""
    if not is_dataclass(method) or isinstance(method, type):
        return getattr(method, "__name__", type(method).__name__)
    changed = [item for item in fields(method) if getattr(method, item.name) != item.default]
    settings = ", ".join(
        item.name if getattr(method, item.name) is True else f"{item.name}={getattr(method, item.name)!r}"
        for item in changed
    )
    return type(method).__name__ + (f"({settings})" if settings else "")


@checked_numbers(workers=(0, 1024))
def evaluate(
    model: Model,
    data: EvaluationData,
    methods: Sequence[Any] | Mapping[str, Any],
    *,
    plan: EvaluationPlan | None = None,
    out: str | os.PathLike[str] | None = None,
    workers: int = 1,
    progress: bool | None = None,
) -> FaithfulnessReport:
    """Judge methods, always beside the controls, on a data set.

    The class is each clip's predicted one; where the model has no classifier, the target is the clip's own embedding
    (``OwnEmbedding``). The clips are gone through in parts; with ``out``, a part that was finished is not done again,
    and one that is damaged is named, renamed to ``….damaged`` and done again.
    A video that cannot be read is left out; the report's settings name it (``clips_failed``).

    Args:
        model: a ViViT.
        data: the clips, with the evidence where it is known: without, there is no localisation.
        methods: attribution methods, called as ``(model, pixel_values, target)``; a mapping names them, else
            ``label_of`` does.
        plan: what to measure; None is the default ``for_model``.
        out: a directory for the parts; it may hold those of the same run that was cut off.
        workers: processes, each with one thread, where the model is on the CPU and small.
        progress: show a bar; None shows it on a terminal.

    Raises:
        InputError: there are no methods or clips, two methods have one name, the model names no clip rightly, or
            several workers are asked for with a model that is not on the CPU.
        ConfigError: ``out`` holds the parts of another run.
        BackendError: one of several worker processes was ended from outside.
        DamagedFileError: ``run.json`` in ``out`` is damaged.
    """
    plan = plan or EvaluationPlan().for_model(model)
    named = dict(methods) if isinstance(methods, Mapping) else {label_of(method): method for method in methods}
    if not named or not len(data) or (not isinstance(methods, Mapping) and len(named) < len(methods)):
        raise InputError(f"wanted clips and differently named methods, got {len(data)} clips and {list(named)}")
    if workers < 1 or (workers > 1 and model.device.type != "cpu"):
        raise InputError(f"workers={workers} wants a model on the CPU, it is on {model.device}")
    named |= {label_of(control): control for control in CONTROLS}
    job = _Job(model, data, named, plan)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch if out is None else out)
        job.claim(folder)
        job.run(folder, workers, progress)
        return assemble(folder, job.settings(), tuple(map(label_of, CONTROLS)), model.name_or_path)


@dataclass(frozen=True, eq=False)
class _Job:
    """One evaluation: what each task needs. Tasks are named after the file they write."""

    model: Model
    data: EvaluationData
    methods: Mapping[str, Any]
    plan: EvaluationPlan

    def settings(self) -> dict[str, Any]:
        """Return what decides the numbers, JSON-able."""
        known = {name: _fields(method) for name, method in self.methods.items()}
        plan = json.loads(json.dumps(asdict(self.plan)))
        return {"data": self.data.describe(), "methods": known, "plan": plan}

    def claim(self, folder: Path) -> None:
        """Make the folder this run's, or raise where it is another's."""
        folder.mkdir(parents=True, exist_ok=True)
        mine = {
            "weights": weights_digest(self.model.state_dict()),
            "model": json.loads(json.dumps(self.model.config.to_dict(), default=str)),
            "version of vivit_lab": __version__,
            **self.settings(),
        }
        path = folder / "run.json"
        if not path.exists():
            write_part(path, mine)
            return
        theirs = read_sealed(path, advice="put back a copy of it, or name another directory")
        if different := [key for key in mine if mine[key] != theirs.get(key)]:
            raise ConfigError(
                f"{folder} holds the parts of a run with other {' and '.join(different)}; name another directory"
            )

    def tasks(self) -> list[str]:
        """Return all tasks; the sanity checks last."""
        count = -(-len(self.data) // self.plan.batch_size)
        known = [f"part-{number:05d}" for number in range(count)]
        if self.plan.sanity_clips:
            names = self._judged()
            known += [f"sanity-{number:03d}" for number in range(len(names))]
        return known

    def _judged(self) -> list[str]:
        """The methods that are no controls, in an order of their own: a resumed run may name them in another."""
        return sorted(name for name in self.methods if name not in map(label_of, CONTROLS))

    def run(self, folder: Path, workers: int, progress: bool | None) -> None:
        """Do the tasks that are not done, or whose files are damaged."""
        left = [task for task in self.tasks() if not _is_done(task, folder)]
        bar = progress_bar(None, progress, "evaluating", "part", len(self.tasks()), len(self.tasks()) - len(left))
        with bar:
            if workers == 1 or len(left) < 2:
                for task in left:
                    self.do(task, folder)
                    bar.update()
                return
            context = get_context("spawn")
            with ProcessPoolExecutor(workers, context, initializer=_start, initargs=(self,)) as pool:
                jobs = [pool.submit(_do, task, folder) for task in left]
                with working(pool, "start the same evaluation again with fewer workers: parts that are done stay done"):
                    for job in as_completed(jobs):
                        job.result()
                        bar.update()

    def do(self, task: str, folder: Path) -> None:
        """Do one task and write its file, whole or not at all."""
        kind, number = task.split("-")
        found = self.part(int(number)) if kind == "part" else self.sanity(int(number))
        write_part(folder / f"{task}.json", found)

    def part(self, number: int) -> dict[str, Any]:
        """Return the scores of one part of the clips."""
        size = self.plan.batch_size
        indices = list(range(number * size, min((number + 1) * size, len(self.data))))
        batch, indices, about = self._batch(indices)
        if batch is None or not indices:
            return {"clips": [], **about, "scores": {}, "curves": {}, "seconds": {}}
        clips = CleanClips.of(self.model, batch.pixel_values, _target(self.model), numbers=indices)
        falls = self._falls(clips)
        scores, curves, seconds = {}, {}, {}
        for name, method in self.methods.items():
            began = time.perf_counter()
            heat = _map(method, self.model, batch.pixel_values, clips.target)
            seconds[name] = (time.perf_counter() - began) / len(indices)
            scores[name], curves[name] = self._judge(clips, heat, batch, falls)
        return {"clips": list(batch.names), **about, "scores": scores, "curves": curves, "seconds": seconds}

    def _batch(self, indices: list[int]) -> tuple[EvaluationBatch | None, list[int], dict[str, Any]]:
        """Return the clips at indices, those that the model names wrongly or nobody can read left out.

        With them goes how many could be read (``seen``), and what was wrong with the others (``failed``).
        """
        batch, indices, failed = readable(self.data, indices)
        about = {"seen": len(indices), "failed": failed}
        if batch is None:
            return None, [], about
        if batch.labels is not None and self.plan.only_correct and _target(self.model) is None:
            with torch.inference_mode():
                guess = (
                    self.model.eval()(batch.pixel_values.to(self.model.device), interpolate_pos_encoding=None)
                    .logits.argmax(-1)
                    .cpu()
                )
            keep = (guess == batch.labels.cpu()).nonzero().squeeze(1)
            batch, indices = batch.take(keep), [indices[index] for index in keep.tolist()]
        return batch, indices, about

    def _falls(self, clips: CleanClips) -> dict[str, Any]:
        """Return what each subset measure reads; two with the same subsets share it."""
        drawn: dict[Any, Any] = {}
        found = {}
        for name, measure in self._subset_measures().items():
            key = (measure.sizes, measure.subsets, measure.baseline, measure.blur_sigma, measure.seed)
            if key not in drawn:
                drawn[key] = measure.sample(clips, batch_size=self.plan.batch_size, progress=False)
            found[name] = drawn[key]
        return found

    def _subset_measures(self) -> dict[str, Any]:
        both = {"sensitivity": self.plan.sensitivity, "infidelity": self.plan.infidelity}
        return {name: measure for name, measure in both.items() if measure is not None}

    def _judge(self, clips: CleanClips, heat: Any, batch: EvaluationBatch, falls: dict[str, Any]) -> tuple[Any, Any]:
        """Return one method's scores {metric: values} and mean curves."""
        scores, curves, size = {}, {}, self.plan.batch_size
        if batch.mask is not None:
            found = localise(heat, batch.mask, batch.window)
            scores |= {name: values.tolist() for name, values in found.values.items()}
        for number, curve in enumerate(self.plan.curves):
            result, name = curve.measure(clips, heat, batch_size=size, progress=False), curve_name(curve, number)
            for metric in ("srg", "deletion", "insertion"):
                scores[metric + name] = getattr(result, metric).tolist()
            curves[f"{curve.region}, {curve.baseline}"] = asdict(Curve.mean_of(result.main))
        if self.plan.saco is not None:
            scores["saco"] = self.plan.saco.measure(clips, heat, batch_size=size, progress=False).tolist()
        for name, measure in self._subset_measures().items():
            scores[name] = measure.compare(falls[name], heat).tolist()
        return scores, curves

    def sanity(self, number: int) -> dict[str, Any]:
        """Return the sanity checks of one method."""
        names = self._judged()
        name, wanted, batches = names[number], self.plan.sanity_clips, []
        for first in range(0, len(self.data), self.plan.batch_size):
            last = min(first + self.plan.batch_size, len(self.data))
            batch = self._batch(list(range(first, last)))[0]
            batches += [] if batch is None else [batch.pixel_values]
            if sum(map(len, batches)) >= wanted:
                break
        if not sum(map(len, batches)):
            return {"method": name, "result": None}
        pixels = torch.cat(batches)[:wanted]
        target = _target(self.model)
        result = check_sanity(self.methods[name], self.model, pixels, target, progress=False)
        return {"method": name, "result": {**asdict(result), "method": name}}


def _target(model: Model) -> Any:
    """Return what is explained: the predicted class, or the clip's own embedding where there are no classes."""
    return None if isinstance(model, VivitForVideoClassification) and model.config.num_labels else OwnEmbedding()


def _map(method: Any, model: Model, pixels: Tensor, target: Any) -> Any:
    return method(model, pixels) if getattr(method, "class_agnostic", False) else method(model, pixels, target)


def _fields(method: Any) -> dict[str, Any]:
    known = asdict(method) if is_dataclass(method) and not isinstance(method, type) else {}
    return json.loads(json.dumps({"class": type(method).__name__, **known}, default=str))


def _is_done(task: str, folder: Path) -> bool:
    """Return whether a task's file is there and whole; a damaged one is moved aside."""
    return read_or_set_aside(folder / f"{task}.json", PART if task.startswith("part") else CHECK) is not None


_JOB: list[_Job] = []  # a worker's own


def _start(job: _Job) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that holds the pool
    die_with_parent()  # a killed run leaves nobody working
    torch.set_num_threads(1)
    _JOB[:] = [job]


def _do(task: str, folder: Path) -> None:
    _JOB[0].do(task, folder)
