"""Names that stay in their folder, and contents that are bounded before they are read."""

import io
import json
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivit_lab.checkpoints.scenic import read_parameters
from vivit_lab.errors import CheckpointError, DamagedFileError, InputError
from vivit_lab.files import (
    file_stem,
    inside,
    parse_json,
    plain_name,
    read_json,
    read_npz,
    read_sealed,
    stored_tensors,
    write_sealed,
)


@pytest.mark.parametrize("name", ["clip-0001", "größer.mp4", "a b (2).png", "動画", "x" * 255])
def test_plain_names_stay_as_they_are(name):
    assert plain_name(name, "a table") == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../a", "a/b", "/etc", "a\\b", "C:a", "a\x00", "a\nb", ".hidden", "é" * 128, None, 3, True]
)
def test_other_names_are_refused(name):
    with pytest.raises(InputError, match=r"a table gives the name .*; wanted the plain name of a file beside it"):
        plain_name(name, "a table")


@given(st.text(max_size=300))
def test_a_stem_is_a_plain_name_for_any_text(text):
    assert plain_name(file_stem(text), "a label") == file_stem(text)


def test_paths_in_a_folder(tmp_path):
    assert inside(tmp_path, "hidden/part.bin", "a row") == tmp_path / "hidden" / "part.bin"
    for name in ("../a", "a/../../b", "/etc/passwd", "", None, "a//../b"):
        with pytest.raises(InputError, match="a row gives the name"):
            inside(tmp_path, name, "a row")


def test_json_that_is_too_deep_too_large_or_none(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(InputError, match=r"config.json is not JSON that can be read: it is nested too deeply"):
        read_json(path)
    with pytest.raises(InputError, match=r"config.json has 200000 bytes, more than the 1000 that such a file may have"):
        read_json(path, limit=1000)
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(InputError, match=r"config.json is not JSON: 'utf-8' codec"):
        read_json(path)
    assert parse_json('{"a": 1}', "x") == {"a": 1}


def bomb(path, megabytes=64, claimed=None):
    """An archive of zeros, which is a thousandth of its contents; its header may claim another shape."""
    header = io.BytesIO()
    shape = claimed or (megabytes * 2**18,)
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("kernel.npy", "w") as file:
        file.write(header.getvalue())
        for _ in range(megabytes):
            file.write(bytes(2**20))


def test_an_archive_that_would_fill_the_memory_is_refused_before_it_is_unpacked(tmp_path):
    bomb(tmp_path / "bomb.npz")
    assert (tmp_path / "bomb.npz").stat().st_size < 2**17
    with pytest.raises(InputError, match=r"bomb.npz would unpack to 6710\d+ bytes, more than the 16777216 that"):
        read_npz(tmp_path / "bomb.npz")
    with pytest.raises(CheckpointError, match=r"bomb.npz would unpack to"):
        read_parameters(tmp_path / "bomb.npz")
    bomb(tmp_path / "lie.npz", megabytes=1, claimed=(2**40,))
    with pytest.raises(InputError, match=r"the header of kernel tells of \(1099511627776,\) float32"):
        read_npz(tmp_path / "lie.npz")


def test_arrays_come_back_and_others_are_named(tmp_path):
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b/c": np.array([True, False])}
    np.savez_compressed(tmp_path / "x.npz", **arrays)
    found = read_npz(tmp_path / "x.npz")
    assert found.keys() == arrays.keys()
    assert all(np.array_equal(found[name], arrays[name]) for name in arrays)
    assert list(read_npz(tmp_path / "x.npz", ["a"])) == ["a"]
    with pytest.raises(InputError, match="has no array 'head_mask'"):
        read_npz(tmp_path / "x.npz", ["head_mask"])
    with pytest.raises(InputError, match=r"would unpack to .* more than the 10 that"):
        read_npz(tmp_path / "x.npz", limit=10)
    np.savez(tmp_path / "pickled.npz", a=np.array([{}], dtype=object))
    with pytest.raises(InputError, match="not there as plain numbers"):
        read_npz(tmp_path / "pickled.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(InputError, match=r"text.npz is not a whole .npz of plain arrays: File is not a zip file"):
        read_npz(tmp_path / "text.npz")


def test_stored_results_say_what_is_wrong_with_them(tmp_path):
    import torch
    from safetensors.torch import save_file

    path = tmp_path / "x.safetensors"
    save_file({"a": torch.ones(2)}, path, metadata={"format": "other/1", "map": "{}"})
    with pytest.raises(InputError, match=r"is a safetensors file, but not a map: it has format 'other/1'"):
        stored_tensors(path, "a map", "map", format="mine/1")
    save_file({"a": torch.ones(2)}, path, metadata={"format": "mine/1", "map": "[" * 10**5})
    with pytest.raises(InputError, match="nested too deeply"):
        stored_tensors(path, "a map", "map", format="mine/1")
    save_file({"a": torch.ones(2)}, path, metadata={"format": "mine/1", "map": "[1]"})
    with pytest.raises(InputError, match="its description is a list"):
        stored_tensors(path, "a map", "map", format="mine/1")


def test_a_sealed_file_is_what_was_written(tmp_path):
    path = tmp_path / "part.json"
    write_sealed(path, {"a": 1, "b": [2]})
    assert read_sealed(path, ["a"]) == {"a": 1, "b": [2]}
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "a": 3}))
    with pytest.raises(DamagedFileError, match=r"part.json is damaged \(it is not what was written\); put back"):
        read_sealed(path)
    path.write_text("[1]")
    with pytest.raises(DamagedFileError, match="it is not what was written"):
        read_sealed(path)
