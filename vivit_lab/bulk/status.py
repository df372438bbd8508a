"""How far a run is, read from the listing of its folder."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import median
from typing import Any

from vivit_lab.bulk.run import BulkRun, part_name
from vivit_lab.bulk.store import pc
from vivit_lab.errors import DamagedFileError

__all__ = ["RunStatus", "read_status"]


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
