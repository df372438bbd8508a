"""Head sweeps: what a labelled data set loses under each of many head masks, each clip decoded once."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from vivit_lab.bulk.check import check_tables, tell_changed
from vivit_lab.bulk.decode import DecodeSpec
from vivit_lab.bulk.marks import MARKS, VideoMark, has_changed
from vivit_lab.bulk.masks import MaskList
from vivit_lab.bulk.rows import ClipRow, Failure
from vivit_lab.bulk.run import BulkRun
from vivit_lab.bulk.shard import Result, Sink, Stage
from vivit_lab.bulk.stages import autocast_of
from vivit_lab.errors import ConfigError, InputError
from vivit_lab.hooks.recorder import evaluating
from vivit_lab.model.classifier import VivitForVideoClassification

__all__ = ["SWEEP_SCHEMA", "HeadSweepTask", "prepare_sweep"]

_VIDEOS = "vivit_lab.videos"  # in a part's metadata: clip → by what its video is known again

SWEEP_SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("mask", pa.int32()),
        ("status", pa.string()),
        ("error", pa.string()),
        ("label_index", pa.int32()),
        ("prediction", pa.int32()),
        ("correct", pa.bool_()),
        ("margin", pa.float32()),
        ("kl", pa.float32()),
    ]
)
"""Columns of a sweep's part, a row for each clip and mask: ``margin`` is the logit of the label (without one, of the
class that the whole model predicts) less the largest other logit; ``kl`` is KL(whole model ‖ masked model) in nats. A
clip that could not be read has one row, with mask -1; one that the model failed on has such a row in each part where it
failed."""


@dataclass(frozen=True)
class HeadSweepTask:
    """A sweep over a run's clips; a part is one shard under one block of masks.

    Args:
        run: the folder, which says which clips, how they are read and by which model.
        name: of the sweep; its files lie in ``sweeps/<name>``.
    """

    run: BulkRun
    name: str

    @cached_property
    def info(self) -> dict[str, Any]:
        """The content of ``sweep.json``."""
        return self.run.store.read_json(f"sweeps/{self.name}/sweep.json")

    @cached_property
    def masks(self) -> MaskList:
        """The masks, in order."""
        return MaskList.from_dict(self.info["masks"])

    @property
    def blocks(self) -> int:
        """How many blocks the masks make."""
        return -(-len(self.masks) // self.info["block_size"])

    def part(self, shard: int, block: int) -> str:
        """Return the name of a part."""
        return f"sweeps/{self.name}/part-{shard:06d}-{block:04d}.parquet"

    def done(self) -> set[str]:
        """Return the parts that exist."""
        folder = f"sweeps/{self.name}"
        return {f"{folder}/{name}" for name in self.run.store.listing(folder) if name.endswith(".parquet")}

    def missing(self, shard: int, done: set[str] | None = None) -> list[str]:
        """Return the parts of a shard that are not there."""
        done = self.done() if done is None else done
        return [part for block in range(self.blocks) if (part := self.part(shard, block)) not in done]

    def shards(self) -> list[int]:
        """See ``Task``."""
        done = self.done()
        return [shard for shard in range(self.run.shards) if self.missing(shard, done)]

    def set_aside_damaged(self, shards: Sequence[int], progress: bool | None = None) -> None:
        """Move parts aside that are damaged, or of a shard of which a video has changed; each is told by a warning.

        Args:
            shards: which are looked at.
            progress: show a bar; None shows it on a terminal.
        """
        done = self.done()
        parts = {shard: [part for part in self.missing(shard, set()) if part in done] for shard in shards}
        check_tables(self.run.store, [part for names in parts.values() for part in names], SWEEP_SCHEMA, progress)
        still = self.done()
        changed: dict[int, list[str]] = {}
        for shard, names in parts.items():
            marks = self._marks([part for part in names if part in still])
            paths = {row.clip_id: row.path for row in self.run.rows(shard)} if marks else {}
            if wrong := [clip for clip, mark in marks.items() if has_changed(paths[clip], mark)]:
                changed[shard] = wrong
        tell_changed(self.run, changed, f"The parts of the sweep {self.name} that they are in are computed again")
        for shard in changed:
            for part in still.intersection(parts[shard]):
                self.run.store.set_aside(part, "a video has changed")

    def _marks(self, parts: Sequence[str]) -> dict[str, VideoMark]:
        """Return what the first of a shard's parts says of its videos."""
        for part in parts[:1]:
            with self.run.store.parquet(part) as file:
                known = json.loads((file.schema_arrow.metadata or {}).get(_VIDEOS.encode(), b"{}"))
            return {clip: VideoMark(*mark) for clip, mark in known.items()}
        return {}

    def rows(self, shard: int) -> list[ClipRow]:
        """See ``Task``."""
        return self.run.rows(shard)

    @property
    def decode(self) -> DecodeSpec:
        """See ``Task``."""
        return self.run.decode

    def stage(self, device: torch.device | str) -> Stage:
        """See ``Task``."""
        return SweepStage(self, self.run.model_on(device), self.run.info["batch_size"])

    def sink(self, shard: int) -> Sink:
        """See ``Task``."""
        return SweepSink(self, shard)


