"""What a training run keeps on disk, and how a run that was cut off is found again."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from vivit_lab.errors import ConfigError, InputError
from vivit_lab.files import read_json
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
        """
        log, newest = self.directory / "log.jsonl", (self.checkpoints or [None])[-1]
        if not resume and (newest is not None or (log.exists() and log.stat().st_size)):
            raise InputError(
                f"{self.directory} holds a training run: continue it (resume=True), or name another directory"
            )
        if newest is not None:
            stored = read_json(newest / "run.json")["config"]
            if differences := self.config.differences(stored):
                raise ConfigError(
                    f"the run in {self.directory} cannot continue with other settings ({'; '.join(differences)}); "
                    "name another directory"
                )
        return newest

    def prepare(self, newest: Path | None) -> None:
        """Make the directory, and drop the log's lines after the checkpoint: they will be written again."""
        self.directory.mkdir(parents=True, exist_ok=True)
        log, step = self.directory / "log.jsonl", 0 if newest is None else self.progress_of(newest)[0]
        lines = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.exists() else []
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        draft = log.with_name(log.name + _DRAFT)
        draft.write_text("".join(kept), encoding="utf-8")
        draft.replace(log)  # at once, so that a process that is killed here loses no line

    def best(self, step: int) -> tuple[float, int] | None:
        """Return the highest accuracy of an evaluation up to a step, and its own step; the first of equals."""
        log = self.directory / "log.jsonl"
        text = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.exists() else []
        lines = [json.loads(line) for line in text if line.endswith("\n")]
        scores = [(line["evaluation_accuracy"], line["step"]) for line in lines if "evaluation_accuracy" in line]
        return max(
            (score for score in scores if score[1] <= step), key=lambda score: (score[0], -score[1]), default=None
        )

    def progress_of(self, checkpoint: Path) -> tuple[int, float]:
        """Return the steps that were done at a checkpoint, and the seconds spent."""
        run = read_json(checkpoint / "run.json")
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
        contents = {"step": step, "seconds": seconds, "config": self.config.to_dict()}
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

    Raises:
        InputError: there is no log.
    """
    path = Path(directory) / "log.jsonl"
    if not path.is_file():
        raise InputError(f"there is no {path}; wanted the directory of a training run")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
