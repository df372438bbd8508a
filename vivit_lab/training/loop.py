"""The training loop: plain PyTorch on Hugging Face Accelerate, the same on one CPU, one GPU or many machines."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, Sampler

from vivit_lab.errors import BackendError, ConfigError, InputError, MissingExtraError
from vivit_lab.model.classifier import VivitForVideoClassification
from vivit_lab.model.inputs import check_pixels
from vivit_lab.model.views import mean_logits
from vivit_lab.progress import progress_bar
from vivit_lab.training.config import TrainingConfig
from vivit_lab.training.files import RunFiles
from vivit_lab.training.parameters import make_optimizer, prepared
from vivit_lab.training.regularise import mixup, stochastic_depth
from vivit_lab.training.schedule import learning_rate

__all__ = ["TrainingResult", "accuracy", "train"]

ClipDataset = Dataset[tuple[Tensor, int]]


@dataclass(frozen=True)
class TrainingResult:
    """What a run came to.

    Args:
        steps: updates made, those before a continuation included.
        seconds: time spent, likewise: in all legs of the run, also on steps that were lost when it was cut off.
        accuracy: on the evaluation clips at the end, 0 … 1; None without any.
        directory: where the model, ``training.json`` and ``log.jsonl`` are.
        best_accuracy: the highest of all evaluations, where the best model was kept.
        best_step: after how many steps it was first reached.
    """

    steps: int
    seconds: float
    accuracy: float | None
    directory: Path
    best_accuracy: float | None = None
    best_step: int | None = None


def train(
    model: VivitForVideoClassification,
    data: ClipDataset,
    config: TrainingConfig,
    out: str | os.PathLike[str],
    *,
    evaluation: ClipDataset | None = None,
    keep_best: bool = False,
    resume: bool = False,
    cpu: bool = False,
    progress: bool | None = None,
) -> TrainingResult:
    """Train a classifier and save it.

    One process trains on the GPU where there is one. Under ``accelerate launch`` the same call trains on many: each
    step then takes ``batch_size`` clips in every process. Written to ``out``: the model as ``save_pretrained`` writes
    it, ``training.json`` (configuration and result), ``log.jsonl`` (a JSON object a line: loss, accuracy, learning
    rate, gradient norm, clips a second) and ``checkpoints/``.

    Args:
        model: a classifier; trained in place, and in evaluation mode afterwards.
        data: a map-style dataset of ``(pixel_values, label)``: (frame, channel, height, width) float, and an int. To be
            continued exactly, it must give the same for an index each time.
        config: how to train.
        out: a directory.
        evaluation: clips to measure the accuracy on, of the same kind; or with an axis of views before the frames,
            whose logits are averaged. A label below 0 is of a clip that could not be read: it does not count.
        keep_best: also keep, in ``out/best``, the model with the highest accuracy of all evaluations (the first such).
        resume: continue from the newest checkpoint in ``out``, or begin where there is none. The end is bit for bit
            that of a run that was never cut off (on one machine and device).
        cpu: stay on the CPU although there is a GPU.
        progress: show a bar; None shows it on a terminal.

    Raises:
        MissingExtraError: Accelerate is not installed.
        InputError: there is nothing to train on, the model has no classes, or ``out`` holds another run.
        ConfigError: the run in ``out`` had another configuration, the device cannot do the mixed precision, or more
            is to be frozen than there is.
        DamagedCheckpointError: the newest checkpoint in ``out`` is damaged; the message names the file.
        BackendError: the run diverged: its loss or a weight is no longer finite. What was kept before that stays.
    """
    accelerator = _accelerator(config, cpu)
    size = len(data)  # pyright: ignore[reportArgumentType]  # a map-style dataset has one; torch's base class does not say so
    if not size or not model.config.num_labels:
        raise InputError(
            f"wanted clips and classes to train on, got {size} clips and {model.config.num_labels} classes"
        )
    files = RunFiles(Path(out), config)
    newest = files.newest(resume=resume)
    seconds = files.spent(newest)
    accelerator.wait_for_everyone()  # all have looked before anything is written
    with prepared(model, config):  # what it refuses leaves no run behind
        if accelerator.is_main_process:
            files.prepare(newest, seconds)
        wrapped, optimizer = accelerator.prepare(model, make_optimizer(model, config))
        first = 0
        if newest is not None:
            try:
                accelerator.load_state(str(newest))
            except Exception as error:  # of an earlier version, whose files have no digests
                raise files.damaged(newest, "", " ".join(str(error).split())[:200]) from error
            first = files.progress_of(newest)[0]
        run = _Run(accelerator, model, wrapped, optimizer, config, files, evaluation, seconds)
        run.keep_best, run.best = keep_best, files.best(first) if keep_best else None
        with torch.random.fork_rng(devices=[accelerator.device] if accelerator.device.type == "cuda" else []):
            with stochastic_depth(model, config.stochastic_depth, rescale=config.rescale_kept):
                run.steps(_batches(accelerator, data, size, config, first), first, progress)
            score = run.evaluate(config.steps)
    model.eval()
    if accelerator.is_main_process:
        model.save_pretrained(out)
        files.finish(config.steps, run.seconds, score, run.best)
    accelerator.wait_for_everyone()
    return TrainingResult(config.steps, run.seconds, score, Path(out), *(run.best or (None, None)))


class _Run:
    """The state of one run."""

    def __init__(
        self,
        accelerator: Any,
        model: VivitForVideoClassification,
        wrapped: nn.Module,
        optimizer: Any,
        config: TrainingConfig,
        files: RunFiles,
        evaluation: ClipDataset | None,
        seconds: float,
    ) -> None:
        self.accelerator, self.model, self.wrapped, self.optimizer = accelerator, model, wrapped, optimizer
        self.config, self.files, self.evaluation = config, files, evaluation
        self.before, self.began = seconds, time.perf_counter()
        self.keep_best = False
        self.best: tuple[float, int] | None = None

    @property
    def seconds(self) -> float:
        """Time spent on the run so far."""
        return self.before + time.perf_counter() - self.began

    def steps(self, batches: Iterator[tuple[Tensor, Tensor]], first: int, progress: bool | None) -> None:
        """Update the weights until ``config.steps``."""
        config, main = self.config, self.accelerator.is_main_process
        meter = _Meter()
        bar = progress_bar(None, progress if main else False, "training", "step", config.steps, first)
        with bar:
            for step in range(first, config.steps):
                self.wrapped.train()
                norm = self.update(step, batches, meter)
                bar.update()
                done = step + 1
                if done % config.log_every == 0 or done == config.steps:
                    line = meter.take(self.accelerator)
                    self.check(done, is_finite=math.isfinite(line["loss"]))
                    bar.set_postfix(loss=f"{line['loss']:.3f}", accuracy=f"{line['accuracy']:.3f}")
                    rate = learning_rate(step, config)
                    self.log(step=done, learning_rate=rate, gradient_norm=norm, seconds=self.seconds, **line)
                if config.evaluate_every and done % config.evaluate_every == 0 and done < config.steps:
                    self.log(step=done, evaluation_accuracy=self.evaluate(done))
                if config.checkpoint_every and done % config.checkpoint_every == 0 and done < config.steps:
                    self.checkpoint(done)

    def check(self, step: int, *, is_finite: bool) -> None:
        """Raise where the run has diverged by a step."""
        if is_finite and all(bool(weight.isfinite().all()) for weight in self.model.parameters()):
            return
        kept = self.files.checkpoints
        raise BackendError(
            f"the loss or a weight is NaN or infinite at step {step}: the run has diverged; start anew in another "
            "directory with a lower learning_rate, a longer warm-up (warmup_steps), max_grad_norm=1 or "
            "mixed_precision='bf16'" + (f". {kept[-1]} is from before" if kept else "")
        )

    def update(self, step: int, batches: Iterator[tuple[Tensor, Tensor]], meter: _Meter) -> float:
        """Make one update and return the gradient's norm."""
        config, accelerator = self.config, self.accelerator
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, config) * group.get("scale", 1.0)
        torch.manual_seed(_seed_of(config.seed, step, accelerator.process_index))
        classes, norm = self.model.config.num_labels or 0, None
        limit = float("inf") if config.max_grad_norm is None else config.max_grad_norm
        for _ in range(config.accumulate):
            with accelerator.accumulate(self.wrapped):
                pixel_values, labels = next(batches)
                check_pixels(pixel_values, f"pixel_values of step {step}")
                wanted = labels
                if config.mixup:
                    pixel_values, wanted = mixup(pixel_values, labels, classes, config.mixup)
                logits = self.wrapped(pixel_values).logits.float()
                loss = functional.cross_entropy(logits, wanted, label_smoothing=config.label_smoothing)
                accelerator.backward(loss)
                meter.add(loss, logits, labels)
                if accelerator.sync_gradients:
                    norm = accelerator.clip_grad_norm_(self.wrapped.parameters(), limit)
                self.optimizer.step()
                self.optimizer.zero_grad()
        assert norm is not None, "the last of the accumulated batches makes the update"
        return float(norm)

    def evaluate(self, step: int) -> float | None:
        """Return the accuracy on the evaluation clips, or None where there are none; keep the model if it is best."""
        if self.evaluation is None:
            return None
        self.check(step, is_finite=True)
        loader = DataLoader(self.evaluation, self.config.batch_size)
        score = accuracy(self.wrapped, self.accelerator.prepare(loader), self.accelerator)
        if self.keep_best and (self.best is None or score > self.best[0]):
            self.best = (score, step)
            if self.accelerator.is_main_process:
                self.model.save_pretrained(self.files.directory / "best")
        return score

    def log(self, **line: Any) -> None:
        """Add a line to the log, in the main process."""
        if self.accelerator.is_main_process:
            self.files.log(line)

    def checkpoint(self, step: int) -> None:
        """Write a checkpoint, whole or not at all; none of a run that has diverged."""
        self.check(step, is_finite=True)
        target, draft = self.files.checkpoint(step)
        self.accelerator.save_state(str(draft))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            self.files.seal(draft, target, step, self.seconds)
        self.accelerator.wait_for_everyone()


