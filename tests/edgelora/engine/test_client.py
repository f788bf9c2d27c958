"""What both engines keep, whether they compute in this process or in one of their own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgelora.core.errors import (
    AdapterCorrupt,
    AdapterError,
    BackendError,
    Busy,
    Cancelled,
    ContextTooLong,
    EdgeloraError,
    UsageError,
)
from edgelora.core.events import Finished, FinishReason, TextDelta
from edgelora.core.request import AdapterRef
from edgelora.engine.client import EngineClient
from edgelora.engine.prefix_cache.cache import PrefixCache
from edgelora.engine.process.messages import Prefixes
from edgelora.runtime.named_prefix import add_named
from edgelora.store.prefixes.store import PrefixStore
from tests.support.engines import Kind, error_of, finish_of, make, request, wait_until
from tests.support.fake_backend.backend import FAKE_CAPABILITIES, write_fake_adapter

KINDS: tuple[Kind, ...] = ("in-process", "child")
ANSWER = "né! One END two."


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture(scope="module")
def engine(kind: Kind) -> Iterator[EngineClient]:
    """One that answers at once, for tests that leave nothing behind."""
    engine = make(kind, answer=ANSWER, able={"max_slots": 2})
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def slow(kind: Kind) -> Iterator[EngineClient]:
    """One place, two that may wait, and fifty steps a second."""
    engine = make(kind, answer="x" * 900, step_seconds=0.02, max_queue=2, able={"max_sequences": 1, "max_outputs": 1})
    yield engine
    engine.close(drain=False)


def test_statistics_are_there_before_the_first_request(kind: Kind) -> None:
    """An engine that is ready knows its limits, though nothing was ever asked of it."""
    engine = make(kind, answer=ANSWER, max_queue=7)
    try:
        wait_until(lambda: engine.alive and engine.stats().max_queue == 7 and engine.stats().kv_cells > 0)
    finally:
        engine.close()


def test_where_an_answer_ends(engine: EngineClient) -> None:
    """At a stop token, with or without its text; not before min_tokens; not at the model's own end with ignore_eos."""

    def answer(**sampling: Any) -> tuple[str, FinishReason]:
        *texts, last = engine.submit(request("r", "Hello", **sampling))
        assert isinstance(last, Finished)
        return "".join(event.text for event in texts if isinstance(event, TextDelta)), last.reason

    mark, dot = ord("!"), ord(".")
    assert answer(stop_token_ids=(mark, dot)) == ("né", FinishReason.STOP)
    assert answer(stop_token_ids=(mark,), include_stop=True) == ("né!", FinishReason.STOP)
    assert answer(stop=("One",), include_stop=True) == ("né! One", FinishReason.STOP)
    assert answer(stop=("é", "END"), min_tokens=6) == ("né! One ", FinishReason.STOP)
    text, reason = answer(ignore_eos=True, max_tokens=30)
    assert text.startswith(ANSWER) and (len(text.encode()), reason) == (30, FinishReason.LENGTH)
    text, _ = answer(min_tokens=25, max_tokens=40)
    assert len(text.encode()) >= 25


def test_a_stop_token_outside_the_vocabulary_is_named(engine: EngineClient) -> None:
    """As every other token that a request names."""
    with pytest.raises(UsageError) as caught:
        engine.submit(request("r", stop_token_ids=(1 << 20,)))
    assert (caught.value.code, caught.value.param) == ("bad_token", "stop_token_ids")


def test_answers_come_piece_by_piece(engine: EngineClient) -> None:
    """One event a character, then the end with counts and times that make sense."""
    *texts, end = engine.submit(request("r", "Hello"))
    assert [e.text for e in texts if isinstance(e, TextDelta)] == list(ANSWER)
    assert isinstance(end, Finished) and end.reason is FinishReason.STOP
    assert (end.usage.prompt_tokens, end.usage.completion_tokens) == (5, len(ANSWER.encode()) + 1)
    times = end.timings
    assert min(times.queued, times.load, times.prefill, times.decode) >= 0.0


def test_sampling_is_obeyed(engine: EngineClient) -> None:
    """Stop strings, the limit, and the seed reach what computes."""
    assert engine.submit(request("r", stop=("END",))).text() == "né! One "
    assert finish_of(engine.submit(request("r", max_tokens=4))).reason is FinishReason.LENGTH
    hot = [engine.submit(request("r", temperature=30.0, max_tokens=20, seed=seed)).text() for seed in (5, 5, 2**64 - 1)]
    assert hot[0] == hot[1] != hot[2]


