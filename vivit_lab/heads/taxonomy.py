"""What kind of head each one is: a name for each, from its statistics by rules that can be read and changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vivit_lab.errors import InputError, MissingExtraError
from vivit_lab.heads.statistics_result import HeadStatistics
from vivit_lab.numbers import checked_numbers
from vivit_lab.show.html import facts_table, report_html, rows_table

if TYPE_CHECKING:
    import pandas

__all__ = ["KINDS", "HeadKinds", "Taxonomy"]

#: Kind → what it means. In the order in which a head is asked.
KINDS = {
    "pruned": "the head is not there",
    "CLS sink": "patches rest on the CLS token",
    "uniform": "looks everywhere alike",
    "motion following": "looks to where the query's content is at other times, rather than to the place it left",
    "same place across time": "looks to its own place at other times",
    "same frame": "looks within its own time",
    "other": "none of these",
}


@dataclass(frozen=True, eq=False)
class HeadKinds:
    """The kind of each head.

    Args:
        kinds: for each layer the kind of each head, one of ``KINDS``.
        taxonomy: the rules.
        asked_about_motion: whether the statistics had ``following``; without it no head can be motion following.
    """

    kinds: tuple[tuple[str, ...], ...]
    taxonomy: Taxonomy
    asked_about_motion: bool

    def __getitem__(self, place: tuple[int, int]) -> str:
        layer, head = place
        return self.kinds[layer][head]

    def heads(self, kind: str) -> list[tuple[int, int]]:
        """Return the (layer, head) of all heads of a kind.

        Raises:
            InputError: there is no such kind.
        """
        if kind not in KINDS:
            raise InputError(f"{kind!r} is no kind of head; there are {', '.join(KINDS)}")
        return [
            (layer, head) for layer, row in enumerate(self.kinds) for head, found in enumerate(row) if found == kind
        ]

    @property
    def counts(self) -> dict[str, int]:
        """Kind → how many heads."""
        return {kind: len(self.heads(kind)) for kind in KINDS}

    def to_pandas(self) -> pandas.DataFrame:
        """Return layers × heads, each cell the kind.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise MissingExtraError("to_pandas needs pandas: pip install 'vivit-lab[lab]'") from error
        frame = pandas.DataFrame(np.array(self.kinds))
        return frame.rename_axis(index="layer", columns="head")

    def __repr__(self) -> str:
        found = ", ".join(f"{count} {kind}" for kind, count in self.counts.items() if count)
        return f"HeadKinds({found})"

    def _repr_html_(self) -> str:
        header = ["layer", *(f"head {head}" for head in range(len(self.kinds[0])))]
        rows = [[str(layer), *row] for layer, row in enumerate(self.kinds)]
        facts = {
            "kinds of heads": repr(self.taxonomy),
            "motion": None if self.asked_about_motion else "not asked about",
        }
        return report_html(facts_table(facts), rows_table(header, rows))


@checked_numbers()
@dataclass(frozen=True)
class Taxonomy:
    """Rules that name a head's kind from its ``HeadStatistics``; the first that holds counts.

    Thresholds are choices, not laws: they are fields, so that a result can say by which it was made. A lift is a
    multiple of uniform attention.

    Args:
        cls_sink: mass on CLS from which on a head is a CLS sink, in (0, 1].
        uniform: share of all tubelets that ``effective_keys`` must reach for a uniform head, in (0, 1].
        following: lift of ``following`` from which on a head follows motion; it must also exceed that of
            ``same_place``.
        same_place: lift of ``same_place`` from which on a head looks to its own place at other times.
        same_frame: lift of ``same_frame`` from which on a head looks within its own time.

    Raises:
        InputError: a threshold is out of its range.

    Example:
        >>> kinds = Taxonomy()(head_statistics(model, clips, motion=planted_motion(planted, grid)))
        >>> kinds.heads("motion following")
    """

    cls_sink: float = 0.5
    uniform: float = 0.8
    following: float = 2.0
    same_place: float = 2.0
    same_frame: float = 1.5

    def __post_init__(self) -> None:
        for name in ("cls_sink", "uniform"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(f"{name} must lie in (0, 1], got {getattr(self, name)}")
        for name in ("following", "same_place", "same_frame"):
            if not getattr(self, name) >= 1:
                raise InputError(f"{name} is a multiple of uniform attention, at least 1; got {getattr(self, name)}")

    def __call__(self, statistics: HeadStatistics) -> HeadKinds:
        """Name the kind of each head."""
        place, frame = statistics.lift("same_place"), statistics.lift("same_frame")
        holds: dict[str, Tensor] = {"pruned": statistics.value("entropy").isnan()}
        if "cls_mass" in statistics.values:
            holds["CLS sink"] = statistics.value("cls_mass") >= self.cls_sink
        holds["uniform"] = statistics.lift("effective_keys") >= self.uniform
        if "following" in statistics.values:
            following = statistics.lift("following")
            holds["motion following"] = (following >= self.following) & (following > place)
        holds["same place across time"] = place >= self.same_place
        holds["same frame"] = frame >= self.same_frame
        holds["other"] = torch.ones_like(holds["pruned"])
        layers, heads = statistics.shape
        kinds = tuple(
            tuple(next(kind for kind, found in holds.items() if bool(found[layer, head])) for head in range(heads))
            for layer in range(layers)
        )
        return HeadKinds(kinds, self, "following" in statistics.values)
