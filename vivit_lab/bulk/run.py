"""The folder of a run: what it is about, its parts and rows, and what became of its files and videos since."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from itertools import pairwise
from statistics import median
from typing import Any

import av
import numpy as np
import pyarrow as pa
import torch

from vivit_lab._version import __version__
from vivit_lab.attribution.registry import class_by_name
from vivit_lab.bulk.clips import MANIFEST_SCHEMA, MARKS, ClipRow, PartLayout, VideoMark, has_changed, manifest_of
from vivit_lab.bulk.decode import DecodeSpec
from vivit_lab.bulk.job import BulkJob, ClipStage, find_batch_size, fingerprint_of, layout_of, load_model_of
from vivit_lab.bulk.store import Store, pc
from vivit_lab.checkpoints.checkpoint import weights_digest
from vivit_lab.checkpoints.hub import pin_revision
from vivit_lab.clips.listing import ClipList
from vivit_lab.errors import ChangedVideoWarning, ConfigError, DamagedFileError, DamagedFileWarning, InputError
from vivit_lab.explain import prepared_grid
from vivit_lab.grid import TokenGrid
from vivit_lab.model.config import VivitConfig
from vivit_lab.processes import usable_cores
from vivit_lab.processing.processor import VivitImageProcessor
from vivit_lab.processing.sampling import sampling_of
from vivit_lab.progress import progress_bar
from vivit_lab.warn import warn_caller

__all__ = [
    "BulkRun",
    "PartReader",
    "RunStatus",
    "changed_clips",
    "check_part",
    "check_tables",
    "open_run",
    "part_name",
    "prepare_run",
    "read_status",
    "set_aside_damaged",
    "tell_changed",
    "values_of",
]

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
        InputError: there is no run yet and ``job`` or ``videos`` are missing, or it would lie among the videos; or a
            label is none of the model's.
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
        if isinstance(videos, (str, os.PathLike)) and Store.at(videos).root == store.root:
            raise InputError(
                f"{store.root} is the folder of the videos, where the run's manifest would be read in their place from "
                "then on; give the run a folder of its own"
            )
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
        warn_caller(text, DamagedFileWarning)


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


@dataclass(frozen=True, eq=False)
class PartReader:
    """Reads what is asked for, and no more.

    Args:
        run: the folder.
    """

    run: BulkRun
    _told: set[str] = field(default_factory=set, init=False, repr=False)

    @cached_property
    def ids(self) -> pa.Array:
        """The ids of all clips, in the order of the manifest."""
        return self.run.manifest(["clip_id"])["clip_id"].combine_chunks()

    @cached_property
    def parts(self) -> list[int]:
        """The shards that are done."""
        return sorted(self.run.done())

    @cached_property
    def overlays(self) -> dict[int, list[str]]:
        """Shard → its overlays, oldest first."""
        return self.run.overlays()

    @cached_property
    def columns(self) -> list[str]:
        """All columns of a part."""
        return list(self.run.layout.schema.names)

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Go through the parts that are done, one table each; see ``numbered_tables``."""
        for _, table in self.numbered_tables(columns):
            yield table

    def numbered_tables(self, columns: Sequence[str] | None = None) -> Iterator[tuple[int, pa.Table]]:
        """Go through the parts that are done: number and table. A damaged one is left out, and told by a warning.

        Args:
            columns: which; all by default.

        Raises:
            InputError: there is no such column.
        """
        names = self.check_columns(columns)
        for shard in self.parts:
            try:
                table = self.part(shard, names)
            except DamagedFileError as error:
                self._tell_damaged(shard, error)
                continue
            yield shard, table

    def part(self, shard: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Return columns of a part that is done, with rows of its overlays in their places.

        Raises:
            InputError: there is no such column.
            DamagedFileError: the part is damaged.
        """
        names = self.check_columns(columns)
        wanted = (self.run.layout.schema, len(self._ids_of(shard)))
        table = self.run.store.read_table(f"clips/{part_name(shard)}", names, *wanted)
        if shard in self.overlays:
            table = self._laid_over(table, self._ids_of(shard), shard, names)
        return table.replace_schema_metadata(None)

    def _tell_damaged(self, shard: int, error: DamagedFileError, *, overlay: bool = False) -> None:
        """Warn of a damaged file, once a reader."""
        if str(error) in self._told:
            return
        self._told.add(str(error))
        what = "the rows that were tried again in it" if overlay else f"its {len(self._ids_of(shard))} rows"
        warn_caller(
            f"{error}. Until then {what} are missing: vivit-lab bulk run --out {self.run.store.root}",
            DamagedFileWarning,
        )

    def rows(self, clips: Sequence[str | int], columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Return rows in the order asked for, each with ``about``, what its part says of its maps.

        Args:
            clips: ids, or places in the manifest.
            columns: which; all by default.

        Raises:
            InputError: there is no such clip or column, or the clip is not done yet.
            DamagedFileError: the clip's part is damaged.
        """
        names, size = self.check_columns(columns), self.run.info["shard_size"]
        places = [self.place(clip) for clip in clips]
        found: dict[int, dict[str, Any]] = {}
        for shard in sorted({place // size for place in places}):
            here = sorted({place % size for place in places if place // size == shard})
            found |= zip((shard * size + number for number in here), self._read(shard, here, names), strict=True)
        return [found[place] for place in places]

    def about(self, shard: int) -> dict[str, Any]:
        """Return what a part that is done says of its maps: column → method, parameters, scale and more."""
        for name in (f"clips/{part_name(shard)}", *self.overlays.get(shard, [])):
            with suppress(DamagedFileError), self.run.store.parquet(name) as file:
                if found := _about(file):
                    return found
        return {}

    def place(self, clip: str | int) -> int:
        """Return where a clip stands in the manifest.

        Raises:
            InputError: there is no such clip.
        """
        if isinstance(clip, (int, np.integer)) and not isinstance(clip, bool):
            if not -self.run.clips <= clip < self.run.clips:
                raise InputError(f"clip {clip} is outside the run's {self.run.clips} clips")
            return int(clip) % self.run.clips
        place = pc.index(self.ids, str(clip)).as_py()
        if place < 0:
            raise InputError(f"there is no clip {clip!r} in {self.run.store.root}; ids are in its manifest.parquet")
        return place

    def check_columns(self, columns: Sequence[str] | None) -> list[str]:
        """Return columns without repeats; None is all of them.

        Raises:
            InputError: there is no such column.
        """
        if columns is None:
            return self.columns
        wrong = [name for name in columns if name not in self.columns]
        if wrong:
            raise InputError(f"there are no columns {', '.join(wrong)}; the run has {', '.join(self.columns)}")
        return list(dict.fromkeys(columns))

    def _read(self, shard: int, numbers: list[int], names: list[str]) -> list[dict[str, Any]]:
        """Return rows of one part, by their place in it; only the groups of rows that hold them are read."""
        if shard not in self.parts:
            raise InputError(f"shard {shard} is not done yet; resume the run, or look at status()")
        wanted = (self.run.layout.schema, len(self._ids_of(shard)))
        with self.run.store.parquet(f"clips/{part_name(shard)}", *wanted) as file:
            group = file.metadata.row_group(0).num_rows
            groups = sorted({number // group for number in numbers})
            table = file.read_row_groups(groups, columns=names, use_threads=False)
        offset = {one: place * group for place, one in enumerate(groups)}
        table = table.take([offset[number // group] + number % group for number in numbers])
        if shard in self.overlays:
            table = self._laid_over(table, self._ids_of(shard, numbers), shard, names)
        about = self.about(shard)
        columns = {name: values_of(table[name]) for name in names}
        return [{**{name: columns[name][row] for name in names}, "about": about} for row in range(len(table))]

    def _laid_over(self, table: pa.Table, ids: pa.Array, shard: int, names: list[str]) -> pa.Table:
        """Return rows of a part, whose ids are given, with those of its overlays in place of the rows that failed."""
        for name in self.overlays[shard]:
            wanted = list(dict.fromkeys([*names, "clip_id"]))
            try:
                newer = self.run.store.read_table(name, wanted, self.run.layout.schema)
            except DamagedFileError as error:
                self._tell_damaged(shard, error, overlay=True)
                continue
            place = pc.index_in(ids, value_set=newer["clip_id"].combine_chunks())
            both = pa.concat_tables([part.select(names).replace_schema_metadata(None) for part in (table, newer)])
            own = pa.array(range(len(table)), pa.int32())
            table = both.take(pc.if_else(pc.is_valid(place), pc.add(place, len(table)), own))
        return table

    def _ids_of(self, shard: int, numbers: Sequence[int] | None = None) -> pa.Array:
        size = self.run.info["shard_size"]
        here = self.ids.slice(shard * size, size)
        return here if numbers is None else here.take(pa.array(numbers))


def values_of(column: Any) -> list[Any]:
    """Return a column's values; lists of fixed size as arrays, without a detour over Python's numbers."""
    column = column.combine_chunks()
    if not pa.types.is_fixed_size_list(column.type):
        return column.to_pylist()
    flat = column.flatten().to_numpy(zero_copy_only=False)  # without the nulls
    rows = iter(flat.reshape(-1, column.type.list_size))
    return [next(rows) if valid else None for valid in column.is_valid().to_pylist()]


def _about(file: Any) -> dict[str, Any]:
    return json.loads((file.schema_arrow.metadata or {}).get(b"vivit_lab.maps", b"{}"))


_PAUSE = 20  # usual gaps between two parts


@dataclass(frozen=True)
class RunStatus:
    """How far a run is.

    Args:
        parts: how many there will be.
        parts_done: how many are written.
        clips: in the manifest.
        clips_done: rows in the parts that are written.
        errors: of them, clips that failed and that no retry mended.
        retried: rows of overlays.
        clips_per_second: between the first and the last part that was written, pauses between sessions left out; None
            with fewer than two.
        seconds_left: at that rate; None where it is not known, 0 when all is done.
        accuracy: over clips with labels; None where there are none.
        damaged: files of parts and overlays that are cut off or altered; what they held is not counted above, and is
            computed again when the run is resumed.
    """

    parts: int
    parts_done: int
    clips: int
    clips_done: int
    errors: int
    retried: int
    clips_per_second: float | None
    seconds_left: float | None
    accuracy: float | None
    damaged: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether every part is there."""
        return self.parts_done == self.parts

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-able values."""
        return asdict(self)


def read_status(run: BulkRun) -> RunStatus:
    """Return how far a run is. Cost: a listing, and two small columns of every part.

    Args:
        run: the folder.
    """
    written = sorted(run.store.listing("clips").values())
    done, overlays = sorted(run.done()), run.overlays()
    rows = errors = retried = right = labelled = 0
    damaged: list[str] = []
    columns, schema = ["clip_id", "status", "correct"], run.layout.schema
    for shard in done:
        name = f"clips/{part_name(shard)}"
        try:
            table = run.store.read_table(name, columns, schema, len(run.clips_of(shard)))
        except DamagedFileError:
            damaged.append(name)
            continue
        rows += len(table)
        newest = {row["clip_id"]: row for row in table.to_pylist()} if shard in overlays else None
        for name in overlays.get(shard, []):
            try:
                again = run.store.read_table(name, columns, schema).to_pylist()
            except DamagedFileError:
                damaged.append(name)
                continue
            retried += len(again)
            newest = (newest or {}) | {row["clip_id"]: row for row in again}
        if newest is not None:
            table = table.from_pylist(list(newest.values()), schema=table.schema.remove_metadata())
        errors += len(table) - (pc.sum(pc.equal(table["status"], "ok")).as_py() or 0)
        labelled += len(table) - table["correct"].null_count
        right += pc.sum(table["correct"]).as_py() or 0
    rate = _rate(written, rows)
    left = 0.0 if rows >= run.clips else (run.clips - rows) / rate if rate else None
    whole = len(done) - sum(name.startswith("clips/") for name in damaged)
    accuracy = right / labelled if labelled else None
    return RunStatus(
        run.shards, whole, run.clips, rows, errors, retried, rate, left, accuracy, tuple(damaged)
    )  # fmt: skip


def _rate(written: list[float], rows: int) -> float | None:
    """Return clips a second between the first and the last part; the first one's own time is not known.

    A gap of many usual ones is a pause of a run that was stopped and resumed.
    """
    if len(written) < 2 or not written[0]:
        return None
    gaps = [later - earlier for earlier, later in pairwise(written)]
    usual = median([gap for gap in gaps if gap > 0] or [0.0])
    working = [gap for gap in gaps if gap <= _PAUSE * usual]
    return rows / len(written) * len(working) / sum(working) if sum(working) else None


_NAMED = 5  # changed videos that a warning names
_THREADS = 16  # they wait for disks and networks


def check_part(run: BulkRun, shard: int, name: str | None = None) -> None:
    """Read all of a part, or of an overlay, and what it names.

    Args:
        run: the folder.
        shard: its number.
        name: of an overlay; None is the shard's part.

    Raises:
        InputError: there is no such part.
        DamagedFileError: it is not as it was written, or of other clips; or so is the file of its hidden states.
    """
    place, clips = name or f"clips/{part_name(shard)}", run.clips_of(shard)
    table = run.store.check_table(place, ["clip_id"], run.layout.schema, None if name else len(clips))
    hidden = json.loads((table.schema.metadata or {}).get(b"vivit_lab.hidden", b"null"))
    if name is None and table["clip_id"].to_pylist() != clips:
        raise DamagedFileError(f"{run.store.place(place)} holds other clips than the manifest names for it")
    if not hidden:
        return
    try:
        content = run.store.read(hidden["file"])
    except InputError as error:
        raise DamagedFileError(f"{run.store.place(hidden['file'])}, which {place} names, is missing") from error
    if hashlib.sha256(content).hexdigest() != hidden["sha256"]:
        raise DamagedFileError(f"{run.store.place(hidden['file'])}, which {place} names, is not what was written")


def set_aside_damaged(run: BulkRun, shards: Iterable[int], progress: bool | None = None) -> list[int]:
    """Move damaged parts and overlays aside, so that what they held counts as not done; each is told by a warning.

    With a part go its overlays: their rows belong to a part that is not there any more.

    Args:
        run: the folder.
        shards: which parts are looked at.
        progress: show a bar; None shows it on a terminal.

    Returns:
        The shards that have lost an overlay alone: clips of theirs that failed are to be tried again.

    Cost: reads all of these parts once.
    """
    done, overlays = run.done(), run.overlays()
    files = [(shard, None) for shard in shards if shard in done]
    files += [(shard, name) for shard in shards for name in overlays.get(shard, [])]
    lost: set[int] = set()
    tried: list[int] = []
    for (shard, name), error in zip(files, _each(partial(_damage_of, run), files, "checking", progress), strict=True):
        if error is None or shard in lost:
            continue
        names = [name] if name else [f"clips/{part_name(shard)}", *overlays.get(shard, [])]
        _tell_moved(error, [run.store.set_aside(one, str(error)) for one in names])
        lost.update([] if name else [shard])
        tried += [shard] if name else []
    return sorted(set(tried) - lost)


def changed_clips(run: BulkRun, shards: Iterable[int], progress: bool | None = None) -> dict[int, list[str]]:
    """Return shard → clips whose video is another one than the newest row was computed from; see ``has_changed``.

    Args:
        run: the folder.
        shards: which parts are looked at; damaged ones must be set aside before.
        progress: show a bar; None shows it on a terminal.

    Cost: a look at the size and time of each video; of runs of earlier versions, whose rows do not say it, nothing.
    """
    if not run.layout.marks:
        return {}
    reader, found = PartReader(run), {}
    rows: list[tuple[int, dict[str, Any]]] = []
    for shard in shards:
        if shard in reader.parts:
            rows += [(shard, row) for row in reader.part(shard, ["clip_id", "path", *MARKS]).to_pylist()]
    marked = [(shard, row) for shard, row in rows if row["video_bytes"] is not None]
    for (shard, row), changed in zip(marked, _each(_row_has_changed, marked, "videos", progress), strict=True):
        if changed:
            found.setdefault(shard, []).append(row["clip_id"])
    return found


def tell_changed(run: BulkRun, changed: dict[int, list[str]], what: str) -> None:
    """Warn of videos that have changed.

    Args:
        run: the folder.
        changed: of ``changed_clips``.
        what: is done about it.
    """
    if not changed:
        return
    wanted = {name for names in changed.values() for name in names}
    paths = [row.path for shard in changed for row in run.rows(shard) if row.clip_id in wanted]
    more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    warn_caller(
        f"{len(paths)} videos are not those that {run.store.root} was computed from, they have been written anew: "
        f"{', '.join(paths[:_NAMED])}{more}. {what}",
        ChangedVideoWarning,
    )


def check_tables(store: Any, names: Sequence[str], schema: pa.Schema, progress: bool | None = None) -> None:
    """Move tables aside that are damaged or have other columns; each is told by a warning.

    Args:
        store: where they are.
        names: of the files.
        schema: their columns.
        progress: show a bar; None shows it on a terminal.
    """

    def damage(name: str) -> DamagedFileError | None:
        try:
            store.check_table(name, [], schema)
        except InputError:  # somebody else has moved it meanwhile
            return None
        except DamagedFileError as error:
            return error
        return None

    for name, error in zip(names, _each(damage, names, "checking", progress), strict=True):
        if error is not None:
            _tell_moved(error, [store.set_aside(name, str(error))])


def _tell_moved(error: DamagedFileError, places: list[str | None]) -> None:
    moved = ", ".join(filter(None, places))
    warn_caller(f"{error}. Moved to {moved}; it is computed again", DamagedFileWarning)


def _damage_of(run: BulkRun, file: tuple[int, str | None]) -> DamagedFileError | None:
    try:
        check_part(run, *file)
    except InputError:  # somebody else has moved it meanwhile
        return None
    except DamagedFileError as error:
        return error
    return None


def _row_has_changed(one: tuple[int, dict[str, Any]]) -> bool:
    return has_changed(one[1]["path"], VideoMark.of_row(one[1]))


def _each(check: Callable[[Any], Any], items: Sequence[Any], name: str, progress: bool | None) -> list[Any]:
    """Check all, several at a time, and return what was found, in order."""
    with ThreadPoolExecutor(min(_THREADS, 2 * usable_cores() + 2)) as pool:
        return list(progress_bar(pool.map(check, items), progress, name, "file", len(items)))
