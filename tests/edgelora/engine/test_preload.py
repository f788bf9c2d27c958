"""Adapters loaded though no request waits: hints take only what nobody needs, pins stay, everyone is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgelora.core.errors import AdapterCorrupt, AdapterError, BackendError
from edgelora.core.events import Failed, Finished
from edgelora.core.request import AdapterRef, AdapterUse, Request
from edgelora.core.sampling_params import SamplingParams
from edgelora.engine.engine import Engine
from edgelora.engine.stream import Stream
from tests.support.fake_backend.backend import FAKE_CAPABILITIES, FakeBackend, write_fake_adapter

WAIT = 20.0
BUDGET = 30
Start = Callable[..., tuple[FakeBackend, Engine]]


@pytest.fixture
def start() -> Iterator[Start]:
    """An engine of three adapters of ten bytes; closed after the test, the backend's contract kept."""
    started: list[tuple[FakeBackend, Engine]] = []

    def start(*, budget: int = BUDGET, sequences: int = 4) -> tuple[FakeBackend, Engine]:
        backend = FakeBackend(capabilities=replace(FAKE_CAPABILITIES, max_sequences=sequences))
        started.append((backend, Engine(backend, adapter_budget_bytes=budget, max_queue=9)))
        return started[-1]

    yield start
    for backend, engine in started:
        backend.step_gate.set()
        backend.load_gate.set()
        engine.close()
        assert not backend.violations


@pytest.fixture
def adapters(tmp_path: Path) -> dict[str, AdapterRef]:
    return {name: write_fake_adapter(tmp_path, name, nbytes=10) for name in "abcde"}


def ask(engine: Engine, name: str, *refs: AdapterRef, tokens: int = 1) -> Stream:
    return engine.submit(Request(name, (65, 66), tuple(map(AdapterUse, refs)), SamplingParams(max_tokens=tokens)))


def finished(stream: Stream) -> bool:
    return isinstance(list(stream)[-1], Finished)


def resident(engine: Engine) -> list[str]:
    return [entry.ref.name for entry in engine.stats().adapters if entry.resident]


def settled(engine: Engine, ref: AdapterRef, *, pin: bool = False) -> bool:
    return engine.fetch(ref, pin=pin).result(WAIT)


def test_a_hint_loads_in_the_background(start: Start, adapters: dict[str, AdapterRef]) -> None:
    """The adapter is there when it is asked for, and is not loaded a second time."""
    backend, engine = start()
    assert settled(engine, adapters["a"]) is True
    assert settled(engine, adapters["a"]) is True
    assert finished(ask(engine, "r", adapters["a"]))
    assert backend.loads == [adapters["a"].path] and resident(engine) == ["a"]


def test_a_hint_pushes_out_what_nobody_holds(start: Start, adapters: dict[str, AdapterRef]) -> None:
    """The longest unused one, as a request would."""
    _, engine = start()
    for name in "abc":
        settled(engine, adapters[name])
    finished(ask(engine, "r", adapters["a"]))
    assert settled(engine, adapters["d"]) is True
    assert sorted(resident(engine)) == ["a", "c", "d"]


def test_a_hint_never_disturbs_what_runs(start: Start, adapters: dict[str, AdapterRef]) -> None:
    """With everything held, or too large a one, it is forgotten without a word; nothing was evicted."""
    backend, engine = start(budget=20)
    backend.step_gate.clear()
    streams = [ask(engine, name, adapters[name], tokens=3) for name in "ab"]
    assert backend.stepping.wait(WAIT)
    wished = engine.fetch(adapters["c"])
    backend.step_gate.set()
    assert all(map(finished, streams))
    assert wished.result(WAIT) in (True, False)
    assert settled(engine, replace(adapters["d"], nbytes=21)) is False
    assert backend.loads[:2] == [adapters["a"].path, adapters["b"].path]


def test_a_hint_gives_way_to_a_request_that_waits(start: Start, adapters: dict[str, AdapterRef]) -> None:
    """Room that a waiting request needs is not taken for a guess."""
    backend, engine = start(budget=20)
    backend.step_gate.clear()
    running = ask(engine, "running", adapters["a"], tokens=2)
    assert backend.stepping.wait(WAIT)
    both = ask(engine, "both", adapters["b"], adapters["c"])
    guess = engine.fetch(adapters["d"])
    backend.step_gate.set()
    assert finished(running) and finished(both)
    assert guess.result(WAIT) is False
    assert adapters["d"].path not in backend.loads


def test_a_hint_for_a_broken_adapter_is_quiet(start: Start, adapters: dict[str, AdapterRef]) -> None:
    """Nobody hears of it until somebody asks in earnest, who gets the error."""
    backend, engine = start()
    backend.load_error = AdapterCorrupt("adapter_corrupt", "It is damaged.", "Install it again.")
    assert settled(engine, adapters["a"]) is False
    assert resident(engine) == [] and engine.alive


def test_a_pin_stays(start: Start, adapters: dict[str, AdapterRef]) -> None:
    """Whatever else is asked for afterwards, it is loaded once and not evicted."""
    backend, engine = start()
    assert settled(engine, adapters["a"], pin=True) is True
    for name in "bcdebcde":
        assert finished(ask(engine, name, adapters[name]))
    assert backend.loads.count(adapters["a"].path) == 1
    assert [entry.ref.name for entry in engine.stats().adapters if entry.pinned] == ["a"]


