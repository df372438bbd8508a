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

from vivit_lab.bulk.decode import DecodeSpec
from vivit_lab.bulk.masks import MaskList
from vivit_lab.bulk.rows import ClipRow, Failure
from vivit_lab.bulk.run import BulkRun
from vivit_lab.bulk.shard import Result, Sink, Stage
from vivit_lab.bulk.stages import autocast_of, load_model_of
from vivit_lab.errors import ConfigError, InputError
from vivit_lab.hooks.recorder import evaluating
from vivit_lab.model.classifier import VivitForVideoClassification

__all__ = ["SWEEP_SCHEMA", "HeadSweepTask", "prepare_sweep"]

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

    def rows(self, shard: int) -> list[ClipRow]:
        """See ``Task``."""
        return self.run.rows(shard)

    @property
    def decode(self) -> DecodeSpec:
        """See ``Task``."""
        return self.run.decode

    def stage(self, device: torch.device | str) -> Stage:
        """See ``Task``."""
        model, _ = load_model_of(self.run.job, device)
        return SweepStage(self, model, self.run.info["batch_size"])

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
        tables = [SWEEP_SCHEMA.empty_table()]
        for row, result in zip(self.rows, results, strict=True):
            label = self.task.run.class_of(row.label)
            if isinstance(result, Failure):
                if first and result.stage != "model":
                    continue  # it is the same in every block, and the first one says it
                failed = {"clip_id": row.clip_id, "mask": -1, "status": "error", "error": result.message}
                tables.append(pa.Table.from_pylist([{**failed, "label_index": label}], schema=SWEEP_SCHEMA))
                continue
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
        self.task.run.store.write_table(part, pa.concat_tables(tables), row_group=1 << 16)


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
