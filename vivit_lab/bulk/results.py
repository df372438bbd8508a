"""The results of a bulk run, read when they are asked for."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from vivit_lab.attribution.base import AttributionMap
from vivit_lab.bulk._html import results_html
from vivit_lab.bulk.aggregate import extremes, group_means, nearest
from vivit_lab.bulk.compare import RunComparison, compare_runs, exact_columns
from vivit_lab.bulk.decode import local_copy, read_row
from vivit_lab.bulk.export import export_zarr
from vivit_lab.bulk.reading import PartReader
from vivit_lab.bulk.rows import ClipRow
from vivit_lab.bulk.run import BulkRun, open_run
from vivit_lab.bulk.schema import MAP_PARTS
from vivit_lab.bulk.status import RunStatus, read_status
from vivit_lab.bulk.store import pc
from vivit_lab.errors import DamagedFileError, InputError, MissingExtraError
from vivit_lab.files import inside
from vivit_lab.grid import TokenGrid
from vivit_lab.numbers import checked_numbers
from vivit_lab.video.clip import Clip

__all__ = ["BulkResults"]

_ROW = ("frame_indices", "path", "height", "width", "status", "error")


@dataclass(frozen=True, eq=False)
class BulkResults:
    """A run's results. Opening reads ``run.json`` and lists the parts; rows and maps are read when asked for.

    The parts are plain Parquet: ``duckdb.sql("from 'run/clips/*.parquet'")`` and ``polars.scan_parquet`` read them too
    (without the overlays of a retry, which ``export`` merges). A map is stored as halves relative to a power of two:
    relevance = ``map`` · ``map_scale``.

    Args:
        run: the folder.

    Example:
        >>> results = BulkResults.open("run")
        >>> results.to_pandas().groupby("label").correct.mean()
    """

    run: BulkRun

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> BulkResults:
        """Open the folder of a run, finished or not.

        Raises:
            InputError: it holds no run.
            ConfigError: it was written in another format.
        """
        return cls(open_run(path))

    def __len__(self) -> int:
        """How many clips the run has, done or not."""
        return self.run.clips

    @property
    def grid(self) -> TokenGrid:
        """The grid that maps lie on."""
        return self.run.grid

    @property
    def methods(self) -> list[str]:
        """The columns of maps; the first is ``"map"``."""
        return list(self.run.layout.maps)

    @property
    def columns(self) -> list[str]:
        """All columns of a part."""
        return list(self.run.layout.schema.names)

    @property
    def ids(self) -> pa.Array:
        """The ids of all clips, in the order of the manifest."""
        return self.reader.ids

    @cached_property
    def reader(self) -> PartReader:
        """What reads the parts that were done when it was first used."""
        return PartReader(self.run)

    def status(self) -> RunStatus:
        """Return how far the run is, from the listing of its folder as it is now."""
        return read_status(self.run)

    @checked_numbers(count=(1, None))
    def failures(self, count: int | None = None) -> list[dict[str, str]]:
        """Return clips that failed, in the order of the manifest: clip_id, path, stage, type and error.

        Args:
            count: at most so many; all where None.
        """
        found: list[dict[str, str]] = []
        columns = ["clip_id", "path", "error_stage", "error_type", "error"]
        for table in self.tables([*columns, "status"]):
            wrong = table.filter(pc.equal(table["status"], "error")).select(columns)
            found += wrong.rename_columns(["clip_id", "path", "stage", "type", "error"]).to_pylist()
            if count is not None and len(found) >= count:
                return found[:count]
        return found

    def summary(self, status: RunStatus | None = None) -> dict[str, str]:
        """Return how far the run is and what it is of, in words.

        Args:
            status: of the run, where it was read already.
        """
        status, info = status or self.status(), self.run.info
        left = "not known yet" if status.seconds_left is None else str(timedelta(seconds=round(status.seconds_left)))
        rate = "not known yet" if status.clips_per_second is None else f"{status.clips_per_second:.3g}"
        words = {
            "model": str(info["model_id"]),
            "methods": ", ".join(self.run.job.methods),
            "frames": f"{self.run.grid.num_frames}, "
            + ("evenly spread" if self.run.job.sampling == "uniform" else f"stride {self.run.job.stride}"),
            "clips": f"{status.clips_done} of {status.clips}",
            "parts": f"{status.parts_done} of {status.parts}",
            "errors": f"{status.errors}" + (f" ({status.retried} tried again)" if status.retried else ""),
            "clips a second": rate,
            "time left": "none, it is done" if status.is_complete else left,
        }
        if status.damaged:
            names = ", ".join(status.damaged[:3]) + (", …" if len(status.damaged) > 3 else "")
            words["damaged"] = f"{len(status.damaged)} ({names}): resume the run, and they are computed again"
        if status.accuracy is not None:
            words["accuracy"] = f"{status.accuracy:.4f}"
        return words

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Go through the parts that are done, one table each, with rows of a retry in place of those that failed.

        Args:
            columns: which; all by default.

        Raises:
            InputError: there is no such column.
        """
        return self.reader.tables(columns)

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return rows of all parts as one Arrow table; by default without the wide columns (maps, logits, heads)."""
        names = self._narrow() if columns is None else list(columns)
        found = list(self.tables(names))
        return pa.concat_tables(found) if found else self.run.layout.schema.empty_table().select(names)

    def to_pandas(self, columns: Sequence[str] | None = None) -> Any:
        """Return rows as a data frame, indexed by clip_id.

        Args:
            columns: which; by default all but the wide ones (maps, logits, heads).

        Raises:
            InputError: there is no such column.
            MissingExtraError: pandas is not installed.
        """
        try:
            import pandas  # noqa: F401
        except ImportError as error:
            raise MissingExtraError("to_pandas() needs pandas: pip install 'vivit-lab[lab]'") from error
        names = None if columns is None else list(dict.fromkeys(["clip_id", *columns]))
        return self.table(names).to_pandas().set_index("clip_id")

    def row(self, clip: str | int, columns: Sequence[str] | None = None) -> dict[str, Any]:
        """Return the row of a clip.

        Args:
            clip: its id, or its place in the manifest.
            columns: which; all by default.

        Raises:
            InputError: there is no such clip, or it is not done yet.
            DamagedFileError: its part is damaged.
        """
        row = self.reader.rows([clip], columns)[0]
        return {name: value for name, value in row.items() if name != "about"}

    def map(self, clip: str | int, method: str | None = None) -> AttributionMap:
        """Return the map of one clip; see ``maps``."""
        return self.maps([clip], method)

    def maps(self, clips: Sequence[str | int], method: str | None = None) -> AttributionMap:
        """Return the maps of clips, as a batch that says what it is and where it came from.

        Args:
            clips: ids, or places in the manifest.
            method: which column of ``methods``, or the name after ``map_``; the first by default.

        Raises:
            InputError: there is no such clip or method, or a clip has no map because it failed.
        """
        name = self.column_of(method)
        wanted = [name, *(f"{name}_{part}" for part in MAP_PARTS), *_ROW]
        rows = self.reader.rows(clips, wanted)
        failed = [row for row in rows if row["status"] != "ok"]
        if failed:
            raise InputError(f"{len(failed)} of these clips have no map, the first because: {failed[0]['error']}")
        values = np.stack([np.asarray(row[name], np.float32) * row[f"{name}_scale"] for row in rows])
        shares = [row[f"{name}_cls"] for row in rows]
        targets = [row[f"{name}_target"] for row in rows]
        return AttributionMap(
            self.grid.unflatten(torch.from_numpy(values)),
            self.grid,
            **rows[0]["about"].get(name, {"method": name, "signed": True}),
            frame_indices=[row["frame_indices"] for row in rows],
            sources=[self._source(row) for row in rows],
            cls_share=None if None in shares else shares,
            targets=None if None in targets else targets,
        )

    def mean_map(self, method: str | None = None, *, normalize: bool = False) -> AttributionMap:
        """Return the mean map of all clips; see ``class_means``."""
        return group_means(self.reader, self.column_of(method), normalize=normalize)["all"]

    def class_means(
        self, method: str | None = None, *, by: str = "label", normalize: bool = False
    ) -> dict[str, AttributionMap]:
        """Return the mean map of each class, by its name.

        Args:
            method: which maps; the first by default.
            by: ``"label"`` or ``"prediction"``, or another column whose values make groups (``"correct"``).
            normalize: divide each map by the sum of its magnitudes first, so that every clip weighs the same.

        Raises:
            InputError: no clip has a map and a class yet.
        """
        return group_means(self.reader, self.column_of(method), by=by, normalize=normalize)

    @checked_numbers(count=(1, None))
    def nearest(self, clip: str | int, count: int = 8, *, by: str = "map") -> list[tuple[str, float]]:
        """Return the clips most like one, the most alike first: id and cosine similarity.

        Args:
            clip: its id, or its place in the manifest.
            count: how many.
            by: what is compared: ``"map"`` or another column of maps, ``"logits"``, ``"head_entropy"``, ….

        Raises:
            InputError: there is no such clip or column, or the clip failed.
        """
        return nearest(self.reader, clip, count, by=by)

    @checked_numbers(count=(1, None))
    def extremes(
        self, by: str = "entropy", count: int = 8, *, largest: bool = True, method: str | None = None
    ) -> list[tuple[str, float]]:
        """Return the clips with the most extreme score, that one first: id and score.

        Args:
            by: ``"entropy"`` of the map's shares (0 … 1), ``"peak"`` (largest share), ``"time"`` (the map's centre in
                the window, 0 … 1), ``"confidence"``, ``"margin"`` or ``"loss"`` (nats).
            count: how many.
            largest: which end.
            method: whose maps.

        Raises:
            InputError: there is no such score, or the model has no classifier to make it.
        """
        return extremes(self.reader, count, by=by, largest=largest, column=self.column_of(method))

    def clip(self, clip: str | int) -> Clip:
        """Read the frames of a clip again, prepared as the model was given them.

        Raises:
            InputError: there is no such clip, or it is not in the manifest.
            VideoError: the video is gone or cannot be read.
        """
        place = self.reader.place(clip)
        row = self.run.rows(place // self.run.info["shard_size"])[place % self.run.info["shard_size"]]
        return self.read(row)

    def read(self, row: ClipRow) -> Clip:
        """Read the frames of a row of the manifest, prepared as the model was given them."""
        with local_copy(row.path) as path:
            clip = read_row(path, row, self.run.decode, threads="auto")
        return self.run.processor.prepare(replace(clip, path=row.path))

    def hidden_states(self, clip: str | int) -> torch.Tensor:
        """Return the hidden states of a clip, where the job kept them: (layer + 1, d_model) or (token, d_model), fp16.

        Raises:
            InputError: the run kept none, or the clip failed.
            DamagedFileError: their file is damaged or gone.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        row = self.row(clip, ["clip_id", "hidden_file"])
        if row["hidden_file"] is None:
            raise InputError("there are no hidden states of this clip; run a job with hidden_states='cls' or 'tokens'")
        root = self.run.store.root
        inside(root, row["hidden_file"], f"a row of {root}")  # it is data: it must not lead elsewhere
        try:
            return load(self.run.store.read(row["hidden_file"]))[row["clip_id"]]
        except (SafetensorError, KeyError, InputError) as error:
            place = self.run.store.place(row["hidden_file"])
            raise DamagedFileError(
                f"{place} is damaged or gone ({error}); resume the run, and its part is computed again"
            ) from error

    def digest(self) -> str:
        """Return the sha256 of what two runs of one job have in common to the bit.

        That is: settings, weights and versions (the fingerprint), the columns, and of every row that is done the clip,
        its label, whether and where it failed, the frames that were read and the video's size and digest. Logits, maps
        and what follows from them are floats, which are promised up to rounding: ``compare`` and ``equals`` judge them.

        Two runs of one job over the same videos have one digest, however often each was cut off.
        """
        names, rows = exact_columns(self), {}
        for table in self.tables(names):
            for row in table.to_pylist():
                rows[row["clip_id"]] = [row[name] for name in names]
        about = [self.run.info["fingerprint"], self.columns, [rows[clip] for clip in sorted(rows)]]
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()

    @checked_numbers()
    def compare(self, other: BulkResults, tolerance: float | None = None) -> RunComparison:
        """Return what two runs differ in, clip by clip.

        What is no float must be equal (see ``digest``). Numbers may lie apart by ``tolerance`` times the largest
        magnitude of their row; those that are stored as halves (maps, statistics of heads) by one step of a half more,
        since two numbers that are all but equal may be rounded to either side. Another class may be named where the
        logits of the two lie within that distance.

        Args:
            other: the other run; it may be cut into other parts.
            tolerance: None takes 1e-5 for float32, 0.02 for float16 and 0.1 for bfloat16.

        Raises:
            InputError: the tolerance is negative.

        Example:
            >>> print(BulkResults.open("run").compare(BulkResults.open("again")))
        """
        return compare_runs(self, other, tolerance)

    @checked_numbers()
    def equals(self, other: BulkResults, tolerance: float | None = None) -> bool:
        """Return whether two runs are equal up to rounding; see ``compare``."""
        return self.compare(other, tolerance).is_equal

    def _source(self, row: dict[str, Any]) -> dict[str, Any]:
        geometry = self.run.processor.geometry(row["height"], row["width"])
        return {"path": row["path"], "geometry": geometry.to_dict()}

    def column_of(self, method: str | None) -> str:
        """Return the column of a method's maps: its name, the name after ``map_``, or None for the first.

        Raises:
            InputError: there is no such method.
        """
        for name in (method or "map", f"map_{method}"):
            if name in self.methods:
                return name
        first = self.run.job.methods[0]
        if method in (first, first.partition(":")[0]):
            return "map"
        raise InputError(f"there are no maps {method!r}; the run has {', '.join(self.methods)} (map is {first})")

    def _narrow(self) -> list[str]:
        wide = set(self.run.layout.wide)
        return [name for name in self.columns if name not in wide]

    def to_zarr(self, path: str | os.PathLike[str]) -> str:
        """Write all rows as a Zarr group that xarray opens; see ``export_zarr``."""
        return export_zarr(self, path)

    def _repr_html_(self) -> str:
        return results_html(self)

    def __repr__(self) -> str:
        done = f"{len(self.reader.parts)} of {self.run.shards} parts"
        methods = ", ".join(self.run.job.methods)
        return f"BulkResults({self.run.store.root}: {len(self)} clips, {done}, {self.run.info['model_id']}, {methods})"
