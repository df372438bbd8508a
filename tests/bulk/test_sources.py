"""Which clips a name stands for."""

import os
import uuid

import fsspec
import pyarrow as pa
import pytest

from vivit_lab.bulk.rows import clip_id
from vivit_lab.bulk.sources import MANIFEST_SCHEMA, list_clips
from vivit_lab.bulk.store import pq
from vivit_lab.errors import InputError


@pytest.fixture
def folder(tmp_path):
    for name in ("b.mp4", "a.mp4", "deep/c.webm", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def paths(table):
    return table["path"].to_pylist()


def test_a_folder_is_searched_and_sorted(folder):
    table = list_clips(folder)
    assert table.schema == MANIFEST_SCHEMA
    assert paths(table) == [str(folder / name) for name in ("a.mp4", "b.mp4", "deep/c.webm")]
    assert table["clip_id"].to_pylist() == [clip_id(path) for path in paths(table)]
    assert table["label"].null_count == 3
    assert paths(list_clips(f"file://{folder}")) == paths(table)


def test_a_pattern_a_file_and_a_list(folder, monkeypatch):
    assert paths(list_clips(f"{folder}/*.mp4")) == [str(folder / "a.mp4"), str(folder / "b.mp4")]
    assert paths(list_clips(f"{folder}/**/*.webm")) == [str(folder / "deep" / "c.webm")]
    assert paths(list_clips(folder / "b.mp4")) == [str(folder / "b.mp4")]
    monkeypatch.chdir(folder)
    assert paths(list_clips(["b.mp4", "a.mp4"])) == [str(folder / "b.mp4"), str(folder / "a.mp4")]
    assert paths(list_clips("*.mp4")) == [str(folder / "a.mp4"), str(folder / "b.mp4")]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_gives_labels_and_segments(kind, folder):
    rows = {"path": ["a.mp4", "a.mp4", str(folder / "b.mp4")], "label": ["up", "", "3"]}
    times = {"start": [0.0, 1.5, None], "end": [1.5, None, 2.0]}
    table = pa.table({**rows, **times, "more": [1, 2, 3]})
    place = folder / f"manifest.{kind}"
    if kind == "csv":
        place.write_text("path,label,start,end\na.mp4,up,0,1.5\na.mp4,,1.5,\n" + f"{folder / 'b.mp4'},3,,2\n")
    else:
        pq.write_table(table, place)
    for name in (place, folder):  # a folder with a manifest is that manifest
        found = list_clips(name)
        assert paths(found) == [str(folder / "a.mp4"), str(folder / "a.mp4"), str(folder / "b.mp4")]
        assert found["label"].to_pylist() == ["up", None, "3"]
        assert found["start"].to_pylist() == [0.0, 1.5, None]
        assert found["end"].to_pylist() == [1.5, None, 2.0]
        assert len(set(found["clip_id"].to_pylist())) == 3


def test_whole_numbers_are_labels_too(folder):
    (folder / "clips.csv").write_text("path,label\na.mp4,3\nb.mp4,4\n")
    assert list_clips(folder / "clips.csv")["label"].to_pylist() == ["3", "4"]


def test_names_that_look_like_numbers_stay_as_they_are_written(folder):
    (folder / "007").write_bytes(b"x")
    (folder / "clips.csv").write_text("path,label\n007,010\n1e3,\n")
    found = list_clips(folder / "clips.csv")
    assert paths(found) == [str(folder / "007"), str(folder / "1e3")]
    assert found["label"].to_pylist() == ["010", None]


def test_urls_of_another_file_system():
    root = f"memory:///{uuid.uuid4().hex}"
    fs = fsspec.filesystem("memory")
    for name in ("a.mp4", "b/c.mp4"):
        fs.pipe_file(f"{root}/{name}", b"x")
    assert paths(list_clips(root)) == [f"{root}/a.mp4", f"{root}/b/c.mp4"]
    assert paths(list_clips(f"{root}/*.mp4")) == [f"{root}/a.mp4"]
    fs.pipe_file(f"{root}/clips.csv", b"path,label\nb/c.mp4,1\nfile:///data/x.mp4,2\n")
    assert paths(list_clips(f"{root}/clips.csv")) == [f"{root}/b/c.mp4", "file:///data/x.mp4"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\na.mp4,1\n", "wants a header with the column path"),
        ("path,label\n", "wants a header with the column path"),
        ("path,start\na.mp4,soon\n", "the column start wants seconds"),
        ("path,start,end\na.mp4,2,1\n", "1 segments that end before they begin"),
        ("path,end\na.mp4,0\n", "1 segments that end before they begin"),
        ("path\na.mp4\na.mp4\n", "2 times; a clip can be in a run once"),
    ],
)
def test_a_table_that_is_wrong(text, message, folder):
    (folder / "clips.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        list_clips(folder / "clips.csv")


def test_what_is_not_there(folder):
    with pytest.raises(InputError, match=r"there is no .*nothing"):
        list_clips(folder / "nothing")
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match="holds no video"):
        list_clips(folder / "empty")
    with pytest.raises(InputError, match="fsspec cannot open"):
        list_clips("nosuchprotocol://bucket/clips")


def test_a_name_that_is_not_utf8_is_told(folder):
    open(os.fsencode(folder) + b"/caf\xe9.mp4", "wb").close()
    with pytest.raises(InputError, match=r"not UTF-8: b'.*caf.xe9.mp4'; rename it"):
        list_clips(folder)


def test_a_table_that_a_run_exported_keeps_its_segments(folder):
    (folder / "rows.csv").write_text("path,start_seconds,end_seconds\na.mp4,1.5,2.5\n")
    found = list_clips(folder / "rows.csv").to_pylist()[0]
    assert (found["start"], found["end"]) == (1.5, 2.5)


def test_ids_tell_segments_apart():
    assert clip_id("/a.mp4") == clip_id("/a.mp4", None, None) != clip_id("/a.mp4", 0.0)
    assert clip_id("/a.mp4", 1, 2) == clip_id("/a.mp4", 1.0, 2.0) != clip_id("/a.mp4", 1.0)
    assert len(clip_id("/a.mp4")) == 16
