"""What a training run keeps on disk, and how a run that was cut off is found again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from vivit_lab.errors import ConfigError, DamagedCheckpointError, DamagedFileWarning, InputError
from vivit_lab.training.config import TrainingConfig

__all__ = ["RunFiles", "read_log"]

_DRAFT = ".part"


class RunFiles:
    """The files of one run.

    Args:
        directory: of the run.
        config: what the run does.
    """

    def __init__(self, directory: Path, config: TrainingConfig) -> None:
        self.directory, self.config = directory, config

    @property
    def checkpoints(self) -> list[Path]:
        """The checkpoints that are whole, oldest first."""
        found = (self.directory / "checkpoints").glob("step-*/run.json")
        return sorted(path.parent for path in found if not path.parent.name.endswith(_DRAFT))

    def newest(self, *, resume: bool) -> Path | None:
        """Return the checkpoint to continue from, or None to begin anew; nothing is written.

        Args:
            resume: whether to continue.

        Raises:
            InputError: the directory holds a run and ``resume`` was not asked for.
            ConfigError: its configuration was another.
            DamagedCheckpointError: a file of the checkpoint is cut off, altered or missing.
        """
        log, newest = self.directory / "log.jsonl", (self.checkpoints or [None])[-1]
        if not resume and (newest is not None or (log.exists() and log.stat().st_size)):
            raise InputError(
                f"{self.directory} holds a training run: continue it (resume=True), or name another directory"
            )
        if newest is not None:
            stored = self._run_of(newest)
            if differences := self.config.differences(stored["config"]):
                raise ConfigError(
                    f"the run in {self.directory} cannot continue with other settings ({'; '.join(differences)}); "
                    "name another directory"
                )
            self._check_files(newest, stored.get("files", {}))
        return newest

    def damaged(self, checkpoint: Path, name: str, why: object) -> DamagedCheckpointError:
        """Return the error that names a damaged file of a checkpoint, and says what to do.

        Args:
            checkpoint: its directory.
            name: of the file.
            why: what is wrong.
        """
        older = [path for path in self.checkpoints if path.name < checkpoint.name]
        then = f"continues from {older[-1].name}" if older else "begins anew"
        return DamagedCheckpointError(
            f"{checkpoint / name} is damaged ({why}): the run cannot continue from there. Remove {checkpoint}, and the "
            f"same command {then}"
        )

    def _run_of(self, checkpoint: Path) -> dict[str, Any]:
        """Return what a checkpoint's ``run.json`` says."""
        try:
            run = json.loads((checkpoint / "run.json").read_text(encoding="utf-8"))
            return {**run, "step": int(run["step"]), "seconds": float(run["seconds"]), "config": dict(run["config"])}
        except (ValueError, KeyError, TypeError) as error:
            raise self.damaged(checkpoint, "run.json", error) from error

    def _check_files(self, checkpoint: Path, digests: dict[str, str]) -> None:
        """Raise if a file is not the one that was written; checkpoints of earlier versions have no digests."""
        for name, digest in digests.items():
            path = checkpoint / name
            if not path.is_file():
                raise self.damaged(checkpoint, name, "it is missing")
            if _sha256(path) != digest:
                raise self.damaged(checkpoint, name, f"its {path.stat().st_size} bytes are not what was written")

    def prepare(self, newest: Path | None, seconds: float) -> None:
        """Make the directory, and drop the log's lines after the checkpoint: they will be written again.

        Args:
            newest: the checkpoint.
            seconds: spent before, which the lines that are dropped may be the only ones to know.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "spent.json").write_text(json.dumps({"seconds": seconds}) + "\n", encoding="utf-8")
        log, step = self.directory / "log.jsonl", 0 if newest is None else self.progress_of(newest)[0]
        kept = [json.dumps(line) + "\n" for line in _lines(log) if line["step"] <= step]
        draft = log.with_name(log.name + _DRAFT)
        draft.write_text("".join(kept), encoding="utf-8")
        draft.replace(log)  # at once, so that a process that is killed here loses no line

    def spent(self, newest: Path | None) -> float:
        """Return the seconds that the run has taken so far, in all its legs.

        What was computed after the checkpoint counts too, to the last line of the log: it was time spent.

        Args:
            newest: the checkpoint that the run goes on from.
        """
        known = [0.0 if newest is None else self.progress_of(newest)[1]]
        known += [line["seconds"] for line in _lines(self.directory / "log.jsonl", quiet=True) if "seconds" in line]
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            known.append(float(json.loads((self.directory / "spent.json").read_text(encoding="utf-8"))["seconds"]))
        return max(known)

    def best(self, step: int) -> tuple[float, int] | None:
        """Return the highest accuracy of an evaluation up to a step, and its own step; the first of equals."""
        lines = _lines(self.directory / "log.jsonl", quiet=True)
        scores = [(line["evaluation_accuracy"], line["step"]) for line in lines if "evaluation_accuracy" in line]
        return max(
            (score for score in scores if score[1] <= step), key=lambda score: (score[0], -score[1]), default=None
        )

    def progress_of(self, checkpoint: Path) -> tuple[int, float]:
        """Return the steps that were done at a checkpoint, and the seconds spent."""
        run = self._run_of(checkpoint)
        return run["step"], run["seconds"]

    def log(self, line: dict[str, Any]) -> None:
        """Add a line to the log."""
        with (self.directory / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def checkpoint(self, step: int) -> tuple[Path, Path]:
        """Return where the checkpoint of a step goes, and where to write it first."""
        target = self.directory / "checkpoints" / f"step-{step:08d}"
        return target, target.with_name(target.name + _DRAFT)

    def seal(self, draft: Path, target: Path, step: int, seconds: float) -> None:
        """Make a checkpoint that has been written whole the newest, and drop the oldest."""
        files = {path.relative_to(draft).as_posix(): _sha256(path) for path in draft.rglob("*") if path.is_file()}
        contents = {"step": step, "seconds": seconds, "config": self.config.to_dict(), "files": files}
        (draft / "run.json").write_text(json.dumps(contents, indent=1) + "\n", encoding="utf-8")
        draft.rename(target)
        for old in self.checkpoints[: -self.config.keep_checkpoints]:
            shutil.rmtree(old)

    def finish(self, steps: int, seconds: float, accuracy: float | None, best: tuple[float, int] | None = None) -> None:
        """Write down what the run was and what it came to."""
        contents = {"config": self.config.to_dict(), "steps": steps, "seconds": seconds, "accuracy": accuracy}
        if best is not None:
            contents["best"] = {"accuracy": best[0], "step": best[1], "directory": "best"}
        (self.directory / "training.json").write_text(json.dumps(contents, indent=1) + "\n", encoding="utf-8")


def read_log(directory: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Return the lines of a run's ``log.jsonl``.

    A line that is damaged is left out, and told by a warning.

    Raises:
        InputError: there is no log.
    """
    path = Path(directory) / "log.jsonl"
    if not path.is_file():
        raise InputError(f"there is no {path}; wanted the directory of a training run")
    return _lines(path)


def _lines(path: Path, *, quiet: bool = False) -> list[dict[str, Any]]:
    """Return the lines of a log that are whole; of its last one a run that was killed may have written a part."""
    found: list[dict[str, Any]] = []
    if not path.exists():
        return found
    text = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    for number, line in enumerate(text, 1):
        try:
            value = json.loads(line)
            found.append({**value, "step": int(value["step"])})
        except (ValueError, TypeError, KeyError):
            if line.endswith("\n") and not quiet:
                warnings.warn(f"line {number} of {path} is damaged and left out", DamagedFileWarning, stacklevel=3)
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
