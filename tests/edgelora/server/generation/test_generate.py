"""Replies to a client whose generation waits, fails, or cannot start."""

from __future__ import annotations

import json
import logging
from typing import Any

import openai
import pytest

from edgelora.core.errors import AdapterCorrupt, StorageError
from tests.support.server import WAIT_SECONDS, RunningServer, head_bytes, parse_reply, read_all, serving
from tests.support.service import FakeService, Turnstile

CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
STREAM = {**CHAT, "stream": True}


def _frames(body: bytes) -> list[str]:
    return [frame for frame in body.decode().split("\n\n") if frame]


def test_a_long_wait_is_filled_with_comments(held_server: RunningServer, held: FakeService, gate: Turnstile) -> None:
    """While the prompt is being computed the stream shows signs of life; the answer is whole all the same."""
    body = json.dumps(STREAM).encode()
    with held_server.connect() as connection:
        headers = {"Host": "localhost", "Content-Type": "application/json"}
        connection.sendall(head_bytes("POST", "/v1/chat/completions", headers, len(body)) + body)
        received = b""
        while received.count(b": keep-alive\n\n") < 2:
            received += connection.recv(4096)
        gate.open()
        reply = parse_reply(received + read_all(connection))
    frames = _frames(reply.body)
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert '"role":"assistant"' in frames[0] and frames[1] == ": keep-alive" and frames[-1] == "data: [DONE]"
    deltas = [json.loads(frame[6:])["choices"][0]["delta"] for frame in frames[:-1] if frame.startswith("data: ")]
    assert "".join(delta.get("content", "") for delta in deltas) == "Hello from the base."


@pytest.mark.parametrize("body", [CHAT, STREAM])
def test_a_failure_before_the_first_token_has_a_status(
    held: FakeService, gate: Turnstile, body: dict[str, Any]
) -> None:
    """An adapter that cannot be loaded is the same plain error whether the client streams or not."""
    held.backend.load_error = AdapterCorrupt("adapter_corrupt", "The file is cut short.", "Add it again.")
    gate.open()
    with serving(held) as held_server:  # no comment fills a wait so short
        reply = held_server.post("/v1/chat/completions", {**body, "model": "medical-faq"})
    assert (reply.status, reply.error["code"]) == (400, "adapter_corrupt")


def test_a_failure_in_the_middle_is_an_error_frame(
    held_server: RunningServer, held: FakeService, gate: Turnstile
) -> None:
    """The client learns that the text so far is not the answer: the openai client raises."""
    held.backend.fail_steps = {5}
    gate.open()
    body = json.loads(_frames(held_server.post("/v1/chat/completions", STREAM).body)[-2].removeprefix("data: "))
    assert body["error"]["code"] == "fake_failure" and body["error"]["type"] == "server_error"
    held.backend.fail_steps = {len(held.backend.history) + 5}
    with (
        openai.OpenAI(base_url=f"{held_server.url}/v1", api_key="none", max_retries=0) as client,
        client.chat.completions.create(model="tiny", messages=CHAT["messages"], stream=True) as stream,
        pytest.raises(openai.APIError) as caught,
    ):
        list(stream)
    assert caught.value.code == "fake_failure"


def test_a_failure_in_the_middle_of_a_whole_answer(
    held_server: RunningServer, held: FakeService, gate: Turnstile
) -> None:
    """An answer given whole is given whole or not at all."""
    held.backend.fail_steps = {5}
    gate.open()
    reply = held_server.post("/v1/chat/completions", CHAT)
    assert (reply.status, reply.error["code"]) == (500, "fake_failure")


def test_a_full_queue_is_429_with_retry_after(held_server: RunningServer, held: FakeService, gate: Turnstile) -> None:
    """When batch and queue are full, the next client gets a 429 at once; later it is served."""
    body = json.dumps(CHAT).encode()
    headers = {"Host": "localhost", "Content-Type": "application/json"}
    places = held.engine.capabilities.max_sequences + 1
    connections = [held_server.connect() for _ in range(places)]
    for connection in connections:
        connection.sendall(head_bytes("POST", "/v1/chat/completions", headers, len(body)) + body)
    while held.stats().queued + held.stats().running < places:
        assert held.backend.stepping.wait(WAIT_SECONDS)
    refused = held_server.post("/v1/chat/completions", CHAT)
    assert (refused.status, refused.error["code"], refused.error["type"]) == (429, "queue_full", "rate_limit_error")
    assert int(refused.headers["retry-after"]) >= 1
    gate.open()
    for connection in connections:
        with connection:
            assert parse_reply(read_all(connection)).status == 200
    with openai.OpenAI(base_url=f"{held_server.url}/v1", api_key="none", max_retries=0) as client:
        assert client.chat.completions.create(model="tiny", messages=CHAT["messages"]).choices[0].message.content


def test_errors_of_the_store_reach_the_client(
    held_server: RunningServer, held: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error while a model is resolved keeps its code and status, and says that repeating does not help."""

    def full(_model_id: str) -> None:
        raise StorageError("no_space", "The disk is full.", "Make room.")

    monkeypatch.setattr(held, "resolve", full)
    reply = held_server.post("/v1/chat/completions", CHAT)
    assert (reply.status, reply.error["code"], reply.headers["x-should-retry"]) == (507, "no_space", "false")


def test_a_fault_of_our_own_tells_nothing(
    held_server: RunningServer, held: FakeService, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An unforeseen exception is a 500 without its words; the log has them, under the id the client was given."""

    def broken(_model_id: str) -> None:
        raise KeyError("/home/ann/secret")

    monkeypatch.setattr(held, "resolve", broken)
    with caplog.at_level(logging.ERROR):
        reply = held_server.post("/v1/chat/completions", CHAT)
    assert (reply.status, reply.error["code"], reply.error["type"]) == (500, "internal_error", "server_error")
    assert b"secret" not in reply.body
    assert reply.headers["x-request-id"] in caplog.text and "secret" in caplog.text


def test_not_ready_is_503(held_server: RunningServer, held: FakeService) -> None:
    """/ready says whether a request would be worked on; /health only whether the process answers."""
    held.backend.step_gate.set()
    held.close()
    reply = held_server.request("GET", "/ready")
    assert (reply.status, reply.error["code"]) == (503, "not_ready") and "retry-after" in reply.headers
    assert held_server.request("GET", "/health").status == 200


def test_user_says_who_asks(held_server: RunningServer, held: FakeService, gate: Turnstile) -> None:
    """Both routes pass it on for taking turns; what is no text says nothing, and is no reason to refuse."""
    gate.open()
    for route, body in (("chat/completions", CHAT), ("completions", {"model": "tiny", "prompt": "Hi"})):
        for user in ("ann", None, 5):
            assert held_server.post(f"/v1/{route}", {**body, "user": user, "max_tokens": 2}).status == 200
    assert held.clients == ["ann", "", ""] * 2
