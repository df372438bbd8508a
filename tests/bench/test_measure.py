import json
import sys
import time

import pytest
import torch

from vivit_lab.bench import BenchTable, measure
from vivit_lab.bench.measure import PeakMeter, interleaved, one_thread, peak_bytes, report, sampled
from vivit_lab.bench.table import Column
from vivit_lab.errors import InputError


def test_calls_are_taken_in_turn_and_timed_by_the_clock():
    seen, now = [], iter(range(100))
    times = sampled({"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}, 3, lambda: float(next(now)))
    assert seen == ["a", "b"] * 3
    assert times == {"a": [1.0] * 3, "b": [1.0] * 3}
    with pytest.raises(InputError, match=r"repeats must be at least 1, got 0"):
        sampled({}, 0)


def test_the_least_time_counts():
    pauses = iter([0.03, 0.0, 0.03])
    assert interleaved({"x": lambda: time.sleep(next(pauses))})["x"] < 0.03


def test_one_thread_is_undone():
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_peak_is_what_was_held_at_once():
    one_by_one = peak_bytes("import torch", "max(float(torch.ones(10_000_000).sum()) for _ in range(3))")  # 40 MB each
    together = peak_bytes("import torch", "[torch.ones(10_000_000) for _ in range(3)]")
    assert 35e6 < one_by_one < 75e6
    assert 115e6 < together < 160e6


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_container_that_keeps_its_peak_gives_no_figure_instead_of_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(measure, "_PROC", tmp_path / "nothing")
    with PeakMeter() as meter:
        torch.ones(10)
    assert meter.bytes is None


def test_a_report_names_ratios(capsys):
    report("x", {"a": 1.0, "b": 2.5}, "a")
    assert "2.500 × a" in capsys.readouterr().out


TABLE = BenchTable(
    "x",
    "A title",
    (Column("name", "name"), Column("value", "value", 2)),
    ({"name": "<one>", "value": 1.234, "error": None}, {"name": "two", "error": "no luck"}),
    {"processor": "P", "gpu": "G", "cores": 2, "threads": 1, "memory_gb": 3, "system": "S", "torch": "2", "load": 0.5},
    notes=("A note.",),
)


def test_a_table_for_eyes():
    assert TABLE.cells() == [["<one>", "1.23"], ["two", "-"]]
    text = str(TABLE)
    assert "| <one> | 1.23 |\n| two | - |" in text
    assert "name two: no luck." in text
    assert "Machine: G, P, 2 cores, 1 threads" in text
    assert "&lt;one&gt;" in TABLE._repr_html_()


def test_a_table_as_a_file(tmp_path):
    path = TABLE.to_json(tmp_path / "deep" / "t.json")
    assert json.loads(path.read_text())["rows"][1]["error"] == "no luck"
