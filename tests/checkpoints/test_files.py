"""Reading tensors one at a time, and never running what is in a file."""

import io
import json
import os
import pickle
import tarfile
import warnings

import pytest
import torch
from safetensors.torch import save_file

from vivit_lab.checkpoints.files import TensorSource, open_checkpoint, open_files, parse_dtype, read_json
from vivit_lab.errors import CheckpointError, CheckpointNotFoundError, ConfigError, InputError, UnsafeCheckpointError

TENSORS = {
    "a": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "b": torch.arange(4, dtype=torch.bfloat16),
    "c": torch.tensor(3, dtype=torch.int64),
    "d": torch.zeros(0, 2, dtype=torch.float16),
}


class Evil:
    """Makes a file when it is unpickled without care."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch '{self.path}'",))


def write_single(folder):
    save_file(TENSORS, folder / "model.safetensors")


def write_shards(folder):
    save_file({"a": TENSORS["a"]}, folder / "x-1.safetensors")
    save_file({name: TENSORS[name] for name in "bcd"}, folder / "x-2.safetensors")
    index = {"weight_map": {name: "x-1.safetensors" if name == "a" else "x-2.safetensors" for name in TENSORS}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def write_bin(folder):
    torch.save(TENSORS, folder / "pytorch_model.bin")


def write_legacy_bin(folder):
    torch.save(TENSORS, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def write_bin_shards(folder):
    torch.save({"a": TENSORS["a"]}, folder / "x-1.bin")
    torch.save({name: TENSORS[name] for name in "bcd"}, folder / "x-2.bin")
    index = {"weight_map": {name: "x-1.bin" if name == "a" else "x-2.bin" for name in TENSORS}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


FORMS = [write_single, write_shards, write_bin, write_legacy_bin, write_bin_shards]


@pytest.mark.parametrize("write", FORMS)
def test_every_form_gives_the_same_tensors(tmp_path, write):
    write(tmp_path)
    with open_checkpoint(tmp_path) as source:
        assert set(source) == set(TENSORS)
        assert len(source) == 4
        assert source.dtype == torch.float32
        for name, tensor in TENSORS.items():
            entry = source[name]
            assert (entry.shape, entry.dtype, entry.nbytes) == (tuple(tensor.shape), tensor.dtype, tensor.nbytes)
            assert source.shapes[name] == tuple(tensor.shape)
            assert torch.equal(entry.read(), tensor)
    assert len(source) == 0


def test_safetensors_is_preferred(tmp_path):
    torch.save({"other": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    write_single(tmp_path)
    with open_checkpoint(tmp_path) as source:
        assert "other" not in source


def test_no_weights_at_all(tmp_path):
    with pytest.raises(
        CheckpointNotFoundError, match=r"has none of the files model\.safetensors, .*pytorch_model\.bin"
    ):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_code_is_refused_and_not_run(tmp_path, zipped):
    proof = tmp_path / "it-ran"
    contents = {"a": torch.zeros(2), "evil": Evil(proof)}
    path = tmp_path / "pytorch_model.bin"
    torch.save(contents, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnsafeCheckpointError, match=r"asks to run \w+\.system\. It was not executed"):
        open_checkpoint(tmp_path)
    assert not proof.exists()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.load(path, weights_only=False)  # the trap itself works
    assert proof.exists()


def test_a_plain_pickle_is_refused_and_not_run(tmp_path):
    proof = tmp_path / "it-ran"
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(proof)))
    with pytest.raises(UnsafeCheckpointError, match="It was not executed"):
        open_checkpoint(tmp_path)
    assert not proof.exists()


def test_the_old_tar_form_is_refused(tmp_path):
    with tarfile.open(tmp_path / "pytorch_model.bin", "w") as archive:
        entry = tarfile.TarInfo("pickle")
        entry.size = 3
        archive.addfile(entry, io.BytesIO(b"abc"))
    with pytest.raises(UnsafeCheckpointError, match="holds more than tensors"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("contents", [b"", b"hello world" * 20], ids=["empty", "text"])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_file_that_is_no_checkpoint_says_which(tmp_path, name, contents):
    (tmp_path / name).write_bytes(contents)
    with pytest.raises(CheckpointError, match=rf"{name} is not a whole .* file .*; fetch it again"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("write", [write_single, write_bin, write_legacy_bin])
def test_a_truncated_file_says_which(tmp_path, write):
    write(tmp_path)
    path = next(tmp_path.iterdir())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=rf"{path.name} is not a whole .* file"):
        open_checkpoint(tmp_path)


def test_a_pytorch_file_of_something_else(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save([torch.zeros(1)], path)
    with pytest.raises(CheckpointError, match="holds a list; wanted a state dict"):
        open_checkpoint(tmp_path)
    torch.save({"state_dict": {"a": torch.zeros(1)}}, path)
    with pytest.raises(CheckpointError, match="got 'state_dict' → dict"):
        open_checkpoint(tmp_path)


def test_a_missing_shard_is_named(tmp_path):
    write_shards(tmp_path)
    (tmp_path / "x-2.safetensors").unlink()
    with pytest.raises(CheckpointNotFoundError, match=r"there is no x-2\.safetensors in"):
        open_checkpoint(tmp_path)


def test_a_tensor_that_no_shard_has_is_named(tmp_path):
    write_shards(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "x-1.safetensors", "z": "x-1.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"lists tensors that its shards do not have \(1\): z"):
        open_checkpoint(tmp_path)


def test_two_shards_with_one_tensor_are_refused(tmp_path):
    for name in ("1", "2"):
        save_file({"a": torch.zeros(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match="repeats tensors of another shard: a"):
        open_files([tmp_path / "1.safetensors", tmp_path / "2.safetensors"])


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/passwd", "sub/x.safetensors", "..\\x", 3])
def test_an_index_cannot_lead_out_of_the_checkpoint(tmp_path, shard):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(CheckpointError, match="wanted the plain name of a file beside it"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("contents", ["{}", '{"weight_map": {}}', '{"weight_map": []}'])
def test_an_index_without_a_map_is_refused(tmp_path, contents):
    (tmp_path / "model.safetensors.index.json").write_text(contents)
    with pytest.raises(CheckpointError, match="it has no weight_map"):
        open_checkpoint(tmp_path)


def test_an_unknown_number_format_is_named(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(2, dtype=torch.complex64)}, path)
    with pytest.raises(CheckpointError, match="a is C64, a number format that is not supported"):
        open_files([path])


def test_json_that_is_none(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json is not JSON"):
        read_json(path)
    path.write_text("[1]")
    with pytest.raises(CheckpointError, match="holds a JSON list; wanted an object"):
        read_json(path)


def test_a_state_dict_is_names_and_tensors():
    with pytest.raises(InputError, match="got 'a' → int"):
        TensorSource.from_tensors({"a": 1})
    with pytest.raises(InputError, match="got 3 → Tensor"):
        TensorSource.from_tensors({3: torch.zeros(1)})
    assert TensorSource.from_tensors({"n": torch.tensor(1)}).dtype is None


NAMES = [
    ("float16", torch.float16),
    ("torch.bfloat16", torch.bfloat16),
    ("bf16", torch.bfloat16),
    ("fp32", torch.float32),
]


@pytest.mark.parametrize(("name", "dtype"), [*NAMES, (torch.float64, torch.float64)])
def test_dtypes_have_names(name, dtype):
    assert parse_dtype(name) is dtype


@pytest.mark.parametrize("name", ["int8", "float8_e4m3fn", "nn", "big", torch.int64])
def test_other_dtypes_are_refused(name):
    with pytest.raises(ConfigError, match="is not a dtype of a model"):
        parse_dtype(name)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 45088928\n"


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model.safetensors.index.json"])
def test_a_git_lfs_pointer_is_recognised(tmp_path, name):
    (tmp_path / name).write_text(POINTER)
    with pytest.raises(CheckpointError, match=rf"{name} is a Git LFS pointer.*run `git lfs pull`"):
        open_checkpoint(tmp_path)


ODD = {
    "complex": (torch.zeros(2, dtype=torch.complex64), r"complex \(torch\.complex64\)"),
    "sparse": (torch.eye(3).to_sparse(), r"sparse \(torch\.sparse_coo\)"),
    "meta": (torch.empty(2, device="meta"), "on the meta device, which keeps shapes and no values"),
}


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_dense_real_tensor_is_named(tmp_path, kind):
    tensor, words = ODD[kind]
    with pytest.raises(InputError, match=f"^w is {words}; wanted a dense tensor"):
        TensorSource.from_tensors({"w": tensor})
    torch.save({"fine": torch.zeros(1), "w": tensor}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=rf"pytorch_model\.bin: w is {words}; wanted a dense tensor"):
        open_checkpoint(tmp_path)


def test_one_kind_of_file_may_be_asked_for(tmp_path):
    write_single(tmp_path)
    torch.save({"pickled": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    for wanted, names in ((None, set(TENSORS)), (True, set(TENSORS)), (False, {"pickled"})):
        with open_checkpoint(tmp_path, use_safetensors=wanted) as source:
            assert set(source) == names
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(
        CheckpointNotFoundError, match=r"has none of the files model\.safetensors, model\.safetensors\.index\.json$"
    ):
        open_checkpoint(tmp_path, use_safetensors=True)
