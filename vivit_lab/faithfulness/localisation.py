"""Does the map lie where, and when, the evidence is? Measures against a known mask and window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from vivit_lab.attribution.base import AttributionMap
from vivit_lab.errors import InputError
from vivit_lab.numbers import checked_numbers
from vivit_lab.statistics.ranks import average_precision, roc_auc

__all__ = ["MEASURES", "Localisation", "Measure", "localise"]


@dataclass(frozen=True)
class Measure:
    """What a measure says.

    Args:
        definition: in one line.
        chance: the level of a map that says nothing (a constant one), in words.
        higher_is_better: its direction.
    """

    definition: str
    chance: str
    higher_is_better: bool = True


MEASURES: dict[str, Measure] = {
    "spatial_pointing": Measure("the place with most relevance over all time is one of the evidence", "its share"),
    "temporal_pointing": Measure("the tubelet row with most relevance lies in the window", "the window's share"),
    "joint_pointing": Measure("the tubelet with most relevance is evidence", "the evidence's share"),
    "spatial_energy": Measure("share of positive relevance at the evidence's places", "their share"),
    "temporal_energy": Measure("share of positive relevance in the window", "the window's share"),
    "joint_energy": Measure("share of positive relevance on the evidence", "the evidence's share"),
    "spatial_energy_ratio": Measure("spatial energy over the places' share", "1"),
    "temporal_energy_ratio": Measure("temporal energy over the window's share", "1"),
    "joint_energy_ratio": Measure("joint energy over the evidence's share", "1"),
    "joint_ap": Measure("average precision of finding the evidence's tubelets", "the evidence's share"),
    "spatial_ap": Measure(
        "average precision of finding the evidence's places, relevance summed over time", "their share"
    ),
    "spatial_auc": Measure("ROC AUC of finding the evidence's places, relevance summed over time", "0.5"),
    "when_auc": Measure("ROC AUC of finding the window's tubelet rows, relevance summed over places", "0.5"),
}
"""The measures by name; all lie in [0, 1] but the ratios, and higher is better in each."""


@dataclass(frozen=True, eq=False)
class Localisation:
    """How well each clip's map finds the evidence.

    Args:
        values: for each name of ``MEASURES``, (batch,) float64; NaN where a clip does not have both evidence and
            something else in that measure.
        chance: likewise what a constant map gets.
    """

    values: dict[str, Tensor]
    chance: dict[str, Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    def __getitem__(self, name: str) -> Tensor:
        """Return one measure's values, (batch,).

        Raises:
            InputError: there is no such measure.
        """
        if name not in self.values:
            raise InputError(f"no measure {name!r}; there are {', '.join(self.values)}")
        return self.values[name]

    def mean(self) -> dict[str, float]:
        """Return each measure's mean over the clips that have it; NaN where none has."""
        return {name: float(value.nanmean()) for name, value in self.values.items()}

    @classmethod
    def cat(cls, parts: Sequence[Localisation]) -> Localisation:
        """Return several batches as one.

        Raises:
            InputError: there are none.
        """
        if not parts:
            raise InputError("nothing to put together: give at least one Localisation")
        values = {name: torch.cat([part.values[name] for part in parts]) for name in MEASURES}
        return cls(values, {name: torch.cat([part.chance[name] for part in parts]) for name in MEASURES})


