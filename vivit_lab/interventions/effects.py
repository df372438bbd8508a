"""What interventions at many places did to a target, over clips: a labelled table with its statistics."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from vivit_lab.drawing import draw
from vivit_lab.errors import InputError, MissingExtraError
from vivit_lab.files import stored_fields, stored_tensors
from vivit_lab.numbers import checked_numbers, is_whole
from vivit_lab.records.targets import all_names
from vivit_lab.statistics.intervals import BootstrapInterval, bootstrap_interval, paired_difference
from vivit_lab.statistics.ranks import benjamini_hochberg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EffectTable"]

_FORMAT = "vivit_lab.EffectTable/1"


@checked_numbers()
@dataclass(frozen=True, eq=False, repr=False)
class EffectTable:
    """The effect of each of many interventions on each of several clips.

    Intervals are of the mean over clips (percentile bootstrap), p-values by flipping signs, q-values those of Benjamini
    and Hochberg over all places of the table: keep q ≤ 0.05, and about one finding in twenty is chance.

    Args:
        effect: (clip, *places) what each intervention did to the target; NaN where none was made.
        dims: the names of the axes after the first, such as ``("layer", "head")``.
        labels: for each of them, what each place is called.
        what: what an effect is, in words: ``"patched − corrupt, logit"``.
        method: name of what made it.
        parameters: its fields, JSON-able.
        targets: for each clip, what was measured, in words.
        model_id: which model.
        provenance: anything else worth keeping, JSON-able.
        level: of the intervals, in (0, 1).
        resamples: draws of an interval, and patterns of signs of a p-value above 12 clips.
        seed: of both.

    Raises:
        InputError: the labels do not fit the effects, or an effect is infinite.
    """

    effect: Tensor
    dims: tuple[str, ...]
    labels: dict[str, list[str]]
    what: str = "effect"
    method: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    targets: list[str] | None = None
    model_id: str | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    level: float = 0.95
    resamples: int = 4000
    seed: int = 0

    _PER_CLIP: ClassVar[tuple[str, ...]] = ("effect",)

    def __post_init__(self) -> None:
        effect = self.effect.detach().cpu().to(torch.float64)
        object.__setattr__(self, "effect", effect)
        object.__setattr__(self, "dims", tuple(self.dims))
        sizes = tuple(len(self.labels.get(name, ())) for name in self.dims)
        if tuple(effect.shape[1:]) != sizes or not self.dims or set(self.labels) != set(self.dims):
            raise InputError(
                f"effects must be (clip, {', '.join(self.dims)}) with a label for each place, {sizes}; "
                f"got {tuple(effect.shape)} and labels of {', '.join(self.labels)}"
            )
        if bool(torch.isinf(effect).any()):
            raise InputError(f"{self.method} gave an effect that is not finite; compute in float32 or bfloat16")

    def __len__(self) -> int:
        return len(self.effect)

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of ``dims``."""
        return tuple(self.effect.shape[1:])

    @property
    def target(self) -> str | None:
        """What was measured in all clips, in words."""
        return all_names(self.targets) if self.targets else None

    @cached_property
    def mean(self) -> Tensor:
        """(*dims) the mean effect over clips."""
        return self._intervals[0]

    @cached_property
    def low(self) -> Tensor:
        """(*dims) the lower end of its interval; NaN for one clip."""
        return self._intervals[1]

    @cached_property
    def high(self) -> Tensor:
        """(*dims) the upper end, likewise."""
        return self._intervals[2]

    @cached_property
    def p(self) -> Tensor:
        """(*dims) two-sided p-values of no effect, by sign flips."""
        count = len(self)

        def test(values: np.ndarray) -> float:
            zero = np.zeros(count)
            return paired_difference(values, zero, level=self.level, resamples=self.resamples, seed=self.seed).p

        return self._each(test)

    @cached_property
    def q(self) -> Tensor:
        """(*dims) q-values: the p-values under false-discovery control over the whole table."""
        return torch.from_numpy(benjamini_hochberg(self.p.numpy()))

    @cached_property
    def _intervals(self) -> tuple[Tensor, Tensor, Tensor]:
        found = self._bootstrap(self.effect)
        return found[0], found[1], found[2]

    def _bootstrap(self, values: Tensor) -> list[Tensor]:
        options: dict[str, Any] = {"level": self.level, "resamples": self.resamples, "seed": self.seed}
        columns = values.reshape(len(values), -1).numpy().T
        return self._ends([bootstrap_interval(column, **options) for column in columns])

    def _ends(self, found: Sequence[BootstrapInterval]) -> list[Tensor]:
        ends = ([one.mean for one in found], [one.low for one in found], [one.high for one in found])
        return [torch.tensor(end, dtype=torch.float64).reshape(self.shape) for end in ends]

    def _each(self, statistic: Any) -> Tensor:
        columns = self.effect.reshape(len(self), -1).numpy().T
        return torch.tensor([statistic(column) for column in columns], dtype=torch.float64).reshape(self.shape)

    def select(self, **places: int | str | Sequence[int | str]) -> Self:
        """Return the part of the table at some places of some axes; q-values are then over that part alone.

        Args:
            **places: axis → a label, an index, or several of them. The axis stays, with these places.

        Raises:
            InputError: there is no such axis or place.
        """
        effect, labels = self.effect, dict(self.labels)
        for dim, wanted in places.items():
            if dim not in self.dims:
                raise InputError(f"the table has the axes {', '.join(self.dims)}, not {dim!r}")
            several = list(wanted) if isinstance(wanted, Iterable) and not isinstance(wanted, str) else [wanted]
            index = [self._place(dim, place) for place in several]
            effect = effect.index_select(1 + self.dims.index(dim), torch.tensor(index))
            labels[dim] = [self.labels[dim][place] for place in index]
        return replace(self, effect=effect, labels=labels)

    def _place(self, dim: str, place: int | str) -> int:
        names = self.labels[dim]
        if is_whole(place) and -len(names) <= int(place) < len(names):
            return int(place) % len(names)
        if place not in names:
            raise InputError(f"{dim} has no place {place!r}; there are {', '.join(names)}")
        return names.index(str(place))

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a place that was measured: its labels, and each column of ``columns``."""
        columns = self.columns()
        found = []
        for index in np.ndindex(*self.shape):
            if not torch.isnan(self.mean[index]):
                place = {dim: self.labels[dim][at] for dim, at in zip(self.dims, index, strict=True)}
                found.append(place | {name: float(values[index]) for name, values in columns.items()})
        return found

    def columns(self) -> dict[str, Tensor]:
        """Return the statistics of each place, name → (*dims)."""
        return {"effect": self.mean, "low": self.low, "high": self.high, "p": self.p, "q": self.q}

    @checked_numbers(count=(1, None))
    def top(self, count: int = 10) -> list[dict[str, Any]]:
        """Return the rows of the places with the largest mean effects, whatever their sign."""
        return sorted(self.rows(), key=lambda row: -abs(row["effect"]))[:count]

    def to_pandas(self) -> Any:
        """Return ``rows`` as a pandas DataFrame.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise MissingExtraError("to_pandas needs pandas: pip install 'vivit-lab[lab]'") from error
        return pandas.DataFrame(self.rows(), columns=[*self.dims, *self.columns()])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table as one safetensors file: the numbers as tensors, all else as JSON in the metadata."""
        tensors = {name: getattr(self, name).contiguous() for name in self._PER_CLIP}
        names = [entry.name for entry in fields(self) if entry.name not in tensors]
        text = json.dumps({name: getattr(self, name) for name in names})
        metadata = {"format": _FORMAT, "kind": type(self).__name__, "table": text}
        Path(path).write_bytes(save(tensors, metadata=metadata))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a table that ``save`` of this class wrote.

        Raises:
            InputError: the file is none, or one of another class.
            FileNotFoundError: there is no such file.
        """
        kind = f"{'an' if cls.__name__[0] in 'AEIO' else 'a'} {cls.__name__} ({_FORMAT})"
        fields, tensors = stored_tensors(path, kind, "table", format=_FORMAT, kind=cls.__name__)
        with stored_fields(path, kind):
            return cls(**tensors, **fields)

    def __repr__(self) -> str:
        sizes = " × ".join(f"{size} {dim}" for dim, size in zip(self.dims, self.shape, strict=True))
        found = int((self.q <= 0.05).sum())
        return f"{type(self).__name__}({self.method}, {len(self)} clips, {sizes}; {found} places at q ≤ 0.05)"

    def _repr_html_(self) -> str:
        """Return the table as a notebook shows it: what it is, heat pictures, and the largest effects."""
        return draw(self)

    @property
    def heat(self) -> tuple[Tensor, str]:
        """What pictures show: numbers (*dims), and what they are in words."""
        return self.mean, f"mean {self.what}"

    @checked_numbers(alpha=(0, 1))
    def plot(self, *, alpha: float = 0.05) -> Figure:
        """Return a matplotlib figure: the first two axes as heat, a panel for each place of the others.

        Args:
            alpha: places with a q-value up to it bear a dot.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        return draw(self, "figure", alpha)
