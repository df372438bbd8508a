"""A table that a benchmark gives: rows, the machine, what was published, for eyes, JSON and Markdown."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vivit_lab.errors import InputError
from vivit_lab.files import read_json
from vivit_lab.show.html import plain_table
from vivit_lab.show.text import markdown_row

__all__ = ["BenchTable", "Column"]


@dataclass(frozen=True)
class Column:
    """One column.

    Args:
        key: of the rows' entries.
        title: heading, with the unit.
        digits: after the point.
    """

    key: str
    title: str
    digits: int = 1

    def text(self, row: dict[str, Any]) -> str:
        """Return a row's entry as text; ``-`` where there is none."""
        value = row.get(self.key)
        if value is None:
            return "-"
        return f"{value:.{self.digits}f}" if isinstance(value, float) else str(value)


@dataclass(frozen=True, eq=False)
class BenchTable:
    """What a benchmark measured.

    Args:
        bench: which one.
        title: one line.
        columns: to show, in order; rows may hold more.
        rows: name → value; a row that could not be measured has an ``error``.
        machine: see ``describe_machine``.
        settings: what was asked for.
        published: source and rows of figures that others published, or None.
        notes: sentences that belong to it, the conclusions among them.
    """

    bench: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[dict[str, Any], ...]
    machine: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    published: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()

    @property
    def machine_line(self) -> str:
        """The machine in one line."""
        facts = self.machine
        gpu = f"{facts['gpu']}, " if "gpu" in facts else ""
        return (
            f"{gpu}{facts['processor']}, {facts['cores']} cores, {facts['threads']} threads, {facts['memory_gb']} GB, "
            f"{facts['system']}, PyTorch {facts['torch']}, load {facts['load']}"
        )

    def cells(self) -> list[list[str]]:
        """Return the rows as text."""
        return [[column.text(row) for column in self.columns] for row in self.rows]

    def remarks(self) -> list[str]:
        """Return what stands below the table: what could not be measured and why, the notes, and the machine."""
        first = self.columns[0]
        failed = [f"{first.title} {first.text(row)}: {row['error']}." for row in self.rows if row.get("error")]
        return [*failed, *self.notes, f"Machine: {self.machine_line}."]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able values."""
        return {
            "bench": self.bench,
            "title": self.title,
            "columns": [asdict(column) for column in self.columns],
            "machine": self.machine,
            "settings": self.settings,
            "rows": list(self.rows),
            "published": self.published,
            "notes": list(self.notes),
        }

    def to_json(self, path: str | os.PathLike[str]) -> Path:
        """Write ``to_dict`` to a file and return its path; its directory is made where absent."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return target

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> BenchTable:
        """Return the table that ``to_json`` wrote.

        Raises:
            InputError: the file is not there, or holds something else.
        """
        try:
            told = read_json(path)
            columns = tuple(Column(**column) for column in told.pop("columns"))
            rows, notes = tuple(told.pop("rows")), tuple(told.pop("notes"))
            return cls(columns=columns, rows=rows, notes=notes, **told)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(
                f"{os.fspath(path)} is no table that vivit-lab bench wrote ({type(error).__name__}: {error}); make it "
                "with vivit-lab bench … --out FILE"
            ) from error

    def markdown(self) -> str:
        """Return the table as Markdown, with title and remarks."""
        heads = [column.title for column in self.columns]
        lines = [markdown_row(cells) for cells in [heads, ["---"] * len(heads), *self.cells()]]
        return "\n".join([f"**{self.title}**", "", *lines, "", *self.remarks()]) + "\n"

    def __str__(self) -> str:
        return self.markdown()

    def _repr_html_(self) -> str:
        return plain_table(self.title, [column.title for column in self.columns], self.cells(), self.remarks())
