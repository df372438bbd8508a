"""What a bulk run computes: the job, the loop over the clips of a shard, and the model's stage."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from vivit_lab.attribution.base import AttributionMap
from vivit_lab.attribution.raw import RawAttention
from vivit_lab.attribution.registry import METHODS, class_by_name, make_method
from vivit_lab.attribution.rollout import AttentionRollout
from vivit_lab.bulk.clips import ClipRow, Decoded, Failure, Outcome, PartLayout
from vivit_lab.errors import BackendError, ConfigError, InputError, OutOfMemoryBudgetError
from vivit_lab.explain import load_pair, top_labels
from vivit_lab.families.vivit import VivitForVideoClassification, VivitModel
from vivit_lab.grid import TokenGrid
from vivit_lab.memory import free_bytes
from vivit_lab.model.config import VivitConfig
from vivit_lab.numbers import checked_numbers
from vivit_lab.records.attention import AttentionRecord, evaluating, full_precision, record_attention
from vivit_lab.records.inputs import Pixels

__all__ = [
    "BulkJob",
    "ClipStage",
    "Decoder",
    "ShardReport",
    "Sink",
    "Stage",
    "autocast_of",
    "find_batch_size",
    "fingerprint_of",
    "head_columns",
    "is_out_of_memory",
    "layout_of",
    "load_model_of",
    "run_shard",
]

_HOPELESS = 4  # clips of a shard that all fail in the model are the model's failure, not theirs

# how PyTorch's allocators say it where they have no class for it
_MEMORY_WORDS = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")

Result = dict[str, Any] | Failure


class Decoder(Protocol):
    """What gives the clips of rows, in their order; one that fails is a ``Failure``, never an exception."""

    def __call__(self, rows: Sequence[ClipRow]) -> Iterable[Outcome]:
        """Go through the clips."""
        ...


class Stage(Protocol):
    """A loaded model and what it is asked.

    Args:
        batch_size: clips of a forward pass, always that many; halved for good when memory runs out.
    """

    batch_size: int

    def __call__(self, pixels: Tensor, part: str) -> Sequence[Result]:
        """Return what each clip of a batch (batch, T, C, h, w) gave for a part, or why it gave nothing."""
        ...


class Sink(Protocol):
    """Takes the results of a shard, part by part.

    Args:
        parts: names of the parts that are not done yet; one for a run over clips, several for one over head masks.
        retries: whether the rows failed before, so that it is no news when all fail again.
    """

    parts: Sequence[str]
    retries: bool

    def __call__(self, part: str, results: Sequence[Result]) -> None:
        """Keep the results of a part, one for each row of the shard."""
        ...


@dataclass(frozen=True)
class ShardReport:
    """What became of a shard.

    Args:
        clips: how many there were.
        errors: how many gave no result.
        seconds: how long it took.
        waited: how much of that the model waited for clips.
        batch_size: of the model afterwards.
    """

    clips: int
    errors: int
    seconds: float
    waited: float
    batch_size: int


def run_shard(rows: Sequence[ClipRow], decoder: Decoder, model: Stage, sink: Sink) -> ShardReport:
    """Process one shard; free of any engine.

    Batches have a fixed shape: a slot whose clip failed, and the slots after the last clip, repeat another clip. So the
    numbers of a clip do not depend on what became of its neighbours, and a second execution gives them again, equal to
    rounding.

    Args:
        rows: the clips.
        decoder: reads them; it may be ahead of the model.
        model: the stage; it lowers its batch size when memory runs out.
        sink: what keeps the results. Where it wants several parts, the decoded clips stay in memory for all of them.

    Raises:
        OutOfMemoryBudgetError: one clip alone does not fit.
        BackendError: the model failed on every clip of the shard, for the first time.
    """
    began, waited, failures = time.perf_counter(), [0.0], 0
    outcomes: Iterable[Outcome] = _timed(decoder(rows), waited)
    if len(sink.parts) > 1:
        outcomes = list(outcomes)
    for part in sink.parts:
        source, results = iter(outcomes), []
        while batch := list(islice(source, model.batch_size)):
            results += _run_batch(batch, model, part)
        if not sink.retries:  # its clips failed before, perhaps all in the model
            _check_hope(results)
        failures = sum(isinstance(result, Failure) for result in results)
        sink(part, results)
    return ShardReport(len(rows), failures, time.perf_counter() - began, waited[0], model.batch_size)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on an accelerator or in main memory."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _MEMORY_WORDS)


def _timed(outcomes: Iterable[Outcome], waited: list[float]) -> Iterator[Outcome]:
    source = iter(outcomes)
    while True:
        began = time.perf_counter()
        outcome = next(source, None)
        waited[0] += time.perf_counter() - began
        if outcome is None:
            return
        yield outcome


def _run_batch(batch: Sequence[Outcome], model: Stage, part: str) -> list[Result]:
    """Return what each slot of a batch gave."""
    good = [number for number, outcome in enumerate(batch) if isinstance(outcome, Decoded)]
    results: list[Any] = list(batch)
    if not good:
        return results
    began = time.perf_counter()
    try:
        found = model(_stacked(batch, good, model.batch_size), part)
    except Exception as error:
        if is_out_of_memory(error):
            return _halved(batch, model, part, error)
        return [
            _alone(outcome, number, model, part) if isinstance(outcome, Decoded) else outcome
            for number, outcome in enumerate(batch)
        ]
    seconds = (time.perf_counter() - began) / len(good)
    for number in good:
        results[number] = _joined(batch[number], found[number], seconds)
    return results


def _halved(batch: Sequence[Outcome], model: Stage, part: str, error: Exception) -> list[Result]:
    if model.batch_size == 1:
        raise OutOfMemoryBudgetError(
            f"one clip alone does not fit into memory ({error}); use a smaller model or dtype, or a machine with more"
        ) from error
    model.batch_size = max(model.batch_size // 2, 1)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    results: list[Result] = []
    while len(results) < len(batch):  # a smaller batch may not fit either, and halves again
        start = len(results)
        results += _run_batch(batch[start : start + model.batch_size], model, part)
    return results


def _alone(outcome: Decoded, slot: int, model: Stage, part: str) -> Result:
    """Run one clip in its own slot, the others repeating it: which clip does a failed batch owe its failure to?"""
    began = time.perf_counter()
    try:
        found = model(_stacked([outcome], [0], model.batch_size), part)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return Failure.of("model", error)
    return _joined(outcome, found[slot], time.perf_counter() - began)


def _stacked(batch: Sequence[Any], good: list[int], size: int) -> Tensor:
    kept = set(good)
    slots = [number if number in kept else good[0] for number in range(size)]
    return torch.stack([torch.from_numpy(batch[number].pixels) for number in slots])


def _joined(outcome: Any, found: Result, seconds: float) -> Result:
    return found if isinstance(found, Failure) else {**outcome.columns(), **found, "seconds_model": seconds}


def _check_hope(results: Sequence[Result]) -> None:
    failed = [one for one in results if isinstance(one, Failure) and one.stage == "model"]
    worked = any(not isinstance(one, Failure) for one in results)
    if len(failed) >= _HOPELESS and not worked:
        raise BackendError(
            f"the model failed on all {len(failed)} clips of a shard that could be read, first with {failed[0].kind}: "
            f"{failed[0].message}. No part was written; mend the cause and start again"
        )


_CHOICES: dict[str, tuple[str | None, ...]] = {
    "sampling": ("window", "uniform"),
    "dtype": ("float32", "bfloat16", "float16", "auto"),
    "autocast": (None, "bfloat16", "float16"),
    "attn_implementation": ("sdpa", "eager", "flash_attention_2"),
    "head_statistics": ("sampled", "all", "none"),
    "hidden_states": ("none", "cls", "tokens"),
}

# what does not decide the numbers: how a run is cut into files, and a name for weights, which are known by their digest
_NOT_NUMBERS = ("shard_size", "revision")


@checked_numbers()
@dataclass(frozen=True)
class BulkJob:
    """The settings of a bulk run; frozen, hashable, JSON-able.

    Args:
        model: a directory, a Hub id, ``"bundled"`` or ``"planted"``.
        revision: branch, tag or commit on the Hub.
        methods: names of ``METHODS`` with settings after a colon (``"rollout:start_layer=2;head_fusion=max"``), or
            methods themselves, which are kept as such text.
        target: the class that class-specific methods explain, by index or label; None is each clip's prediction.
        sampling: ``"window"`` takes frames start, start + stride, … of a segment; ``"uniform"`` spreads the model's
            frames evenly over it. A segment that is too short repeats its last frame.
        stride: of ``"window"``, in frames; None takes the model's own, see ``sampling_of``, which the run writes down.
        dtype: of the parameters.
        autocast: dtype of ``torch.autocast``, or None.
        attn_implementation: how attention is computed.
        top_k: how many best classes a row names.
        head_statistics: entropy and temporal distance of each head, over 32 evenly spaced queries (``"sampled"``), over
            ``"all"``, or ``"none"``.
        hidden_states: ``"cls"`` also keeps the CLS token after each layer, ``"tokens"`` the last layer's tokens.
        batch_size: clips in a forward pass; None finds it from the memory that is free when the run begins.
        shard_size: clips of a part, the unit that is done or not.
        compile: run the blocks through ``torch.compile``.

    Raises:
        InputError: a field has no such value, or a method or its setting is not known.

    Example:
        >>> job = BulkJob("planted", methods=("rollout", "chefer"), stride=1)
    """

    model: str = "bundled"
    revision: str | None = None
    methods: tuple[str, ...] = ("rollout",)
    target: str | None = None
    sampling: str = "window"
    stride: int | None = None
    dtype: str = "float32"
    autocast: str | None = None
    attn_implementation: str = "sdpa"
    top_k: int = 5
    head_statistics: str = "sampled"
    hidden_states: str = "none"
    batch_size: int | None = None
    shard_size: int = 64
    compile: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", str(self.model))
        methods = [self.methods] if isinstance(self.methods, str) else list(self.methods)
        object.__setattr__(self, "methods", tuple(map(_as_text, methods)))
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise InputError(f"{name}={getattr(self, name)!r} is not known; choose one of {_words(choices)}")
        given = [name for name in ("stride", "batch_size") if getattr(self, name) is not None]
        for name in (*given, "top_k", "shard_size"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name} must be a positive whole number, got {value!r}")
        if len(set(self.methods)) < max(len(self.methods), 1):
            raise InputError(f"wanted at least one method and none twice, got {', '.join(self.methods) or 'none'}")

    def built(self) -> list[tuple[str, Any]]:
        """Return the methods with the name of their column: ``map`` for the first, ``map_<method>`` for others."""
        found: list[tuple[str, Any]] = []
        for number, text in enumerate(self.methods):
            method, name = _parse(text), text.partition(":")[0]
            twice = sum(other.partition(":")[0] == name for other in self.methods) > 1
            words = "".join(letter if letter.isalnum() else "_" for letter in text) if twice else name
            found.append(("map" if number == 0 else f"map_{words}", method))
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-able values."""
        return {**dataclasses.asdict(self), "methods": list(self.methods)}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> BulkJob:
        """Return the job that ``to_dict`` described.

        Raises:
            ConfigError: a field is not known, as of a later version.
        """
        unknown = sorted(set(fields) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise ConfigError(f"a bulk job has no field {', '.join(unknown)}; was it written by a later version?")
        return cls(**{**fields, "methods": tuple(fields["methods"])})


def fingerprint_of(job: BulkJob, **more: Any) -> dict[str, str]:
    """Return what decides the numbers of a run, each as a short digest, to be compared when it is resumed.

    Args:
        job: what is computed.
        **more: name → JSON-able value: weights, code version, decoder, processor.
    """
    fields = {name: value for name, value in job.to_dict().items() if name not in _NOT_NUMBERS}
    return {name: _digest(value) for name, value in {**fields, **more}.items()}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _parse(text: str) -> Any:
    name, _, settings = text.partition(":")
    pairs = [setting.partition("=") for setting in settings.split(";") if setting]
    return make_method(name.strip(), {key.strip(): value for key, _, value in pairs})


def _as_text(method: Any) -> str:
    """Return a method as text that ``_parse`` reads; text in its shortest form."""
    built = _parse(method) if isinstance(method, str) else method
    names = [name for name, kind in METHODS.items() if kind is type(built)]
    if not names:
        raise InputError(f"wanted methods of the package or their names ({', '.join(METHODS)}), got {method!r}")
    changed = []
    for field in dataclasses.fields(built):
        value = getattr(built, field.name)
        if value != field.default:
            words = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            changed.append(f"{field.name}={words}")
    text = names[0] + (":" + ";".join(changed) if changed else "")
    if _parse(text) != built:
        raise InputError(f"{built!r} has settings that cannot be written as text; a bulk job wants simple ones")
    return text


def _words(choices: tuple[str | None, ...]) -> str:
    return ", ".join(map(str, choices))


_QUERIES = 32  # of "sampled" statistics: 1 % of a ViViT-B's pattern
_LARGEST = 32


class ClipStage:
    """Everything that a job wants to know of a batch of clips.

    Args:
        job: what is wanted.
        model: loaded, on its device.
        batch_size: clips of a forward pass.
        grid: of the clips, on which the run's maps lie; None is the model's.

    Raises:
        InputError: a method explains a class and the model has no classifier, the target is none of its classes, or CLS
            states are wanted of a model that has no single CLS token.
    """

    def __init__(
        self,
        job: BulkJob,
        model: VivitModel | VivitForVideoClassification,
        batch_size: int,
        grid: TokenGrid | None = None,
    ) -> None:
        self.grid = model.config.grid if grid is None else grid
        self.job, self.model, self.batch_size = job, model, batch_size
        self.methods = job.built()
        self.is_classifier = isinstance(model, VivitForVideoClassification) and bool(model.config.num_labels)
        about_classes = [type(method).__name__ for _, method in self.methods if not method.class_agnostic]
        if about_classes and not self.is_classifier:
            raise InputError(
                f"{', '.join(about_classes)} explains a class, but {job.model} has no classifier: choose a classifier, "
                "or class-agnostic methods (raw, rollout, value_norm)"
            )
        if job.hidden_states == "cls" and not (model.config.variant == "spacetime" and model.config.grid.cls):
            raise InputError(
                f"hidden_states='cls' wants one CLS token in every layer, and {job.model} (variant "
                f"{model.config.variant}, classifier {model.config.classifier}) has none: use hidden_states='tokens'"
            )
        self.target = None if job.target is None else class_by_name(job.target, model.config)
        if job.compile:
            for block in model.blocks:
                block.compile()

    def __call__(self, pixels: Tensor, part: str = "") -> list[Result]:
        """Return the columns of each clip of a batch (batch, T, C, h, w), or a failure where they are not finite."""
        pixels = pixels.to(self.model.device, self.model.dtype)
        grid = self.model.grid_of(pixels, None)
        if grid != self.grid:
            own, (height, width) = self.grid.image_size, grid.image_size
            raise InputError(
                f"the clip was prepared as {grid.num_frames} frames of {height}×{width} pixels, and the run stores "
                f"maps of {self.grid.num_frames} frames of {own[0]}×{own[1]}: give the model a processor that crops "
                "all videos to one size (do_center_crop and crop_size in its preprocessor_config.json)"
            )
        with autocast_of(self.job, self.model):
            given = Pixels(pixels)  # of the run's own processor; a clip that is not finite becomes a failure below
            record = record_attention(self.model, given)
            maps = [(name, self._map(method, record, given)) for name, method in self.methods]
            heads = None
            if self.job.head_statistics != "none":
                heads = head_columns(record, all_queries=self.job.head_statistics == "all")
            hidden = self._hidden(pixels)
        logits = getattr(record.output, "logits", None) if self.is_classifier else None
        rows: list[Result] = []
        about = {name: _about(heat) for name, heat in maps}
        for clip in range(len(pixels)):
            values = {name: heat.relevance[clip] for name, heat in maps}
            values |= {} if logits is None else {"logits": logits[clip]}
            wrong = [name for name, numbers in values.items() if not bool(numbers.isfinite().all())]
            if wrong:
                rows.append(Failure("model", "NotFinite", f"{', '.join(wrong)} of this clip hold NaN or infinity"))
                continue
            row = {} if logits is None else _classified(logits[clip], self.model.config, self.job.top_k)
            for name, heat in maps:
                row |= _mapped(name, heat, clip)
            if heads is not None:
                row |= {name: values[clip].reshape(-1) for name, values in heads.items()}
            if hidden is not None:
                row["hidden"] = hidden[clip]
            rows.append({**row, "about": about})
        return rows

    def _map(self, method: Any, record: AttentionRecord, pixels: Pixels) -> AttributionMap:
        if isinstance(method, (RawAttention, AttentionRollout)):
            return method(record)
        return method(self.model, pixels, None if method.class_agnostic else self.target)

    def _hidden(self, pixels: Tensor) -> Tensor | None:
        """Return (batch, layer + 1, d_model) of CLS, or (batch, token, d_model) of the last layer, as it is stored."""
        if self.job.hidden_states == "none":
            return None
        everything = self.job.hidden_states == "cls"
        with evaluating(self.model), torch.no_grad():
            encoded = self.model.encode(pixels, None, False, everything, None)
        states = encoded.hidden_states
        if not everything or states is None:
            return encoded.last_hidden_state.half().cpu()
        return torch.stack([layer.select(1, 0) for layer in states], dim=1).half().cpu()


def head_columns(record: AttentionRecord, *, all_queries: bool = False) -> dict[str, np.ndarray]:
    """Return what each head's attention is like, averaged over tubelet queries: two columns of a row.

    ``heads.head_statistics`` is the study of a model: a dozen numbers, of rows without their CLS entry, clip by clip,
    with random queries and standard errors. Here a whole batch is read at once, the entropy is that of the full row,
    and the queries are the same in every run, so that a part that is computed again
    differs by rounding alone.

    Args:
        record: of a forward pass.
        all_queries: average over every tubelet, in blocks; else over 32 that are evenly spaced.

    Returns:
        ``head_entropy``: (batch, layer, head) float32, entropy of a row in nats, CLS key included; ``head_distance``:
        the same shape, how many tubelet rows of time lie between query and key, of the attention on tubelets. Cost: a
        pass over the rows that are read.
    """
    grid = record.grid
    count = grid.num_tubelets if all_queries else min(_QUERIES, grid.num_tubelets)
    chosen = [(2 * number + 1) * grid.num_tubelets // (2 * count) for number in range(count)]
    times, least = torch.arange(grid.t, device=record.device), torch.finfo(torch.float32).tiny
    entropy, distance = [], []
    with full_precision(record.device):
        for layer in record.layers:
            sums = [0.0, 0.0]
            for start in range(0, count, _QUERIES):
                block = torch.tensor(chosen[start : start + _QUERIES], device=record.device)
                rows = record.rows(layer, block + grid.offset, masked=False)
                # torch.special.entr is the same, and takes longer than the rows themselves
                sums[0] -= torch.linalg.vecdot(rows.flatten(2), rows.clamp_min(least).log_().flatten(2))
                by_time = rows.narrow(-1, grid.offset, grid.num_tubelets).unflatten(-1, (grid.t, -1)).sum(-1)
                apart = (times[block // (grid.h * grid.w)].unsqueeze(1) - times).abs().float()
                near = (by_time * apart).sum(-1) / by_time.sum(-1).clamp_min(least)
                sums[1] += near.sum(-1)
            entropy.append(sums[0] / count)
            distance.append(sums[1] / count)
    both = {"head_entropy": entropy, "head_distance": distance}
    return {name: torch.stack(values, dim=1).cpu().numpy() for name, values in both.items()}


def find_batch_size(config: VivitConfig, device: torch.device, grid: TokenGrid | None = None) -> int:
    """Return how many clips a forward pass may take: a power of two whose activations fit half of what is free.

    At most 32, and on a CPU at most 4, since more are no faster there.

    Args:
        config: of the model.
        device: where it will run.
        grid: of the clips; None is the configuration's.
    """
    grid = config.grid if grid is None else grid
    tokens, width = grid.num_tokens, config.hidden_size
    kept = 2 * config.num_attention_layers * width  # queries and keys
    passing = 20 * width + 2 * config.intermediate_size  # measured with a rollout, see tests/benchmarks
    frames = config.num_channels * math.prod((grid.num_frames, *grid.image_size))
    clip = 4 * (tokens * (kept + passing) + 3 * frames)
    free = free_bytes(device)
    room = _LARGEST if free is None else free // 2 // clip
    most = 4 if device.type == "cpu" else _LARGEST
    return 1 << max(min(room, most), 1).bit_length() - 1


def layout_of(job: BulkJob, config: VivitConfig, grid: TokenGrid, *, is_classifier: bool) -> PartLayout:
    """Return the columns that a job's parts have, whose clips have that grid."""
    return PartLayout(
        tubelets=grid.num_tubelets,
        classes=(config.num_labels or 0) if is_classifier else 0,
        heads=config.num_attention_layers * config.num_attention_heads,
        maps=tuple(name for name, _ in job.built()),
        head_statistics=job.head_statistics != "none",
        marks=True,
    )


def load_model_of(job: BulkJob, device: torch.device | str) -> tuple[Any, Any]:
    """Return the model of a job on a device, and its processor."""
    where = {} if job.revision is None else {"revision": job.revision}
    return load_pair(
        job.model, device=device, dtype=job.dtype, attn_implementation=job.attn_implementation, **where
    )  # fmt: skip


def autocast_of(job: BulkJob, model: Any) -> AbstractContextManager[Any]:
    """Return the job's ``torch.autocast``, or a context that does nothing."""
    if job.autocast is None:
        return nullcontext()
    return torch.autocast(model.device.type, getattr(torch, job.autocast))


def _classified(logits: Tensor, config: VivitConfig, count: int) -> dict[str, Any]:
    best = top_labels(logits.detach(), config, count)
    return {
        "logits": logits.detach().float().cpu().numpy(),
        "prediction": best[0]["index"],
        "topk_index": [one["index"] for one in best],
        "topk_label": [one["label"] for one in best],
        "topk_probability": [one["probability"] for one in best] if "probability" in best[0] else None,
    }


def _about(heat: AttributionMap) -> dict[str, Any]:
    """Return what all maps of a column have in common."""
    names = ("method", "parameters", "scale", "signed", "model_id", "provenance")
    return {name: getattr(heat, name) for name in names}


def _mapped(name: str, heat: AttributionMap, clip: int) -> dict[str, Any]:
    """Return a map as it is stored: halves, relative to a power of two above its largest magnitude."""
    values = heat.relevance[clip].reshape(-1).cpu().numpy()
    largest = float(np.abs(values).max())
    scale = float(2.0 ** np.ceil(np.log2(largest))) if largest else 1.0
    return {
        name: (values / scale).astype(np.float16),
        f"{name}_scale": scale,
        f"{name}_cls": None if heat.cls_share is None else heat.cls_share[clip],
        f"{name}_target": heat.target if heat.targets is None else heat.targets[clip],
    }
