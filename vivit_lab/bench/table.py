"""A table that a benchmark gives, the machine it was measured on, and what others published."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil
import torch

from vivit_lab.errors import InputError
from vivit_lab.files import read_json
from vivit_lab.html import plain_table
from vivit_lab.text import markdown_row

__all__ = [
    "A100",
    "A100_SOURCE",
    "PAPER_COST",
    "PAPER_SOURCE",
    "BenchTable",
    "Column",
    "a100_row",
    "describe_machine",
]


def describe_machine(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return processor, cores, threads, memory, load, system and versions, and the name of a GPU, as JSON-able values.

    Args:
        device: that the measurements ran on.
    """
    device = torch.device(device)
    facts: dict[str, Any] = {
        "processor": _processor(),
        "cores": psutil.cpu_count() or os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load": round(psutil.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": str(device),
    }
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # another system than Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


A100_SOURCE = "transformers documentation, model_doc/vivit.md: A100-40GB, PyTorch 2.3.0, float32, ViViT-B/16x2"


def _row(batch: int, speedup: float, eager_mb: float, sdpa_mb: float, saved: float) -> MappingProxyType[str, Any]:
    return MappingProxyType(
        {
            "batch": batch,
            "dtype": "float32",
            "speedup_percent": speedup,
            "eager_peak_mb": eager_mb,
            "sdpa_peak_mb": sdpa_mb,
            "memory_saved_percent": saved,
        }
    )


#: Table → its rows. Training is 100 steps, inference 20 batches a row.
A100 = MappingProxyType(
    {
        "training": (_row(1, 7.122, 5932.54, 2575.28, 130.364),),
        "inference": (
            _row(1, 15.422, 715.807, 317.079, 125.75),
            _row(2, 17.146, 1234.75, 447.175, 176.122),
            _row(4, 18.093, 2275.82, 709.864, 220.6),
            _row(8, 19.284, 4358.19, 1233.24, 253.393),
        ),
    }
)

PAPER_SOURCE = "Arnab et al. 2021, table of the variants of ViViT-B/16x2 at 32×224² (its GFLOPs are multiply-adds)"

#: Variant → (G multiply-adds, M parameters) that the paper prints.
PAPER_COST = MappingProxyType(
    {
        "spacetime": (455.2, 88.9),
        "factorized_encoder": (284.4, 115.1),
        "factorized_self_attention_block": (372.3, 117.3),
        "factorized_dot_product_attention": (277.1, 88.9),
    }
)


def a100_row(table: str, batch: int, dtype: str) -> dict[str, Any] | None:
    """Return the row that an A100 was published with, or None.

    Args:
        table: ``"training"`` or ``"inference"``.
        batch: clips of a batch.
        dtype: such as ``"float32"``.
    """
    found = [row for row in A100[table] if (row["batch"], row["dtype"]) == (batch, dtype)]
    return dict(found[0]) if found else None


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