class _Meter:
    """Sums of the loss and of right answers, kept on the device until they are read."""

    def __init__(self) -> None:
        self.sums: Tensor | None = None
        self.began = time.perf_counter()

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        right = (logits.detach().argmax(-1) == labels).sum()
        more = torch.stack([loss.detach() * len(labels), right.to(loss.dtype), torch.full_like(loss, len(labels))])
        self.sums = more.detach() if self.sums is None else self.sums + more.detach()

    def take(self, accelerator: Any) -> dict[str, float]:
        assert self.sums is not None, "it is read after a step"
        loss, right, count = accelerator.reduce(self.sums, reduction="sum").tolist()
        spent, self.sums, self.began = time.perf_counter() - self.began, None, time.perf_counter()
        return {"loss": loss / count, "accuracy": right / count, "clips_per_second": count / spent}


class _InOrder(Sampler[int]):
    """Indices of a whole run, from its ``start``-th clip on; a new order each epoch where asked for."""

    def __init__(self, size: int, total: int, start: int, seed: int | None) -> None:
        self.size, self.total, self.start, self.seed = size, total, start, seed

    def __len__(self) -> int:
        return self.total - self.start

    def __iter__(self) -> Iterator[int]:
        epoch, order = -1, None
        for place in range(self.start, self.total):
            if place // self.size != epoch and self.seed is not None:
                epoch = place // self.size
                generator = torch.Generator().manual_seed(_seed_of(self.seed, epoch, -1))
                order = torch.randperm(self.size, generator=generator).tolist()
            yield place % self.size if order is None else order[place % self.size]


