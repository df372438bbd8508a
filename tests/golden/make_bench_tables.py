"""Put the stored tables of ``vivit-lab bench`` into the README.

Run from the root of a checkout, after ``vivit-lab bench WHAT … --out data/reports/bench_WHAT.json``; every file of that
kind is shown (but the costs, which the README has beside the variants), and without any there is no such section::

    python -m tests.golden.make_bench_tables
"""

from __future__ import annotations

import re
from pathlib import Path

from vivit_lab.bench import BenchTable

ROOT = Path(__file__).resolve().parent.parent.parent
BEGIN, END = "<!-- tables: bench -->", "<!-- end of bench tables -->"
ORDER = ("inference", "training", "attention", "rollout", "decode")
INTRODUCTION = """\
The tables of the transformers documentation for this machine, beside what it published for an A100, and what this
package adds to them: `vivit-lab bench inference`, `training`, `attention`, `rollout` and `decode` make the same for
yours. Weights and clips are random and, but for the reading of videos, of ViT-B's shape."""


def stored_tables(root: Path = ROOT) -> list[BenchTable]:
    """Return the stored tables, in the order in which they are shown."""
    files = sorted((root / "data" / "reports").glob("bench_*.json"))
    tables = [BenchTable.from_json(path) for path in files]
    shown = [table for table in tables if table.bench != "cost"]
    return sorted(shown, key=lambda table: ORDER.index(table.bench))


def section(tables: list[BenchTable]) -> str:
    """Return the section of the README, or nothing where there are no tables."""
    if not tables:
        return ""
    shown = [table.markdown().strip() for table in tables]
    return "\n\n".join([f"{BEGIN}\n## On this machine", INTRODUCTION, *shown, f"{END}\n"])


def with_section(readme: str, tables: list[BenchTable]) -> str:
    """Return a README with its section replaced, or put before the one on the layout."""
    rest = re.sub(f"{BEGIN}.*?{END}\n+", "", readme, flags=re.DOTALL)
    shown = section(tables)
    return rest.replace("## Layout\n", f"{shown}\n## Layout\n", 1) if shown else rest


def main() -> None:
    """Rewrite the README."""
    path = ROOT / "README.md"
    path.write_text(with_section(path.read_text(encoding="utf-8"), stored_tables()), encoding="utf-8")


if __name__ == "__main__":
    main()
