"""``vivit-lab bulk`` as somebody types it."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from tests.bulk.held_back import held_back, opening_below
from tests.bulk.tiny_bulk import write_clips
from vivit_lab.cli.app import main


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    write_clips(folder, 6)
    (folder / "manifest.csv").write_text("path,label\n" + "".join(f"clip-000{n}.mp4,{n % 5}\n" for n in range(6)))
    return folder


@pytest.fixture(scope="module")
def run(clips, checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    assert start(clips, out, checkpoint) == 0
    return out


def start(videos, out, checkpoint, *more):
    options = ["--model", checkpoint, "--stride", 1, "--shard-size", 4, "--batch-size", 2, "--workers", 1]
    return main(list(map(str, ["bulk", "run", videos, "--out", out, *options, "--json", *more])))


def printed(capsys):
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


def test_a_run_ends_with_a_table_and_resumes_by_its_folder_alone(run, capsys):
    assert main(["bulk", "run", "--out", str(run), "--json"]) == 0
    found = printed(capsys)
    assert (found["clips_done"], found["errors"], found["parts_done"]) == (6, 0, 2)
    assert main(["bulk", "status", str(run)]) == 0
    shown = capsys.readouterr().out
    assert "6 of 6" in shown
    assert "accuracy" in shown


def test_failed_clips_have_an_exit_code_and_a_retry(clips, checkpoint, tmp_path, capsys):
    videos = tmp_path / "videos"
    videos.mkdir()
    os.link(clips / "clip-0000.mp4", videos / "a.mp4")
    (videos / "b.mp4").write_bytes(b"")
    assert start(videos, tmp_path / "run", checkpoint) == 3
    found = printed(capsys)
    assert found["errors"] == 1
    assert "b.mp4 is empty" in found["failed"][0]["error"]
    assert main(["bulk", "status", str(tmp_path / "run")]) == 0
    assert "bulk retry" in capsys.readouterr().err
    (videos / "b.mp4").write_bytes((clips / "clip-0001.mp4").read_bytes())
    assert main(["bulk", "retry", str(tmp_path / "run"), "--workers", "1"]) == 0
    assert "0 (1 tried again)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--out", "{tmp}/none"], "holds no run to resume"),
        (["run", "{clips}", "--out", "{run}", "--method", "raw"], "holds a run with other methods"),
        (["run", "--out", "{run}", "--engine", "slurm"], "choose local or ray"),
        (["run", "--out", "{run}", "--ray-address", "auto"], "--ray-address wants --engine ray"),
        (["run", "--out", "{run}", "--engine", "ray", "--device", "cuda:0"], "--device cuda:0 is of the local engine"),
        (["run", "--out", "{run}", "--shards", "2:1"], "shards wants"),
        (["status", "{tmp}"], "wanted the folder of a bulk run"),
        (["export", "{run}", "--to", "{tmp}/all.xlsx"], "choose one of parquet"),
        (["render", "{run}", "--out", "{tmp}/page", "--clip", "a", "--by", "loss"], "give either"),
        (["heads", "{tmp}/none"], "holds no run to resume; name --data to begin one"),
        (["heads", "{run}", "--data", "{clips}", "--stride", "2"], "holds a run with other stride"),
        (["heads", "{run}", "--masks", "random:x"], "random:REMOVED:COUNT"),
        (["heads", "{run}", "--masks", "{tmp}/none.json"], "holds no masks"),
    ],
)
def test_what_it_refuses(arguments, message, run, clips, tmp_path, capsys):
    places = {"tmp": tmp_path, "run": run, "clips": clips}
    assert main(["bulk", *(text.format(**places) for text in arguments)]) == 1
    assert message in " ".join(capsys.readouterr().err.split())


def test_export_heads_and_render(run, tmp_path, capsys):
    assert main(["bulk", "export", str(run), "--to", str(tmp_path / "all.csv")]) == 0
    assert len((tmp_path / "all.csv").read_text().splitlines()) == 7
    assert main(["bulk", "heads", str(run), "--masks", "random:3:2", "--workers", "1", "--json"]) == 0
    found = printed(capsys)
    assert [row["mask"] for row in found["masks"]] == ["none removed", "random 0", "random 1"]
    assert main(["bulk", "heads", str(run), "--masks", "random:3:2"]) == 0
    assert "random 1" in capsys.readouterr().out
    page = tmp_path / "page"
    options = ["--by", "loss", "--count", "2", "--workers", "1", "--json"]
    assert main(["bulk", "render", str(run), "--out", str(page), *options]) == 0
    assert printed(capsys) == {"page": str(page / "index.html")}
    assert len(list((page / "movies").iterdir())) == len(list((page / "thumbnails").iterdir())) == 2


def test_what_wants_labels_says_so_without_them(clips, checkpoint, tmp_path, capsys):
    assert start(clips / "clip-0000.mp4", tmp_path / "run", checkpoint) == 0
    capsys.readouterr()
    assert main(["bulk", "render", str(tmp_path / "run"), "--out", str(tmp_path / "page"), "--by", "loss"]) == 1
    assert "has a score loss yet (it wants labels)" in " ".join(capsys.readouterr().err.split())
    assert main(["bulk", "heads", str(tmp_path / "run"), "--masks", "random:3:1", "--workers", "1", "--json"]) == 0
    text = capsys.readouterr().out.strip().splitlines()[-1]
    assert "NaN" not in text
    assert [row["accuracy"] for row in json.loads(text)["masks"]] == [None, None]


@pytest.mark.parametrize("kind", ["folder", "csv", "parquet"])
def test_heads_of_a_labelled_data_set_in_one_command(kind, run, clips, checkpoint, tmp_path, capsys):
    videos = clips
    if kind != "folder":
        rows = [{"path": str(clips / f"clip-000{number}.mp4"), "label": str(number % 5)} for number in range(6)]
        videos = tmp_path / f"clips.{kind}"
        write = pyarrow.csv.write_csv if kind == "csv" else pyarrow.parquet.write_table
        write(pa.Table.from_pylist(rows), videos)
    out = tmp_path / "run"
    options = ["--model", checkpoint, "--stride", 1, "--shard-size", 4, "--batch-size", 2, "--workers", 1, "--json"]
    command = list(map(str, ["bulk", "heads", out, "--data", videos, *options, "--masks", "random:3:2"]))
    assert main([*command, "--shards", "0"]) == 0
    assert printed(capsys)["parts_done"] == 1
    first = (out / "sweeps/random/part-000000-0000.parquet").stat().st_mtime_ns
    assert main(command) == 0  # goes on
    found = printed(capsys)
    assert (found["parts_done"], found["parts"]) == (2, 2)
    assert (out / "sweeps/random/part-000000-0000.parquet").stat().st_mtime_ns == first
    assert [row["clips"] for row in found["masks"]] == [6, 6, 6]
    assert main(["bulk", "heads", str(run), "--masks", "random:3:2", "--name", kind, "--workers", "1", "--json"]) == 0
    assert printed(capsys)["masks"] == found["masks"]  # those of a whole run


def test_ctrl_c_ends_cleanly_and_says_how_to_go_on(clips, checkpoint, tmp_path):
    videos = tmp_path / "my videos"
    videos.mkdir()
    out = tmp_path / "run"
    command = [sys.executable, "-m", "vivit_lab", "bulk", "run", videos, "--out", out, "--model", checkpoint]
    command = [*map(str, command), "--workers", "1", "--timeout", "500"]
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    busy = held_back(videos / "hangs.mp4")
    with busy as hanging, subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as run:
        until = time.monotonic() + 120
        while not opening_below(run.pid, hanging) and time.monotonic() < until:
            time.sleep(0.1)
        run.send_signal(signal.SIGINT)
        _, shown = run.communicate(timeout=60)
    assert run.returncode == 130
    assert f"Go on with: {shlex.join(['vivit-lab', *command[3:]])}\n" in shown
    assert "Traceback" not in shown
