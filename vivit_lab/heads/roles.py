"""What each head carries: motion, what one frame shows as well, either, or nothing that could be found."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from vivit_lab.errors import InputError, MissingExtraError
from vivit_lab.figures import new_figure
from vivit_lab.interventions.effects import EffectTable
from vivit_lab.numbers import checked_numbers
from vivit_lab.show.html import facts_table, report_html, rows_table

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

__all__ = ["ROLES", "HeadRoles", "head_roles"]

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