def _batches(
    accelerator: Any, data: ClipDataset, size: int, config: TrainingConfig, first: int
) -> Iterator[tuple[Tensor, Tensor]]:
    each = config.batch_size * config.accumulate * accelerator.num_processes
    order = _InOrder(size, config.steps * each, first * each, config.seed if config.shuffle else None)
    # a generator of its own: starting the workers must not draw from the one that dropout uses
    loader = DataLoader(
        data, config.batch_size, sampler=order, num_workers=config.num_workers, generator=torch.Generator()
    )
    return iter(accelerator.prepare(loader))


def _seed_of(seed: int, step: int, process: int) -> int:
    """Mix three numbers into a seed; near ones give unrelated sequences."""
    return hash((seed, step, process)) & (2**63 - 1)  # hashes of integers are the same in every process


def _accelerator(config: TrainingConfig, cpu: bool) -> Any:
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
    except ImportError as error:
        raise MissingExtraError("training needs Accelerate: pip install 'vivit-lab[train]'") from error
    # Accelerate keeps the first run's precision and device for the whole process; a second run may want others
    AcceleratorState._reset_state(reset_partial_state="WORLD_SIZE" not in os.environ)
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.accumulate,
        cpu=cpu,
        step_scheduler_with_optimizer=False,
    )
    if config.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise ConfigError("mixed_precision='fp16' wants a GPU; on this CPU choose 'no' or 'bf16'")
    return accelerator


def accuracy(model: nn.Module, loader: Any, accelerator: Any) -> float:
    """Return the share of clips whose class the model names, over all processes.

    Args:
        model: gives an output with ``logits``; put into evaluation mode.
        loader: batches of (pixel_values, labels), prepared by the accelerator; pixel values with an axis of views,
            (batch, view, frame, …), count by the mean of their logits. Clips with a label below 0 are left out.
        accelerator: of Hugging Face Accelerate.

    Returns:
        0 … 1; 0 if all clips were left out.
    """
    model.eval()
    right = total = 0
    with torch.inference_mode():
        for pixel_values, labels in loader:
            logits = mean_logits(model, pixel_values)
            hits, known = accelerator.gather_for_metrics((logits.argmax(-1) == labels, labels >= 0))
            right, total = right + int((hits & known).sum()), total + int(known.sum())
    return right / max(total, 1)