def test_adapters_are_loaded_and_told(engine: EngineClient, tmp_path: Path) -> None:
    """More adapters than slots: each answers for itself, and the statistics know who is there after the last event."""
    refs = [write_fake_adapter(tmp_path, f"a{n}", answer=f"I am {n}.") for n in range(4)]
    before = engine.stats()
    streams = [engine.submit(request(f"r{n}", adapter=ref)) for n, ref in enumerate(refs)]
    assert [stream.text() for stream in streams] == [f"I am {n}." for n in range(4)]
    stats = engine.stats()
    assert (stats.queued, stats.running, len(stats.adapters)) == (0, 0, 2)
    assert {entry.ref for entry in stats.adapters} <= set(refs) and not any(e.leases for e in stats.adapters)
    assert stats.tokens - before.tokens == 4 * len("I am 0.") + 4 and stats.steps > before.steps


def test_a_stream_is_placed_when_it_runs(slow: EngineClient) -> None:
    """The one that runs has its place, the one behind it waits for its own."""
    first, second = slow.submit(request("a", max_tokens=30)), slow.submit(request("b", max_tokens=2))
    wait_until(lambda: first.placed)
    assert not second.placed
    assert finish_of(first).usage.completion_tokens == 30
    assert len(second.text()) == 2 and second.placed


@pytest.mark.parametrize(
    ("bad", "error", "code"),
    [
        ({"prompt": ""}, UsageError, "empty_prompt"),
        ({"prompt": "x" * FAKE_CAPABILITIES.context_length}, ContextTooLong, "context_length_exceeded"),
        ({"temperature": -1.0}, UsageError, "invalid_value"),
        ({"adapter": AdapterRef("big", "v", Path("p"), 1001)}, AdapterError, "adapter_too_large"),
    ],
)
def test_what_can_never_run_is_refused_at_once(
    engine: EngineClient, bad: dict[str, Any], error: type[EdgeloraError], code: str
) -> None:
    """In the caller's thread, with nothing queued."""
    with pytest.raises(error) as caught:
        engine.submit(request("r", **bad))
    assert caught.value.code == code and engine.stats().queued == 0


def test_a_full_queue_and_a_taken_id_are_refused(slow: EngineClient) -> None:
    """Busy with a wait to suggest; an id that runs is not given twice; a cancel makes room."""
    streams = [slow.submit(request(f"r{n}")) for n in range(3)]
    with pytest.raises(Busy) as full:
        slow.submit(request("x"))
    assert full.value.code == "queue_full" and (full.value.retry_after or 0) > 0
    slow.cancel("r1")
    assert isinstance(error_of(streams[1]), Cancelled)
    with pytest.raises(UsageError) as twice:
        slow.submit(request("r2"))
    assert twice.value.code == "duplicate_id"
    for stream in (streams[2], streams[0]):
        stream.cancel()
        assert isinstance(error_of(stream), Cancelled)
    slow.cancel("unknown")
    stats = slow.stats()
    assert (stats.queued, stats.running) == (0, 0)


def test_a_failed_load_says_why(engine: EngineClient, tmp_path: Path) -> None:
    """The error of the file, whole, and only for those that asked for it."""
    ref = AdapterRef("a", "v", tmp_path / "gone.gguf", 10)
    error = error_of(engine.submit(request("r", adapter=ref)))
    assert isinstance(error, AdapterCorrupt) and (error.code, error.remedy) == (
        "adapter_corrupt",
        "Install the adapter again.",
    )
    assert engine.submit(request("r", max_tokens=1)).text() == "n"


