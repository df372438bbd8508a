"""What a head sweep found: accuracy, margin and KL of each mask; and ``sweep_heads``, which runs it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from vivit_lab.bulk.engine import drive, make_executor, shard_range
from vivit_lab.bulk.job import BulkJob
from vivit_lab.bulk.local import Executor
from vivit_lab.bulk.masks import MaskList
from vivit_lab.bulk.run import open_run, prepare_run
from vivit_lab.bulk.store import pc
from vivit_lab.bulk.sweep import SWEEP_SCHEMA, HeadSweepTask, prepare_sweep
from vivit_lab.clips.listing import ClipList
from vivit_lab.errors import DamagedFileError, DamagedFileWarning, InputError
from vivit_lab.numbers import checked_numbers
from vivit_lab.show.html import facts_table, report_html, rows_table, tiles

__all__ = ["HeadSweepResults", "sweep_heads"]

_SHOWN = 10


@dataclass(frozen=True, eq=False)
class HeadSweepResults:
    """A sweep's parts, and what they say together.

    Args:
        task: the sweep.
    """

    task: HeadSweepTask

    @classmethod
    def open(cls, run: str | os.PathLike[str], name: str) -> HeadSweepResults:
        """Open a sweep of a run, finished or not.

        Raises:
            InputError: there is no such run or sweep.
        """
        task = HeadSweepTask(open_run(run), name)
        _ = task.info  # raises where there is none
        return cls(task)

    @property
    def parts(self) -> tuple[int, int]:
        """How many parts are done, and how many there will be."""
        return len(self.task.done()), self.task.run.shards * self.task.blocks

    def tables(self) -> Iterator[pa.Table]:
        """Go through the parts that are done; the columns are ``SWEEP_SCHEMA``'s.

        A damaged one is left out, and told by a warning.
        """
        for name in sorted(self.task.done()):
            try:
                yield self.task.run.store.read_table(name, None, SWEEP_SCHEMA).replace_schema_metadata(None)
            except DamagedFileError as error:
                text = f"{error}. Until then its rows are missing: start the same sweep again"
                warnings.warn(text, DamagedFileWarning, stacklevel=2)

    def table(self) -> pa.Table:
        """Return all rows, one for each clip and mask."""
        return pa.concat_tables([SWEEP_SCHEMA.empty_table(), *self.tables()])

    @cached_property
    def summary(self) -> pa.Table:
        """One row a mask.

        ``mask`` (its name), ``removed`` (heads), ``clips``, ``accuracy`` (NaN without labels), ``accuracy_drop``
        (against none removed), and the means of ``margin`` and ``kl``; see ``SWEEP_SCHEMA``.
        """
        sums = {name: np.zeros(len(self.task.masks)) for name in ("clips", "labelled", "correct", "margin", "kl")}
        for table in self.tables():
            good = table.filter(pc.equal(table["status"], "ok"))
            mask, label = good["mask"].to_numpy(), pc.is_valid(good["correct"]).to_numpy(zero_copy_only=False)
            weights = {
                "clips": np.ones(len(good)),
                "labelled": label.astype(float),
                "correct": good["correct"].fill_null(False).to_numpy(zero_copy_only=False).astype(float),
                "margin": good["margin"].to_numpy(),
                "kl": good["kl"].to_numpy(),
            }
            for name, values in weights.items():
                sums[name] += np.bincount(mask, values, minlength=len(self.task.masks))
        with np.errstate(invalid="ignore", divide="ignore"):
            accuracy = sums["correct"] / sums["labelled"]
            margin, kl = sums["margin"] / sums["clips"], sums["kl"] / sums["clips"]
        masks = self.task.masks
        removed = [mask.shape[0] * mask.shape[1] - len(mask.kept) for mask in masks.masks]
        columns = {
            "mask": list(masks.names),
            "removed": removed,
            "clips": sums["clips"].astype(int),
            "accuracy": accuracy,
            "accuracy_drop": accuracy[0] - accuracy,
            "margin": margin,
            "kl": kl,
        }
        return pa.table(columns)

    def to_pandas(self) -> Any:
        """Return ``summary`` as a data frame."""
        return self.summary.to_pandas()

    @checked_numbers(count=(1, None))
    def worst(self, count: int = _SHOWN, by: str = "kl") -> list[dict[str, Any]]:
        """Return the masks that change most, by ``"kl"`` or ``"accuracy_drop"``, the worst first.

        Raises:
            InputError: there is no such column.
        """
        if by not in ("kl", "accuracy_drop"):
            raise InputError(f"by is kl or accuracy_drop, got {by!r}")
        rows = [row for row in self.summary.to_pylist() if np.isfinite(row[by])]
        return sorted(rows, key=lambda row: -row[by])[:count]

    def __repr__(self) -> str:
        done, parts = self.parts
        return f"HeadSweepResults({self.task.name}: {len(self.task.masks)} masks, {done} of {parts} parts)"

    def _repr_html_(self) -> str:
        done, parts = self.parts
        known: dict[str, str | None] = {
            "head sweep": self.task.name,
            "masks": str(len(self.task.masks)),
            "parts": f"{done} of {parts}",
        }
        rows = [
            (row["mask"], str(row["clips"]), f"{row['accuracy']:.4f}", f"{row['margin']:.4f}", f"{row['kl']:.4g}")
            for row in self.worst()
        ]
        pieces = [facts_table(known), rows_table(("mask", "clips", "accuracy", "margin", "KL"), rows)]
        if self.task.masks.kind == "single" and done:
            layers, heads = self.task.masks.shape
            values = np.nan_to_num(self.summary["kl"].to_numpy()[1:]).reshape(1, layers, heads)
            pieces.append(tiles(values, ["KL when a head is removed; rows are layers"], signed=False))
        return report_html(*pieces)


@checked_numbers()
def sweep_heads(
    run: str | os.PathLike[str],
    masks: MaskList | Callable[[int, int], MaskList],
    *,
    job: BulkJob | None = None,
    videos: str | os.PathLike[str] | Sequence[Any] | None = None,
    name: str | None = None,
    block_size: int = 16,
    executor: str | Executor = "local",
    shards: str | Sequence[int] | None = None,
    progress: bool | None = None,
    on_found: Callable[[ClipList], Any] | None = None,
) -> HeadSweepResults:
    """Run a data set under head masks: begin a sweep, or go on with one that was cut off.

    Every clip is decoded once a shard, and a shard's clips stay in memory while its masks are run; a part is one shard
    under one block of masks.

    Args:
        run: the folder of a run (its own parts need not be done): it says which clips, model and sampling. Where there
            is none yet, it is made of ``job`` and ``videos``.
        masks: what is tried; or what makes it of the model's numbers of layers and heads, e.g. ``MaskList.single``.
        job: model, sampling and dtype; None takes those of the folder.
        videos: the clips with their labels, see ``list_clips``; None takes those of the folder.
        name: of the sweep; that of the masks where None.
        block_size: masks of a part.
        executor: see ``run_bulk``.
        shards: see ``run_bulk``.
        progress: see ``run_bulk``.
        on_found: see ``run_bulk``.

    Raises:
        InputError: there is no run and ``job`` or ``videos`` are missing, the model has no classifier, the masks do not
            fit it, or an argument is wrong.
        ConfigError: there is another sweep of that name, or the run was made with other settings, weights, code or
            clips.

    Example:
        >>> found = sweep_heads("run", MaskList.single, job=BulkJob("planted", stride=1), videos="clips.csv")
        >>> found.to_pandas().sort_values("accuracy_drop")
    """
    if not (isinstance(masks, MaskList) or callable(masks)):
        raise InputError(f"masks wants a MaskList, or what makes one of layers and heads; got {type(masks).__name__}")
    folder = prepare_run(job, videos, run, on_found)
    if not isinstance(masks, MaskList):
        masks = masks(folder.info["layers"], folder.info["heads"])
    task = prepare_sweep(folder, masks, name=name, block_size=block_size)
    task.set_aside_damaged(shard_range(shards, folder.shards), progress)
    drive(make_executor(executor), task, folder, shards, progress, f"heads, {len(masks)} masks")
    return HeadSweepResults(task)
