"""What an engine is given: shards of rows, how to decode them, the model's stage and where results go."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch
from safetensors.torch import save

from vivit_lab.bulk.decode import DecodeSpec
from vivit_lab.bulk.rows import ClipRow
from vivit_lab.bulk.run import BulkRun, part_name
from vivit_lab.bulk.schema import row_of
from vivit_lab.bulk.shard import Result, Sink, Stage
from vivit_lab.errors import DamagedFileError

__all__ = ["ClipTask", "RetryTask", "Task"]


class Task(Protocol):
    """Work that any engine can do; picklable and small."""

    def shards(self) -> list[int]:
        """Return the shards that have something left to do, from the listing of the store."""
        ...

    def rows(self, shard: int) -> list[ClipRow]:
        """Return the clips of a shard."""
        ...

    @property
    def decode(self) -> DecodeSpec:
        """How clips are read."""
        ...

    def stage(self, device: torch.device | str) -> Stage:
        """Load the model onto a device: slow, once a process."""
        ...

    def sink(self, shard: int) -> Sink:
        """Return what keeps a shard's results."""
        ...


@dataclass(frozen=True)
class ClipTask:
    """The clips of a run, each shard into its part.

    Args:
        run: the folder.
    """

    run: BulkRun

    def shards(self) -> list[int]:
        """See ``Task``."""
        done = self.run.done()
        return [shard for shard in range(self.run.shards) if shard not in done]

    def rows(self, shard: int) -> list[ClipRow]:
        """See ``Task``."""
        return self.run.rows(shard)

    @property
    def decode(self) -> DecodeSpec:
        """See ``Task``."""
        return self.run.decode

    def stage(self, device: torch.device | str) -> Stage:
        """See ``Task``."""
        return self.run.stage(device)

    def sink(self, shard: int) -> Sink:
        """See ``Task``."""
        return PartSink(self.run, self.rows(shard), shard, f"clips/{part_name(shard)}")


@dataclass(frozen=True)
class RetryTask(ClipTask):
    """Some clips once more; what comes of them goes into overlays, and no part is touched.

    Args:
        run: the folder.
        clips: shard → which; None takes all that failed.
    """

    clips: Mapping[int, Sequence[str]] | None = field(default=None, hash=False)

    @cached_property
    def _failed(self) -> Mapping[int, Sequence[str]]:
        if self.clips is not None:
            return self.clips
        found = {}
        for shard in sorted(self.run.done()):
            failed: dict[str, bool] = {}
            for name in [f"clips/{part_name(shard)}", *self._overlays.get(shard, [])]:
                try:
                    rows = self.run.store.read_table(name, ["clip_id", "status"], self.run.layout.schema)
                except DamagedFileError:
                    continue  # of a shard that this process was not asked for; else it was set aside before
                failed |= {row["clip_id"]: row["status"] == "error" for row in rows.to_pylist()}
            if any(failed.values()):
                found[shard] = [name for name, wrong in failed.items() if wrong]
        return found

    @cached_property
    def _overlays(self) -> dict[int, list[str]]:
        return self.run.overlays()

    def shards(self) -> list[int]:
        """See ``Task``."""
        return list(self._failed)

    def rows(self, shard: int) -> list[ClipRow]:
        """See ``Task``."""
        failed = set(self._failed[shard])
        return [row for row in self.run.rows(shard) if row.clip_id in failed]

    def sink(self, shard: int) -> Sink:
        """See ``Task``."""
        last = self._overlays.get(shard, [])[-1:]  # one before it may have been set aside
        number = int(last[0].removesuffix(".parquet").rpartition(".")[2]) + 1 if last else 0
        name = f"overlay/{part_name(shard).removesuffix('.parquet')}.{number:03d}.parquet"
        return PartSink(self.run, self.rows(shard), shard, name, retries=True)


class PartSink:
    """Writes the part of a shard, and before it the hidden states that it names.

    Args:
        run: the folder.
        rows: the shard's clips.
        shard: its number.
        name: of the part.
        retries: whether the clips failed before.
    """

    def __init__(self, run: BulkRun, rows: Sequence[ClipRow], shard: int, name: str, *, retries: bool = False) -> None:
        self.run, self.rows, self.shard, self.name = run, rows, shard, name
        self.parts: Sequence[str] = [name]
        self.retries = retries

    def __call__(self, part: str, results: Sequence[Result]) -> None:
        """Write the part; see ``Sink``."""
        rows = [
            row_of(clip, self.run.class_of(clip.label), result) for clip, result in zip(self.rows, results, strict=True)
        ]
        hidden = {row["clip_id"]: row.pop("hidden") for row in rows if "hidden" in row}
        about = [row.pop("about") for row in rows if "about" in row]
        file, digest = self._write_hidden(hidden) if hidden else (None, None)
        for row in rows:
            row["hidden_file"] = file if row["clip_id"] in hidden else None
        table = self.run.layout.table(rows)
        known = {"vivit_lab.maps": json.dumps(about[0] if about else {}), "vivit_lab.written": str(time.time())}
        if file is not None:
            known["vivit_lab.hidden"] = json.dumps({"file": file, "sha256": digest})
        table = table.replace_schema_metadata(known)
        self.run.store.write_table(part, table, split=self.run.layout.split)

    def _write_hidden(self, hidden: dict[str, torch.Tensor]) -> tuple[str, str]:
        """Return the file's name and sha256."""
        name = f"hidden/part-{self.shard:06d}-{uuid.uuid4().hex}.safetensors"
        tensors = {clip: states.contiguous() for clip, states in hidden.items()}
        content = save(tensors, metadata={"hidden_states": self.run.job.hidden_states})
        self.run.store.write(name, content)
        return name, hashlib.sha256(content).hexdigest()
