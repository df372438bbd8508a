"""Writing: whole or not at all, and read back the same."""

import json
import os
import stat

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from vivit_lab.checkpoints import files as save
from vivit_lab.checkpoints.files import open_checkpoint, parse_size, write_checkpoint
from vivit_lab.errors import CheckpointError, InputError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def contents(folder):
    with open_checkpoint(folder) as source:
        return {name: source[name].read() for name in source}


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(1, 300))
def test_what_is_written_is_read_back_and_no_shard_is_too_large(sizes, limit):
    import tempfile
    from pathlib import Path

    tensors = {f"t{index}": torch.rand(size) for index, size in enumerate(sizes)}
    with tempfile.TemporaryDirectory() as folder:
        written = write_checkpoint(folder, tensors, {}, max_shard_size=limit)
        back = contents(Path(folder))
        assert set(back) == set(tensors)
        assert all(torch.equal(back[name], tensors[name]) for name in tensors)
        assert sorted(str(path) for path in Path(folder).iterdir()) == sorted(str(path) for path in written)
        for path in written:
            if path.suffix == ".safetensors":
                with safe_open(path, "pt") as file:
                    held = [file.get_tensor(name).nbytes for name in file.keys()]
                assert sum(held) <= limit or len(held) == 1


def test_the_index_and_metadata_are_transformers(tmp_path):
    tensors = {"a": torch.zeros(10), "b": torch.zeros(10, dtype=torch.float16), "c": torch.zeros(1)}
    write_checkpoint(tmp_path, tensors, {"x": 1}, max_shard_size=60)
    assert names(tmp_path) == [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 64
    assert index["weight_map"]["c"] == "model-00002-of-00002.safetensors"
    with safe_open(tmp_path / "model-00001-of-00002.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert json.loads((tmp_path / "config.json").read_text()) == {"x": 1}


def test_windows_on_a_larger_tensor_are_written_alone(tmp_path):
    whole = torch.arange(1000.0)
    tensors = {"head": whole[:3], "other": whole[3:6], "across": whole.reshape(10, 100).T}
    write_checkpoint(tmp_path, tensors, {})
    assert all(torch.equal(value, tensors[name]) for name, value in contents(tmp_path).items())


@pytest.mark.parametrize(("first", "second"), [("5GB", 30), (30, "5GB"), (30, 50)])
def test_an_older_checkpoint_leaves_nothing_behind(tmp_path, first, second):
    (tmp_path / "notes.txt").write_text("mine")
    write_checkpoint(tmp_path, {name: torch.zeros(5) for name in "abcd"}, {}, max_shard_size=first)
    new = {name: torch.ones(5) for name in "abcd"}
    written = write_checkpoint(tmp_path, new, {}, max_shard_size=second)
    assert names(tmp_path) == sorted([path.name for path in written] + ["notes.txt"])
    assert all(bool((value == 1).all()) for value in contents(tmp_path).values())


def test_a_failure_leaves_the_older_checkpoint_as_it_was(tmp_path, monkeypatch):
    write_checkpoint(tmp_path, {"a": torch.zeros(5), "b": torch.zeros(5)}, {"old": True})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    real, calls = save.save_file, []

    def fail_at_the_second(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise OSError("disk full")
        real(*args, **kwargs)

    monkeypatch.setattr(save, "save_file", fail_at_the_second)
    with pytest.raises(OSError, match="disk full"):
        write_checkpoint(tmp_path, {"a": torch.ones(5), "b": torch.ones(5)}, {}, max_shard_size=20)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("after", range(9))
@pytest.mark.parametrize(("first", "second"), [("5GB", 20), (20, "5GB"), (20, 20)])
def test_an_error_while_the_files_take_their_names_is_undone(tmp_path, monkeypatch, first, second, after):
    (tmp_path / "notes.txt").write_text("mine")
    old = {"a": torch.zeros(5), "b": torch.zeros(5)}
    write_checkpoint(tmp_path, old, {"old": True}, max_shard_size=first)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    real, calls = os.replace, []

    def fail_once(*args):
        calls.append(args)
        if len(calls) == after + 1:
            raise OSError("no permission")
        # at every moment it is the old checkpoint, or has no settings and so does not load, or is the new one
        real(*args)
        if (tmp_path / "config.json").is_file():
            settings = json.loads((tmp_path / "config.json").read_text())
            assert {bool(value.any()) for value in contents(tmp_path).values()} == {settings == {"new": True}}

    monkeypatch.setattr(os, "replace", fail_once)
    new = {"a": torch.ones(5), "b": torch.ones(5)}
    try:
        write_checkpoint(tmp_path, new, {"new": True}, max_shard_size=second)
        failed = False
    except OSError:
        failed = True
    assert failed == (len(calls) > after)
    if failed:
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    else:
        assert all(torch.equal(value, new[name]) for name, value in contents(tmp_path).items())
        assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert len(calls) > min(after, 3), "fewer renames than there are files"


def test_weights_may_be_read_by_whom_the_settings_may(tmp_path):
    mask = os.umask(0o027)
    try:
        write_checkpoint(tmp_path / "new", {"a": torch.zeros(5)}, {})
    finally:
        os.umask(mask)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").iterdir()}
    assert modes == {0o640}


def test_a_file_is_no_place_to_save_into(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(CheckpointError, match="it is a file, wanted a directory"):
        write_checkpoint(path, {"a": torch.zeros(1)}, {})


SIZES = [("5GB", 5 * 10**9), ("200 MiB", 200 * 2**20), (7, 7), ("1.5kb", 1500), ("12", 12), ("2TB", 2 * 10**12)]


@pytest.mark.parametrize(("text", "size"), SIZES)
def test_sizes_have_units(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "5 apples", "-3", 0, "0GB", "GB", "5I", True, None])
def test_other_sizes_are_refused(text):
    with pytest.raises(InputError, match=r"max_shard_size=.* is not a size"):
        parse_size(text)
