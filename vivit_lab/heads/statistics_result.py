"""The statistics of all heads, as one value."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from vivit_lab.errors import InputError, MissingExtraError
from vivit_lab.files import stored_fields, stored_tensors
from vivit_lab.grid import TokenGrid
from vivit_lab.heads._places import STATISTICS
from vivit_lab.show.html import facts_table, report_html, tiles

if TYPE_CHECKING:
    import pandas

__all__ = ["HeadStatistics"]

_FORMAT = "vivit_lab head statistics 1"
_SHOWN = ("temporal_distance", "same_frame", "same_place", "following", "cls_mass", "effective_keys")


@dataclass(frozen=True, eq=False)
class HeadStatistics:
    """Where each head looks; see ``head_statistics`` for what the numbers mean.

    Patches ask and patches answer: rows are renormalised without the CLS key, whose mass is kept apart.

    Args:
        values: name → (clips, layers, heads); NaN for heads that were pruned, and for clips where there is nothing to
            measure.
        errors: name → (clips, layers, heads), the standard error of the sampled queries' mean; 0 where all were taken.
        uniform: name → (clips,), what the same queries would give under uniform attention.
        profile: (clips, layers, heads, 2t - 1), the mass at each offset in time, from key t - 1 tubelets before the
            query to as many after.
        profile_uniform: (clips, 2t - 1), what the same queries would give under uniform attention: the share of pairs
            that there are.
        grid: the token grid.
        queries: sampled queries a clip; None for all.
        seed: of the sample.
        model_id: which model.
    """

    values: dict[str, Tensor]
    errors: dict[str, Tensor]
    uniform: dict[str, Tensor]
    profile: Tensor
    profile_uniform: Tensor
    grid: TokenGrid
    queries: int | None = 256
    seed: int = 0
    model_id: str | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        """(layers, heads)."""
        return int(self.profile.shape[1]), int(self.profile.shape[2])

    @property
    def names(self) -> list[str]:
        """The statistics that were measured."""
        return list(self.values)

    def value(self, name: str) -> Tensor:
        """Return a statistic, (layers, heads), the mean over the clips that have it.

        Raises:
            InputError: it was not measured.
        """
        return self._found(name).nanmean(dim=0)

    def error(self, name: str) -> Tensor:
        """Return the standard error of that mean that comes from sampling queries, (layers, heads).

        The spread over clips is not in it: for that, see the bootstrap of ``values``.
        """
        self._found(name)
        known = ~self.errors[name].isnan()
        return (self.errors[name].nan_to_num(0).square().sum(dim=0)).sqrt() / known.sum(dim=0)

    def lift(self, name: str) -> Tensor:
        """Return a statistic divided by that of uniform attention for the same queries, (layers, heads); 1 is chance.

        Raises:
            InputError: it was not measured, or is 0 under uniform attention (``past_future``, a difference already).
        """
        found = self._found(name)
        if name == "past_future":
            raise InputError("past_future is 0 under uniform attention: read its value, which is a difference")
        base = self.uniform[name].view(-1, 1, 1).expand_as(found).masked_fill(found.isnan(), torch.nan)
        return found.nanmean(dim=0) / base.nanmean(dim=0)

    @property
    def offset_profile(self) -> Tensor:
        """(layers, heads, 2t - 1) p(Δt) divided by the share of available pairs: 1 everywhere for uniform attention."""
        return self.profile.mean(dim=0) / self.profile_uniform.mean(dim=0)

    @property
    def offsets(self) -> list[int]:
        """Δt in frames of each entry of a profile, key less query."""
        return [step * self.grid.tubelet[0] for step in range(1 - self.grid.t, self.grid.t)]

    def _found(self, name: str) -> Tensor:
        if name not in self.values:
            raise InputError(f"{name!r} was not measured; there are {', '.join(self.values)}")
        return self.values[name]

    def to_pandas(self) -> pandas.DataFrame:
        """Return a row a head: layer, head, and of each statistic its value, its lift and its standard error.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise MissingExtraError("to_pandas needs pandas: pip install 'vivit-lab[lab]'") from error
        layers, heads = self.shape
        columns: dict[str, Any] = {
            "layer": [layer for layer in range(layers) for _ in range(heads)],
            "head": list(range(heads)) * layers,
        }
        for name in self.values:
            columns[name] = self.value(name).flatten().tolist()
            if name != "past_future":
                columns[f"{name}_lift"] = self.lift(name).flatten().tolist()
            columns[f"{name}_error"] = self.error(name).flatten().tolist()
        return pandas.DataFrame(columns)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one safetensors file: the tensors, all else as JSON in its metadata."""
        groups = {"values": self.values, "errors": self.errors, "uniform": self.uniform}
        tensors = {
            f"{group}.{name}": tensor.contiguous() for group, store in groups.items() for name, tensor in store.items()
        }
        tensors |= {"profile": self.profile.contiguous(), "profile_uniform": self.profile_uniform.contiguous()}
        about = {"grid": self.grid.to_dict(), "queries": self.queries, "seed": self.seed, "model_id": self.model_id}
        about |= {"notes": self.notes, "names": self.names}
        save_file(tensors, os.fspath(path), metadata={"format": _FORMAT, "statistics": json.dumps(about)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> HeadStatistics:
        """Read what ``save`` wrote.

        Raises:
            InputError: the file holds no head statistics.
            FileNotFoundError: there is no such file.
        """
        kind = f"a file of head statistics ({_FORMAT})"
        about, tensors = stored_tensors(path, kind, "statistics", format=_FORMAT)
        with stored_fields(path, kind):
            names, grid = about.pop("names"), TokenGrid(**about.pop("grid"))
            groups = {
                group: {name: tensors[f"{group}.{name}"] for name in names} for group in ("values", "errors", "uniform")
            }
            profiles = {name: tensors[name] for name in ("profile", "profile_uniform")}
            return cls(**groups, **profiles, grid=grid, **about)

    def __repr__(self) -> str:
        layers, heads = self.shape
        sampled = "all queries" if self.queries is None else f"{self.queries} queries a clip"
        return (
            f"HeadStatistics({layers} layers × {heads} heads, {len(self.profile)} clips, {sampled}; "
            f"{', '.join(self.names)})"
        )

    def _repr_html_(self) -> str:
        shown = [name for name in _SHOWN if name in self.values]
        sampled = "all" if self.queries is None else f"{self.queries} sampled, seed {self.seed}"
        facts: dict[str, str | None] = {
            "head statistics": f"lift over uniform attention, mean of {len(self.profile)} clips; rows are layers, "
            "columns heads",
            "queries": sampled,
            "model": self.model_id,
        }
        parts = [facts_table(facts)]
        for name in shown:
            error = float(self.error(name).nan_to_num(0).max())
            parts.append(facts_table({name: f"{STATISTICS[name]}; largest sampling error {error:.2g}"}))
            parts.append(tiles(self.lift(name).nan_to_num(0).numpy()[None], ["× uniform"], signed=False))
        return report_html(*parts)
