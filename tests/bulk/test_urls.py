"""Videos of a web server and of an object store, which also keeps the run: the same rows as from the disk.

Both serve on this machine; the object store is moto's, which speaks S3.
"""

import functools
import http.server
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import boto3
import numpy as np
import pytest
from moto.server import ThreadedMotoServer

from tests.bulk.tiny_bulk import tiny_run
from vivit_lab.bulk import BulkResults, render_clips
from vivit_lab.bulk.clips import ClipRow
from vivit_lab.bulk.decode import decode_one
from vivit_lab.bulk.store import Store
from vivit_lab.errors import StorageError


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def website(movies):
    """The movies behind a web server of this machine."""
    handler = functools.partial(Quiet, directory=str(movies[0].parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_videos_of_a_web_server(website, movies, checkpoint, tmp_path):
    urls = [f"{website}/{path.name}" for path in movies[:5]]
    found = tiny_run(checkpoint, urls, tmp_path / "web")
    assert found.table(["path"])["path"].to_pylist() == urls
    there, here = (
        results.table(["status", "logits", "map"]).to_pandas()
        for results in (found, tiny_run(checkpoint, movies[:5], tmp_path / "disk"))
    )
    assert there.status.tolist() == here.status.tolist() == ["ok"] * 5
    for name in ("logits", "map"):
        np.testing.assert_array_equal(np.stack(there[name].tolist()), np.stack(here[name].tolist()))
    gone = decode_one(ClipRow("x", f"{website}/gone.mp4"), found.run.decode)
    assert (gone.stage, gone.kind) == ("fetch", "FileNotFoundError")


@pytest.fixture(scope="module")
def buckets():
    """An S3 with the buckets clips and runs, and the environment of a command that uses it."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    access = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    access["AWS_ENDPOINT_URL"] = f"http://{host}:{port}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in access.items():
            patch.setenv(name, value)
        client = boto3.client("s3")
        for bucket in ("clips", "runs"):
            client.create_bucket(Bucket=bucket)
        yield client
    server.stop()


def bulk(*arguments):
    """Run the command in a process of its own: those that decode inherit the environment of the first one."""
    command = [sys.executable, "-m", "vivit_lab", "bulk", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    return done, json.loads(done.stdout.strip().splitlines()[-1])


def test_an_object_store_gives_the_videos_and_keeps_the_run(buckets, movies, checkpoint, tmp_path):
    for path in movies[:6]:
        buckets.upload_file(str(path), "clips", f"some/{path.name}")
    buckets.put_object(Bucket="clips", Key="some/garbage.mp4", Body=b"no video")
    options = ["--model", checkpoint, "--stride", 1, "--shard-size", 4, "--batch-size", 4, "--workers", 1]
    first, told = bulk("run", "s3://clips/some", "--out", "s3://runs/mine", *options, "--shards", 0)
    assert (first.returncode, told["parts_done"]) == (0, 1), first.stderr
    part = buckets.head_object(Bucket="runs", Key="mine/clips/part-000000.parquet")
    rest, told = bulk("run", "--out", "s3://runs/mine", "--workers", 1)
    assert (rest.returncode, told["parts_done"], told["clips_done"], told["errors"]) == (3, 2, 7, 1), rest.stderr
    assert "s3://clips/some/garbage.mp4" in told["failed"][0]["error"]
    assert buckets.head_object(Bucket="runs", Key="mine/clips/part-000000.parquet")["ETag"] == part["ETag"]
    buckets.upload_file(str(movies[6]), "clips", "some/garbage.mp4")
    again, told = bulk("retry", "s3://runs/mine", "--workers", 1)
    assert (again.returncode, told["errors"]) == (0, 0), again.stderr
    there, here = (
        results.table(["path", "logits", "map"]).to_pandas().set_index("path")
        for results in (
            BulkResults.open("s3://runs/mine"),
            tiny_run(checkpoint, movies[:7], tmp_path / "run", shard_size=4),
        )
    )
    for path in movies[:7]:
        name = "garbage.mp4" if path == movies[6] else path.name
        for column in ("logits", "map"):
            np.testing.assert_allclose(there.loc[f"s3://clips/some/{name}", column], here.loc[str(path), column], 1e-3)


def test_a_video_that_a_server_lost_is_told_on_the_page(website, movies, checkpoint, tmp_path):
    mine = movies[0].parent / "soon-gone.mp4"
    mine.write_bytes(movies[0].read_bytes())
    try:
        found = tiny_run(checkpoint, [f"{website}/soon-gone.mp4", f"{website}/{movies[1].name}"], tmp_path / "run")
    finally:
        mine.unlink()
    page = render_clips(found, tmp_path / "page", workers=1, progress=False)
    assert "soon-gone.mp4" in page.read_text(encoding="utf-8")
    assert len(list((tmp_path / "page" / "movies").iterdir())) == 1


def test_an_object_store_never_replaces_a_file(buckets):
    store = Store.at("s3://runs/once")
    assert store.write("clips/a.bin", b"one")
    assert not store.write("clips/a.bin", b"two")
    assert store.read("clips/a.bin") == b"one"
    assert abs(store.listing("clips")["a.bin"] - time.time()) < 60
    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(lambda number: store.write("run.json", b"%d" % number, replace=False), range(4)))
    assert sum(won) == 1
    assert store.read("run.json") == b"%d" % won.index(True)
    with pytest.raises(StorageError, match=r"s3://nowhere/run/a\.bin could not be written: .*bucket"):
        Store.at("s3://nowhere/run").write("a.bin", b"one")
