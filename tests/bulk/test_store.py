"""Files that are whole or not there."""

import errno
import fcntl
import os
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import fsspec
import pyarrow as pa
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractFileSystem

from vivit_lab.bulk.store import Store, pq
from vivit_lab.errors import InputError, StorageError


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    return Store.at(tmp_path / "run" if request.param == "local" else f"memory://{uuid.uuid4().hex}/run")


def test_what_is_written_is_read_and_listed(store):
    assert store.listing("clips") == {}
    assert not store.exists("clips/a.bin")
    assert store.write("clips/a.bin", b"one")
    assert store.exists("clips/a.bin")
    assert store.read("clips/a.bin") == b"one"
    assert list(store.listing("clips")) == ["a.bin"]
    assert abs(store.listing("clips")["a.bin"] - time.time()) < 60
    store.write_json("run.json", {"a": [1, None]})
    assert store.read_json("run.json") == {"a": [1, None]}
    with pytest.raises(InputError, match=r"there is no .*none.json"):
        store.read_json("none.json")


def test_a_name_that_is_taken_stays_where_it_must(store):
    store.write_json("run.json", 1)
    assert not store.write_json("run.json", 2, replace=False)
    assert store.read_json("run.json") == 1


def test_a_second_execution_replaces_a_local_part_and_never_one_of_an_object_store(store):
    store.write("clips/a.bin", b"one")
    assert store.write("clips/a.bin", b"two") == store.is_local
    assert store.read("clips/a.bin") == (b"two" if store.is_local else b"one")


def test_no_draft_stays_and_old_ones_are_swept(tmp_path):
    store = Store.at(tmp_path)
    store.write("clips/a.bin", b"one")
    assert store.listing("_tmp") == {}
    (tmp_path / "_tmp" / "killed").write_bytes(b"half")
    assert store.sweep(time.time() - 3600) == 0
    os.utime(tmp_path / "_tmp" / "killed", (1, 1))
    assert store.sweep(time.time() - 3600) == 1
    assert store.listing("_tmp") == {}


def test_tables_are_zstd_with_split_numbers(tmp_path):
    store = Store.at(f"file://{tmp_path}")
    assert store.root == str(tmp_path)
    kind = pa.list_(pa.field("element", pa.float32(), nullable=False), 3)
    table = pa.table({"name": ["a", "b"], "map": pa.array([[1, 2, 3], None], kind)})
    store.write_table("a.parquet", table, split=["map"])
    assert store.read_table("a.parquet").equals(table)
    assert store.read_table("a.parquet", ["name"]).column_names == ["name"]
    columns = pq.read_metadata(tmp_path / "a.parquet").row_group(0)
    by_name = {columns.column(number).path_in_schema: columns.column(number) for number in range(2)}
    assert "BYTE_STREAM_SPLIT" in by_name["map.list.element"].encodings
    assert {column.compression for column in by_name.values()} == {"ZSTD"}


def test_what_the_disk_refuses_is_told_plainly(tmp_path):
    (tmp_path / "clips").write_text("a file where a folder is wanted")
    with pytest.raises(StorageError, match=r"could not be written: .* start the same command again"):
        Store.at(tmp_path).write("clips/a.bin", b"one")


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, r"the disk is full\. .*make room and start the same command again"),
        (errno.EDQUOT, r"the disk is full\. .*make room and start the same command again"),
        (errno.EACCES, r"Permission denied\. .*mend that and start the same command again"),
        (errno.EROFS, r"Read-only file system\. .*mend that and start the same command again"),
        (errno.EIO, r"Input/output error\. .*mend that and start the same command again"),
    ],
)
def test_each_refusal_has_its_own_words(number, says, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StorageError, match=says) as caught:
        Store.at(tmp_path).write("run.json", b"one", replace=False)
    assert caught.value.errno == number
    assert ("make room" in str(caught.value)) == (number in (errno.ENOSPC, errno.EDQUOT))
    assert not (tmp_path / "run.json").exists()
    assert Store.at(tmp_path).listing("_tmp") == {}


