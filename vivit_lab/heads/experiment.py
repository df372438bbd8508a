"""The head-pruning study: score heads on some clips, prune by rank, and judge what is left on other clips."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vivit_lab._version import __version__
from vivit_lab.errors import InputError
from vivit_lab.files import read_or_set_aside, read_sealed, set_aside, write_sealed
from vivit_lab.heads._measuring import attention_bytes, clip_metrics, logits_of, speed_up
from vivit_lab.heads.clips import ClipSet, clip_set
from vivit_lab.heads.curves import PruningCurves
from vivit_lab.heads.gradient import MichelImportance
from vivit_lab.heads.importance import HeadImportance
from vivit_lab.heads.mask import HeadMask
from vivit_lab.heads.prune import head_means, prune_heads
from vivit_lab.numbers import checked_numbers
from vivit_lab.progress import progress_bar
from vivit_lab.training.config import TrainingConfig

__all__ = ["SCHEDULES", "PruningExperiment"]

SCHEDULES = ("one-shot", "iterative")
_POINT = ("removed", "metrics", "speed", "attention_memory", "parameters")
_LEAST, _MOST, _RANDOM, _RECOVERED = "least important first", "most important first", "random", "recovered"


@checked_numbers(random=(0, 1000), timing_repeats=(0, 1000), batch_size=(1, None))
@dataclass(frozen=True, eq=False)
class PruningExperiment:
    """Curves of what a model can still do as heads are pruned, least important first, against other orders.

    Heads are scored on some clips and judged on others. At each share the heads are pruned physically, so speed and
    memory are those of the smaller model, beside the full one in the same run. Beside the order of the importance run
    its reverse and ``random`` orders: an importance is worth something where it beats them. Published anchors: about
    40 % of BERT's heads and 20 % of a translation model's could go (Michel et al. 2019, one-shot, zero).

    Args:
        model: a classifier.
        data: clips, see ``clip_set``; labels are used where there are any. Without ``scoring`` they are split.
        importance: a method, such as ``MichelImportance()``; or a ``HeadImportance``, of other clips, for one-shot.
        schedule: ``"one-shot"`` ranks once; ``"iterative"`` scores the pruned model anew at each share.
        reverse: also remove the most important first.
        random: how many random orders.
        shares: shares of the heads to remove, in [0, 1]; 0 is always measured.
        scoring: clips to score heads on; None takes ``scoring_share`` of ``data``, drawn at random.
        scoring_share: in (0, 1).
        fold_mean: leave each pruned head's mean in the output bias, instead of zero.
        recover: fine-tune each pruned model (of the least-important-first order) on the scoring clips, and judge it
            again: the series ``"recovered"``.
        batch_size: clips in a pass.
        timing_repeats: passes of each model whose fastest counts; 0 measures no speed.
        seed: of the split and of the random orders.

    Raises:
        InputError: an argument is out of its range.

    Example:
        >>> curves = PruningExperiment(model, clips, MichelImportance(), random=3).run("study")
        >>> curves.plot()
    """

    model: Any
    data: Any
    importance: Any = field(default_factory=MichelImportance)
    schedule: str = "one-shot"
    reverse: bool = True
    random: int = 5
    shares: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    scoring: Any = None
    scoring_share: float = 0.5
    fold_mean: bool = False
    recover: TrainingConfig | None = None
    batch_size: int = 8
    timing_repeats: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise InputError(f"schedule={self.schedule!r} is not known; choose one of {', '.join(SCHEDULES)}")
        if isinstance(self.importance, HeadImportance) and self.schedule == "iterative":
            raise InputError("an iterative schedule scores anew at each share: give a method, not its result")
        shares = tuple(sorted({0.0, *map(float, self.shares)}))
        if len(shares) < 2 or not all(0 <= share <= 1 for share in shares):
            raise InputError(f"shares must be numbers in [0, 1], at least one above 0, got {self.shares}")
        object.__setattr__(self, "shares", shares)
        if not 0 < self.scoring_share < 1:
            raise InputError(f"scoring_share must lie in (0, 1), got {self.scoring_share}")
        for name in ("random", "timing_repeats"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise InputError(f"{name} must be an integer from 0, got {value!r}")

    def run(self, out: str | os.PathLike[str] | None = None, *, progress: bool | None = None) -> PruningCurves:
        """Run the study.

        Args:
            out: a directory for the points, each written as it is done, and for ``curves.json``. A run that was cut
                off goes on where it was; a file that is damaged is named, renamed to ``….damaged`` and computed again.
                None keeps nothing.
            progress: whether to show a bar; None shows it on a terminal.

        Raises:
            InputError: the model has no classes, the clips do not fit it, a clip is in both sets, or ``out`` holds
                another study.
            DamagedFileError: ``settings.json`` in ``out`` is damaged.
            MissingExtraError: ``recover`` was asked for without Accelerate.

        Cost: scoring (once, or at each share), and for each series and share one pass of the evaluation clips.
        """
        if out is None:
            with TemporaryDirectory() as folder:
                return self.run(folder, progress=progress)
        return _Study(self, Path(out)).run(progress)


class _Study:
    """One run."""

    def __init__(self, plan: PruningExperiment, out: Path) -> None:
        self.plan, self.model, self.out = plan, plan.model, out
        self.heads = HeadMask.of_model(plan.model.config).kept
        self.scoring, self.evaluation = _split(plan)
        self.full, self.labels = logits_of(self.model, self.evaluation, plan.batch_size)
        self.sample = self.evaluation.batch(range(1)).pixel_values
        self.full_bytes = attention_bytes(self.model, self.sample)
        self.means: Any = None
        self.settings = self._settings()
        self._prepare()

    def run(self, progress: bool | None) -> PruningCurves:
        first = self._scores(self.model, "scores", progress)
        points: list[dict[str, Any]] = []
        plan, count = self.plan, len(self.plan.shares)
        kinds = [(_LEAST, 0)] + [(_MOST, 0)] * plan.reverse + [(_RANDOM, run) for run in range(plan.random)]
        total = count * len(kinds) + (count - 1) * (plan.recover is not None)
        with progress_bar(None, progress, "pruning", "point", total=total) as bar:
            for series, run in kinds:
                removed: list[tuple[int, int]] = []
                for share in plan.shares:
                    removed, point = self._point(series, run, share, removed, first)
                    points.append(point)
                    bar.update()
                    if series == _LEAST and share and plan.recover is not None:
                        points.append(self._recovered(share, removed))
                        bar.update()
        matrix = [[None if math.isnan(value) else value for value in row] for row in first.values.tolist()]
        curves = PruningCurves(self.settings, points, matrix)
        curves.save(self.out / "curves.json")
        return curves

    def _scores(self, model: Any, name: str, progress: bool | None = False) -> HeadImportance:
        given, path = self.plan.importance, self.out / f"{name}.safetensors"
        if isinstance(given, HeadImportance):
            return given
        if path.is_file():
            try:
                return HeadImportance.load(path)
            except InputError as error:
                set_aside(path, error)
        part = path.with_suffix(f".{os.getpid()}.part")
        given(model, self.scoring, progress=progress).save(part)
        os.replace(part, path)
        return HeadImportance.load(path)

    def _point(
        self, series: str, run: int, share: float, before: list[tuple[int, int]], first: HeadImportance
    ) -> tuple[list[tuple[int, int]], dict[str, Any]]:
        """Return the heads that are removed at a share, and the point, from its file where there is one."""
        path = self.out / "points" / f"{series.replace(' ', '_')}_{run}_{round(share * 1e6):07d}.json"
        point = read_or_set_aside(path, _POINT)
        if point is None:
            removed = self._removed(series, run, share, before, first, path.stem)
            point = {"series": series, "run": run, "share": share}
            point |= self._measured(self._pruned(removed), removed) if removed else self._whole()
            write_sealed(path, point)
        return [(int(layer), head) for layer, row in point["removed"].items() for head in row], point

    def _removed(
        self, series: str, run: int, share: float, before: list[tuple[int, int]], first: HeadImportance, name: str
    ) -> list[tuple[int, int]]:
        count = round(share * len(self.heads))
        if series == _RANDOM:
            generator = torch.Generator().manual_seed(self.plan.seed * 1000 + run + 1)
            order = torch.randperm(len(self.heads), generator=generator).tolist()
            return [self.heads[place] for place in order[:count]]
        scores = first
        if self.plan.schedule == "iterative" and before and count > len(before):
            scores = self._scores(self._pruned(before), f"scores_{name}")
        gone = set(before)
        order = [head for head in scores.ranking(descending=series == _MOST) if head not in gone]
        return [*before, *order[: count - len(before)]]

    def _pruned(self, removed: list[tuple[int, int]]) -> Any:
        if self.plan.fold_mean and self.means is None:
            self.means = head_means(self.model, self.scoring, batch_size=self.plan.batch_size, progress=False)
        config = self.model.config
        mask = HeadMask.without(removed, config.num_attention_layers, config.num_attention_heads)
        return prune_heads(self.model, mask, fold_mean=self.means)

    def _whole(self) -> dict[str, Any]:
        """The point of the full model, which is compared with itself."""
        costs: dict[str, float | None] = dict.fromkeys(("speed", "attention_memory", "parameters"), 1.0)
        if not self.plan.timing_repeats:
            costs["speed"] = None
        return {"removed": {}, "metrics": clip_metrics(self.full, self.full, self.labels), **costs}

    def _measured(self, pruned: Any, removed: list[tuple[int, int]]) -> dict[str, Any]:
        logits, _ = logits_of(pruned, self.evaluation, self.plan.batch_size)
        rows: dict[str, list[int]] = {}
        for layer, head in sorted(removed):
            rows.setdefault(str(layer), []).append(head)
        return {
            "removed": rows,
            "metrics": clip_metrics(logits, self.full, self.labels),
            **speed_up(self.model, pruned, self.sample, self.plan.timing_repeats),
            "attention_memory": attention_bytes(pruned, self.sample) / self.full_bytes,
            "parameters": pruned.num_parameters() / self.model.num_parameters(),
        }

    def _recovered(self, share: float, removed: list[tuple[int, int]]) -> dict[str, Any]:
        from vivit_lab.training.loop import train

        path = self.out / "points" / f"recovered_0_{round(share * 1e6):07d}.json"
        done = read_or_set_aside(path, _POINT)
        if done is not None:
            return done
        assert self.plan.recover is not None, "it was asked for"
        pruned = self._pruned(removed)
        on_cpu = self.model.device.type == "cpu"
        folder = self.out / "recovered" / path.stem
        train(pruned, self.scoring.as_dataset(), self.plan.recover, folder, resume=True, cpu=on_cpu, progress=False)
        pruned = pruned.to(self.model.device)
        point = {"series": _RECOVERED, "run": 0, "share": share, **self._measured(pruned, removed)}
        write_sealed(path, point)
        return point

    def _settings(self) -> dict[str, Any]:
        plan, model, given = self.plan, self.model, self.plan.importance
        scored = isinstance(given, HeadImportance)
        return {
            "vivit_lab": __version__,
            "model": model.name_or_path or type(model).__name__,
            "weights": _digest(list(model.state_dict().values())),
            "layers": model.config.num_attention_layers,
            "heads": model.config.num_attention_heads,
            "heads_there": len(self.heads),
            "importance": given.method if scored else type(given).__name__,
            "importance_settings": repr(given),
            "importance_digest": _digest(given),
            "schedule": plan.schedule,
            "reverse": plan.reverse,
            "random": plan.random,
            "shares": list(plan.shares),
            "fold": "mean folded into the bias" if plan.fold_mean else "heads removed",
            "recover": None if plan.recover is None else plan.recover.to_dict(),
            "seed": plan.seed,
            "data": self.evaluation.description,
            "scoring_clips": len(self.scoring),
            "evaluation_clips": len(self.evaluation),
            "scoring_digest": _digest(self.scoring),
            "evaluation_digest": _digest(self.evaluation),
            "attn_implementation": model.attn_implementation,
            "device": model.device.type,
        }

    def _prepare(self) -> None:
        """Make the directory; refuse one of another study."""
        path = self.out / "settings.json"
        wanted = json.loads(json.dumps(self.settings, default=str))
        self.settings = wanted
        if path.is_file():
            stored = read_sealed(path, advice="put back a copy of it, or choose another directory")
            other = [name for name in wanted if stored.get(name) != wanted[name]]
            if other:
                raise InputError(
                    f"{self.out} holds another study: {', '.join(f'{n}: {stored.get(n)!r} there' for n in other)}; "
                    "choose another directory"
                )
            return
        (self.out / "points").mkdir(parents=True, exist_ok=True)
        write_sealed(path, wanted)


def _digest(value: Any) -> str:
    """Return what tells a value's numbers from others': tensors, clips and labels, wherever they are inside it."""
    digest = hashlib.blake2b(digest_size=12)
    _add(digest, value)
    return digest.hexdigest()


def _add(digest: Any, value: Any) -> None:
    digest.update(f"{type(value).__name__};".encode())
    if isinstance(value, np.ndarray) and value.dtype != object:
        value = torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, Tensor):
        digest.update(f"{tuple(value.shape)} {value.dtype};".encode())
        digest.update(value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    elif isinstance(value, (str, int, float, type(None))):
        digest.update(f"{value!r};".encode())
    else:  # the text of what has no parts is among the settings
        for part in _parts(value):
            _add(digest, part)


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, ClipSet):
        return value.batches(8)
    if is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, entry.name) for entry in fields(value)]
    if isinstance(value, dict):
        return value.items()
    return value if isinstance(value, (list, tuple)) else ()


def _split(plan: PruningExperiment) -> tuple[ClipSet, ClipSet]:
    """Return the clips to score on and those to judge on, and refuse a clip that is in both."""
    data = clip_set(plan.data)
    if plan.scoring is not None:
        scoring, evaluation = clip_set(plan.scoring), data
    elif isinstance(plan.importance, HeadImportance) and plan.recover is None and not plan.fold_mean:
        return data.take([]), data  # scored elsewhere
    else:
        count = round(plan.scoring_share * len(data))
        if not 0 < count < len(data):
            raise InputError(f"{len(data)} clips cannot be split into some to score heads on and others to judge on")
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(plan.seed)).tolist()
        scoring, evaluation = data.take(sorted(order[:count])), data.take(sorted(order[count:]))
    shared = set(scoring.digests()) & set(evaluation.digests())
    if shared:
        raise InputError(
            f"{len(shared)} clips are both among those that heads are scored on and those that judge: the curve would "
            "flatter the importance; give different clips"
        )
    return scoring, evaluation
