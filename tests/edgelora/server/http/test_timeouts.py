"""A request that waits or runs too long ends with an error, and its generation is cancelled."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgelora.server.http.timeouts import ENDLESS, RequestTimeouts
from tests.support.fake_backend.backend import FAKE_CAPABILITIES, FakeBackend
from tests.support.server import TEST_OPTIONS, RunningServer, serving
from tests.support.service import FakeService, Turnstile

CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}


def test_each_limit_has_its_own_error() -> None:
    """A place ends the wait for one; the deadline counts from the beginning; none is none."""
    timeouts = RequestTimeouts(queue_seconds=10.0, deadline_seconds=60.0)
    assert (timeouts.left(4.0, placed=False), timeouts.left(4.0, placed=True)) == (6.0, 56.0)
    assert timeouts.spent(9.9, placed=False) is None and timeouts.spent(59.9, placed=True) is None
    waited, late = timeouts.spent(10.0, placed=False), timeouts.spent(60.0, placed=True)
    assert waited is not None and (waited.code, waited.status) == ("queue_timeout", 503)
    assert late is not None and (late.code, late.status) == ("deadline_exceeded", 504)
    assert ENDLESS.left(1e9, placed=False) == math.inf and ENDLESS.spent(1e9, placed=False) is None
    assert RequestTimeouts(deadline_seconds=1.0).left(2.0, placed=False) == 0.0


@pytest.fixture
def held_settings() -> dict[str, Any]:
    return {"adapters": {}}


def ended(server: RunningServer, held: FakeService, gate: Turnstile) -> None:
    """Wait until the engine has cancelled the request."""
    assert held.engine.cancelled.wait(20)
    gate.open()
    while held.stats().running + held.stats().queued:
        assert server.request("GET", "/health").status == 200


def test_a_deadline_before_the_first_token(held: FakeService, gate: Turnstile) -> None:
    """A status that tells clients not to repeat it, whether they stream or not."""
    with serving(held, replace(TEST_OPTIONS, timeouts=RequestTimeouts(deadline_seconds=0.05))) as server:
        for stream in (False, True):
            reply = server.post("/v1/chat/completions", {**CHAT, "stream": stream})
            assert (reply.status, reply.error["code"]) == (504, "deadline_exceeded")
            assert reply.headers["x-should-retry"] == "false"
        ended(server, held, gate)


def test_a_deadline_in_the_middle(held: FakeService, gate: Turnstile) -> None:
    """A stream that has begun ends with an error frame."""
    gate.allow(5)
    options = replace(TEST_OPTIONS, timeouts=RequestTimeouts(deadline_seconds=0.5))
    with serving(held, options) as server:
        reply = server.post("/v1/chat/completions", {**CHAT, "stream": True})
        frames = reply.body.decode().strip().split("\n\n")
        assert '"content":"H' in reply.body.decode() and frames[-1] == "data: [DONE]"
        assert json.loads(frames[-2].removeprefix("data: "))["error"]["code"] == "deadline_exceeded"
        ended(server, held, gate)


def test_no_place_in_time(tmp_path: Path, gate: Turnstile) -> None:
    """A request that waits behind a full batch gets a 503; the running one continues."""
    backend = FakeBackend(answers={None: "Hello."}, capabilities=replace(FAKE_CAPABILITIES, max_sequences=1))
    backend.step_gate = gate
    with FakeService(tmp_path, adapters={}, backend=backend) as service:
        running = service.complete("x", sampling=service.default_sampling())
        assert backend.stepping.wait(20) and running.placed
        with serving(service, replace(TEST_OPTIONS, timeouts=RequestTimeouts(queue_seconds=0.05))) as server:
            reply = server.post("/v1/chat/completions", CHAT)
            assert (reply.status, reply.error["code"]) == (503, "queue_timeout") and "retry-after" in reply.headers
            gate.open()
            assert running.text() == "Hello."
