"""Names that hold control characters, bars, quotes and formulas, on a terminal and in tables."""

import csv
import io
import json
import warnings

import pytest
from rich.table import Table

import vivit_lab as lab
from vivit_lab.bench import BenchTable
from vivit_lab.bench.table import Column
from vivit_lab.cli import main, options
from vivit_lab.cli.options import print_error, print_json, print_table, say, say_found, status
from vivit_lab.errors import VivitLabWarning
from vivit_lab.families import VivitForVideoClassification
from vivit_lab.processing import VivitImageProcessor
from vivit_lab.text import csv_writer, markdown_row, visible

STEERING = "\x1b[31mred\x1b]0;title\x07\r\x9b2J\x7f\u202e\udc80"
SHOWN = r"\x1b[31mred\x1b]0;title\x07\r\x9b2J\x7f\u202e\udc80"


def is_plain(text):
    return all(letter == "\n" or letter.isprintable() for letter in text)


def test_what_steers_a_terminal_is_written_out():
    assert visible(STEERING) == SHOWN
    assert visible("Ünï 日本 👩‍🔬 a\tb\nc") == "Ünï 日本 👩‍🔬 a\tb\nc"
    assert visible("a\nb", lines=False) == r"a\nb"
    assert visible(7) == "7"


def test_all_that_the_command_line_prints_is_plain(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    table = Table(title=f"title {STEERING}")
    table.add_column(f"column {STEERING}")
    table.add_row(f"[bold]:heart: {STEERING}")
    print_table(table)
    say(f"said {STEERING}")
    say_found(f"found {STEERING}")
    print_error(lab.errors.InputError(f"wrong {STEERING}"))
    with status(f"busy {STEERING}", quiet=False):
        pass
    out, err = capsys.readouterr()
    assert is_plain(out)
    assert is_plain(err)
    one_line = SHOWN.replace(r"\r", " ")  # an error is one line
    assert f"title {SHOWN}" in out
    assert f"column {SHOWN}" in out
    assert f"[bold]:heart: {SHOWN}" in out
    assert f"said {SHOWN}" in out
    assert f"found {SHOWN}" in err
    assert f"error: wrong {one_line}" in err


def test_json_keeps_the_text_and_is_plain(capsys):
    print_json({STEERING: [STEERING, "日本"]})
    out = capsys.readouterr().out
    assert is_plain(out)
    assert "日本" in out
    assert json.loads(out) == {STEERING: [STEERING, "日本"]}


def test_a_spinner_does_not_take_a_name_for_markup(monkeypatch):
    shown = io.StringIO()
    console = options._Console(file=shown, force_terminal=True, width=100)
    monkeypatch.setattr(options, "errors", console)
    with status("loading [red]\x1b]0;x\x07", quiet=False):
        pass
    assert r"loading [red]\x1b]0;x\x07" in shown.getvalue()
    assert "\x1b]0;" not in shown.getvalue()


def test_names_of_files_and_labels_from_the_outside(checkpoint, video, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    model = VivitForVideoClassification.from_pretrained(checkpoint)
    names = {index: f"\x1b[31m{index}\x1b]0;x\x07" for index in range(model.config.num_labels)}
    VivitForVideoClassification(model.config.replace(id2label=names)).save_pretrained(tmp_path / "model")
    VivitImageProcessor.from_pretrained(checkpoint).save_pretrained(tmp_path / "model")
    path = tmp_path / "a\x1b]0;y\x07\nmovie: b.mp4"
    path.write_bytes(video.read_bytes())
    broken = tmp_path / "broken\x1b[2J.mp4"
    broken.write_bytes(b"no video")
    common = ["--model", str(tmp_path / "model")]
    assert main(["predict", str(path), *common]) == 0
    assert main(["info", str(tmp_path / "model")]) == 0
    assert main(["info", str(path)]) == 0
    assert main(["predict", str(broken), *common]) == 1
    assert main(["render", str(path), str(broken), *common, "--out", str(tmp_path / "out"), "--zoom", "2"]) == 1
    out, err = capsys.readouterr()
    assert is_plain(out)
    assert is_plain(err.replace("\r", "\n"))  # bars return to the start of their line
    assert r"\x1b[31m0\x1b]0;x\x07" in out
    assert r"broken\x1b[2J.mp4" in err
    (movie,) = [line for line in out.splitlines() if line.startswith("movie: ")]
    assert r"a\x1b]0;y\x07\nmovie: b" in movie


def test_warnings_are_plain(monkeypatch, capsys, checkpoint):
    def load_pair(*_given, **_more):
        warnings.warn(f"odd {STEERING}", VivitLabWarning, stacklevel=2)
        raise lab.errors.InputError("done")

    monkeypatch.setattr("vivit_lab.explain.load_pair", load_pair)
    assert main(["info", "nowhere/model"]) == 1
    err = capsys.readouterr().err
    assert is_plain(err)
    assert r"warning: odd \x1b[31mred" in err


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("a|b", r"a\|b"),
        ("a\\|b", r"a\\\|b"),
        ("a\nb\r\nc", "a b c"),
        ("\x1b[31m", r"\\x1b[31m"),
        (1.5, "1.5"),
    ],
)
def test_a_cell_of_markdown_stays_one_cell(cell, written):
    assert markdown_row(["x", cell]) == f"| x | {written} |"


def test_tables_escape_their_cells():
    facts = dict.fromkeys(("processor", "cores", "threads", "memory_gb", "system", "torch", "load"), 1)
    table = BenchTable("test", "title", (Column("a|b", "a|b"),), ({"a|b": "c|d\ne"},), facts)
    assert [line for line in table.markdown().splitlines() if line.startswith("|")] == [
        r"| a\|b |", "| --- |", r"| c\|d e |"
    ]  # fmt: skip


def test_cells_of_csv_are_quoted_and_come_back():
    cells = ["=1+1", "+1", "-1", "@a", 'a"b', "a,b", "a\nb", "a\rb", "", "ü"]
    file = io.StringIO(newline="")
    csv_writer(file).writerow([*cells, 1.5, None, True])
    text = file.getvalue()
    assert text.startswith('"=1+1","+1","-1","@a","a""b","a,b",')
    assert text.endswith(',1.5,"",True\n')
    assert next(csv.reader(io.StringIO(text, newline=""))) == [*cells, "1.5", "", "True"]
