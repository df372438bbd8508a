"""How much each head matters: the result of every method of importance, and what the methods share."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from vivit_lab.errors import InputError, MissingExtraError
from vivit_lab.families.vivit import VivitForVideoClassification, VivitModel
from vivit_lab.files import parse_json, stored_fields
from vivit_lab.heads.clips import ClipBatch, clip_set
from vivit_lab.heads.mask import HeadMask
from vivit_lab.html import facts_table, report_html, tiles
from vivit_lab.model.attention import present_heads
from vivit_lab.numbers import MOST, checked_numbers
from vivit_lab.records.attention import evaluating
from vivit_lab.records.targets import BoundTarget, all_names, bind_target
from vivit_lab.records.values import frozen
from vivit_lab.statistics.intervals import bootstrap_interval, paired_difference
from vivit_lab.statistics.ranks import benjamini_hochberg, spearman

if TYPE_CHECKING:
    import pandas

__all__ = [
    "LOSS",
    "HeadImportance",
    "Measured",
    "RankStability",
    "bind_measure",
    "made_importance",
    "mask_gradients",
]

_FORMAT = "vivit_lab head importance 1"


@dataclass(frozen=True)
class RankStability:
    """How alike the rankings of two samples of clips are.

    Args:
        kind: ``"split-half"``: Spearman's correlation of two halves of the clips. ``"bootstrap"``: of a draw with
            replacement and all clips, which share clips and so agree more.
        mean: over the repeats, in [-1, 1].
        low: the 2.5th percentile of the repeats.
        high: the 97.5th.
        n: repeats that had an order.
    """

    kind: str
    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}] ({self.kind}, {self.n} repeats)"


@dataclass(frozen=True, eq=False)
class HeadImportance:
    """A number for each head of a model, with one for each clip behind it.

    Args:
        per_example: (n, layers, heads) float32; what each clip says. NaN for heads that were pruned.
        method: name of the method.
        parameters: its settings, JSON-able.
        unit: what a number is, such as ``"|change of the loss|"``.
        target: what was asked about, in words.
        signed: whether a number may be negative and 0 means no effect, so that effects can be tested.
        layer_norm: divide the values of each layer by their L2 norm, for a ranking across layers (Michel et al. 2019;
            Molchanov et al. 2017).
        model_id: which model.
        rows: what a row of ``per_example`` is, ``"clip"`` or, for learned gates, ``"run"``.
    """

    per_example: Float[Tensor, "example layer head"]
    method: str
    parameters: dict[str, Any] = field(default_factory=dict)
    unit: str = ""
    target: str | None = None
    signed: bool = False
    layer_norm: bool = False
    model_id: str | None = None
    rows: str = "clip"

    def __post_init__(self) -> None:
        if self.per_example.ndim != 3 or not len(self.per_example):
            raise InputError(f"per_example must be (n, layers, heads), n > 0; got {tuple(self.per_example.shape)}")

    def __len__(self) -> int:
        return len(self.per_example)

    @property
    def shape(self) -> tuple[int, int]:
        """(layers, heads)."""
        return int(self.per_example.shape[1]), int(self.per_example.shape[2])

    @property
    def values(self) -> Float[Tensor, "layer head"]:
        """(layers, heads) the mean over the examples; divided by each layer's L2 norm where ``layer_norm`` is set."""
        return self._reduce(self.per_example)

    def _reduce(self, rows: Tensor) -> Tensor:
        values = rows.double().mean(dim=0)
        if self.layer_norm:
            norm = values.nan_to_num(0).square().sum(dim=-1, keepdim=True).sqrt()
            values = torch.where(norm > 0, values / norm.clamp_min(torch.finfo(norm.dtype).tiny), values)
        return values.float()

    def normalised(self) -> HeadImportance:
        """Return the same with each layer's values divided by their L2 norm."""
        return replace(self, layer_norm=True)

    @checked_numbers(resamples=(1, MOST))
    def interval(self, *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Return the bootstrap interval of each value: the lower and upper ends, (layers, heads) each.

        Examples are drawn with replacement; with ``layer_norm`` each draw is normalised anew. NaN with one example.

        Args:
            level: share of the draws inside, in (0, 1).
            resamples: draws.
            seed: of the draws.

        Raises:
            InputError: ``level`` or ``resamples`` is out of range.
        """
        flat = self.per_example.flatten(1)
        if not self.layer_norm or len(self) < 2:
            found = [bootstrap_interval(flat[:, i], level=level, resamples=resamples, seed=seed) for i in _all(flat)]
            return tuple(
                torch.tensor([getattr(each, end) for each in found]).view(self.shape) for end in ("low", "high")
            )  # type: ignore[return-value]
        bootstrap_interval([0.0], level=level, resamples=resamples)  # refuses what is out of range
        draws = torch.stack([self._reduce(self.per_example[index]) for index in self._draws(resamples, seed)])
        ends = torch.tensor([(1 - level) / 2, (1 + level) / 2])
        low, high = draws.flatten(1).nanquantile(ends, dim=0)
        gone = self.values.isnan()
        return low.view(self.shape).masked_fill(gone, torch.nan), high.view(self.shape).masked_fill(gone, torch.nan)

    def _draws(self, count: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(len(self), (count, len(self)), generator=generator)

    @checked_numbers(repeats=(1, MOST))
    def rank_stability(
        self, kind: Literal["split-half", "bootstrap"] = "split-half", *, repeats: int = 200, seed: int = 0
    ) -> RankStability:
        """Return how alike the rankings of two samples of these clips are, by Spearman's correlation.

        Args:
            kind: see ``RankStability``.
            repeats: how many splits or draws.
            seed: of them.

        Raises:
            InputError: the kind is not known, or there are fewer than two examples.
        """
        if kind not in ("split-half", "bootstrap"):
            raise InputError(f"kind={kind!r} is not known; choose 'split-half' or 'bootstrap'")
        if len(self) < 2:
            raise InputError(f"rank stability wants two examples at least, there is {len(self)}")
        if kind == "bootstrap":
            pairs = [(self.per_example[index], self.per_example) for index in self._draws(repeats, seed)]
        else:
            generator = torch.Generator().manual_seed(seed)
            orders = [torch.randperm(len(self), generator=generator) for _ in range(repeats)]
            half = len(self) // 2
            pairs = [(self.per_example[order[:half]], self.per_example[order[half : 2 * half]]) for order in orders]
        found = torch.tensor([_correlation(self._reduce(a), self._reduce(b)) for a, b in pairs])
        found = found[~found.isnan()].double()
        if not len(found):
            return RankStability(kind, float("nan"), float("nan"), float("nan"), 0)
        low, high = found.quantile(torch.tensor([0.025, 0.975], dtype=found.dtype)).tolist()
        return RankStability(kind, float(found.mean()), low, high, len(found))

    def spearman(self, other: HeadImportance) -> float:
        """Return the rank correlation with another importance of the same heads, in [-1, 1].

        Heads that are missing from either are left out; NaN where one has no order.

        Raises:
            InputError: the other is of a model of another shape.
        """
        if self.shape != other.shape:
            raise InputError(f"two importances of one shape are wanted, got {self.shape} and {other.shape}")
        return _correlation(self.values, other.values)

    def ranking(self, *, descending: bool = True) -> list[tuple[int, int]]:
        """Return the (layer, head) of all heads that are there, the most important first.

        Args:
            descending: False begins with the least important one. Among equals the earlier layer and head is first.
        """
        flat = self.values.double().flatten()
        signed = -flat if descending else flat
        order = [index for index in signed.argsort(stable=True).tolist() if not flat[index].isnan()]
        return [divmod(index, self.shape[1]) for index in order]

    def mask(self, **how: Any) -> HeadMask:
        """Return the mask that keeps the most important heads; ``how`` is as for ``HeadMask.from_scores``."""
        return HeadMask.from_scores(self.values, **how)

    @checked_numbers(resamples=(1, MOST))
    def p_values(self, *, resamples: int = 4000, seed: int = 0) -> Tensor:
        """Return the two-sided sign-flip p-value of each head, (layers, heads) float64: is its mean effect 0?

        Raises:
            InputError: the numbers have no sign, so that 0 is no effect among others.
        """
        if not self.signed:
            raise InputError(
                f"{self.method} gives sizes, which are above 0 by chance too: test a signed importance, such as "
                "SingleHeadAblation()"
            )
        flat = self.per_example.flatten(1).double()
        zero = torch.zeros(len(self))
        found = [paired_difference(flat[:, i], zero, resamples=resamples, seed=seed).p for i in _all(flat)]
        return torch.tensor(found, dtype=torch.float64).view(self.shape)

    @checked_numbers()
    def which_matter(self, rate: float = 0.05, **options: Any) -> HeadMask:
        """Return the heads whose mean effect is not 0, chance findings among them held to a share of ``rate``.

        Sign-flip p-values, corrected over all heads by Benjamini & Hochberg (1995).

        Args:
            rate: expected share of chance findings, in (0, 1).
            **options: as for ``p_values``.

        Raises:
            InputError: the rate is out of range, or the numbers have no sign.
        """
        if not 0 < rate < 1:
            raise InputError(f"rate must lie in (0, 1), got {rate}")
        q_values = benjamini_hochberg(self.p_values(**options).numpy())
        return HeadMask.from_scores(np.where(q_values <= rate, 1.0, 0.0), threshold=0.5)

    def to_pandas(self) -> pandas.DataFrame:
        """Return a row a head: layer, head, value, low, high, and its rank (1 the most important).

        Raises:
            MissingExtraError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise MissingExtraError("to_pandas needs pandas: pip install 'vivit-lab[lab]'") from error
        low, high = self.interval()
        ranks = {pair: place for place, pair in enumerate(self.ranking(), start=1)}
        rows = [
            {
                "layer": layer,
                "head": head,
                "value": float(self.values[layer, head]),
                "low": float(low[layer, head]),
                "high": float(high[layer, head]),
                "rank": ranks.get((layer, head)),
            }
            for layer in range(self.shape[0])
            for head in range(self.shape[1])
        ]
        return pandas.DataFrame(rows)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one safetensors file: ``per_example``, and all else as JSON in its metadata."""
        fields = ("method", "parameters", "unit", "target", "signed", "layer_norm", "model_id", "rows")
        about = json.dumps({name: getattr(self, name) for name in fields})
        tensors = {"per_example": self.per_example.cpu().contiguous()}
        metadata = {"format": _FORMAT, "importance": about, "sha256": _digest(tensors["per_example"], about)}
        save_file(tensors, os.fspath(path), metadata=metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> HeadImportance:
        """Read what ``save`` wrote.

        Raises:
            InputError: the file is no head importance, or damaged.
            FileNotFoundError: there is no such file.
        """
        try:
            with safe_open(os.fspath(path), framework="pt") as file:
                known = file.metadata() or {}
                about = known.get("importance")
                rows = file.get_tensor("per_example") if about else None
        except FileNotFoundError:
            raise
        except Exception as error:
            raise InputError(f"{path} is not a head importance: {error}") from error
        if about is None or rows is None:
            raise InputError(f"{path} is a safetensors file, but not a head importance ({_FORMAT})")
        if known.get("sha256", whole := _digest(rows, about)) != whole:
            raise InputError(f"{path} is damaged: it is not what was written; score the heads again")
        with stored_fields(path, f"a head importance ({_FORMAT})"):
            return cls(rows, **parse_json(about, f"the description in {path}"))

    def __repr__(self) -> str:
        layers, heads = self.shape
        first = ", ".join(f"{layer}.{head}" for layer, head in self.ranking()[:5])
        return (
            f"HeadImportance({self.method}, {layers} layers × {heads} heads, {len(self)} {self.rows}s; most: {first})"
        )

    def _repr_html_(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self.parameters.items())
        facts = {
            "head importance": f"{self.method}({settings})",
            "numbers": self.unit + (", divided by each layer's L2 norm" if self.layer_norm else ""),
            "target": self.target,
            "model": self.model_id,
            "means over": f"{len(self)} {self.rows}s",
            "most important": ", ".join(f"layer {layer} head {head}" for layer, head in self.ranking()[:6]),
        }
        grid = self.values.nan_to_num(0).cpu().numpy()[None]
        return report_html(facts_table(facts), tiles(grid, ["rows: layers, columns: heads"], signed=self.signed))


def _digest(rows: Tensor, about: str) -> str:
    return hashlib.sha256(about.encode() + rows.numpy().tobytes()).hexdigest()


def _all(flat: Tensor) -> range:
    return range(flat.shape[1])


def _correlation(a: Tensor, b: Tensor) -> float:
    first, second = a.flatten().double().cpu(), b.flatten().double().cpu()
    there = ~(first.isnan() | second.isnan())
    if not bool(there.any()):
        return float("nan")
    return float(spearman(first[there][None], second[there][None])[0])


LOSS = "loss"
"""The target that stands for the cross entropy of each clip's label."""


class Measured(NamedTuple):
    """What is measured on the clips of a batch.

    Args:
        bound: the target, bound to the clean clips.
        worse: +1 where more of it is worse (a loss), -1 where less is.
        name: what it is, in words.
    """

    bound: BoundTarget
    worse: int
    name: str


def bind_measure(target: Any, output: Any, batch: ClipBatch, model: Any) -> Measured:
    """Return what is measured, bound to a batch.

    Args:
        target: ``"loss"``, or whatever ``bind_target`` takes: a class, a ``Target``, a function of the output, or None
            for each clip's predicted class.
        output: the model's output for the clean clips.
        batch: the clips.
        model: the model.

    Raises:
        InputError: the target does not fit the model, or a loss is wanted of a model without classes.
    """
    if not (isinstance(target, str) and target == LOSS):
        if isinstance(target, str):
            raise InputError(f"target={target!r} is not known: wanted 'loss', a class, a Target or a function")
        bound = bind_target(target, output, model.config)
        return Measured(bound, -1, all_names(bound.names) if len(set(bound.names)) == 1 else f"{bound.unit} of a class")
    logits = output.get("logits")
    if logits is None or not model.config.num_labels:
        raise InputError(
            "a loss wants a classifier: give target=OwnEmbedding() or a function of the output for a model without"
        )
    whose = "the label" if batch.labels is not None else "the predicted class"
    labels = logits.detach().argmax(dim=-1) if batch.labels is None else batch.labels.to(logits.device)
    if labels.shape != (len(logits),) or labels.is_floating_point():
        raise InputError(f"the loss wants one class for each clip, got {tuple(labels.shape)} {labels.dtype}")

    def score(output: Any, clips: Tensor) -> Tensor:
        return functional.cross_entropy(output.logits.float(), labels.index_select(0, clips), reduction="none")

    bound = BoundTarget(score, [f"cross entropy of {whose}"] * len(logits), "loss")
    return Measured(bound, 1, f"cross entropy of {whose}")


def mask_gradients(
    model: VivitModel | VivitForVideoClassification,
    data: Any,
    target: Any,
    *,
    batch_size: int,
    progress: bool | None,
    name: str,
) -> tuple[Tensor, str, str]:
    """Return the derivative of each clip's target by each head's mask at 1, with what the target is.

    With A = ξ·P the derivative is ⟨O_h, ∂L/∂O_h⟩ summed over tokens and channels (O the context). Each clip has a mask
    of its own, so that one backward pass gives all clips' numbers, whatever the batch size; no pattern is formed.

    Returns:
        (clips, layers, heads) float32 on the CPU, NaN for heads that were pruned; the target in words; its unit.
    """
    clips, rows = clip_set(data), []
    layers, heads = len(model.blocks), model.config.num_attention_heads
    named = unit = ""
    with evaluating(model), frozen(model), torch.inference_mode(False), torch.enable_grad():
        for batch in clips.batches(batch_size, progress, name):
            mask = torch.ones(layers, len(batch), heads, 1, 1, device=model.device, dtype=model.dtype)
            mask.requires_grad_()
            output = model(batch.pixel_values.to(model.device), head_mask=mask, interpolate_pos_encoding=None)
            measured = bind_measure(target, output, batch, model)
            scores = measured.bound(output)
            named, unit = measured.name, measured.bound.unit
            if not scores.requires_grad:
                raise InputError(f"{named} does not depend on the model's output by a function with a gradient")
            (gradient,) = torch.autograd.grad(scores.float().sum(), mask)
            rows.append(gradient.flatten(2).transpose(0, 1).float().cpu())
    return without_pruned(torch.cat(rows), model), named, unit


def without_pruned(rows: Tensor, model: Any) -> Tensor:
    """Return (…, layers, heads) with NaN for heads that were pruned."""
    present = present_heads(model.config, torch.empty(0))
    return rows if present is None else rows.masked_fill(present == 0, torch.nan)


def made_importance(method: Any, model: Any, per_example: Tensor, **about: Any) -> HeadImportance:
    """Return the result of a method, a dataclass, with its settings."""
    parameters = {
        key: value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)
        for key, value in vars(method).items()
    }
    return HeadImportance(
        per_example.float(),
        type(method).__name__,
        parameters,
        layer_norm=getattr(method, "layer_norm", False),
        model_id=model.name_or_path or type(model).__name__,
        **about,
    )