def test_fetch_and_pin(kind: Kind, tmp_path: Path) -> None:
    """A hint loads, a pin stays, another takes its place, and what cannot be pinned says why."""
    engine = make(kind, answer="Base.", able={"max_slots": 2})
    one, two, three = (write_fake_adapter(tmp_path, f"a{n}", answer="x") for n in range(3))
    assert engine.fetch(one, pin=True).result(20) is True
    assert engine.fetch(two).result(20) is True
    assert engine.submit(request("r", adapter=three)).text() == "x"
    assert [(e.ref, e.pinned) for e in engine.stats().adapters] == [(one, True), (three, False)]
    assert engine.fetch(two, pin=True, instead_of=one).result(20) is True
    assert {(e.ref, e.pinned) for e in engine.stats().adapters} >= {(two, True)}
    big = AdapterRef("big", "v", tmp_path / "b", 2000)
    with pytest.raises(AdapterError) as caught:
        engine.fetch(big, pin=True).result(20)
    assert caught.value.code == "pins_too_large"
    engine.close()
    with pytest.raises(BackendError) as stopped:
        engine.fetch(one)
    assert stopped.value.code == "engine_stopped"


def test_a_prefix_is_kept_and_found(kind: Kind, tmp_path: Path) -> None:
    """A named prefix is computed and written, and the next engine reads it instead of computing."""
    base = tmp_path / "base"
    base.write_bytes(b"base")
    kept = Prefixes(tmp_path / "prefixes", 1 << 20, base, 64 * "a")
    system = b"You answer for a clinic. " * 4
    engine = make(kind, answer="Yes.", prefixes=kept)
    cache = PrefixCache(PrefixStore(kept.root, budget_bytes=1 << 20), base, kv=engine.kv_identity, template=64 * "a")
    stored = add_named(engine, cache, tuple(system), uses=(), name="clinic")
    assert stored.path.exists() and (stored.name, stored.length) == ("clinic", len(system))
    engine.close()
    again = make(kind, answer="Yes.", prefixes=kept)
    assert finish_of(again.submit(request("r", system.decode() + "?"))).usage.cached_tokens == len(system)
    again.close()


def test_close_with_drain_finishes_what_runs(kind: Kind) -> None:
    """Accepted requests get their answers, waiting ones too; new ones are refused meanwhile."""
    engine = make(kind, answer="abcdef", step_seconds=0.01, able={"max_sequences": 1, "max_outputs": 1})
    streams = [engine.submit(request(f"r{n}")) for n in range(3)]
    closer = threading.Thread(target=lambda: engine.close(drain=True, timeout=None))
    closer.start()
    wait_until(lambda: not engine.alive)
    with pytest.raises(BackendError) as late:
        engine.submit(request("late"))
    assert late.value.code == "engine_stopped"
    assert [stream.text() for stream in streams] == ["abcdef"] * 3
    closer.join(20)
    assert not closer.is_alive() and engine.health().state == "stopped"
    engine.close()


@pytest.mark.parametrize("drain", [False, True])
def test_close_fails_what_is_not_done(kind: Kind, drain: bool) -> None:
    """Without a drain at once, with one at its deadline: every reader hears of it."""
    engine = make(kind, answer="x" * 900, step_seconds=0.01, able={"max_sequences": 1, "max_outputs": 1})
    streams = [engine.submit(request(f"r{n}")) for n in range(3)]
    engine.close(drain=drain, timeout=0.1)
    assert [getattr(error_of(stream), "code", "") for stream in streams] == ["engine_stopped"] * 3


def test_health_of_an_engine_that_runs(engine: EngineClient) -> None:
    """Ready, nothing to say, a process to look at."""
    engine.wait_ready()
    health = engine.health()
    assert engine.alive and (health.state, health.why, health.restarts) == ("ready", "", 0) and health.pid
    assert engine.capabilities.max_slots == 2 and engine.kv_identity == "fake"


def test_many_threads_at_once(engine: EngineClient, tmp_path: Path) -> None:
    """Submit and cancel from many threads: each answer is whole, or ended by its own cancel."""
    refs = [None, *(write_fake_adapter(tmp_path, f"a{n}", answer=f"I am {n}." * 5) for n in range(3))]
    expected = [ANSWER, *(f"I am {n}." * 5 for n in range(3))]
    wrong: list[object] = []

    def client(number: int) -> None:
        for turn in range(4):
            which = (number + turn) % len(refs)
            stream = engine.submit(request(f"{number}-{turn}", adapter=refs[which]))
            if turn % 2:
                stream.cancel()
            try:
                if stream.text() != expected[which]:
                    wrong.append(number)
            except Cancelled:
                if not turn % 2:
                    wrong.append(number)

    clients = [threading.Thread(target=client, args=(n,)) for n in range(12)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join(60)
    stats = engine.stats()
    assert not wrong and (stats.queued, stats.running) == (0, 0)
