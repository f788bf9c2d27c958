"""Responses that nobody waits for: begun, looked at, cancelled, deleted."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from dataclasses import replace

import openai
import pytest
from openai.types.responses import Response

from edgelora.server.http.timeouts import RequestTimeouts
from tests.support.openai_client import openai_client
from tests.support.server import TEST_OPTIONS, WAIT_SECONDS, RunningServer, serving
from tests.support.service import FakeService, Turnstile


def _ended(client: openai.OpenAI, response_id: str) -> Response:
    deadline = time.monotonic() + WAIT_SECONDS
    while (response := client.responses.retrieve(response_id)).status == "in_progress":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return response


def test_an_answer_is_there_when_it_is_asked_for(held_client: openai.OpenAI, gate: Turnstile) -> None:
    """Told at once that it runs, kept when it ended, and gone on from as any other."""
    made = held_client.responses.create(model="medical-faq", input="Hi", background=True)
    assert (made.status, made.output, made.background) == ("in_progress", [], True)
    assert held_client.responses.retrieve(made.id).status == "in_progress"
    with pytest.raises(openai.BadRequestError) as caught:
        held_client.responses.create(model="tiny", input="And?", previous_response_id=made.id)
    assert (caught.value.code, caught.value.param) == ("response_in_progress", "previous_response_id")
    gate.open()
    ended = _ended(held_client, made.id)
    assert (ended.status, ended.output_text) == ("completed", "Yes.") and ended.usage is not None
    assert held_client.responses.cancel(made.id) == ended, "nothing is left to cancel"
    after = held_client.responses.create(model="tiny", input="And?", previous_response_id=made.id)
    assert after.usage is not None and after.usage.input_tokens > ended.usage.input_tokens


def test_a_cancel_ends_the_generation(held_client: openai.OpenAI, held: FakeService, gate: Turnstile) -> None:
    """The engine is told, the state says so, and a second cancel changes nothing."""
    made = held_client.responses.create(model="tiny", input="Hi", background=True)
    gate.allow(4)
    cancelled = held_client.responses.cancel(made.id)
    assert cancelled.status == "cancelled" and held.engine.cancelled.wait(WAIT_SECONDS)
    assert held_client.responses.cancel(made.id) == cancelled == held_client.responses.retrieve(made.id)


def test_a_deleted_one_is_not_computed_to_its_end(
    held_client: openai.OpenAI, held: FakeService, gate: Turnstile
) -> None:
    """A deleted response cannot be read, so its generation ends."""
    made = held_client.responses.create(model="tiny", input="Hi", background=True)
    held_client.responses.delete(made.id)
    assert held.engine.cancelled.wait(WAIT_SECONDS)
    with pytest.raises(openai.NotFoundError):
        held_client.responses.retrieve(made.id)


def test_a_failure_is_kept(held_client: openai.OpenAI, held: FakeService, gate: Turnstile) -> None:
    """A retrieved response that failed has the error."""
    made = held_client.responses.create(model="tiny", input="Hi", background=True)
    held.backend.fail_steps = {1, 2, 3, 4, 5}
    gate.open()
    ended = _ended(held_client, made.id)
    assert ended.status == "failed" and ended.error is not None and ended.error.code == "server_error"


def test_a_deadline_holds_in_the_background(held: FakeService, gate: Turnstile) -> None:
    """The generation ends at the deadline, though no client waits for it, and the response says why."""
    options = replace(TEST_OPTIONS, timeouts=RequestTimeouts(deadline_seconds=0.05))
    with serving(held, options) as server, openai_client(server) as client:
        made = client.responses.create(model="tiny", input="Hi", background=True)
        ended = _ended(client, made.id)
        assert ended.status == "failed" and ended.error is not None and "0.05 seconds" in ended.error.message
        assert held.engine.cancelled.wait(WAIT_SECONDS)
        gate.open()


def test_a_fault_of_ours_ends_a_response(
    held_client: openai.OpenAI, gate: Turnstile, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is in progress for no longer than somebody works on it."""
    monkeypatch.setattr("edgelora.server.api.responses.background.follow", _broken)
    made = held_client.responses.create(model="tiny", input="Hi", background=True)
    ended = _ended(held_client, made.id)
    assert ended.status == "failed" and ended.error is not None and ended.error.code == "server_error"
    assert "the walls came down" in caplog.text
    gate.open()


async def _broken(*_stream: object, **_limits: object) -> AsyncGenerator[None]:
    raise RuntimeError("the walls came down")
    yield


def test_only_background_responses_are_cancelled(held_server: RunningServer, gate: Turnstile) -> None:
    """Any other ends with its connection."""
    gate.open()
    made = held_server.post("/v1/responses", {"model": "tiny", "input": "Hi"}).json["id"]
    reply = held_server.post(f"/v1/responses/{made}/cancel", {})
    assert (reply.status, reply.error["code"]) == (400, "not_background")
    assert held_server.post("/v1/responses/resp_never/cancel", {}).status == 404


def test_a_client_that_hangs_up_ends_its_answer(held_client: openai.OpenAI, held: FakeService, gate: Turnstile) -> None:
    """Nothing goes on for a stream that nobody reads, and nothing of it is kept."""
    stream = held_client.responses.create(model="tiny", input="Hi", stream=True)
    first = next(iter(stream))
    assert first.type == "response.created"
    stream.close()
    assert held.engine.cancelled.wait(WAIT_SECONDS)
    with pytest.raises(openai.NotFoundError):
        held_client.responses.retrieve(first.response.id)


def test_silence_is_filled_with_comments(held_server: RunningServer, gate: Turnstile) -> None:
    """A stream shows signs of life between its opening and its first text."""
    with held_server.connect() as connection:
        body = b'{"model": "tiny", "input": "Hi", "stream": true}'
        head = (
            b"POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
        )
        connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        received = b""
        while received.count(b": keep-alive\n\n") < 2:
            received += connection.recv(4096)
        gate.open()
        while chunk := connection.recv(4096):
            received += chunk
    assert b"response.in_progress" in received.partition(b": keep-alive")[0]
    assert b"response.completed" in received and b"data: [DONE]\n\n" in received
