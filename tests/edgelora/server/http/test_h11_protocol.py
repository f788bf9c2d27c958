"""No connection is held open for a client that does not go on."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.server import TEST_OPTIONS, WAIT_SECONDS, RunningServer, head_bytes, read_all, serving
from tests.support.service import FakeService

GET = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgelora.server.http.h11_protocol.HEAD_SECONDS", 0.2)
    monkeypatch.setattr("edgelora.server.http.h11_protocol.STALL_SECONDS", 0.2)


def answered(connection: socket.socket) -> None:
    received = connection.recv(65536)
    while received and not received.endswith(b"]}"):
        received += connection.recv(65536)
    assert received.startswith(b"HTTP/1.1 200 ")


def gone(server: RunningServer) -> bool:
    """Return True if the server closes all connections within a moment."""
    until = time.monotonic() + WAIT_SECONDS
    while server.server.server_state.connections and time.monotonic() < until:
        time.sleep(0.01)
    return not server.server.server_state.connections


@pytest.mark.parametrize("beginning", [b"", b"GET /v1/mod", GET[:-2]])
def test_a_first_head_that_does_not_come(server: RunningServer, beginning: bytes) -> None:
    """A connection without a whole request is closed."""
    with server.connect() as connection:
        connection.sendall(beginning)
        assert read_all(connection) == b""


def test_a_later_head_that_does_not_come(server: RunningServer) -> None:
    """Having sent one request buys no endless time for the next."""
    with server.connect() as connection:
        connection.sendall(GET)
        answered(connection)
        connection.sendall(b"GET /v1/mod")
        assert read_all(connection) == b""


def test_a_body_that_drips_on_after_its_answer(server: RunningServer) -> None:
    """A request that was refused early is not listened to for as long as it cares to talk."""
    with server.connect() as connection:
        connection.sendall(head_bytes("POST", "/v1/nowhere", {"Host": "localhost"}, 1 << 20).replace(b"close", b"x"))
        assert connection.recv(65536).startswith(b"HTTP/1.1 404 ")
        with suppress(ConnectionError):
            until = time.monotonic() + WAIT_SECONDS
            while time.monotonic() < until:
                connection.sendall(b" ")
                time.sleep(0.02)
            raise AssertionError("the server listened on")


def test_resting_between_requests_is_allowed(server: RunningServer) -> None:
    """A client that keeps its connection for later finds it open: uvicorn's own, longer time holds there."""
    with server.connect() as connection:
        for _ in range(2):
            connection.sendall(GET)
            answered(connection)
            time.sleep(0.5)


def test_a_client_that_reads_nothing(tmp_path: Path) -> None:
    """It is cut off when its answers have filled every buffer."""
    with (
        FakeService(tmp_path, adapters={f"a-rather-long-name-for-an-adapter-{n}": "x" for n in range(300)}) as service,
        serving(service, TEST_OPTIONS) as server,
        socket.socket() as connection,
    ):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(WAIT_SECONDS)
        connection.connect(("127.0.0.1", server.port))
        with suppress(ConnectionError):
            connection.sendall(GET * 400)
        assert gone(server)


def test_a_closed_connection_leaves_no_timer(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed connection is freed at once, not when its timers would fire."""
    monkeypatch.setattr("edgelora.server.http.h11_protocol.HEAD_SECONDS", 3600.0)
    loop = server.server._loop
    assert loop is not None
    before = len(loop._scheduled)  # type: ignore[attr-defined]
    for _ in range(300):
        server.connect().close()
    assert gone(server)
    # The loop drops cancelled timers once they are half of all: a few may still be there.
    assert len(loop._scheduled) < before + 200  # type: ignore[attr-defined]
