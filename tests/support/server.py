"""The real server on a free loopback port in a thread, and a raw HTTP client that sends what it is given."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgelora.runtime.interface import Runtime
from edgelora.server.http.options import ServerOptions
from edgelora.server.http.sockets import bind, close_all
from edgelora.server.run import EdgeServer, make_server
from edgelora.store.keys.management_token import ensure_token

WAIT_SECONDS = 20.0

TEST_OPTIONS = ServerOptions(host="127.0.0.1", port=0, drain_seconds=1.0)


@dataclass(frozen=True, slots=True)
class Reply:
    """A parsed HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return error


@dataclass(frozen=True, slots=True)
class RunningServer:
    url: str
    server: EdgeServer

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_SECONDS)

    def send(self, data: bytes) -> bytes:
        """Send raw bytes, which must make the server close the connection, and read until it does."""
        with self.connect() as connection:
            with suppress(ConnectionError):  # The server may answer and close before it has read everything.
                connection.sendall(data)
            return read_all(connection)

    def request(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Reply:
        """Send a request on a connection of its own, with `Host`, a length and `Connection: close`."""
        fields = {"Host": f"127.0.0.1:{self.port}", **(headers or {})}
        with self.connect() as connection:
            connection.sendall(head_bytes(method, path, fields, len(body)) + body)
            return parse_reply(read_all(connection))

    def post(self, path: str, body: object, headers: dict[str, str] | None = None) -> Reply:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.request("POST", path, raw, {"Content-Type": "application/json", **(headers or {})})


def head_bytes(method: str, path: str, headers: dict[str, str], length: int) -> bytes:
    fields = {**headers, "Connection": "close"}
    if length or method == "POST":
        fields["Content-Length"] = str(length)
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def read_all(connection: socket.socket) -> bytes:
    received = bytearray()
    with suppress(ConnectionError):
        while chunk := connection.recv(65536):
            received += chunk
    return bytes(received)


def parse_reply(raw: bytes) -> Reply:
    """The first response in `raw`."""
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    if headers.get("transfer-encoding") == "chunked":
        body = _unchunk(body)
    if "content-length" in headers:
        body = body[: int(headers["content-length"])]
    return Reply(int(lines[0].split(" ")[1]), headers, body)


def _unchunk(body: bytes) -> bytes:
    joined = bytearray()
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        joined += body[:length]
        body = body[length + 2 :]
    return bytes(joined)


@contextmanager
def serving(runtime: Runtime, options: ServerOptions = TEST_OPTIONS) -> Iterator[RunningServer]:
    """Run a server over `runtime` while the block runs; then it drains and its thread ends."""
    ready = threading.Event()
    listening: list[str] = []
    failures: list[BaseException] = []

    def on_ready(urls: list[str]) -> None:
        listening.extend(urls)
        ready.set()

    server = make_server(runtime, options, on_ready=on_ready)
    sockets = bind(options)

    def work() -> None:
        try:
            asyncio.run(server.serve(sockets))
        except BaseException as error:
            failures.append(error)
            ready.set()

    thread = threading.Thread(target=work, name="test-server")
    thread.start()
    try:
        assert ready.wait(WAIT_SECONDS) and not failures, failures
        yield RunningServer(listening[0], server)
    finally:
        server.stop()
        thread.join(WAIT_SECONDS)
        close_all(sockets)
    assert not thread.is_alive() and not failures, failures


def with_token(folder: Path, options: ServerOptions = TEST_OPTIONS) -> tuple[ServerOptions, dict[str, str]]:
    """Return options of a server whose token and keys are in `folder`, and the header with its token."""
    return replace(options, secrets=folder), {"Authorization": f"Bearer {ensure_token(folder)}"}
