"""What kind of head each one is, by rules that can be read and changed; and what it carries."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vivit_lab.errors import InputError, MissingExtraError
from vivit_lab.figures import new_figure
from vivit_lab.heads.statistics import HeadStatistics
from vivit_lab.html import facts_table, report_html, rows_table
from vivit_lab.interventions.effects import EffectTable
from vivit_lab.numbers import checked_numbers

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

__all__ = ["KINDS", "ROLES", "HeadKinds", "HeadRoles", "Taxonomy", "head_roles"]

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


#: Role → what it means.
ROLES = {
    "motion": "needed for the clip, and more than for the clip standing still",
    "place": "needed for the clip standing still, and not found to be needed more for the moving one",
    "undecided": "needed for the clip, but whether for motion or for what one frame shows was not found",
    "nothing": "not found to be needed, which does not prove that it is not",
}
_COLOURS = {"motion": "#0b62b8", "place": "#d1701c", "undecided": "#5a5a5a", "nothing": "#a0a0a0"}


@dataclass(frozen=True, eq=False)
class HeadRoles:
    """The role of each head, with the numbers behind it.

    Args:
        effects: of ablating each head (ablated − intact).
        temporal: the causal temporal score of each head, of the same clips.
        rate: share of chance findings that is let through in each table.
    """

    effects: EffectTable
    temporal: EffectTable
    rate: float

    @cached_property
    def still(self) -> EffectTable:
        """The effects of ablating each head on the clips standing still (ablated − intact)."""
        what = f"{self.effects.what}, standing still"
        return replace(self.effects, effect=self.effects.effect + self.temporal.effect, what=what)

    @property
    def roles(self) -> list[list[str]]:
        """For each layer, the role of each head."""
        still, needed = ((table.q <= self.rate) & (table.mean < 0) for table in (self.still, self.effects))
        motion = needed & (self.temporal.q <= self.rate) & (self.temporal.mean > 0)
        code = torch.where(motion, 0, torch.where(still, 1, torch.where(needed, 2, 3))).tolist()
        names = list(ROLES)
        return [[names[value] for value in row] for row in code]

    def heads(self, role: str) -> list[tuple[int, int]]:
        """Return the (layer, head) of all heads of a role.

        Raises:
            InputError: there is no such role.
        """
        if role not in ROLES:
            raise InputError(f"{role!r} is no role; there are {', '.join(ROLES)}")
        return [(row["layer"], row["head"]) for row in self._named() if row["role"] == role]

    def _named(self) -> list[dict[str, Any]]:
        """Return a dict for each head: layer and head, as the tables call them, and role."""
        layers, heads = (list(map(int, self.effects.labels[dim])) for dim in ("layer", "head"))
        return [
            {"layer": layer, "head": head, "role": role}
            for layer, row in zip(layers, self.roles, strict=True)
            for head, role in zip(heads, row, strict=True)
        ]

    def rows(self) -> list[dict[str, Any]]:
        """Return a dict for each head: layer, head, role; effect (still: standing still) and temporal score with q."""
        columns = {
            f"{prefix}{name}": column.flatten().tolist()
            for prefix, table in (("effect_", self.effects), ("still_", self.still), ("temporal_", self.temporal))
            for name, column in (("mean", table.mean), ("low", table.low), ("high", table.high), ("q", table.q))
        }
        return [row | {name: column[at] for name, column in columns.items()} for at, row in enumerate(self._named())]

    def to_pandas(self) -> pandas.DataFrame:
        """Return ``rows`` as a DataFrame.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise MissingExtraError("to_pandas needs pandas: pip install 'vivit-lab[lab]'") from error
        return pandas.DataFrame(self.rows())

    def plot(self) -> Figure:
        """Return a matplotlib figure: each head's effect and temporal score with their intervals.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        rows = self.rows()
        figure, axes = new_figure(2, 1, (max(6.0, 1.5 + 0.24 * len(rows)), 5.4), sharex=True)
        titles = ((f"effect of ablation ({self.effects.what})", "effect_"), (self.temporal.what, "temporal_"))
        for axis, (title, prefix) in zip(axes.flat, titles, strict=True):
            axis.axhline(0, color="0.6", linewidth=0.8)
            for place, row in enumerate(rows):
                colour = _COLOURS[row["role"]]
                axis.plot([place] * 2, [row[f"{prefix}low"], row[f"{prefix}high"]], color=colour, linewidth=2)
                axis.plot([place], [row[f"{prefix}mean"]], "o", color=colour, markersize=4)
            axis.set_title(title, fontsize=9)
            axis.tick_params(labelsize=8)
            axis.grid(axis="y", color="0.92")
            axis.set_axisbelow(True)
            axis.spines[["top", "right"]].set_visible(False)
        axes.flat[-1].set_xticks(range(len(rows)), [f"{row['layer']}.{row['head']}" for row in rows], rotation=90)
        axes.flat[-1].set_xlabel("layer.head", fontsize=9)
        handles = [axes.flat[0].plot([], [], "o", color=colour)[0] for colour in _COLOURS.values()]
        figure.legend(handles, list(_COLOURS), loc="outside upper center", ncols=4, fontsize=9, frameon=False)
        return figure

    def __repr__(self) -> str:
        return f"HeadRoles({', '.join(f'{len(self.heads(role))} {role}' for role in ROLES)}; rate {self.rate:g})"

    def _repr_html_(self) -> str:
        roles = self.roles
        header = ["layer", *(f"head {head}" for head in self.effects.labels["head"])]
        facts: dict[str, str | None] = {
            "roles of heads": f"{len(self.effects)} clips, false discoveries ≤ {self.rate:g}"
        }
        facts |= {role: text for role, text in ROLES.items()}
        return report_html(
            facts_table(facts),
            rows_table(header, [[layer, *row] for layer, row in zip(self.effects.labels["layer"], roles, strict=True)]),
        )


@checked_numbers()
def head_roles(effects: EffectTable, temporal: EffectTable, *, rate: float = 0.05) -> HeadRoles:
    """Say what each head carries, with false discoveries held to ``rate`` in each table (Benjamini & Hochberg 1995).

    ``"motion"``: ablating it lowers the target, and its causal temporal score is above 0. ``"place"``: else, if
    ablating it lowers the target of the clip standing still. ``"undecided"``: else, if it lowers that of the clip.
    ``"nothing"``: none was found.

    Args:
        effects: of ``AblationEffects``, axes layer and head.
        temporal: of ``CausalTemporalScore``, of the same heads and clips.
        rate: in (0, 1).

    Raises:
        InputError: the tables are not layer × head of the same heads and clips, or the rate is out of range.

    Example:
        >>> by = AblationEffects(mode="mean", over="tokens")
        >>> head_roles(by(model, clips, labels), CausalTemporalScore(by)(model, clips, labels)).plot()
    """
    if not 0 < rate < 1:
        raise InputError(f"rate must lie in (0, 1), got {rate}")
    found = [[(dim, len(table.labels[dim])) for dim in table.dims] for table in (effects, temporal)]
    rest = [count for sizes in found for dim, count in sizes if dim not in ("layer", "head")]
    same = found[0] == found[1] and len(effects) == len(temporal)
    same = same and effects.dims[:2] == ("layer", "head")
    same = same and all(effects.labels[dim] == temporal.labels[dim] for dim in ("layer", "head"))
    numbers = all(name.isdecimal() for dim in ("layer", "head") for name in effects.labels.get(dim, ()))
    if not (same and numbers) or max([1, *rest]) > 1:
        raise InputError(
            f"wanted two tables of layer × head of the same clips, got {dict(found[0])} of {len(effects)} clips and "
            f"{dict(found[1])} of {len(temporal)}, with labels {effects.labels} and {temporal.labels}"
        )
    return HeadRoles(_plain(effects), _plain(temporal), rate)


def _plain(table: EffectTable) -> EffectTable:
    """Return the table without axes of one place (time slab and region)."""
    kept = ("layer", "head")
    return replace(
        table,
        effect=table.effect.reshape(len(table), *(len(table.labels[dim]) for dim in kept)),
        dims=kept,
        labels={dim: table.labels[dim] for dim in kept},
    )