@checked_numbers()
def localise(
    relevance: AttributionMap | Tensor, mask: Any, window: Any = None, *, threshold: float = 0.25
) -> Localisation:
    """Hold maps against the evidence of their clips.

    Pointing and the ranking measures (AP, AUC) read relevance with its sign, summed over time or places where they
    speak of places or times alone. Energies read its positive part. Among equals nothing is made up: pointing at tied
    maxima counts the share of them that hits, AP and AUC take ties as one step, and a map without positive relevance
    has its energy everywhere alike. So a constant map gets exactly the chance level in every measure.

    Args:
        relevance: a map, or (batch, t, h, w).
        mask: (batch, t, h, w), the fraction of each tubelet that the evidence covers, in [0, 1]; a tensor or an array.
        window: (batch, t), the fraction of each tubelet row in the window; None for the rows that have evidence.
        threshold: a tubelet counts as evidence from this fraction *of the clip's most covered tubelet* on (a row of its
            row most in the window), in (0, 1]. Relative, so that small or thin evidence is not lost and slivers at a
            tubelet's edge do not count.

    Returns:
        Each clip's measures; see ``MEASURES``. A place is evidence if one of its tubelets is.

    Raises:
        InputError: a shape, a fraction or the threshold is out of range.
    """
    values = relevance.relevance if isinstance(relevance, AttributionMap) else relevance
    if values.ndim != 4:
        raise InputError(f"relevance must be (batch, t, h, w), got {tuple(values.shape)}")
    if not 0 < threshold <= 1:
        raise InputError(f"threshold must lie in (0, 1], got {threshold}")
    values = values.detach().double()
    if not bool(torch.isfinite(values).all()):
        raise InputError("relevance must be finite: a NaN or infinity has no rank")
    evidence = _inside(mask, tuple(values.shape), threshold, "mask", values.device)
    if window is None:
        rows = evidence.flatten(2).any(dim=-1)
    else:
        rows = _inside(window, tuple(values.shape[:2]), threshold, "window", values.device)
    return Localisation(_measures(values, evidence, rows), _measures(torch.zeros_like(values), evidence, rows))


def _inside(fractions: Any, shape: tuple[int, ...], threshold: float, name: str, device: torch.device) -> Tensor:
    """Return which fractions reach the threshold, relative to each clip's largest."""
    fractions = torch.as_tensor(fractions, device=device).double()
    if tuple(fractions.shape) != shape:
        axes = ("batch", "t", "h", "w")[: len(shape)]
        raise InputError(
            f"{name} must be ({', '.join(axes)}) = {shape}, as the relevance; got {tuple(fractions.shape)}"
        )
    if not bool(((fractions >= 0) & (fractions <= 1)).all()):
        raise InputError(
            f"{name} must hold fractions in [0, 1], got {float(fractions.min())}..{float(fractions.max())}"
        )
    most = fractions.flatten(1).amax(dim=1).reshape(-1, *[1] * (len(shape) - 1))
    return (fractions >= threshold * most) & (fractions > 0)


def _measures(values: Tensor, evidence: Tensor, rows: Tensor) -> dict[str, Tensor]:
    """Return every measure of float64 relevance and evidence (batch, t, h, w), and rows in the window (batch, t)."""
    positive = values.clamp_min(0)
    views = {  # relevance, its positive part and what is inside, each (batch, candidate)
        "spatial": (_places(values), _places(positive), evidence.any(dim=1).flatten(1)),
        "temporal": (values.sum(dim=(2, 3)), positive.sum(dim=(2, 3)), rows),
        "joint": (values.flatten(1), positive.flatten(1), evidence.flatten(1)),
    }
    found: dict[str, Tensor] = {}
    for view, (signed, energy, inside) in views.items():
        found[f"{view}_pointing"] = _pointing(signed, inside)
        found[f"{view}_energy"] = _energy(energy, inside)
        found[f"{view}_energy_ratio"] = found[f"{view}_energy"] / inside.double().mean(dim=1)
    found["joint_ap"] = average_precision(views["joint"][0], views["joint"][2])
    found["spatial_ap"] = average_precision(views["spatial"][0], views["spatial"][2])
    found["spatial_auc"] = roc_auc(views["spatial"][0], views["spatial"][2])
    found["when_auc"] = roc_auc(views["temporal"][0], views["temporal"][2])
    return {name: found[name] for name in MEASURES}


def _places(values: Tensor) -> Tensor:
    return rearrange(values.sum(dim=1), "batch h w -> batch (h w)")


def _pointing(values: Tensor, inside: Tensor) -> Tensor:
    """Return the share of the largest values that lie inside (one, unless they tie)."""
    largest = values == values.amax(dim=1, keepdim=True)
    return _where_both((largest & inside).sum(dim=1) / largest.sum(dim=1).double(), inside)


def _energy(positive: Tensor, inside: Tensor) -> Tensor:
    """Return the share of the energy inside; a map without any has it everywhere alike."""
    total = positive.sum(dim=1, keepdim=True)
    spread = torch.where(total > 0, positive, 1.0)
    return _where_both((spread * inside).sum(dim=1) / spread.sum(dim=1), inside)


def _where_both(values: Tensor, inside: Tensor) -> Tensor:
    return torch.where(inside.any(dim=1) & ~inside.all(dim=1), values, torch.nan)
