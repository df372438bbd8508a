"""The one loop of every engine: decode the clips of a shard, run the model on them, hand over what came of it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor

from vivit_lab.bulk.rows import ClipRow, Decoded, Failure, Outcome
from vivit_lab.errors import BackendError, OutOfMemoryBudgetError

__all__ = ["Decoder", "ShardReport", "Sink", "Stage", "is_out_of_memory", "run_shard"]

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
