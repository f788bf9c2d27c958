"""A server of its own for tests that hold the engine up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import openai
import pytest

from tests.support.server import TEST_OPTIONS, RunningServer, serving
from tests.support.service import FakeService, Turnstile


@pytest.fixture
def gate() -> Iterator[Turnstile]:
    """Steps wait for it; a test opens it."""
    gate = Turnstile()
    yield gate
    gate.open()


@pytest.fixture
def held(tmp_path: Path, gate: Turnstile) -> Iterator[FakeService]:
    with FakeService(tmp_path, adapters={"medical-faq": "Yes."}, max_queue=1) as service:
        service.backend.step_gate = gate
        try:
            yield service
        finally:
            gate.open()


@pytest.fixture
def held_server(held: FakeService, gate: Turnstile) -> Iterator[RunningServer]:
    with serving(held, replace(TEST_OPTIONS, keepalive_seconds=0.02)) as running:
        try:
            yield running
        finally:
            gate.open()


@pytest.fixture
def held_client(held_server: RunningServer) -> Iterator[openai.OpenAI]:
    with client_of(held_server) as client:
        yield client


def client_of(server: RunningServer, prefix: str = "/v1") -> openai.OpenAI:
    return openai.OpenAI(
        base_url=server.url + prefix, api_key="none", max_retries=0, timeout=20, _strict_response_validation=True
    )
