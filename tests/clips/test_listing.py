"""Which clips a name stands for."""

import os
import uuid

import fsspec
import pyarrow as pa
import pytest

import vivit_lab as lab
from tests.bulk.tiny_bulk import LOCAL, tiny_job, write_clips
from vivit_lab.bulk import run_bulk
from vivit_lab.bulk.clips import MANIFEST_SCHEMA, clip_id, manifest_of
from vivit_lab.bulk.store import pq
from vivit_lab.cli import main
from vivit_lab.clips.listing import CLIP_SCHEMA
from vivit_lab.errors import InputError
from vivit_lab.evaluation import open_data


@pytest.fixture
def folder(tmp_path):
    for name in ("b.mp4", "a.mp4", "deep/c.webm", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def list_clips(source):
    """The manifest of a run without a classifier: what the list holds, with ids."""
    return manifest_of(source, {})


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


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def test_folders_are_classes_and_what_was_found_is_said(tmp_path):
    touch(tmp_path, "up/1.mp4", "up/2.mp4", "down/deep/3.mp4", ".cache/x/4.mp4", "up/notes.txt")
    found = lab.clips.list_clips(tmp_path)
    assert found.table.schema == CLIP_SCHEMA
    assert found.table["label"].to_pylist() == ["down", "up", "up"]
    assert str(found) == "3 clips, 2 classes from folders"
    touch(tmp_path, "5.mp4")  # a video beside the folders: they are no classes then
    assert str(lab.clips.list_clips(tmp_path)) == "4 clips, no labels"


def test_folders_of_splits(tmp_path):
    touch(tmp_path, "train/a/1.mp4", "train/b/2.mp4", "val/a/3.mp4")
    found = lab.clips.list_clips(tmp_path)
    assert found.table["split"].to_pylist() == ["train", "train", "validation"]
    assert found.table["label"].to_pylist() == ["a", "b", "a"]
    assert str(found) == "3 clips, 2 classes from folders, 2 train and 1 validation"


def test_folders_of_splits_are_never_classes(tmp_path):
    touch(tmp_path, "train/1.mp4", "test/2.mp4")  # no classes known
    found = lab.clips.list_clips(tmp_path)
    assert found.table["split"].to_pylist() == ["test", "train"]
    assert str(found) == "2 clips, no labels, 1 test and 1 train"
    touch(tmp_path, "train/up/3.mp4", "extra/4.mp4")
    found = lab.clips.list_clips(tmp_path)
    assert found.table["split"].to_pylist() == [None, "test", "train", "train"]
    why = "lies in no folder of a split, as others do, so names of folders are taken for no labels"
    assert str(found) == f"4 clips, no labels, 1 test and 2 train; {tmp_path / 'extra/4.mp4'} {why}"


def test_a_class_may_be_called_as_a_split(tmp_path):
    touch(tmp_path, "train/1.mp4", "car/2.mp4")
    assert str(lab.clips.list_clips(tmp_path)) == "2 clips, 2 classes from folders"


def test_other_endings_and_hidden_files(tmp_path):
    touch(tmp_path, "up/1.flv", "up/2.WMV", "up/._2.mp4", "down/3.ogv")
    assert str(lab.clips.list_clips(tmp_path)) == "3 clips, 2 classes from folders"


def test_names_of_folders_are_labels_where_they_are_classes(tmp_path):
    touch(tmp_path, "2020/1.mp4", "2021/2.mp4")
    classes = {0: "up", 1: "down"}
    none = lab.clips.list_clips(tmp_path).for_classes(classes)
    assert none.table["label"].null_count == 2
    why = "the folders (2020, 2021) are no classes of the model, so their names are taken for no labels"
    assert str(none) == f"2 clips, no labels; {why}"
    touch(tmp_path, "Up/3.mp4")
    with pytest.raises(
        lab.errors.InputError, match="labels 2020, 2021 are no classes of the model, which has up, down"
    ):
        lab.clips.list_clips(tmp_path).for_classes(classes)
    (tmp_path / "t.csv").write_text("path,label\n2020/1.mp4,left\n")
    with pytest.raises(lab.errors.InputError, match="labels left are no classes of the model"):
        lab.clips.list_clips(tmp_path / "t.csv").for_classes(classes)


def test_a_list_of_lines_and_tabs(tmp_path):
    touch(tmp_path, "a b.mp4", "c.mp4")
    (tmp_path / "train.txt").write_text("a b.mp4 3\n\nc.mp4 4\n")
    assert lab.clips.list_clips(tmp_path / "train.txt").table.to_pylist() == [
        {"path": str(tmp_path / name), "start": None, "end": None, "label": label, "split": None, "mask": None}
        for name, label in (("a b.mp4", "3"), ("c.mp4", "4"))
    ]
    (tmp_path / "t.tsv").write_text("path\tlabel\tmask\nc.mp4\tx, y\tm/c.png\n")
    (row,) = lab.clips.list_clips(tmp_path / "t.tsv").table.to_pylist()
    assert (row["label"], row["mask"]) == ("x, y", str(tmp_path / "m" / "c.png"))
    (tmp_path / "bad.list").write_text("lonely.mp4\n")
    with pytest.raises(lab.errors.InputError, match="line 1 wants a path and a label"):
        lab.clips.list_clips(tmp_path / "bad.list")


def test_kinetics_own_table(tmp_path):
    touch(tmp_path, "train/air drumming/abc_000010_000020.mp4")
    rows = "air drumming,abc,10,20,train\nabseiling,007,3,13,val\n"
    (tmp_path / "k.csv").write_text(f"label,youtube_id,time_start,time_end,split\n{rows}")
    found = lab.clips.list_clips(tmp_path / "k.csv")
    first, second = found.table.to_pylist()
    assert first["path"] == str(tmp_path / "train/air drumming/abc_000010_000020.mp4")
    assert (first["label"], first["split"], first["start"]) == ("air drumming", "train", None)
    assert second["path"] == str(tmp_path / "007_000003_000013.mp4")
    assert "1 file is missing, such as" in str(found)
    (tmp_path / "k.csv").write_text("label,youtube_id,time_start,time_end\nair drumming,abc,,20\n")
    with pytest.raises(InputError, match="the columns time_start and time_end want whole seconds"):
        lab.clips.list_clips(tmp_path / "k.csv")


def test_missing_and_repeated_files_are_named(tmp_path):
    touch(tmp_path, "a.mp4")
    (tmp_path / "t.csv").write_text("path,label\na.mp4,x\na.mp4,x\nb.mp4,y\nc.mp4,\n")
    told = str(lab.clips.list_clips(tmp_path / "t.csv"))
    assert told.startswith("3 clips, 2 classes from table, 1 without a label, 2 files are missing, such as ")
    assert told.endswith(f"1 clip is there more than once, such as {tmp_path / 'a.mp4'}, and used once")
    assert lab.clips.list_clips([tmp_path / "a.mp4"] * 3).table["path"].to_pylist() == [str(tmp_path / "a.mp4")]
    (tmp_path / "t.csv").write_text("path,label\na.mp4,x\na.mp4,y\n")
    with pytest.raises(InputError, match=r"has .*a\.mp4 with different labels \(x, y\); keep one of them"):
        lab.clips.list_clips(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.parquet", b"PAR1 and no more", "wants a header with the column path and a row"),
        ("t.txt", "a.mp4 caf\xe9\n".encode("latin-1"), "is not UTF-8"),
        ("t.csv", b"path,path,label\na.mp4,a.mp4,x\n", "has the column path more than once"),
        ("t.parquet", {"path": ["a.mp4"], "label": [["x", "y"]]}, "the column label wants text or numbers, got list"),
        ("t.parquet", {"path": ["a.mp4"], "start": [[1.0]]}, "the column start wants seconds"),
        ("t.parquet", {"path": [b"a.mp4"]}, "the column path wants text, got binary"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_damaged_tables_are_told(name, content, message, tmp_path):
    if isinstance(content, dict):
        pq.write_table(pa.table(content), tmp_path / name)
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        lab.clips.list_clips(tmp_path / name)


def test_a_place_that_cannot_be_reached_is_told():
    with pytest.raises(lab.errors.StorageError, match=r"http://127\.0\.0\.1:1/x\.csv cannot be read"):
        lab.clips.list_clips("http://127.0.0.1:1/x.csv")


@pytest.fixture
def labelled(tmp_path, checkpoint):
    """Class folders whose names are classes of the checkpoint."""
    model, processor = lab.load_pair(str(checkpoint))
    names = list(model.config.id2label.values())
    for number, path in enumerate(write_clips(tmp_path / "flat", 6)):
        place = tmp_path / "videos" / names[number % 2] / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        path.rename(place)
    return tmp_path / "videos", model, processor


def test_every_command_reads_the_same_labels(labelled, checkpoint, tmp_path, monkeypatch):
    folder, model, processor = labelled
    truth = [clip.label for clip in lab.training.find_clips(folder)]
    data = open_data(folder, model.config, processor)
    assert [model.config.id2label[label] for label in data.classes] == truth
    assert data.found == "6 clips, 2 classes from folders"
    results = run_bulk(tiny_job(checkpoint), folder, tmp_path / "run", executor=LOCAL, progress=False)
    rows = results.reader.rows(list(range(6)), ["label", "correct", "topk_label"])
    assert [row["label"] for row in rows] == truth
    assert [row["correct"] for row in rows] == [row["topk_label"][0] == row["label"] for row in rows]
    # a table that training writes is read by all, from wherever it is called
    monkeypatch.chdir(tmp_path)
    report = lab.training.classify_clips(model, processor, lab.training.find_clips("videos"), progress=False)
    (tmp_path / "sub").mkdir()
    for place in ("elsewhere.csv", "sub/validation.csv"):
        written = report.to_csv(tmp_path / place)
        again = lab.clips.list_clips(written)
        assert again.missing() == []
        assert again.table["label"].to_pylist() == truth
        assert open_data(written, model.config, processor).classes == data.classes


@pytest.mark.parametrize(
    ("command", "more"),
    [
        ("train", ["--steps", 1, "--batch-size", 2, "--views", 1, "--cpu"]),
        ("bulk run", ["--workers", 1, "--device", "cpu"]),
        ("bulk heads", ["--workers", 1, "--device", "cpu"]),
        ("evaluate", ["--methods", "raw", "--clips", 2, "--every-clip", "--sanity", 0, "--device", "cpu"]),
        ("heads importance", ["--method", "confidence", "--device", "cpu"]),
    ],
)
def test_every_command_says_once_what_it_found(labelled, checkpoint, tmp_path, capsys, command, more):
    folder, *_ = labelled
    clips = [(path, path.parent.name) for path in sorted(folder.rglob("*.mp4"))]
    rows = [f"{path},{label},{'m.png' if number < 3 else ''}" for number, (path, label) in enumerate(clips)]
    table = tmp_path / "t.csv"
    table.write_text("\n".join(["path,label,mask", *rows]) + "\n")
    where = {"bulk run": [table, "--out", tmp_path / "out"], "bulk heads": [tmp_path / "out", "--data", table]}.get(
        command, ["--data", table, "--out", tmp_path / "out"]
    )
    given = [*command.split(), *where, "--model", checkpoint, *more, "--json"]
    assert main(list(map(str, given))) == 0
    found = "6 clips, 2 classes from table, masks of 3 clips, which no command uses"
    assert [line for line in capsys.readouterr().err.splitlines() if "clips, " in line] == [found]


def test_segments_are_honoured_by_evaluation_as_by_training(labelled, tmp_path):
    folder, model, processor = labelled
    path = lab.training.find_clips(folder)[0].path
    (tmp_path / "t.csv").write_text(f"path,label,start,end\n{path},LABEL_0,0.3,0.8\n{path},LABEL_0,1.0,\n")
    data = open_data(tmp_path / "t.csv", model.config, processor, stride=2)
    first = lab.video.read_frames(path, [3, 5, 7, 7])  # 0.8 s is frame 8, which the segment does not hold
    with pytest.warns(lab.errors.ShortClipWarning, match=r"the segment of .* ends 1 frames before the window does"):
        batch = data.batch([0])
    assert batch.pixel_values.equal(processor.prepare(first).pixel_values)
    second = lab.video.read_frames(path, [10, 11, 11, 11])
    with pytest.warns(lab.errors.ShortClipWarning, match="its last frame repeats"):
        later = data.batch([1])
    assert later.pixel_values.equal(processor.prepare(second).pixel_values)
    # a report tells clips apart by their names
    assert (*batch.names, *later.names) == (f"{path} [0.3 s, 0.8 s]", f"{path} [1 s, end]")
    assert data.describe()["segments"] == [[0.3, 0.8], [1.0, None]]


def test_a_segment_outside_its_video_is_refused_by_evaluation_as_by_bulk_runs(labelled, tmp_path):
    folder, model, processor = labelled
    path = lab.training.find_clips(folder)[0].path
    (tmp_path / "t.csv").write_text(f"path,label,start,end\n{path},LABEL_0,9,10\n")
    with pytest.raises(InputError, match=r"the segment begins at 9\.0 s, outside .*, which lasts 1\.200 s"):
        open_data(tmp_path / "t.csv", model.config, processor).batch([0])


def test_clips_without_a_label_are_left_out_where_others_have_one(labelled, tmp_path):
    folder, model, processor = labelled
    first, second = (clip.path for clip in lab.training.find_clips(folder)[:2])
    (tmp_path / "t.csv").write_text(f"path,label\n{first},LABEL_0\n{second},\n")
    data = open_data(tmp_path / "t.csv", model.config, processor)
    assert (len(data), data.classes) == (1, [0])
    assert data.found.endswith("left out: 1 without a label")
