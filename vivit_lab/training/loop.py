"""The training loop on Hugging Face Accelerate: what is trained at which rate, and what is kept on disk."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, Sampler

from vivit_lab.errors import (
    BackendError,
    ConfigError,
    DamagedCheckpointError,
    DamagedFileWarning,
    InputError,
    MissingExtraError,
)
from vivit_lab.families.views import mean_logits
from vivit_lab.families.vivit import VivitForVideoClassification, VivitPreTrainedModel
from vivit_lab.model.attention import Attention
from vivit_lab.model.blocks import MLP
from vivit_lab.model.inputs import check_pixels
from vivit_lab.progress import progress_bar
from vivit_lab.training.config import TrainingConfig

__all__ = [
    "RunFiles",
    "TrainingResult",
    "accuracy",
    "frozen_parts",
    "layers_of",
    "learning_rate",
    "make_optimizer",
    "mixup",
    "parameter_groups",
    "prepared",
    "read_log",
    "stacks_of",
    "stochastic_depth",
    "train",
]


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Return the learning rate of update ``step``, counted from 0: a linear rise, then half a cosine.

    Args:
        step: 0 … ``config.steps - 1``.
        config: gives the highest rate, the length of the rise, and what share is left at the end.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - 1 - config.warmup_steps)
    left = config.final_learning_rate
    return config.learning_rate * (left + (1 - left) * (1 + math.cos(math.pi * done)) / 2)


def stacks_of(model: VivitPreTrainedModel) -> list[list[tuple[nn.Module, ...]]]:
    """Return the layers as the paper counts them, in the order in which they run: stack → layer → its blocks.

    A factorised encoder has two stacks, the spatial and the temporal one. A layer of factorised self-attention is two
    blocks, one for each axis. All else is one stack of layers of one block.
    """
    blocks, count = list(model.blocks), model.config.num_hidden_layers
    each = len(blocks) // count if model.config.variant == "factorized_self_attention_block" else 1
    layers = [tuple(blocks[first : first + each]) for first in range(0, len(blocks), each)]
    return [stack for stack in (layers[:count], layers[count:]) if stack]


def layers_of(model: VivitPreTrainedModel) -> list[tuple[nn.Module, ...]]:
    """Return the layers of all stacks, see ``stacks_of``."""
    return [layer for stack in stacks_of(model) for layer in stack]


def parameter_groups(
    model: VivitPreTrainedModel, weight_decay: float, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Return an optimizer's parameter groups.

    Weight decay is for the weights of linear and filter layers, and none for all else. With ``layer_decay`` < 1 there
    are two groups a layer, whose ``scale`` is layer_decay ** (number of layers above it).

    Args:
        model: parameters that require no gradient are left out.
        weight_decay: of the groups that have one.
        layer_decay: share of the next layer's learning rate, 0 … 1.
    """
    decayed = {id(module.weight) for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv3d))}
    wanted = [value for value in model.parameters() if value.requires_grad]
    if layer_decay == 1:
        layers = [(wanted, {})]
    else:
        depth, top = _depths(model), len(layers_of(model)) + 1
        layers = [
            ([value for value in wanted if depth.get(id(value), top) == layer], {"scale": layer_decay ** (top - layer)})
            for layer in range(top + 1)
        ]
    return [
        {"params": params, "weight_decay": decay, **extra}
        for chosen, extra in layers
        for params, decay in (
            ([value for value in chosen if id(value) in decayed], weight_decay),
            ([value for value in chosen if id(value) not in decayed], 0.0),
        )
        if params or not extra
    ]


def _depths(model: VivitPreTrainedModel) -> dict[int, int]:
    """Return the depth of each parameter (by its id) of the embeddings, 0, and of the layers, 1, 2, …."""
    depth = {id(value): 0 for value in model.embed.parameters()}
    for layer, blocks in enumerate(layers_of(model), start=1):
        depth |= {id(value): layer for block in blocks for value in block.parameters()}
    return depth


