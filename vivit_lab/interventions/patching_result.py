"""The result of patching one clip's activations into another's run."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from vivit_lab.errors import InputError
from vivit_lab.interventions.effects import EffectTable
from vivit_lab.statistics.ratio import bootstrap_ratio

__all__ = ["DIRECTIONS", "PatchingResult"]

DIRECTIONS = ("denoising", "noising")
"""Denoising puts the clean clip's activations into the corrupt run: what suffices to restore the target. Noising puts
the corrupt clip's into the clean run: what is necessary for it."""


@dataclass(frozen=True, eq=False, repr=False)
class PatchingResult(EffectTable):
    """What patching at each place did to the target, for each pair of a clean and a corrupt clip.

    ``effect`` is patched − the run that was patched: corrupt when denoising, clean when noising.

    Args:
        clean: (pair,) the target of the clean runs.
        corrupt: (pair,) that of the corrupt runs.
        direction: ``"denoising"`` or ``"noising"``.
        min_gap: pairs whose |clean − corrupt| is below this share of the mean over pairs have no normalised value of
            their own: nothing was lost that could be restored.

    Raises:
        InputError: a field does not fit the others; see also ``EffectTable``.
    """

    clean: Tensor = field(default_factory=lambda: torch.zeros(0))
    corrupt: Tensor = field(default_factory=lambda: torch.zeros(0))
    direction: str = "denoising"
    min_gap: float = 0.1

    _PER_CLIP: ClassVar[tuple[str, ...]] = ("effect", "clean", "corrupt")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("clean", "corrupt"):
            scores = getattr(self, name).detach().cpu().to(torch.float64)
            if scores.shape != (len(self),):
                raise InputError(f"{name} must have one score a pair, ({len(self)},), got {tuple(scores.shape)}")
            object.__setattr__(self, name, scores)
        if self.direction not in DIRECTIONS or not 0 <= self.min_gap < 1:
            raise InputError(
                f"direction is one of {', '.join(DIRECTIONS)} and min_gap in [0, 1), got {self.direction!r} and "
                f"{self.min_gap}"
            )

    @property
    def gap(self) -> Tensor:
        """(pair,) clean − corrupt: what the corruption took from the target."""
        return self.clean - self.corrupt

    @property
    def patched(self) -> Tensor:
        """(pair, *dims) the target of the patched runs."""
        base = self.corrupt if self.direction == "denoising" else self.clean
        return self.effect + self._over_places(base)

    @property
    def usable(self) -> Tensor:
        """(pair,) bool: whether a pair's gap is large enough for a normalised value of its own; see ``min_gap``."""
        size = self.gap.abs()
        return (size > 0) & (size >= self.min_gap * size.mean())

    @property
    def normalized_per_pair(self) -> Tensor:
        """(pair, *dims) (patched − corrupt) / (clean − corrupt); NaN for pairs that are not ``usable``."""
        gap = torch.where(self.usable, self.gap, torch.nan)
        return (self.patched - self._over_places(self.corrupt)) / self._over_places(gap)

    @cached_property
    def normalized(self) -> Tensor:
        """(*dims) Σ (patched − corrupt) / Σ (clean − corrupt) over all pairs: 0 as corrupt, 1 as clean.

        A ratio of means, in which pairs weigh as much as the corruption cost them; NaN where the gaps sum to nothing.
        """
        return self._ratios[0]

    @cached_property
    def normalized_interval(self) -> tuple[Tensor, Tensor]:
        """The ends (*dims) of the interval of ``normalized``; NaN where that of the gap reaches zero."""
        return self._ratios[1], self._ratios[2]

    @cached_property
    def share(self) -> Tensor:
        """(*dims) how far patching took the target from its run to the other: ``normalized``, or 1 less it if noising.

        So in both directions 0 is no effect and 1 the whole one.
        """
        return self.normalized if self.direction == "denoising" else 1 - self.normalized

    @cached_property
    def _ratios(self) -> list[Tensor]:
        options: dict[str, Any] = {"level": self.level, "resamples": self.resamples, "seed": self.seed}
        won = (self.patched - self._over_places(self.corrupt)).reshape(len(self), -1).numpy().T
        gap = self.gap.numpy()
        return self._ends([bootstrap_ratio(column, gap, **options) for column in won])

    def _over_places(self, scores: Tensor) -> Tensor:
        return scores.reshape(-1, *[1] * len(self.dims))

    def columns(self) -> dict[str, Tensor]:
        """Return the statistics of each place, name → (*dims)."""
        low, high = self.normalized_interval
        more = {"normalized": self.normalized, "normalized_low": low, "normalized_high": high}
        return super().columns() | more

    @property
    def heat(self) -> tuple[Tensor, str]:
        """See ``EffectTable``: the share, where there is a gap to share."""
        if bool(torch.isfinite(self.share).any()):
            restored = "restored" if self.direction == "denoising" else "lost"
            return self.share, f"share of the gap {restored} (0 nothing, 1 all)"
        return super().heat
