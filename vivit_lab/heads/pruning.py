"""Taking heads out of a model for good; and the study of what is left as heads go."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vivit_lab._version import __version__
from vivit_lab.drawing import draw
from vivit_lab.errors import InputError, MissingExtraError
from vivit_lab.families.vivit import VivitForVideoClassification, VivitModel
from vivit_lab.files import read_json, read_or_set_aside, read_sealed, set_aside, write_sealed
from vivit_lab.heads.clips import ClipSet, clip_set
from vivit_lab.heads.gradient import MichelImportance
from vivit_lab.heads.importance import HeadImportance
from vivit_lab.heads.mask import HeadMask
from vivit_lab.model.attention import AttentionParts, heads_left, keep_heads
from vivit_lab.numbers import checked_numbers
from vivit_lab.progress import progress_bar
from vivit_lab.records.attention import evaluating
from vivit_lab.statistics.intervals import BootstrapInterval, bootstrap_interval
from vivit_lab.training.config import TrainingConfig

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

__all__ = [
    "COSTS",
    "METRICS",
    "SCHEDULES",
    "Curve",
    "PruningCurves",
    "PruningExperiment",
    "attention_bytes",
    "clip_metrics",
    "head_means",
    "logits_of",
    "prune_heads",
    "speed_up",
]

Model = TypeVar("Model", VivitModel, VivitForVideoClassification)


def prune_heads(
    model: Model,
    heads: HeadMask | Mapping[int, Iterable[int]],
    *,
    fold_mean: Tensor | None = None,
) -> Model:
    """Return a new model without some heads; the given one stays as it is.

    From each layer go the heads' rows of W_q, W_k, W_v with their biases and the heads' columns of W_o; b_o stays, so
    that the model computes what a head mask of 0 gives. With ``fold_mean`` it computes what mean ablation gives:
    b_o ← b_o + Σ_h W_o^h·μ_h (μ_h the head's mean context, one vector for all tokens). Zero ablation depends on how a
    constant is shared between value bias and output bias; mean ablation does not.

    A layer may lose all its heads; its attention branch is then the constant b_o, and costs nothing. Hooks, records,
    masks and methods go on working. Heads keep the numbers they were born with: a pruned model can be pruned again by
    the same numbers, takes head masks of the whole model's shape, and its records show heads that are gone as masked
    out. Hook points and ``output_attentions`` have the heads that are there, in order (``attention.kept_heads``).

    Attention's cost and memory fall in proportion to its heads; LayerNorms and MLPs stay.

    Args:
        model: a ViViT; it may have been pruned before.
        heads: layer → heads to remove (negative layers count from the last; heads that are gone already are passed
            over), or a mask of zeros and ones.
        fold_mean: (layers, heads, d_head) mean contexts, as ``head_means`` gives; None removes the heads altogether.

    Returns:
        A model of the same class, dtype, device, mode and attention implementation. ``save_pretrained`` writes it with
        ``pruned_heads`` in config.json.

    Raises:
        InputError: there is no such head, the mask scales heads or has another shape, or ``fold_mean`` does.

    Example:
        >>> smaller = prune_heads(model, {0: [1, 3], 5: range(12)})
    """
    config = model.config
    chosen = _chosen(heads, config.num_attention_layers, config.num_attention_heads)
    if fold_mean is not None:
        wanted = (config.num_attention_layers, config.num_attention_heads, config.head_dim)
        if tuple(fold_mean.shape) != wanted:
            raise InputError(f"fold_mean must be (layers, heads, d_head) {wanted}, got {tuple(fold_mean.shape)}")
    smaller = copy.deepcopy(model)
    gone = {layer: set(row) for layer, row in config.pruned_heads.items()}
    for layer, row in chosen.items():
        removed = [head for head in heads_left(config, layer) if head in row]
        attention = smaller.attention_layers[layer]
        if fold_mean is not None:
            _fold(attention, removed, fold_mean[layer])
        keep_heads(attention, [head for head in heads_left(config, layer) if head not in row])
        gone[layer] = gone.get(layer, set()) | row
    smaller.config = config.replace(pruned_heads={layer: tuple(row) for layer, row in gone.items()})
    return smaller


@torch.no_grad()
def _fold(attention: Any, heads: list[int], means: Tensor) -> None:
    places = range(attention.num_heads) if attention.kept_heads is None else attention.kept_heads
    for head in heads:
        place = list(places).index(head) * attention.head_dim
        columns = attention.o.weight.narrow(1, place, attention.head_dim)
        mean = means[head].to(columns.device)
        # one rounding at the end, also where the parameters are half precision
        attention.o.bias.copy_((attention.o.bias.double() + columns.double() @ mean.double()).to(columns.dtype))


def _chosen(heads: Any, layers: int, count: int) -> dict[int, set[int]]:
    """Return layer → heads to remove, counted from 0."""
    if isinstance(heads, HeadMask):
        if heads.shape != (layers, count):
            raise InputError(f"the mask is of {heads.shape} (layers, heads), the model has {(layers, count)}")
        if not heads.is_binary:
            raise InputError("a mask that scales heads cannot be pruned: wanted zeros and ones alone")
        heads = heads.pruned
    if not isinstance(heads, Mapping):
        raise InputError(f"wanted a HeadMask or layer → heads, got {type(heads).__name__}")
    pruned = HeadMask.without(heads, layers, count).pruned
    return {layer: set(row) for layer, row in pruned.items()}


@checked_numbers(batch_size=(1, None))
def head_means(
    model: VivitModel | VivitForVideoClassification,
    clips: Any,
    *,
    batch_size: int = 8,
    progress: bool | None = None,
) -> Float[Tensor, "layer head d_head"]:
    """Return each head's mean context over clips and tokens, μ_h, for ``prune_heads(fold_mean=…)``.

    Args:
        model: a ViViT.
        clips: pixel values, prepared clips or a data set; see ``clip_set``.
        batch_size: clips in a forward pass.
        progress: whether to show a bar; None shows it on a terminal.

    Returns:
        (layers, heads, d_head) float32 on the model's device; zeros for heads that were pruned.

    Raises:
        InputError: the clips do not fit the model.

    Cost: one forward pass a clip.
    """
    found = clip_set(clips)
    layers, config = len(model.blocks), model.config
    sums = torch.zeros(layers, config.num_attention_heads, config.head_dim, dtype=torch.float64, device="cpu")

    def collect(layer: int, parts: AttentionParts) -> None:
        sums[layer] += parts.context.double().mean(dim=2).sum(dim=0).cpu()

    with evaluating(model), torch.no_grad():
        for batch in found.batches(batch_size, progress, "mean contexts"):
            model.encode(batch.pixel_values.to(model.device), None, False, False, None, collect=collect)
    return (sums / len(found)).float().to(model.device)


#: Name → what it is, and whether more is better.
METRICS = {
    "top1": ("share of clips named rightly", True),
    "target_logit": ("logit of the label (of the full model's class where labels are not known)", True),
    "kl": ("KL divergence from the full model's distribution over the classes, nats", False),
    "agreement": ("share of clips named as the full model names them", True),
}


def logits_of(model: Any, clips: ClipSet, batch_size: int) -> tuple[Tensor, Tensor | None]:
    """Return the logits (clip, class) float32 on the CPU, and the labels where they are known.

    Raises:
        InputError: the model has no classifier, or only some clips have labels.
    """
    if not model.config.num_labels:
        raise InputError("a pruning curve wants a classifier, the model has no classes")
    logits, labels = [], []
    with evaluating(model), torch.no_grad():
        for batch in clips.batches(batch_size):
            output = model(batch.pixel_values.to(model.device), interpolate_pos_encoding=None)
            logits.append(output.logits.float().cpu())
            labels.append(batch.labels)
    known = [label for label in labels if label is not None]
    if known and len(known) < len(labels):
        raise InputError("some clips have labels and others have none; give all or none")
    return torch.cat(logits), torch.cat(known).cpu() if known else None


def clip_metrics(logits: Tensor, full: Tensor, labels: Tensor | None) -> dict[str, list[float | None]]:
    """Return each of ``METRICS`` clip by clip; None where the label is not known.

    Args:
        logits: (clip, class) of the pruned model.
        full: (clip, class) of the full one.
        labels: (clip,) or None.
    """
    named, before = logits.argmax(dim=-1), full.argmax(dim=-1)
    target = before if labels is None else labels.long()
    log_p, log_q = full.double().log_softmax(dim=-1), logits.double().log_softmax(dim=-1)
    found: dict[str, Tensor] = {
        "target_logit": logits.gather(1, target.unsqueeze(1)).squeeze(1),
        "kl": (log_p.exp() * (log_p - log_q)).sum(dim=-1).clamp_min(0),
        "agreement": (named == before).double(),
    }
    right: list[float | None] = [None] * len(logits) if labels is None else (named == labels).double().tolist()
    return {"top1": right, **{name: [float(f"{value:.7g}") for value in row.tolist()] for name, row in found.items()}}


def speed_up(full: Any, pruned: Any, pixel_values: Tensor, repeats: int) -> dict[str, float | None]:
    """Return the seconds of one forward pass of both models, taken in turn, and their ratio.

    The minimum of ``repeats`` each, so that a busy machine hurts both alike. None with ``repeats=0``.
    """
    if not repeats:
        return {"full_seconds": None, "seconds": None, "speed": None}
    best = {"full_seconds": float("inf"), "seconds": float("inf")}
    pixels = pixel_values.to(full.device)
    with evaluating(full), evaluating(pruned), torch.inference_mode():
        for _ in range(repeats):
            for name, model in (("full_seconds", full), ("seconds", pruned)):
                _wait(pixels.device)
                start = time.perf_counter()
                model(pixels, interpolate_pos_encoding=None)
                _wait(pixels.device)
                best[name] = min(best[name], time.perf_counter() - start)
    return {**best, "speed": best["full_seconds"] / best["seconds"]}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def attention_bytes(model: Any, pixel_values: Tensor, points: Sequence[str] = ("q", "k", "v", "z")) -> int:
    """Return the bytes of the queries, keys, values and contexts of all layers in one pass, counted as they pass by."""
    total = 0

    def count(tensor: Tensor, hook: Any) -> None:
        nonlocal total
        total += tensor.numel() * tensor.element_size()

    names = [name for name in model.hook_names if name.rpartition(".hook_")[2] in points]
    with evaluating(model), torch.no_grad():
        model.run_with_hooks(pixel_values.to(model.device), fwd_hooks=[(name, count) for name in names])
    return total


_FORMAT = "vivit_lab pruning curves 1"

#: Name → what it is. Relative to the full model, measured in the same run.
COSTS = {
    "speed": "forward passes in the time of one of the full model",
    "attention_memory": "bytes of queries, keys, values and contexts, as a share of the full model's",
    "parameters": "share of the full model's parameters",
}


@dataclass(frozen=True)
class Curve:
    """One series of points.

    Args:
        shares: shares of the heads that were removed, rising.
        mean: of the metric over clips (over clips and runs, for random orders).
        low: lower end of the bootstrap interval over clips; NaN for costs.
        high: its upper end.
        runs: for random orders, the mean of each run at each share (run, share); None otherwise.
    """

    shares: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    runs: tuple[tuple[float, ...], ...] | None = None


@dataclass(frozen=True, eq=False)
class PruningCurves:
    """The result of a ``PruningExperiment``.

    Args:
        settings: what was run, JSON-able.
        points: for each point its ``series``, ``run``, ``share``, ``removed`` (layer → heads), ``metrics`` (name → a
            number for each evaluation clip) and costs.
        importance: (layers, heads) scores by which heads were ordered at first, None for heads that were not there.
    """

    settings: dict[str, Any]
    points: list[dict[str, Any]]
    importance: list[list[float | None]] = field(default_factory=list)

    @property
    def series(self) -> list[str]:
        """The orders in which heads were removed."""
        return list(dict.fromkeys(point["series"] for point in self.points))

    @checked_numbers()
    def at(self, series: str, share: float, run: int = 0) -> dict[str, Any]:
        """Return the point of a series that is nearest to a share.

        Raises:
            InputError: there is no such series or run.
        """
        found = [point for point in self._of(series) if point["run"] == run]
        if not found:
            raise InputError(f"series {series!r} has no run {run}")
        return min(found, key=lambda point: abs(point["share"] - share))

    @checked_numbers()
    def mask(self, series: str, share: float, run: int = 0) -> HeadMask:
        """Return the mask of that point."""
        point = self.at(series, share, run)
        layers, heads = self.settings["layers"], self.settings["heads"]
        return HeadMask.without({int(layer): row for layer, row in point["removed"].items()}, layers, heads)

    @checked_numbers()
    def curve(self, series: str, name: str, *, level: float = 0.95, seed: int = 0) -> Curve:
        """Return a metric or cost along a series.

        Args:
            series: one of ``series``.
            name: one of ``METRICS`` or ``COSTS``.
            level: of the bootstrap interval over evaluation clips.
            seed: of its draws.

        Raises:
            InputError: there is no such series, metric or cost.
        """
        if name not in METRICS and name not in COSTS:
            raise InputError(f"{name!r} is not known; there are {', '.join([*METRICS, *COSTS])}")
        points = self._of(series)
        shares = tuple(sorted({point["share"] for point in points}))
        runs = sorted({point["run"] for point in points})
        table = {(point["run"], point["share"]): point for point in points}
        rows = [[_values(table[run, share], name) for share in shares] for run in runs]
        found: list[BootstrapInterval] = []
        for place in range(len(shares)):
            values = np.mean([row[place] for row in rows], axis=0)
            if name in METRICS:
                found.append(bootstrap_interval(values, level=level, seed=seed))
            else:
                found.append(BootstrapInterval(float(values[0]), math.nan, math.nan, 1))
        means = tuple(tuple(float(np.mean(values)) for values in row) for row in rows)
        ends = (tuple(getattr(each, end) for each in found) for end in ("mean", "low", "high"))
        return Curve(shares, *ends, runs=means if len(runs) > 1 else None)

    def _of(self, series: str) -> list[dict[str, Any]]:
        found = [point for point in self.points if point["series"] == series]
        if not found:
            raise InputError(f"there is no series {series!r}; there are {', '.join(self.series)}")
        return found

    def to_pandas(self) -> pandas.DataFrame:
        """Return a row for each series and share: each metric with its interval, and the costs.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise MissingExtraError("to_pandas needs pandas: pip install 'vivit-lab[lab]'") from error
        return pandas.DataFrame(self.rows())

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of ``to_pandas`` as dicts."""
        found = []
        for series in self.series:
            curves = {name: self.curve(series, name) for name in (*METRICS, *COSTS)}
            for place, share in enumerate(next(iter(curves.values())).shares):
                row: dict[str, Any] = {"series": series, "share": share}
                for name, curve in curves.items():
                    row[name] = curve.mean[place]
                    if name in METRICS:
                        row |= {f"{name}_low": curve.low[place], f"{name}_high": curve.high[place]}
                found.append(row)
        return found

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything as one JSON file, whole or not at all."""
        path = Path(path)
        contents = {"format": _FORMAT, "settings": self.settings, "importance": self.importance, "points": self.points}
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        part.write_text(json.dumps(contents, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(part, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PruningCurves:
        """Read what ``save`` wrote.

        Raises:
            InputError: the file holds no pruning curves.
            FileNotFoundError: there is no such file.
        """
        try:
            contents = read_json(path)
            if contents["format"] == _FORMAT:
                return cls(contents["settings"], contents["points"], contents["importance"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} holds no pruning curves: {error}") from error
        raise InputError(f"{path} holds {contents['format']!r}, wanted {_FORMAT!r}")

    def plot(self) -> Figure:
        """Return a matplotlib figure: a panel for each metric, speed and memory, with intervals.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        return draw(self, "figure")

    def plotly(self) -> Any:
        """Return the same as a plotly figure.

        Raises:
            MissingExtraError: plotly is not installed.
        """
        return draw(self, "plotly")

    def __repr__(self) -> str:
        clips = self.settings.get("evaluation_clips")
        return f"PruningCurves({', '.join(self.series)}; {len(self.points)} points, {clips} evaluation clips)"

    def _repr_html_(self) -> str:
        return draw(self)


def _values(point: dict[str, Any], name: str) -> np.ndarray:
    given = point["metrics"][name] if name in METRICS else [point[name]]
    return np.array([math.nan if value is None else value for value in given], dtype=np.float64)


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