def make_optimizer(model: VivitPreTrainedModel, config: TrainingConfig) -> torch.optim.Optimizer:
    """Return the optimizer of a configuration, for the parameters that require a gradient."""
    groups = parameter_groups(model, config.weight_decay, config.layer_decay)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum)
    return torch.optim.AdamW(groups, betas=config.betas)


def frozen_parts(model: VivitPreTrainedModel, config: TrainingConfig) -> list[nn.Module]:
    """Return the modules that a configuration freezes.

    Raises:
        ConfigError: there are fewer layers than are to be frozen.
    """
    layers = layers_of(model)
    if config.freeze_layers > len(layers):
        raise ConfigError(f"freeze_layers={config.freeze_layers}, but the model has {len(layers)} layers")
    if config.freeze_backbone:
        return [child for name, child in model.named_children() if name != "classifier"]
    frozen = [block for layer in layers[: config.freeze_layers] for block in layer]
    return [model.embed, *frozen] if config.freeze_embeddings else frozen


@contextmanager
def prepared(model: VivitPreTrainedModel, config: TrainingConfig) -> Iterator[None]:
    """Freeze what a configuration freezes, and switch gradient checkpointing on where it is asked for.

    Both are as before afterwards, also after an exception.

    Raises:
        ConfigError: see ``frozen_parts``; or nothing is left to train.
    """
    before = {value: value.requires_grad for value in model.parameters()}
    checkpointing = model.gradient_checkpointing
    try:
        for module in frozen_parts(model, config):
            module.requires_grad_(False)
        if not any(value.requires_grad for value in model.parameters()):
            raise ConfigError("every parameter is frozen, so there is nothing to train")
        if config.gradient_checkpointing:
            model.gradient_checkpointing_enable()
        yield
    finally:
        for value, wanted in before.items():
            value.requires_grad_(wanted)
        model.gradient_checkpointing = checkpointing


@contextmanager
def stochastic_depth(model: VivitPreTrainedModel, rate: float, *, rescale: bool = True) -> Iterator[None]:
    """Leave attention and MLP branches out at random, clip by clip, while the model is in training mode.

    Huang et al. 2016 (https://arxiv.org/abs/1603.09382, eq. 4), as in ViViT for each branch: layer l of L drops each at
    the rate l / (L - 1) · ``rate``. What is kept is divided by the share kept, so evaluation mode needs no change.

    Args:
        model: a ViViT; it is restored on leaving, also after an exception.
        rate: of the last block, 0 … 1 (1 excluded).
        rescale: whether what is kept is divided by the share kept; False is what the paper's own code does.

    Raises:
        ConfigError: the rate is out of its range.
    """
    if not 0 <= rate < 1:
        raise ConfigError(f"the rate of stochastic depth must lie in 0 … 1 (1 excluded), got {rate!r}")
    handles = []
    try:
        for stack in stacks_of(model) if rate else ():
            for layer, blocks in enumerate(stack):
                keep = 1 - rate * layer / max(1, len(stack) - 1)
                branches = [part for block in blocks for part in block.modules() if isinstance(part, (Attention, MLP))]
                dropper = _dropper(keep, keep if rescale else 1.0)
                handles += [branch.register_forward_hook(dropper) for branch in branches]
        yield
    finally:
        for handle in handles:
            handle.remove()


def _dropper(keep: float, divisor: float) -> Any:
    def drop(module: nn.Module, _inputs: Any, output: Any) -> Any:
        if not module.training or keep == 1:
            return None
        branch, *rest = output if isinstance(output, tuple) else (output,)
        kept = torch.empty(len(branch), 1, 1, device=branch.device, dtype=branch.dtype).bernoulli_(keep) / divisor
        return (branch * kept, *rest) if isinstance(output, tuple) else branch * kept

    return drop


