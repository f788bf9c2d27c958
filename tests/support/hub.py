"""A Hugging Face hub on a loopback port: as much of its API as pulling a model uses, and every way it can misbehave.

`GET /api/models/REPO[/revision/REV]?blobs=True` lists a repository; `HEAD` and `GET /REPO/resolve/REV/FILE` answer with
ETag, X-Repo-Commit, X-Linked-Size and X-Linked-Etag, ranges and If-Range, directly or by way of another address.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class Repo:
    """One repository. Change it while the hub runs to make a new commit."""

    files: dict[str, bytes]
    commit: str = "c0" * 20
    tags: frozenset[str] = frozenset()
    """Further names of the commit."""
    large: frozenset[str] = frozenset()
    """Files kept in LFS: sha256 in the listing, by way of `Hub.storage` where that is set."""
    gated: bool = False
    private: bool = False
    """Not there for who has no token."""
    etags: dict[str, str] = field(default_factory=dict)
    """ETags that are not the content's."""
    sha256: dict[str, str] = field(default_factory=dict)
    """What the listing says where that is not true."""

    def etag(self, name: str) -> str:
        return self.etags.get(name, f'"{hashlib.sha256(self.files[name]).hexdigest()}"')

    def sibling(self, name: str) -> dict[str, object]:
        data = self.files[name]
        entry: dict[str, object] = {"rfilename": name, "size": len(data), "blobId": git_id(data)}
        if name in self.large:
            sha256 = self.sha256.get(name, hashlib.sha256(data).hexdigest())
            entry["lfs"] = {"sha256": sha256, "size": len(data), "pointerSize": 134}
        return entry


@dataclass
class Seen:
    """A request for a file's bytes, and how many were sent."""

    path: str
    headers: Mapping[str, str]
    status: int = 0
    sent: int = 0

    @property
    def range(self) -> str | None:
        return self.headers.get("range")


class Hub:
    """The server's content, its faults, and what it was asked."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[Seen] = []
        """GET requests for file bytes, redirects included, in order."""
        self.cuts: list[int] = []
        """After how many bytes the next answers are cut off; one entry each, then no more."""
        self.statuses: list[tuple[int, dict[str, str]]] = []
        """Statuses (and headers) of the next answers for bytes, instead of the bytes."""
        self.ranges = True
        """Whether Range is honoured."""
        self.conditions = True
        """Whether If-Range is."""
        self.storage: str | None = None
        """Where large files are redirected to, such as `http://127.0.0.1:1234/storage`."""
        self.pause_at: int | None = None
        """After how many bytes an answer stops until `resume` is set."""
        self.paused, self.resume = threading.Event(), threading.Event()
        self.port: int = server.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def sent(self) -> int:
        """Bytes of files sent so far."""
        return sum(seen.sent for seen in self.requests)


def git_id(data: bytes) -> str:
    """git's blob id."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub on a free loopback port, in threads of this process."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.hub = Hub(server)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.hub
    finally:
        server.hub.resume.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    hub: Hub
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away in the middle is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def do_HEAD(self) -> None:
        self._route(body=False)

    def do_GET(self) -> None:
        self._route(body=True)

    def _route(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/api/models/"):
            name, _, revision = path.removeprefix("/api/models/").partition("/revision/")
            self._listing(name, revision)
            return
        name, _, rest = path.removeprefix("/storage").lstrip("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        self._file(name, revision, file, body=body, stored=path.startswith("/storage"))

    def _listing(self, name: str, revision: str) -> None:
        repo = self._allowed(name, revision)
        if repo is not None:
            siblings = [repo.sibling(file) for file in repo.files]
            self._answer(200, json.dumps({"id": name, "sha": repo.commit, "siblings": siblings}).encode())

    def _allowed(self, name: str, revision: str) -> Repo | None:
        repo = self.server.hub.repos.get(name)
        if repo is None or (repo.private and self.headers.get("authorization") != "Bearer good"):
            self._error(401, "RepoNotFound", "Invalid username or password.")
        elif repo.gated and self.headers.get("authorization") != "Bearer good":
            self._error(401, "GatedRepo", f"Access to model {name} is restricted.")
        elif revision not in {"", "main", repo.commit, *repo.tags}:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return repo
        return None

    def _file(self, name: str, revision: str, file: str, *, body: bool, stored: bool) -> None:
        hub = self.server.hub
        seen = Seen(self.path, {key.lower(): value for key, value in self.headers.items()})
        if body:
            hub.requests.append(seen)
        repo = hub.repos.get(name) if stored else self._allowed(name, revision)
        if repo is None:
            return
        if file not in repo.files:
            self._error(404, "EntryNotFound", "Entry not found")
            return
        if body and hub.statuses:
            status, headers = hub.statuses.pop(0)
            seen.status = status
            self._answer(status, b"", headers)
            return
        headers = {
            "X-Repo-Commit": repo.commit,
            "X-Linked-Size": str(len(repo.files[file])),
            "X-Linked-Etag": repo.etag(file),
            "Accept-Ranges": "bytes",
        }
        if hub.storage is not None and not stored and file in repo.large:
            seen.status = 302
            self._answer(302, b"", headers | {"Location": f"{hub.storage}/{name}/resolve/{revision}/{file}"})
            return
        self._bytes(repo.files[file], headers | {"ETag": repo.etag(file)}, seen, body=body)

    def _bytes(self, data: bytes, headers: dict[str, str], seen: Seen, *, body: bool) -> None:
        start, wanted = 0, self.headers.get("Range")
        condition = self.headers.get("If-Range") if self.server.hub.conditions else None
        seen.status = 200
        if wanted is not None and self.server.hub.ranges and condition in {None, headers["ETag"]}:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            seen.status = 206 if start < len(data) else 416
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if seen.status == 416:
            self._answer(416, b"", headers | {"Content-Range": f"bytes */{len(data)}"})
            return
        self.send_response(seen.status)
        for key, value in (headers | {"Content-Length": str(len(data) - start)}).items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self._send(data[start:], seen)

    def _send(self, data: bytes, seen: Seen) -> None:
        """Send as much as the faults allow, then hang up if that was not all."""
        hub = self.server.hub
        limit = hub.cuts.pop(0) if hub.cuts else len(data)
        if hub.pause_at is not None:
            self._write(data[: hub.pause_at], seen)
            data, limit = data[hub.pause_at :], limit - hub.pause_at
            hub.pause_at = None
            hub.paused.set()
            hub.resume.wait()
        self._write(data[:limit], seen)
        if limit < len(data):
            self.close_connection = True

    def _write(self, data: bytes, seen: Seen) -> None:
        self.wfile.write(data)
        self.wfile.flush()
        seen.sent += len(data)

    def _error(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message}
        self._answer(status, json.dumps({"error": message}).encode(), headers)

    def _answer(self, status: int, data: bytes, headers: Mapping[str, str] = {}) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