class SweepStage:
    """Runs a batch under each mask of a block, and once without.

    Args:
        task: the sweep.
        model: loaded, on its device.
        batch_size: clips of a forward pass.
    """

    def __init__(self, task: HeadSweepTask, model: VivitForVideoClassification, batch_size: int) -> None:
        self.task, self.model, self.batch_size = task, model, batch_size

    def __call__(self, pixels: Tensor, part: str) -> list[Result]:
        """Return for each clip its logits (mask, class), and those of the whole model; a failure if not finite."""
        first = _block_of(part) * self.task.info["block_size"]
        masks = self.task.masks.tensor(self.model.device)[first : first + self.task.info["block_size"]]
        pixels = pixels.to(self.model.device, self.model.dtype)
        with evaluating(self.model), torch.no_grad(), autocast_of(self.task.run.job, self.model):
            clean = self.model(pixels, interpolate_pos_encoding=None).logits.float().cpu()
            masked = [
                self.model(pixels, head_mask=mask, interpolate_pos_encoding=None).logits.float().cpu() for mask in masks
            ]
        logits = torch.stack(masked, dim=1)
        rows: list[Result] = []
        for whole, parts in zip(clean, logits, strict=True):
            if bool(whole.isfinite().all() and parts.isfinite().all()):
                rows.append({"clean": whole.numpy(), "masked": parts.numpy()})
            else:
                rows.append(Failure("model", "NotFinite", "logits of this clip hold NaN or infinity"))
        return rows


class SweepSink:
    """Writes the parts of a shard.

    Args:
        task: the sweep.
        shard: its number.
    """

    def __init__(self, task: HeadSweepTask, shard: int) -> None:
        self.task, self.rows = task, task.rows(shard)
        self.parts: Sequence[str] = task.missing(shard)
        self.retries = False

    def __call__(self, part: str, results: Sequence[Result]) -> None:
        """Write a part; see ``Sink``."""
        first = _block_of(part) * self.task.info["block_size"]
        tables, marks = [SWEEP_SCHEMA.empty_table()], {}
        for row, result in zip(self.rows, results, strict=True):
            label = self.task.run.class_of(row.label)
            if isinstance(result, Failure):
                if first and result.stage != "model":
                    continue  # it is the same in every block, and the first one says it
                failed = {"clip_id": row.clip_id, "mask": -1, "status": "error", "error": result.message}
                tables.append(pa.Table.from_pylist([{**failed, "label_index": label}], schema=SWEEP_SCHEMA))
                continue
            marks[row.clip_id] = [result[name] for name in MARKS]
            found = judge(result["clean"], result["masked"], label)
            count = len(result["masked"])
            columns = {
                "clip_id": [row.clip_id] * count,
                "mask": np.arange(first, first + count),
                "status": ["ok"] * count,
                "error": [None] * count,
                "label_index": [label] * count,
                **found,
            }
            tables.append(pa.table(columns, schema=SWEEP_SCHEMA))
        table = pa.concat_tables(tables).replace_schema_metadata({_VIDEOS: json.dumps(marks)})
        self.task.run.store.write_table(part, table, row_group=1 << 16)


def judge(clean: np.ndarray, masked: np.ndarray, label: int | None) -> dict[str, Any]:
    """Return prediction, correct, margin and KL under each mask.

    Args:
        clean: (class,) logits of the whole model.
        masked: (mask, class) logits.
        label: the right class, or None.
    """
    wanted = int(clean.argmax()) if label is None else label
    others = np.delete(masked, wanted, axis=1)
    guess = masked.argmax(-1)
    whole, parts = _log_softmax(clean), _log_softmax(masked)
    return {
        "prediction": guess,
        "correct": [None] * len(masked) if label is None else guess == label,
        "margin": masked[:, wanted] - (others.max(-1) if others.shape[1] else 0.0),
        "kl": (np.exp(whole) * (whole - parts)).sum(-1),
    }


def prepare_sweep(run: BulkRun, masks: MaskList, *, name: str | None = None, block_size: int = 16) -> HeadSweepTask:
    """Make the folder of a sweep, or find it there and make sure that it is the same.

    Args:
        run: the folder of a run; its parts need not be done.
        masks: what is tried.
        name: of the sweep; that of the masks where None.
        block_size: masks of a part.

    Raises:
        InputError: the model has no classifier or other heads, or a number is not positive.
        ConfigError: a sweep of that name has other masks or blocks.
    """
    if not run.layout.classes:
        raise InputError(f"a sweep wants a classifier, and {run.info['model_id']} has none")
    if block_size < 1:
        raise InputError(f"block_size must be a positive whole number, got {block_size}")
    shape = (run.info["layers"], run.info["heads"])
    if masks.shape != shape:
        raise InputError(f"the masks are of {masks.shape} layers × heads, the model has {shape}")
    info = {"masks": masks.to_dict(), "block_size": block_size}
    task = HeadSweepTask(run, masks.kind if name is None else name)
    if not task.name or os.sep in task.name or task.name.startswith("."):
        raise InputError(f"a sweep's name is one of a folder, got {task.name!r}")
    run.store.write_json(f"sweeps/{task.name}/sweep.json", info, replace=False)
    if json.loads(json.dumps(info)) != task.info:
        raise ConfigError(f"{run.store.root} has a sweep {task.name!r} with other masks or blocks; name this one apart")
    return task


def _block_of(part: str) -> int:
    return int(part.removesuffix(".parquet").rpartition("-")[2])


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
