"""The folder of a run: what it is about, which parts are done, and what a clip's part is."""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import av
import pyarrow as pa
import torch

from vivit_lab._version import __version__
from vivit_lab.attribution.registry import class_by_name
from vivit_lab.bulk.decode import DecodeSpec
from vivit_lab.bulk.job import BulkJob, fingerprint_of
from vivit_lab.bulk.manifest import MANIFEST_SCHEMA, manifest_of
from vivit_lab.bulk.rows import ClipRow
from vivit_lab.bulk.schema import PartLayout
from vivit_lab.bulk.stages import ClipStage, find_batch_size, layout_of, load_model_of
from vivit_lab.bulk.store import Store
from vivit_lab.checkpoints.checkpoint import weights_digest
from vivit_lab.checkpoints.hub import pin_revision
from vivit_lab.clips.listing import ClipList
from vivit_lab.errors import ConfigError, DamagedFileError, DamagedFileWarning, InputError
from vivit_lab.explain import prepared_grid
from vivit_lab.grid import TokenGrid
from vivit_lab.model.config import VivitConfig
from vivit_lab.processing.processor import VivitImageProcessor
from vivit_lab.processing.sampling import sampling_of

__all__ = ["BulkRun", "open_run", "part_name", "prepare_run"]

_FORMAT = "vivit_lab.BulkRun/1"
_NUMERICS = 2  # raise it with a change that alters numbers of a row: a part never holds two kinds
_MANIFEST_GROUP = 16384  # rows of the manifest that are read together, about


def part_name(shard: int) -> str:
    """Return the name of a shard's part, without a folder."""
    return f"part-{shard:06d}.parquet"


