"""A client that hangs up stops its generation within a step, whether it streams or waits."""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest

from tests.support.server import WAIT_SECONDS, RunningServer, head_bytes
from tests.support.service import FakeService, Turnstile

LONG = "word " * 60


@pytest.fixture
def held_settings() -> dict[str, Any]:
    return {"adapters": {}, "answer": LONG}


def _post(held_server: RunningServer, path: str, *, stream: bool, n: int = 1) -> socket.socket:
    rest = '"messages":[{"role":"user","content":"Hi"}]' if "chat" in path else '"prompt":"Hi","max_tokens":1000'
    body = f'{{"model":"tiny","stream":{str(stream).lower()},"n":{n},{rest}}}'.encode()
    connection = held_server.connect()
    headers = {"Host": "localhost", "Content-Type": "application/json"}
    connection.sendall(head_bytes("POST", path, headers, len(body)) + body)
    return connection


def _wait_idle(held: FakeService) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while (held.stats().running or held.stats().queued) and time.monotonic() < deadline:
        time.sleep(0.005)
    assert (held.stats().running, held.stats().queued) == (0, 0)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("stream", [False, True])
def test_hanging_up_before_the_first_token(
    held_server: RunningServer, held: FakeService, gate: Turnstile, path: str, stream: bool
) -> None:
    """The step that is being computed is the last one, although nothing had been sent to the client yet."""
    connection = _post(held_server, path, stream=stream)
    assert held.backend.stepping.wait(WAIT_SECONDS)
    connection.close()
    assert held.engine.cancelled.wait(WAIT_SECONDS)
    gate.open()
    _wait_idle(held)
    assert len(held.backend.history) == 1
    assert held_server.request("GET", "/health").status == 200


def test_hanging_up_in_the_middle_of_a_stream(held_server: RunningServer, held: FakeService, gate: Turnstile) -> None:
    """After a few tokens were read, the step in progress is the last one."""
    gate.allow(6)
    with _post(held_server, "/v1/chat/completions", stream=True) as connection:
        received = b""
        while b'"content":"w' not in received:
            received += connection.recv(4096)
    assert held.engine.cancelled.wait(WAIT_SECONDS)
    before = len(held.backend.history)
    assert before <= 7
    gate.open()
    _wait_idle(held)
    assert len(held.backend.history) <= before + 1


@pytest.mark.parametrize("stream", [False, True])
def test_hanging_up_ends_every_choice(
    held_server: RunningServer, held: FakeService, gate: Turnstile, stream: bool
) -> None:
    """All answers to one prompt end with their client, those that wait for a place too."""
    connection = _post(held_server, "/v1/chat/completions", stream=stream, n=8)
    while held.stats().running + held.stats().queued < 8:
        assert held.backend.stepping.wait(WAIT_SECONDS)
    connection.close()
    assert held.engine.cancelled.wait(WAIT_SECONDS)
    gate.open()
    _wait_idle(held)
    assert len(held.backend.history) <= 3
    assert held_server.request("GET", "/health").status == 200


def test_hanging_up_while_queued(held_server: RunningServer, held: FakeService, gate: Turnstile) -> None:
    """A request that never got a place in the batch leaves the queue too."""
    places = held.backend.capabilities.max_sequences
    running = [_post(held_server, "/v1/completions", stream=False) for _ in range(places)]
    waiting = _post(held_server, "/v1/completions", stream=False)
    deadline = time.monotonic() + WAIT_SECONDS
    while len(held.prompts) <= places and time.monotonic() < deadline:
        time.sleep(0.005)
    waiting.close()
    assert held.engine.cancelled.wait(WAIT_SECONDS)
    for connection in running:
        connection.close()
    gate.open()
    _wait_idle(held)
    assert held.backend.violations == []


def test_many_abrupt_closes_leak_nothing(held_server: RunningServer, held: FakeService, gate: Turnstile) -> None:
    """After a hundred clients went away the server is idle and answers the next one in full."""
    gate.open()
    for number in range(100):
        connection = _post(held_server, "/v1/chat/completions", stream=number % 2 == 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        connection.close()
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
    while (reply := held_server.post("/v1/chat/completions", body)).status == 429:
        time.sleep(0.02)
    _wait_idle(held)
    assert reply.status == 200 and reply.json["choices"][0]["message"]["content"] == LONG
