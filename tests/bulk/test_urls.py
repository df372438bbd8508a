"""Videos of a web server (of this machine): the same rows as from the disk."""

import functools
import http.server
import threading

import numpy as np
import pytest

from tests.bulk.tiny_bulk import tiny_run
from vivit_lab.bulk.decode import decode_one
from vivit_lab.bulk.rows import ClipRow


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