@dataclass(frozen=True)
class BulkRun:
    """A run on disk; small, picklable, and opened without looking at any part.

    Args:
        store: where it is.
        info: the content of ``run.json``.
        loaded: the model, where this process has loaded it already to know its weights.
    """

    store: Store
    info: dict[str, Any]
    loaded: Any = field(default=None, compare=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """Travel without the model: another process loads its own."""
        return {"store": self.store, "info": self.info, "loaded": None}

    @cached_property
    def job(self) -> BulkJob:
        """What is computed, with the batch size that was found."""
        return replace(BulkJob.from_dict(self.info["job"]), batch_size=self.info["batch_size"])

    @cached_property
    def grid(self) -> TokenGrid:
        """The grid that maps lie on."""
        fields = self.info["grid"]
        return TokenGrid(**{**fields, "tubelet": tuple(fields["tubelet"])})

    @property
    def clips(self) -> int:
        """How many clips the manifest has."""
        return self.info["clips"]

    @property
    def shards(self) -> int:
        """How many shards they make."""
        return -(-self.clips // self.info["shard_size"])

    @cached_property
    def processor(self) -> VivitImageProcessor:
        """What prepared the pixels."""
        return VivitImageProcessor.from_dict(self.info["processor"])

    @property
    def decode(self) -> DecodeSpec:
        """How clips are read."""
        assert self.job.stride is not None, "it is written down when the run is made"
        return DecodeSpec(self.grid.num_frames, self.job.sampling, self.job.stride, self.processor)

    @property
    def layout(self) -> PartLayout:
        """The columns of a part."""
        return PartLayout(**{**self.info["layout"], "maps": tuple(self.info["layout"]["maps"])})

    @property
    def labels(self) -> dict[int, str]:
        """Index → name of the model's classes."""
        return {int(index): name for index, name in self.info["labels"].items()}

    def rows(self, shard: int) -> list[ClipRow]:
        """Return the clips of a shard.

        Raises:
            InputError: there is no such shard.
        """
        if not 0 <= shard < self.shards:
            raise InputError(f"shard {shard} is outside 0..{self.shards - 1}")
        size, group = self.info["shard_size"], self.info["manifest_group"]
        first = shard * size
        with _manifest_advice(self), self.store.parquet("manifest.parquet", MANIFEST_SCHEMA) as file:
            table = file.read_row_group(first // group, use_threads=False).slice(first % group, size)
        return [ClipRow(**row) for row in table.to_pylist()]

    def clips_of(self, shard: int) -> list[str]:
        """Return the ids of a shard's clips."""
        size = self.info["shard_size"]
        return self._ids.slice(shard * size, size).to_pylist()

    @cached_property
    def _ids(self) -> pa.Array:
        return self.manifest(["clip_id"])["clip_id"].combine_chunks()

    def manifest(self, columns: list[str] | None = None) -> pa.Table:
        """Return the manifest: clip_id, path, start, end, label."""
        with _manifest_advice(self):
            return self.store.read_table("manifest.parquet", columns, MANIFEST_SCHEMA, self.clips)

    def class_of(self, label: str | None) -> int | None:
        """Return the index of a label, or None where there is no label or no classifier."""
        return None if label is None else self.info["label_index"].get(label)

    def done(self) -> set[int]:
        """Return the shards whose part exists."""
        return {int(name[5:-8]) for name in self.store.listing("clips") if name.endswith(".parquet")}

    def overlays(self) -> dict[int, list[str]]:
        """Return shard → its overlays (rows that were tried again), oldest first."""
        found: dict[int, list[str]] = {}
        for name in sorted(self.store.listing("overlay")):
            if name.endswith(".parquet"):
                found.setdefault(int(name[5:11]), []).append(f"overlay/{name}")
        return found

    def stage(self, device: torch.device | str) -> ClipStage:
        """Return what computes rows, with the model on a device."""
        return ClipStage(self.job, self.model_on(device), self.info["batch_size"], self.grid)

    def model_on(self, device: torch.device | str) -> Any:
        """Return the model on a device; the process that began or resumed the run has loaded it already."""
        if self.loaded is not None:
            return self.loaded.to(device)
        return load_model_of(self.job, device)[0]


def open_run(out: str | os.PathLike[str]) -> BulkRun:
    """Open a run that exists.

    Raises:
        InputError: there is none.
        ConfigError: it was written in another format.
        DamagedFileError: its ``run.json`` is damaged.
    """
    store = Store.at(out)
    info = store.read_json("run.json")
    if not isinstance(info, dict) or info.get("format") != _FORMAT:
        kind = repr(info.get("format"))[:80] if isinstance(info, dict) else type(info).__name__
        raise ConfigError(f"{store.place('run.json')} has the format {kind}; wanted {_FORMAT!r}")
    return BulkRun(store, info)


def prepare_run(
    job: BulkJob | None,
    videos: str | os.PathLike[str] | Sequence[Any] | None,
    out: str | os.PathLike[str],
    on_found: Callable[[ClipList], Any] | None = None,
) -> BulkRun:
    """Make the folder of a run, or find it there and make sure that it is the same run.

    Args:
        job: what is computed; None takes that of the folder.
        videos: see ``list_clips``; None takes those of the folder.
        out: the folder, a path or URL.
        on_found: see ``manifest_of``.

    Raises:
        InputError: there is no run yet and ``job`` or ``videos`` are missing; or a label is none of the model's.
        ConfigError: the folder holds a run with other settings, weights, code, clips or labels; the message names them.
    """
    store = Store.at(out)
    exists = store.exists("run.json")
    if not exists and (job is None or videos is None):
        raise InputError(f"{store.root} holds no run yet; name the videos and the job to begin one")
    found = open_run(out) if exists else None
    wanted = job or (found.job if found else BulkJob())
    model, processor = load_model_of(wanted, "cpu")
    classes = getattr(model.config, "id2label", None) or {}
    table = None if videos is None else manifest_of(videos, classes, on_found)
    wanted = replace(wanted, stride=sampling_of(processor, model.config.num_frames, wanted.stride).stride)
    fingerprint = _fingerprint(wanted, model, processor)
    if found is None:
        assert table is not None, "it was asked for above"
        found = _create(store, wanted, table, model, processor, fingerprint)
    _mend_manifest(found, table)
    _check_same(found, wanted, fingerprint, table)
    return replace(found, loaded=model)


def _fingerprint(job: BulkJob, model: Any, processor: VivitImageProcessor) -> dict[str, str]:
    """Return what decides the numbers. The batch size does too, by rounding, but it is the folder's own."""
    libraries = {name: list(version) for name, version in av.library_versions.items()}
    return fingerprint_of(
        replace(job, batch_size=None),
        methods=[repr(method) for _, method in job.built()],  # with the defaults, which may change
        numerics=_NUMERICS,
        weights=weights_digest(model.state_dict()),
        vivit_lab=__version__,
        decoder={"av": av.__version__, **libraries},
        processor=processor.to_dict(),
    )


def _create(
    store: Store, job: BulkJob, table: pa.Table, model: Any, processor: Any, fingerprint: dict[str, str]
) -> BulkRun:
    config: VivitConfig = model.config
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    grid = prepared_grid(config, processor)
    batch = min(job.batch_size or find_batch_size(config, device, grid), job.shard_size)
    stage = ClipStage(replace(job, compile=False), model, batch, grid)  # refuses what does not fit the model
    layout = layout_of(job, config, grid, is_classifier=stage.is_classifier)
    group = max(_MANIFEST_GROUP // job.shard_size, 1) * job.shard_size
    names = [name for name in table["label"].unique().to_pylist() if name is not None]
    labels = {name: class_by_name(name, config) for name in names} if stage.is_classifier else {}
    classes = config.num_labels or 0
    wrong = [name for name, index in labels.items() if not 0 <= index < classes]
    if wrong:
        raise InputError(f"labels {', '.join(wrong[:5])} are no classes of {job.model}: 0..{classes - 1}")
    info = {
        "format": _FORMAT,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "job": {**job.to_dict(), **_pinned(job)},
        "fingerprint": fingerprint,
        "clips": len(table),
        "clips_digest": _clips_digest(table),
        "shard_size": job.shard_size,
        "manifest_group": group,
        "batch_size": batch,
        "grid": grid.to_dict(),
        "layers": config.num_attention_layers,
        "heads": config.num_attention_heads,
        "layout": {**layout.__dict__, "maps": list(layout.maps)},
        "labels": (config.id2label or {}) if stage.is_classifier else {},
        "label_index": labels,
        "model_id": model.name_or_path,
        "processor": processor.to_dict(),
        "versions": {"vivit_lab": __version__, "torch": torch.__version__, "av": av.__version__},
    }
    store.write_table("manifest.parquet", table, row_group=group)
    store.write_json("run.json", info, replace=False)  # last: where it is, the manifest is too
    return open_run(store.root)


def _pinned(job: BulkJob) -> dict[str, str | None]:
    """Return the revision as a commit, so that every process of the run loads the same weights."""
    where = {} if job.revision is None else {"revision": job.revision}
    return {"revision": pin_revision(job.model, **where).get("revision", job.revision)}


def _check_same(run: BulkRun, job: BulkJob, fingerprint: dict[str, str], table: pa.Table | None) -> None:
    mine, theirs = fingerprint, run.info["fingerprint"]
    different = sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))
    if job.batch_size is not None and min(job.batch_size, job.shard_size) != run.info["batch_size"]:
        different.append("batch_size")
    if job.shard_size != run.info["shard_size"]:
        different.append("shard_size")
    if different:
        raise ConfigError(
            f"{run.store.root} holds a run with other {', '.join(different)}, and mixing two would leave rows that "
            "cannot be compared; name another folder, or resume with the old settings (leave them out)"
        )
    if table is not None:
        ours, stored = _labels_of(table), _labels_of(run.manifest(["clip_id", "label"]))
        if ours.keys() != stored.keys():
            raise ConfigError(
                f"{run.store.root} is about other clips: {len(ours.keys() - stored.keys())} are new and "
                f"{len(stored.keys() - ours.keys())} are gone; name another folder, or resume without naming videos"
            )
        changed = [clip for clip, label in ours.items() if label != stored[clip]]
        if changed:
            first = changed[0]
            raise ConfigError(
                f"{run.store.root} has other labels for {len(changed)} clips, the first {first}: {stored[first]!r} "
                f"there, {ours[first]!r} here; name another folder, or resume with the old labels (name no videos)"
            )


def _mend_manifest(run: BulkRun, table: pa.Table | None) -> None:
    """Write a manifest that is damaged again, where the same clips were named."""
    name = "manifest.parquet"
    try:
        run.store.check_table(name, [], MANIFEST_SCHEMA, run.clips)
    except DamagedFileError as error:
        if table is None or _clips_digest(table) != run.info.get("clips_digest"):
            with _manifest_advice(run):
                raise
        moved = run.store.set_aside(name, str(error))
        run.store.write_table(name, table, row_group=run.info["manifest_group"])
        text = f"{run.store.place(name)} was damaged; moved to {moved} and written again from the videos named"
        warnings.warn(text, DamagedFileWarning, stacklevel=4)


def _clips_digest(table: pa.Table) -> str:
    """Return what tells a list of clips and labels from others."""
    rows = [table[name].to_pylist() for name in ("clip_id", "label")]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


@contextmanager
def _manifest_advice(run: BulkRun) -> Iterator[None]:
    """Say what to do where the manifest is damaged."""
    try:
        yield
    except DamagedFileError as error:
        raise DamagedFileError(
            f"{run.store.place('manifest.parquet')}, the list of the run's clips, is damaged: start the command again "
            "with the same VIDEOS, and it is written again; or put back a copy of it"
        ) from error


def _labels_of(table: pa.Table) -> dict[str, str | None]:
    """Return clip_id → label."""
    return dict(zip(table["clip_id"].to_pylist(), table["label"].to_pylist(), strict=True))
