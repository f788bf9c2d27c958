"""Work on texts has threads of its own: whatever clients send there, everything else is answered."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edgelora.core.machine import usable_processors
from tests.support.fake_backend.tokenizer import FakeTokenizer
from tests.support.server import TEST_OPTIONS, WAIT_SECONDS, RunningServer, serving
from tests.support.service import FakeService

CLIENTS = 50
"""More than the threads that all other work shares (anyio's 40)."""


@dataclass(frozen=True, eq=False)
class HeldTokenizer(FakeTokenizer):
    """Tokenizes texts that say "wait" once it is let go."""

    go: threading.Event = field(default_factory=threading.Event)
    waiting: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def tokenize(self, text: str, *, special: bool, bos: bool) -> list[int]:
        if "wait" in text:
            self.waiting.release()
            assert self.go.wait(WAIT_SECONDS)
        return super().tokenize(text, special=special, bos=bos)


@pytest.fixture
def tokenizer() -> Iterator[HeldTokenizer]:
    tokenizer = HeldTokenizer()
    yield tokenizer
    tokenizer.go.set()


@pytest.fixture
def server(tmp_path: Path, tokenizer: HeldTokenizer) -> Iterator[RunningServer]:
    with FakeService(tmp_path, adapters={}) as service:
        service.backend.tokenizer = tokenizer
        with serving(service, TEST_OPTIONS) as server:
            yield server


@pytest.mark.parametrize(
    ("path", "body", "at_once"),
    [
        ("/tokenize", {"content": "wait"}, usable_processors()),
        ("/v1/chat/completions", {"model": "tiny", "messages": [{"role": "user", "content": "wait"}]}, 32),
    ],
)
def test_texts_hold_up_nothing_else(
    server: RunningServer, tokenizer: HeldTokenizer, path: str, body: dict[str, object], at_once: int
) -> None:
    """Fifty at once: so many are worked on as may be, and models, health and status are told meanwhile."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        replies = [pool.submit(server.post, path, body) for _ in range(CLIENTS)]
        for _ in range(at_once):
            assert tokenizer.waiting.acquire(timeout=WAIT_SECONDS)
        for other in ("/v1/models", "/health", "/v1/status", "/v1/adapters"):
            assert server.request("GET", other).status == 200
        assert not tokenizer.waiting.acquire(blocking=False)
        tokenizer.go.set()
        assert {reply.result(WAIT_SECONDS).status for reply in replies} <= {200, 429}
