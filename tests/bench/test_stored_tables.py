"""The README shows the stored tables of ``vivit-lab bench``, and their figures are what their samples come to."""

import re
from dataclasses import replace
from statistics import median

import pytest

from tests.golden.make_bench_tables import BEGIN, END, ORDER, ROOT, section, stored_tables, with_section
from vivit_lab.bench import BenchTable, bench_cost
from vivit_lab.bench.table import Column, a100_row
from vivit_lab.errors import InputError
from vivit_lab.model import VivitConfig

README = (ROOT / "README.md").read_text(encoding="utf-8")
STORED = stored_tables()
MACHINE = {"processor": "P", "cores": 2, "threads": 2, "memory_gb": 3, "system": "S", "torch": "2", "load": 0.5}
TABLES = [
    BenchTable(name, f"Title of {name}", (Column("a", "b"),), ({"a": 1.25, "error": None},), MACHINE)
    for name in ("training", "attention")
]


def test_the_readme_shows_what_is_stored():
    found = re.search(f"{BEGIN}.*?{END}\n", README, re.DOTALL)
    assert (found[0] if found else "") == section(STORED), "python -m tests.golden.make_bench_tables"
    assert with_section(README, STORED) == README


def test_the_section_is_put_in_replaced_and_taken_out():
    before = "# A\n\ntext\n\n## Layout\n\nmore\n"
    first = with_section(before, TABLES)
    assert first.startswith("# A\n\ntext\n\n" + BEGIN)
    assert first.endswith(f"{END}\n\n## Layout\n\nmore\n")
    assert all(f"**Title of {table.bench}**" in first for table in TABLES)
    assert "Machine: P, 2 cores" in first
    assert with_section(first, TABLES) == first
    other = [replace(TABLES[0], title="Another")]
    assert with_section(first, other) == with_section(before, other)
    assert with_section(first, []) == before


def test_files_are_shown_in_the_order_of_the_documentation(tmp_path):
    for table in reversed(TABLES):
        table.to_json(tmp_path / "data" / "reports" / f"bench_{table.bench}.json")
    TABLES[1].to_json(tmp_path / "data" / "reports" / "bench_attention_backward.json")
    assert [table.bench for table in stored_tables(tmp_path)] == ["training", "attention", "attention"]


def test_a_table_comes_back_from_its_file_as_it_was(tmp_path):
    for table in (*TABLES, bench_cost()):
        again = BenchTable.from_json(table.to_json(tmp_path / "t.json"))
        assert again.markdown() == table.markdown()
        assert again.to_dict() == table.to_dict()


@pytest.mark.parametrize("contents", [None, "{", "[]", '{"bench": "x"}', '{"columns": [{"key": "a"}]}'])
def test_what_is_no_table_is_refused(contents, tmp_path):
    path = tmp_path / "t.json"
    if contents is not None:
        path.write_text(contents)
    with pytest.raises(InputError, match=r"t\.json is no table that vivit-lab bench wrote .*--out FILE"):
        BenchTable.from_json(path)


@pytest.mark.parametrize("table", STORED, ids=lambda table: table.title)
def test_stored_figures_are_what_their_samples_come_to(table):
    assert table.bench in ORDER
    assert table.machine["processor"]
    shape = VivitConfig(num_labels=400)
    if table.bench != "decode":
        assert table.settings["tokens"] == shape.grid.num_tokens
        assert table.settings["hidden_size"] == shape.hidden_size
        assert table.settings["num_hidden_layers"] == shape.num_hidden_layers
    for row in table.rows:
        if table.bench in ("inference", "training"):
            count = row["batches" if table.bench == "inference" else "steps"]
            for name, times in row["samples"].items():
                assert len(times) == count
                assert row[f"{name}_seconds"] == pytest.approx(median(times))
            if row["speedup_percent"] is not None:
                ratio = row["eager_seconds"] / row["sdpa_seconds"]
                assert row["speedup_percent"] == pytest.approx(100 * (ratio - 1))
            known = a100_row(table.bench, row["batch"], row["dtype"])
            assert row.get("a100_speedup_percent") == (known or {}).get("speedup_percent")
        elif table.bench == "attention" and not row["error"]:
            assert row["milliseconds"] == pytest.approx(1000 * median(row["samples"]))
        elif table.bench == "rollout":
            assert row["seconds"] == pytest.approx(median(row["samples"]))
        elif table.bench == "decode":
            assert row["same_frames"] is True


def test_the_readmes_cost_table_is_what_bench_cost_counts():
    for row in bench_cost().rows:
        assert f"| {row['variant']} | {row['gmacs']:.1f} | {row['parameters_m']:.1f} |" in README
