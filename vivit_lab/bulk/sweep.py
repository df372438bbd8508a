"""Head sweeps: what a labelled data set loses under each of many head masks, each clip decoded once."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from vivit_lab.bulk.clips import MARKS, ClipRow, Failure, VideoMark, has_changed
from vivit_lab.bulk.decode import DecodeSpec
from vivit_lab.bulk.engine import Executor, drive, make_executor, shard_range
from vivit_lab.bulk.job import BulkJob, Result, Sink, Stage, autocast_of
from vivit_lab.bulk.run import BulkRun, check_tables, open_run, prepare_run, tell_changed
from vivit_lab.bulk.store import pc
from vivit_lab.clips.listing import ClipList
from vivit_lab.errors import ConfigError, DamagedFileError, DamagedFileWarning, InputError
from vivit_lab.families.vivit import VivitForVideoClassification
from vivit_lab.files import read_json
from vivit_lab.heads.mask import HeadMask
from vivit_lab.html import facts_table, report_html, rows_table, tiles
from vivit_lab.numbers import MOST, checked_numbers
from vivit_lab.records.attention import evaluating

__all__ = [
    "SWEEP_SCHEMA",
    "HeadSweepResults",
    "HeadSweepTask",
    "MaskList",
    "prepare_sweep",
    "sweep_heads",
]


@dataclass(frozen=True)
class MaskList:
    """Head masks in order, each with a name; the first of every list keeps all heads.

    Args:
        kind: what they are, a word: ``"single"``, ``"schedule"``, ``"random"``, ….
        names: one a mask.
        masks: layers × heads, 1 keeps.

    Raises:
        InputError: there are no masks, not a name for each, or they differ in shape.

    Example:
        >>> MaskList.single(6, 6), MaskList.random(6, 6, removed=9, count=50)
    """

    kind: str
    names: tuple[str, ...]
    masks: tuple[HeadMask, ...]

    def __post_init__(self) -> None:
        if not self.masks or len(self.names) != len(self.masks):
            raise InputError(f"wanted masks and a name for each, got {len(self.masks)} and {len(self.names)} names")
        shapes = {mask.shape for mask in self.masks}
        if len(shapes) > 1:
            raise InputError(f"masks must have one shape (layers, heads), got {sorted(shapes)}")

    @classmethod
    @checked_numbers(layers=(1, 10_000), heads=(1, 10_000))
    def single(cls, layers: int, heads: int) -> MaskList:
        """Return a mask for each head, which removes it alone."""
        pairs = [(layer, head) for layer in range(layers) for head in range(heads)]
        masks = [HeadMask.without([pair], layers, heads) for pair in pairs]
        return cls._of("single", [f"L{layer}H{head}" for layer, head in pairs], masks)

    @classmethod
    @checked_numbers(layers=(1, 10_000), heads=(1, 10_000), step=(1, None))
    def schedule(cls, order: Sequence[tuple[int, int]], layers: int, heads: int, *, step: int = 1) -> MaskList:
        """Return masks that remove more and more heads.

        Args:
            order: (layer, head) in the order of removal.
            layers: number of layers.
            heads: heads in a layer.
            step: heads removed at a time.

        Raises:
            InputError: a head is not there or is removed twice, or there is none.
        """
        pairs = [(int(layer), int(head)) for layer, head in order]
        if len(set(pairs)) < len(pairs) or not pairs or step < 1:
            raise InputError("a schedule wants heads (layer, head), each once, and a step above 0")
        counts = [*range(step, len(pairs), step), len(pairs)]
        masks = [HeadMask.without(pairs[:count], layers, heads) for count in counts]
        return cls._of("schedule", [f"{count} removed" for count in counts], masks)

    @classmethod
    @checked_numbers(layers=(1, 10_000), heads=(1, 10_000), removed=(0, None), count=(1, MOST))
    def random(cls, layers: int, heads: int, *, removed: int, count: int, seed: int = 0) -> MaskList:
        """Return masks that remove so many heads, drawn at random, without asking for another mask's heads.

        Args:
            layers: number of layers.
            heads: heads in a layer.
            removed: heads that a mask removes.
            count: how many masks.
            seed: of the draw.

        Raises:
            InputError: a number is out of range.
        """
        if not 0 < removed <= layers * heads or count < 1:
            raise InputError(f"wanted 0 < removed <= {layers * heads} heads and count > 0, got {removed} and {count}")
        rng = np.random.default_rng(seed)
        drawn = [rng.choice(layers * heads, removed, replace=False) for _ in range(count)]
        masks = [HeadMask.without([divmod(int(head), heads) for head in one], layers, heads) for one in drawn]
        return cls._of("random", [f"random {number}" for number in range(count)], masks)

    @classmethod
    @checked_numbers(layers=(1, 10_000), heads=(1, 10_000))
    def load(cls, path: str | os.PathLike[str], layers: int, heads: int) -> MaskList:
        """Read masks from a JSON file.

        Args:
            path: the file: a list of [layer, head], the order in which a schedule removes heads; or an object of
                name → matrix of layers × heads.
            layers: number of layers.
            heads: heads in a layer.

        Raises:
            InputError: the file is neither, or names a head that is not there.
        """
        try:
            found = read_json(path)
        except (OSError, ValueError) as error:
            raise InputError(f"{path} holds no masks: {error}") from error
        if isinstance(found, dict) and found:
            return cls._of(Path(path).stem, list(found), [HeadMask(values) for values in found.values()])
        pairs = isinstance(found, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in found)
        if not pairs:
            raise InputError(f"{path} wants a list of [layer, head], or an object of name → matrix (layers × heads)")
        return cls.schedule([(pair[0], pair[1]) for pair in found], layers, heads)

    @classmethod
    def _of(cls, kind: str, names: list[str], masks: list[HeadMask]) -> MaskList:
        whole = HeadMask.ones(*masks[0].shape)
        return cls(kind, ("none removed", *names), (whole, *masks))

    def __len__(self) -> int:
        return len(self.masks)

    @property
    def shape(self) -> tuple[int, int]:
        """(layers, heads)."""
        return self.masks[0].shape

    def tensor(self, device: torch.device | str) -> Tensor:
        """Return the masks as (mask, layer, head) float32."""
        return torch.stack([mask.tensor(device, torch.float32) for mask in self.masks])

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-able values."""
        values = [[list(row) for row in mask.values] for mask in self.masks]
        return {"kind": self.kind, "names": list(self.names), "values": values}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> MaskList:
        """Return the list that ``to_dict`` described."""
        return cls(fields["kind"], tuple(fields["names"]), tuple(HeadMask(values) for values in fields["values"]))


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