def test_pins_beyond_the_budget_are_refused(start: Start, adapters: dict[str, AdapterRef]) -> None:
    """The error has the numbers; what was pinned stays, and adapters that fit beside it still run."""
    _, engine = start(budget=20)
    settled(engine, adapters["a"], pin=True)
    with pytest.raises(AdapterError, match="20 bytes") as caught:
        settled(engine, replace(adapters["b"], nbytes=11), pin=True)
    assert caught.value.code == "pins_too_large"
    with pytest.raises(AdapterError, match="pinned ones take 10 of it"):
        ask(engine, "large", replace(adapters["b"], nbytes=11))
    assert finished(ask(engine, "r", adapters["b"]))


def test_a_pin_waits_for_what_runs(start: Start, adapters: dict[str, AdapterRef]) -> None:
    """Its room is set aside, and taken when the running request gives it back; nobody fails."""
    backend, engine = start(budget=20)
    backend.step_gate.clear()
    streams = [ask(engine, name, adapters[name], tokens=3) for name in "ab"]
    assert backend.stepping.wait(WAIT)
    pin = engine.fetch(adapters["c"], pin=True)
    backend.step_gate.set()
    assert all(map(finished, streams)) and pin.result(WAIT) is True
    assert "c" in resident(engine)


def test_a_pin_does_not_take_a_live_requests_room(start: Start, adapters: dict[str, AdapterRef]) -> None:
    """Where a live request could not run beside it, the pin is refused and the request goes on."""
    backend, engine = start(budget=20)
    backend.step_gate.clear()
    both = ask(engine, "both", adapters["a"], adapters["b"], tokens=3)
    assert backend.stepping.wait(WAIT)
    pin = engine.fetch(adapters["c"], pin=True)
    backend.step_gate.set()
    with pytest.raises(AdapterError, match="pinned"):
        pin.result(WAIT)
    assert finished(both)
    assert settled(engine, adapters["c"], pin=True) is True


def test_a_pin_that_cannot_be_loaded(start: Start, adapters: dict[str, AdapterRef]) -> None:
    """The error reaches who pinned, and the room is free again."""
    backend, engine = start(budget=20)
    backend.load_error = AdapterCorrupt("adapter_corrupt", "It is damaged.", "Install it again.")
    with pytest.raises(AdapterCorrupt):
        settled(engine, adapters["a"], pin=True)
    backend.load_error = None
    assert finished(ask(engine, "both", adapters["b"], adapters["c"]))


def test_a_pin_in_place_of_another(start: Start, adapters: dict[str, AdapterRef]) -> None:
    """The new one has the old one's room; the old one may go. Where that fails the old one stays pinned."""
    _, engine = start(budget=20)
    settled(engine, adapters["a"], pin=True)
    assert engine.fetch(adapters["b"], pin=True, instead_of=adapters["a"]).result(WAIT)
    with pytest.raises(AdapterError):
        engine.fetch(replace(adapters["c"], nbytes=21), pin=True, instead_of=adapters["b"]).result(WAIT)
    for name in "cd":
        assert finished(ask(engine, name, adapters[name]))
    assert [entry.ref.name for entry in engine.stats().adapters if entry.pinned] == ["b"]
    assert "b" in resident(engine) and "a" not in resident(engine)


def test_an_engine_that_ends_tells_who_waits(start: Start, adapters: dict[str, AdapterRef]) -> None:
    """A pin that is being loaded when the engine stops fails, and a later one is refused."""
    backend, engine = start()
    backend.load_gate.clear()
    pin = engine.fetch(adapters["a"], pin=True)
    assert backend.loading.wait(WAIT)
    backend.load_gate.set()
    engine.close()
    assert pin.exception(WAIT) is None or isinstance(pin.exception(), BackendError)
    with pytest.raises(BackendError, match="stopped"):
        engine.fetch(adapters["b"])


def test_a_pin_between_two_checks(
    start: Start, adapters: dict[str, AdapterRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request accepted before a pin, that reaches the engine after it, ends with the error; nobody else does."""
    _, engine = start(budget=20)
    monkeypatch.setattr(
        "edgelora.engine.engine.guided_decoder", lambda constraint, tokenizer: settled(engine, adapters["a"], pin=True)
    )
    late = ask(engine, "late", replace(adapters["b"], nbytes=15))
    monkeypatch.undo()
    last = list(late)[-1]
    assert isinstance(last, Failed) and isinstance(last.error, AdapterError)
    assert finished(ask(engine, "r", adapters["c"]))


def test_a_pin_ends(start: Start, adapters: dict[str, AdapterRef]) -> None:
    """Its room is there for others again; it stays in memory until somebody takes that."""
    _, engine = start(budget=10)
    settled(engine, adapters["a"], pin=True)
    with pytest.raises(AdapterError):
        ask(engine, "no", adapters["b"])
    assert engine.fetch(adapters["a"], instead_of=adapters["a"]).result(WAIT)
    assert [(entry.ref.name, entry.pinned) for entry in engine.stats().adapters] == [("a", False)]
    assert finished(ask(engine, "yes", adapters["b"])) and resident(engine) == ["b"]
