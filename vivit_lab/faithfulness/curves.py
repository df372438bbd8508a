"""Curves of a target while more and more of a clip is taken away, and the areas under them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from vivit_lab.errors import InputError

__all__ = ["OrderCurves", "PerturbationCurves"]


@dataclass(frozen=True, eq=False)
class OrderCurves:
    """One quantity, read while tubelets are taken away in either order.

    Args:
        fractions: (point,) how much was taken away, rising from 0 to 1.
        morf: (batch, point) the quantity with the most relevant taken away first.
        lerf: (batch, point) with the least relevant taken away first, which is the same order backwards.
    """

    fractions: Tensor
    morf: Tensor
    lerf: Tensor

    def __post_init__(self) -> None:
        points = len(self.fractions)
        if self.morf.ndim != 2 or self.morf.shape != self.lerf.shape or self.morf.shape[1] != points:
            raise InputError(
                f"curves must be (batch, {points} fractions), got {tuple(self.morf.shape)} and {tuple(self.lerf.shape)}"
            )

    @property
    def morf_auc(self) -> Float[Tensor, " batch"]:
        """Area under ``morf``, by the trapezoid rule; low for a good map."""
        return torch.trapezoid(self.morf, self.fractions, dim=1)

    @property
    def lerf_auc(self) -> Float[Tensor, " batch"]:
        """Area under ``lerf``, by the trapezoid rule; high for a good map."""
        return torch.trapezoid(self.lerf, self.fractions, dim=1)

    @property
    def srg(self) -> Float[Tensor, " batch"]:
        """Symmetric relevance gain, AUC(LeRF) - AUC(MoRF); 0 on average for a random order.

        It depends far less on the baseline than either area alone (Blücher, Vielhaben & Strodthoff, TMLR 2024,
        https://arxiv.org/abs/2401.06654).
        """
        return self.lerf_auc - self.morf_auc

    @property
    def deletion(self) -> Float[Tensor, " batch"]:
        """Deletion (Petsiuk et al. 2018), which is the area under ``morf``; low for a good map."""
        return self.morf_auc

    @property
    def insertion(self) -> Float[Tensor, " batch"]:
        """Insertion (Petsiuk et al. 2018): area while the most relevant are revealed first; high for a good map.

        Revealing the k most relevant on the baseline leaves the other n - k covered, which are the n - k least
        relevant: the insertion curve is ``lerf`` read backwards, and its area the same.
        """
        return self.lerf_auc

    @property
    def insertion_curve(self) -> tuple[Float[Tensor, " point"], Float[Tensor, "batch point"]]:
        """(point,) how much is revealed, rising from 0 to 1, and (batch, point) the quantity."""
        return 1 - self.fractions.flip(0), self.lerf.flip(1)


@dataclass(frozen=True, eq=False)
class PerturbationCurves:
    """MoRF and LeRF curves of some clips; float32 on the CPU.

    The areas that are asked for without naming a quantity are those of the probability, or of the score where the
    target has no probability; ``quantity`` says which.

    Args:
        fractions: (point,) share of the units taken away, exact: a count over the number of units.
        morf_score: (batch, point) the target's value with the most relevant taken away first.
        lerf_score: (batch, point) with the least relevant first.
        morf_probability: (batch, point) the probability of the target's class; None where the target is not about one.
        lerf_probability: likewise.
        target: what was explained, in words.
        unit: what a score is, e.g. ``"logit"``.
        region: what was taken away at a time; see ``Perturbation``.
        baseline: what stood in its place.

    Raises:
        InputError: the curves have different shapes, or only one of them a probability.
    """

    fractions: Tensor
    morf_score: Tensor
    lerf_score: Tensor
    morf_probability: Tensor | None
    lerf_probability: Tensor | None
    target: str
    unit: str
    region: str
    baseline: str

    def __post_init__(self) -> None:
        if (self.morf_probability is None) != (self.lerf_probability is None):
            raise InputError("give the probability of both orders or of neither")
        _ = self.score, self.probability  # checks the shapes

    def __len__(self) -> int:
        return len(self.morf_score)

    @cached_property
    def score(self) -> OrderCurves:
        """Curves of the target's value."""
        return OrderCurves(self.fractions, self.morf_score, self.lerf_score)

    @cached_property
    def probability(self) -> OrderCurves | None:
        """Curves of the probability of the target's class; None where the target is not about one."""
        if self.morf_probability is None or self.lerf_probability is None:
            return None
        return OrderCurves(self.fractions, self.morf_probability, self.lerf_probability)

    @property
    def quantity(self) -> str:
        """Which quantity the areas below are of: ``"probability"``, or ``"score"`` where there is none."""
        return "score" if self.probability is None else "probability"

    @property
    def main(self) -> OrderCurves:
        """Curves of ``quantity``."""
        return self.score if self.probability is None else self.probability

    @property
    def morf_auc(self) -> Float[Tensor, " batch"]:
        """See ``OrderCurves.morf_auc``; of ``quantity``."""
        return self.main.morf_auc

    @property
    def lerf_auc(self) -> Float[Tensor, " batch"]:
        """See ``OrderCurves.lerf_auc``; of ``quantity``."""
        return self.main.lerf_auc

    @property
    def srg(self) -> Float[Tensor, " batch"]:
        """See ``OrderCurves.srg``; of ``quantity``."""
        return self.main.srg

    @property
    def deletion(self) -> Float[Tensor, " batch"]:
        """See ``OrderCurves.deletion``; of ``quantity``."""
        return self.main.deletion

    @property
    def insertion(self) -> Float[Tensor, " batch"]:
        """See ``OrderCurves.insertion``; of ``quantity``."""
        return self.main.insertion
