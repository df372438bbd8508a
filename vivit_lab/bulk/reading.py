"""Rows of a run's parts, wherever they are: in a part, or in an overlay that a retry left."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from vivit_lab.bulk.run import BulkRun, part_name
from vivit_lab.bulk.store import pc
from vivit_lab.errors import DamagedFileError, DamagedFileWarning, InputError

__all__ = ["PartReader", "values_of"]


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
        warnings.warn(
            f"{error}. Until then {what} are missing: vivit-lab bulk run --out {self.run.store.root}",
            DamagedFileWarning,
            stacklevel=2,
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
