"""Servers over a scripted service. A module says which by overriding `adapters`, `options` or `held_settings`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest

from edgelora.server.http.options import ServerOptions
from tests.support.managing import Manager, managing
from tests.support.openai_client import openai_client
from tests.support.server import TEST_OPTIONS, RunningServer, serving
from tests.support.service import FakeService, Turnstile


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def adapters() -> Mapping[str, str | None]:
    """The adapters by name, each with its answer; None: letters are made up."""
    return {
        "medical-faq": "Hypertension is high blood pressure.",
        "me/a:v1": "A name with a slash and a colon.",
        "letters": None,
    }


@pytest.fixture(scope="module")
def options() -> ServerOptions:
    return TEST_OPTIONS


@pytest.fixture(scope="module")
def service(folder: Path, adapters: Mapping[str, str | None]) -> Iterator[FakeService]:
    with FakeService(folder, adapters=adapters) as service:
        yield service


@pytest.fixture(scope="module")
def server(service: FakeService, options: ServerOptions) -> Iterator[RunningServer]:
    """A server for a whole module, whose tests change nothing that another sees."""
    with serving(service, options) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[openai.OpenAI]:
    """The real client, strict about every shape."""
    with openai_client(server) as client:
        yield client


@pytest.fixture(scope="module")
def manager(service: FakeService, folder: Path, options: ServerOptions) -> Iterator[Manager]:
    """A server with a management token, and its holder."""
    with managing(service, folder / "secrets", options) as manager:
        yield manager


@pytest.fixture
def emptied(service: FakeService) -> Iterator[None]:
    """Uninstall, after the test, what it installed."""
    yield
    for name in service.registry.library.store.names():
        service.registry.remove(name)


@pytest.fixture
def gate() -> Iterator[Turnstile]:
    """The steps of `held` wait for it; a test opens it."""
    gate = Turnstile()
    yield gate
    gate.open()


@pytest.fixture
def held_settings() -> dict[str, Any]:
    """The arguments of the service `held`."""
    return {"adapters": {"medical-faq": "Yes."}, "max_queue": 1}


@pytest.fixture
def held(tmp_path: Path, gate: Turnstile, held_settings: dict[str, Any]) -> Iterator[FakeService]:
    """A service of its own for a test that holds the engine up."""
    with FakeService(tmp_path, **held_settings) as service:
        service.backend.step_gate = gate
        try:
            yield service
        finally:
            gate.open()


@pytest.fixture
def held_server(held: FakeService, gate: Turnstile) -> Iterator[RunningServer]:
    """A server over `held` that fills silence with comments after 20 ms."""
    with serving(held, replace(TEST_OPTIONS, keepalive_seconds=0.02)) as running:
        try:
            yield running
        finally:
            gate.open()
