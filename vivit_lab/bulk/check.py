"""What became of a run's files since they were written: damage to its parts, and videos that have changed."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pyarrow as pa

from vivit_lab.bulk.marks import MARKS, VideoMark, has_changed
from vivit_lab.bulk.reading import PartReader
from vivit_lab.bulk.run import BulkRun, part_name
from vivit_lab.errors import ChangedVideoWarning, DamagedFileError, DamagedFileWarning, InputError
from vivit_lab.processes import usable_cores
from vivit_lab.progress import progress_bar

__all__ = ["changed_clips", "check_part", "check_tables", "set_aside_damaged", "tell_changed"]

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
    warnings.warn(
        f"{len(paths)} videos are not those that {run.store.root} was computed from, they have been written anew: "
        f"{', '.join(paths[:_NAMED])}{more}. {what}",
        ChangedVideoWarning,
        stacklevel=3,
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
    warnings.warn(f"{error}. Moved to {moved}; it is computed again", DamagedFileWarning, stacklevel=4)


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
