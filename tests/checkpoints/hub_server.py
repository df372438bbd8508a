"""A loopback server that answers like the Hugging Face Hub, for the real client to talk to."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote

COMMITS = {"main": "a" * 40, "v2": "b" * 40}
TOKEN = "hf_loopback"
LARGE = 4096  # files from this size are answered by a redirect to another route, as the Hub does with LFS files


class HubServer(ThreadingHTTPServer):
    """Serves ``root/{owner}/{name}/{revision}/…`` by the resolve and API routes.

    Repositories whose name starts with ``gated`` want the token. ``requests`` logs (method, path, status). After
    ``move_after`` requests the branch ``main`` points to the commit of ``v2``.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root = root
        self.requests: list[tuple[str, str, int]] = []
        self.ranges: list[str] = []
        self.cut_once = 0
        self.refs = dict(COMMITS)
        self.move_after: int | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: HubServer

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        parts = unquote(self.path.split("?")[0]).strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            return self.api(parts[2:], body)
        if parts[0] == "lfs":
            return self.send_file(self.server.root.joinpath(*parts[1:]), body)
        if len(parts) < 5 or parts[2] != "resolve":
            return self.reply(404, b"no such route", body)
        owner, name, _, revision = parts[:4]
        if not self.allowed(owner, name, revision, body):
            return None
        path = self.snapshot(owner, name, revision).joinpath(*parts[4:])
        commit = {"X-Repo-Commit": self.commit(revision)}
        if not path.is_file():
            return self.reply(404, b"", body, {"X-Error-Code": "EntryNotFound", **commit})
        if path.stat().st_size < LARGE:
            return self.send_file(path, body, commit)
        linked = {"X-Linked-Etag": etag(path), "X-Linked-Size": str(path.stat().st_size)}
        # another host, as the Hub's large files have: to its own hosts the client follows a redirect by itself
        location = f"http://localhost:{self.server.server_port}/lfs/{path.relative_to(self.server.root).as_posix()}"
        return self.reply(302, b"", body, {"Location": location, **commit, **linked})

    def api(self, parts: list[str], body: bool) -> None:
        owner, name, *rest = parts
        revision = rest[1] if rest[:1] == ["revision"] else "main"
        if not self.allowed(owner, name, revision, body):
            return
        files = sorted(path.name for path in self.snapshot(owner, name, revision).iterdir())
        info = {
            "id": f"{owner}/{name}",
            "sha": self.commit(revision),
            "siblings": [{"rfilename": file} for file in files],
        }
        self.reply(200, json.dumps(info).encode(), body, {"Content-Type": "application/json"})

    def allowed(self, owner: str, name: str, revision: str, body: bool) -> bool:
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if name.startswith("gated") and not known:
            self.reply(401, b"", body, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted."})
        elif not (self.server.root / owner / name).is_dir():
            # the Hub does not tell strangers whether a private repository exists
            self.reply(404 if known else 401, b"", body, {"X-Error-Code": "RepoNotFound"})
        elif not self.snapshot(owner, name, revision).is_dir():
            self.reply(404, b"", body, {"X-Error-Code": "RevisionNotFound"})
        else:
            return True
        return False

    def snapshot(self, owner: str, name: str, revision: str) -> Path:
        names = {commit: branch for branch, commit in COMMITS.items()}
        commit = self.commit(revision)
        return self.server.root / owner / name / names.get(commit, commit)

    def commit(self, revision: str) -> str:
        if self.server.move_after is not None and len(self.server.requests) >= self.server.move_after:
            self.server.refs["main"] = COMMITS["v2"]
        return self.server.refs.get(revision, revision)

    def send_file(self, path: Path, body: bool, headers: dict[str, str] | None = None) -> None:
        contents, status = path.read_bytes(), 200
        headers = {"ETag": etag(path), "Accept-Ranges": "bytes", **(headers or {})}
        asked = self.headers.get("Range")
        if asked:
            self.server.ranges.append(asked)
            start = int(asked.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(contents) - 1}/{len(contents)}"
            contents, status = contents[start:], 206
        self.reply(status, contents, body, headers)

    def reply(self, status: int, contents: bytes, body: bool, headers: dict[str, str] | None = None) -> None:
        self.server.requests.append((self.command, self.path, status))
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(contents)))
        self.end_headers()
        if not body:
            return
        if self.server.cut_once and len(contents) > self.server.cut_once:
            contents, self.server.cut_once = contents[: self.server.cut_once], 0
            self.close_connection = True
        self.wfile.write(contents)

    def log_message(self, format: str, *args: object) -> None:
        """Stay quiet; ``requests`` has it all."""


def etag(path: Path) -> str:
    return f'"{hashlib.sha256(path.read_bytes()).hexdigest()}"'


@contextmanager
def serve(root: Path) -> Iterator[HubServer]:
    """Run a server on the loopback interface."""
    server = HubServer(root)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