def mixup(
    pixel_values: Float[Tensor, "batch frame channel height width"],
    labels: Int[Tensor, "batch ..."],
    num_labels: int,
    alpha: float,
) -> tuple[Float[Tensor, "batch frame channel height width"], Float[Tensor, "batch label"]]:
    """Blend each clip, and its label, with another of the batch.

    Zhang et al. 2018, https://arxiv.org/abs/1710.09412, section 2.

    Args:
        pixel_values: (batch, frame, channel, height, width).
        labels: (batch,) classes.
        num_labels: number of classes.
        alpha: of the Beta(α, α) that the share is drawn from, one for the batch; positive.

    Returns:
        The blended clips, and (batch, num_labels) labels that sum to 1.

    Raises:
        InputError: alpha is not positive.
    """
    if not alpha > 0:
        raise InputError(f"mixup wants a positive alpha, got {alpha!r}")
    # drawn on the CPU, so that one seed gives one sequence on every device
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    other = torch.randperm(len(labels)).to(labels.device)
    wanted = functional.one_hot(labels, num_labels).to(pixel_values.dtype)
    blended = share * pixel_values + (1 - share) * pixel_values[other]
    return blended, share * wanted + (1 - share) * wanted[other]


_DRAFT = ".part"


class RunFiles:
    """The files of one run.

    Args:
        directory: of the run.
        config: what the run does.
    """

    def __init__(self, directory: Path, config: TrainingConfig) -> None:
        self.directory, self.config = directory, config

    @property
    def checkpoints(self) -> list[Path]:
        """The checkpoints that are whole, oldest first."""
        found = (self.directory / "checkpoints").glob("step-*/run.json")
        return sorted(path.parent for path in found if not path.parent.name.endswith(_DRAFT))

    def newest(self, *, resume: bool) -> Path | None:
        """Return the checkpoint to continue from, or None to begin anew; nothing is written.

        Args:
            resume: whether to continue.

        Raises:
            InputError: the directory holds a run and ``resume`` was not asked for.
            ConfigError: its configuration was another.
            DamagedCheckpointError: a file of the checkpoint is cut off, altered or missing.
        """
        log, newest = self.directory / "log.jsonl", (self.checkpoints or [None])[-1]
        if not resume and (newest is not None or (log.exists() and log.stat().st_size)):
            raise InputError(
                f"{self.directory} holds a training run: continue it (resume=True), or name another directory"
            )
        if newest is not None:
            stored = self._run_of(newest)
            if differences := self.config.differences(stored["config"]):
                raise ConfigError(
                    f"the run in {self.directory} cannot continue with other settings ({'; '.join(differences)}); "
                    "name another directory"
                )
            self._check_files(newest, stored.get("files", {}))
        return newest

    def damaged(self, checkpoint: Path, name: str, why: object) -> DamagedCheckpointError:
        """Return the error that names a damaged file of a checkpoint, and says what to do.

        Args:
            checkpoint: its directory.
            name: of the file.
            why: what is wrong.
        """
        older = [path for path in self.checkpoints if path.name < checkpoint.name]
        then = f"continues from {older[-1].name}" if older else "begins anew"
        return DamagedCheckpointError(
            f"{checkpoint / name} is damaged ({why}): the run cannot continue from there. Remove {checkpoint}, and the "
            f"same command {then}"
        )

    def _run_of(self, checkpoint: Path) -> dict[str, Any]:
        """Return what a checkpoint's ``run.json`` says."""
        try:
            run = json.loads((checkpoint / "run.json").read_text(encoding="utf-8"))
            return {**run, "step": int(run["step"]), "seconds": float(run["seconds"]), "config": dict(run["config"])}
        except (ValueError, KeyError, TypeError) as error:
            raise self.damaged(checkpoint, "run.json", error) from error

    def _check_files(self, checkpoint: Path, digests: dict[str, str]) -> None:
        """Raise if a file is not the one that was written; checkpoints of earlier versions have no digests."""
        for name, digest in digests.items():
            path = checkpoint / name
            if not path.is_file():
                raise self.damaged(checkpoint, name, "it is missing")
            if _sha256(path) != digest:
                raise self.damaged(checkpoint, name, f"its {path.stat().st_size} bytes are not what was written")

    def prepare(self, newest: Path | None, seconds: float) -> None:
        """Make the directory, and drop the log's lines after the checkpoint: they will be written again.

        Args:
            newest: the checkpoint.
            seconds: spent before, which the lines that are dropped may be the only ones to know.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "spent.json").write_text(json.dumps({"seconds": seconds}) + "\n", encoding="utf-8")
        log, step = self.directory / "log.jsonl", 0 if newest is None else self.progress_of(newest)[0]
        kept = [json.dumps(line) + "\n" for line in _lines(log) if line["step"] <= step]
        draft = log.with_name(log.name + _DRAFT)
        draft.write_text("".join(kept), encoding="utf-8")
        draft.replace(log)  # at once, so that a process that is killed here loses no line

    def spent(self, newest: Path | None) -> float:
        """Return the seconds that the run has taken so far, in all its legs.

        What was computed after the checkpoint counts too, to the last line of the log: it was time spent.

        Args:
            newest: the checkpoint that the run goes on from.
        """
        known = [0.0 if newest is None else self.progress_of(newest)[1]]
        known += [line["seconds"] for line in _lines(self.directory / "log.jsonl", quiet=True) if "seconds" in line]
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            known.append(float(json.loads((self.directory / "spent.json").read_text(encoding="utf-8"))["seconds"]))
        return max(known)

    def best(self, step: int) -> tuple[float, int] | None:
        """Return the highest accuracy of an evaluation up to a step, and its own step; the first of equals."""
        lines = _lines(self.directory / "log.jsonl", quiet=True)
        scores = [(line["evaluation_accuracy"], line["step"]) for line in lines if "evaluation_accuracy" in line]
        return max(
            (score for score in scores if score[1] <= step), key=lambda score: (score[0], -score[1]), default=None
        )

    def progress_of(self, checkpoint: Path) -> tuple[int, float]:
        """Return the steps that were done at a checkpoint, and the seconds spent."""
        run = self._run_of(checkpoint)
        return run["step"], run["seconds"]

    def log(self, line: dict[str, Any]) -> None:
        """Add a line to the log."""
        with (self.directory / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def checkpoint(self, step: int) -> tuple[Path, Path]:
        """Return where the checkpoint of a step goes, and where to write it first."""
        target = self.directory / "checkpoints" / f"step-{step:08d}"
        return target, target.with_name(target.name + _DRAFT)

    def seal(self, draft: Path, target: Path, step: int, seconds: float) -> None:
        """Make a checkpoint that has been written whole the newest, and drop the oldest."""
        files = {path.relative_to(draft).as_posix(): _sha256(path) for path in draft.rglob("*") if path.is_file()}
        contents = {"step": step, "seconds": seconds, "config": self.config.to_dict(), "files": files}
        (draft / "run.json").write_text(json.dumps(contents, indent=1) + "\n", encoding="utf-8")
        draft.rename(target)
        for old in self.checkpoints[: -self.config.keep_checkpoints]:
            shutil.rmtree(old)

    def finish(self, steps: int, seconds: float, accuracy: float | None, best: tuple[float, int] | None = None) -> None:
        """Write down what the run was and what it came to."""
        contents = {"config": self.config.to_dict(), "steps": steps, "seconds": seconds, "accuracy": accuracy}
        if best is not None:
            contents["best"] = {"accuracy": best[0], "step": best[1], "directory": "best"}
        (self.directory / "training.json").write_text(json.dumps(contents, indent=1) + "\n", encoding="utf-8")


def read_log(directory: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Return the lines of a run's ``log.jsonl``.

    A line that is damaged is left out, and told by a warning.

    Raises:
        InputError: there is no log.
    """
    path = Path(directory) / "log.jsonl"
    if not path.is_file():
        raise InputError(f"there is no {path}; wanted the directory of a training run")
    return _lines(path)


def _lines(path: Path, *, quiet: bool = False) -> list[dict[str, Any]]:
    """Return the lines of a log that are whole; of its last one a run that was killed may have written a part."""
    found: list[dict[str, Any]] = []
    if not path.exists():
        return found
    text = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    for number, line in enumerate(text, 1):
        try:
            value = json.loads(line)
            found.append({**value, "step": int(value["step"])})
        except (ValueError, TypeError, KeyError):
            if line.endswith("\n") and not quiet:
                warnings.warn(f"line {number} of {path} is damaged and left out", DamagedFileWarning, stacklevel=3)
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