@pytest.mark.parametrize("locks", [True, False])
@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_hard_links_does(number, locks, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    if not locks:
        monkeypatch.setattr(fcntl, "flock", refuse)
    store = Store.at(tmp_path)
    assert store.write("run.json", b"one", replace=False)
    assert not store.write("run.json", b"two", replace=False)
    assert store.read("run.json") == b"one"
    assert set(store.listing("_tmp")) == {"lock"}
    assert store.sweep(time.time() + 3600) == 0


def test_of_many_that_write_at_once_one_prevails_without_hard_links_too(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    def lately(path):
        found = exists(path)
        time.sleep(0.01)  # between the look and the rename
        return found

    exists = Path.exists
    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(Path, "exists", lately)
    store = Store.at(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda number: store.write("run.json", b"%d" % number, replace=False), range(8)))
    assert sum(won) == 1
    assert store.read("run.json") == b"%d" % won.index(True)


LIMITED = """
import resource, signal, sys
from vivit_lab.bulk.store import Store
from vivit_lab.errors import StorageError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = Store.at(sys.argv[1])
store.write("clips/small.bin", b"x" * 1000)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    store.write("clips/large.bin", b"x" * 100_000)
except StorageError as error:
    print(error.errno, error)
"""


def test_a_part_that_does_not_fit_leaves_nothing_behind(tmp_path):
    done = subprocess.run([sys.executable, "-c", LIMITED, tmp_path], capture_output=True, text=True, check=True)
    assert "large.bin could not be written" in done.stdout
    assert [path.name for path in (tmp_path / "clips").iterdir()] == ["small.bin"]
    assert not list((tmp_path / "_tmp").iterdir())


class Mover(LocalFileSystem):
    """A file system as fsspec knows many: it opens files to write, and moves them in one step."""

    protocol = "mover"
    pipe_file = AbstractFileSystem.pipe_file
    written: ClassVar[list[str]] = []

    def open(self, path, mode="rb", **options):
        if "w" in mode:
            self.written.append(path)
        return super().open(path, mode, **options)

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("mover://"))


class Copier(Mover):
    protocol = "copier"
    mv = AbstractFileSystem.mv

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("copier://"))


def test_other_file_systems_have_drafts_moved_into_place_or_are_refused(tmp_path):
    for kind in (Mover, Copier):
        fsspec.register_implementation(kind.protocol, kind, clobber=True)
    store = Store.at(f"mover://{tmp_path}/run")
    Mover.written.clear()
    assert store.write("clips/a.bin", b"one")
    assert [str(Path(path).parent) for path in Mover.written] == [f"{tmp_path}/run/_tmp"]
    assert not store.write("clips/a.bin", b"two")
    assert store.read("clips/a.bin") == b"one"
    assert list((tmp_path / "run" / "_tmp").iterdir()) == []
    with pytest.raises(InputError, match=r"file system \(Copier\) neither creates a file at once nor moves one"):
        Store.at(f"copier://{tmp_path}/other").write("a.bin", b"one")
    assert not (tmp_path / "other" / "a.bin").exists()


def test_memory_urls_share_one_file_system():
    fs = fsspec.filesystem("memory")
    store = Store.at("memory://shared/run/")
    store.write("a.bin", b"one")
    assert fs.cat_file("/shared/run/a.bin") == b"one"


def test_urls_that_cannot_be_opened_here_are_named(monkeypatch):
    with pytest.raises(InputError, match=r"nope://a/run is a URL that fsspec cannot open here: Protocol not known"):
        Store.at("nope://a/run").exists("run.json")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(InputError, match=r"s3://a/run is a URL that fsspec cannot open here: Install s3fs"):
        Store.at("s3://a/run").listing("clips")
