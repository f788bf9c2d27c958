"""What the engine tells about itself while it works and when nothing is left."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgelora.core.events import Finished
from edgelora.core.request import AdapterRef, Request
from edgelora.core.sampling_params import SamplingParams
from edgelora.engine.engine import Engine
from edgelora.engine.scheduler.occupancy import Occupancy, Reuse
from edgelora.engine.stats import EngineStats
from tests.support.fake_backend.backend import FakeBackend, write_fake_adapter
from tests.support.uses import uses


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(FakeBackend(), adapter_budget_bytes=1000, max_queue=7)
    yield engine
    engine.close()


def ask(engine: Engine, number: int, prompt: bytes, adapter: AdapterRef | None = None) -> Finished:
    sampling = SamplingParams(max_tokens=3)
    *_, last = engine.submit(Request(f"r{number}", tuple(prompt), uses(adapter), sampling))
    assert isinstance(last, Finished)
    return last


def idle(engine: Engine) -> EngineStats:
    """The statistics once the engine has nothing more to do."""
    while True:
        stats = engine.stats()
        if not stats.running and not any(one.running for one in stats.occupancy):
            return stats


def test_who_takes_what(engine: Engine, tmp_path: Path) -> None:
    """KV by the adapters that act, prefix hits, uses and loads add up to what was asked."""
    adapter = write_fake_adapter(tmp_path, "a")
    ask(engine, 0, b"Hello there", adapter)
    again = ask(engine, 1, b"Hello there, you", adapter)
    ask(engine, 2, b"Something else")
    stats = idle(engine)
    warm = {one.adapters: one.cached for one in stats.occupancy}
    one, two, three = (len(prompt) + 2 for prompt in (b"Hello there", b"Hello there, you", b"Something else"))
    assert warm == {("a",): one + two, (): three}
    assert again.usage.cached_tokens > 0
    assert stats.reuse == Reuse(starts=3, hits=1, tokens=again.usage.cached_tokens, restored=0)
    (entry,), (counts,) = stats.adapters, stats.counts
    assert (entry.requests, entry.leases, counts.requests, counts.hits, counts.loads) == (2, 0, 2, 1, 1)
    assert entry.last_used == counts.last_used > 1e9
    assert (stats.max_queue, stats.adapter_budget_bytes, stats.tokens) == (7, 1000, 9)


def test_statistics_cross_a_process_boundary(engine: Engine, tmp_path: Path) -> None:
    """They are plain values: what is pickled comes out equal."""
    ask(engine, 0, b"Hello", write_fake_adapter(tmp_path, "a"))
    stats = idle(engine)
    assert stats.occupancy and pickle.loads(pickle.dumps(stats)) == stats


def test_sums_outlive_the_engine(tmp_path: Path) -> None:
    """After the end nothing is held, and what was counted is still told."""
    engine = Engine(FakeBackend(), adapter_budget_bytes=1000, max_queue=7)
    ask(engine, 0, b"Hello", write_fake_adapter(tmp_path, "a"))
    engine.close()
    stats = engine.stats()
    assert (stats.adapters, stats.occupancy, stats.running) == ((), (), 0)
    assert stats.tokens == 3 and [counts.requests for counts in stats.counts] == [1]


def test_waiting_requests_are_told_by_adapter(tmp_path: Path) -> None:
    """Who waits for a place or for its adapter is counted with it, and not as running."""
    backend = FakeBackend()
    backend.load_gate.clear()
    engine = Engine(backend, adapter_budget_bytes=1000, max_queue=7)
    try:
        request = Request("r", tuple(b"Hi"), uses(write_fake_adapter(tmp_path, "a")), SamplingParams(max_tokens=1))
        stream = engine.submit(request)
        while Occupancy(("a",), waiting=1) not in engine.stats().occupancy:
            pass
        backend.load_gate.set()
        assert isinstance([*stream][-1], Finished)
    finally:
        backend.load_gate.set()
        engine.close()
