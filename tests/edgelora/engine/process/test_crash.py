"""The engine's process dies: who is told what, who is served all the same, and what is there again afterwards."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgelora.core.errors import AdapterError, BackendError, BaseError, Cancelled, Unavailable
from edgelora.core.events import Failed, TextDelta
from edgelora.engine.process.remote import RemoteEngine
from edgelora.engine.stream import Stream
from edgelora.store.adapters.quarantine import Quarantine
from tests.support.engines import QUICK, error_of, gone, request, started, wait_until
from tests.support.fake_backend.backend import write_fake_adapter
from tests.support.fake_backend.tokenizer import FakeTokenizer
from tests.support.openers import opening

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals")
ONE_PLACE = {"max_sequences": 1, "max_outputs": 1}


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """What is logged of a crash is asserted where it matters."""
    caplog.set_level(logging.CRITICAL, logger="edgelora.engine.process")


@pytest.fixture
def engines() -> Iterator[list[RemoteEngine]]:
    """Those put here are closed; their processes must be gone then."""
    made: list[RemoteEngine] = []
    yield made
    for engine in made:
        pid = engine.health().pid
        engine.close(timeout=5)
        assert pid is None or gone(pid)


def begun(stream: Stream) -> str:
    """Its first text."""
    event = next(stream)
    assert isinstance(event, TextDelta)
    return event.text


def kill(engine: RemoteEngine) -> None:
    pid = engine.health().pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def test_kill_9(engines: list[RemoteEngine], tmp_path: Path) -> None:
    """Who saw something of an answer hears engine_crash; who waited gets a whole answer; pins and counts are there."""
    pinned = write_fake_adapter(tmp_path, "a", answer="Pinned.")
    engine = started(opening(answer="x" * 300, step_seconds=0.005, able={**ONE_PLACE}))
    engines.append(engine)
    assert engine.fetch(pinned, pin=True).result(20) is True
    first, second = engine.submit(request("a")), engine.submit(request("b", max_tokens=3))
    third = engine.submit(request("c", max_tokens=3, adapter=pinned))
    begun(first)
    before = engine.stats()
    kill(engine)
    error = error_of(first)
    assert isinstance(error, BackendError) and error.code == "engine_crash" and "SIGKILL" in error.what
    wait_until(lambda: not engine.alive or engine.health().restarts == 1)
    assert (len(second.text()), third.text()) == (3, "Pin")
    health = engine.health()
    assert (health.state, health.restarts) == ("ready", 1)
    wait_until(lambda: [(e.ref, e.pinned) for e in engine.stats().adapters] == [(pinned, True)])
    after = engine.stats()
    assert after.tokens > before.tokens and {c.name: c.loads for c in after.counts} == {"a": 2}


def test_a_pin_that_ended_stays_ended(engines: list[RemoteEngine], tmp_path: Path) -> None:
    """In the process that holds it, and in the one that comes after it; what is pinned there is pinned again."""
    pinned, kept = (write_fake_adapter(tmp_path, name, answer="Pinned.") for name in "ab")
    engine = started(opening(answer="x"))
    engines.append(engine)
    assert engine.fetch(pinned, pin=True).result(20) and engine.fetch(kept, pin=True).result(20)
    assert engine.fetch(pinned, instead_of=pinned).result(20) is True
    wait_until(lambda: {e.ref: e.pinned for e in engine.stats().adapters} == {pinned: False, kept: True})
    kill(engine)
    wait_until(lambda: engine.health().restarts == 1 and engine.alive)
    wait_until(lambda: [(e.ref, e.pinned) for e in engine.stats().adapters] == [(kept, True)])


def test_a_request_is_sent_again_unseen(engines: list[RemoteEngine], tmp_path: Path) -> None:
    """One crash before its first text shows nowhere but in its time."""
    engine = started(opening(answer="Fine.", once=str(tmp_path / "once")))
    engines.append(engine)
    *texts, end = engine.submit(request("r", "!segv"))
    assert "".join(e.text for e in texts if isinstance(e, TextDelta)) == "Fine."
    assert end.timings.queued > 0 and engine.health().restarts == 1  # type: ignore[union-attr]


def test_a_hang_is_a_crash(engines: list[RemoteEngine], tmp_path: Path) -> None:
    """A call that does not return within its bound ends the process; who waited for it is served by the next."""
    engine = started(opening(answer="Fine.", once=str(tmp_path / "once")), times=replace(QUICK, bound=0.6))
    engines.append(engine)
    assert engine.submit(request("r", "!hang")).text() == "Fine."
    assert engine.health().restarts == 1


def test_an_engine_whose_thread_died_is_replaced(engines: list[RemoteEngine], tmp_path: Path) -> None:
    """An exception outside a step ends the engine's thread, and so its process; who waited is served by the next."""
    engine = started(opening(answer="Fine.", once=str(tmp_path / "once"), able=ONE_PLACE))
    engines.append(engine)
    failing, waiting = engine.submit(request("a", "!clear")), engine.submit(request("b"))
    error = error_of(failing)
    assert isinstance(error, BackendError) and error.code == "step_failed"
    assert waiting.text() == "Fine."
    assert engine.alive and engine.health().restarts == 1


def test_an_engine_that_stands_still_is_replaced(engines: list[RemoteEngine], tmp_path: Path) -> None:
    """Its thread hangs outside the backend, while another thread still answers the supervisor."""
    engine = started(opening(answer="Fine.", once=str(tmp_path / "once")), times=replace(QUICK, silent=0.6))
    engines.append(engine)
    assert engine.submit(request("r", "!stand")).text() == "Fine."
    assert engine.health().restarts == 1


def test_an_engine_that_waits_is_no_hang(engines: list[RemoteEngine], tmp_path: Path) -> None:
    """A request may wait long for an adapter that is being read: the engine sleeps then, and is left alone."""
    slow = write_fake_adapter(tmp_path, "slow", answer="Here.")
    engine = started(opening(answer="x", load_seconds=1.5), times=replace(QUICK, silent=0.4))
    engines.append(engine)
    assert engine.submit(request("r", adapter=slow)).text() == "Here."
    assert engine.health().restarts == 0


def test_refused_while_it_starts_again(engines: list[RemoteEngine], tmp_path: Path) -> None:
    """503 with a wait and the reason; a cancel is heard at once; a hint is forgotten; a pin waits."""
    gate = tmp_path / "there"
    gate.touch()
    engine = started(opening(answer="x" * 500, step_seconds=0.01, missing=str(gate), able=ONE_PLACE))
    engines.append(engine)
    first, waiting = engine.submit(request("a")), engine.submit(request("b", max_tokens=2))
    cancelled = engine.submit(request("c"))
    begun(first)
    gate.unlink()
    kill(engine)
    assert isinstance(error_of(first), BackendError)
    wait_until(lambda: "The base is gone" in engine.health().why)
    with pytest.raises(Unavailable) as caught:
        engine.submit(request("d"))
    assert caught.value.code == "model_loading" and "base is gone" in caught.value.what
    assert caught.value.retry_after and not engine.alive and engine.capabilities.max_slots == 4
    cancelled.cancel()
    assert isinstance(error_of(cancelled), Cancelled)
    ref = write_fake_adapter(tmp_path, "a")
    assert engine.fetch(ref).result(1) is False
    pin = engine.fetch(ref, pin=True)
    gate.touch()
    assert pin.result(20) is True
    assert isinstance(list(waiting)[-1], Failed) or engine.alive


def test_an_adapter_that_kills_is_put_into_quarantine(engines: list[RemoteEngine], tmp_path: Path) -> None:
    """After the second prompt, not the second try of one; others that were loaded meanwhile are not suspected."""
    bad = write_fake_adapter(tmp_path, "bad", answer="step!abort")
    good = write_fake_adapter(tmp_path, "good", answer="Good.")
    quarantine = Quarantine(tmp_path / "quarantine")
    engine = started(opening(answer="Fine."), quarantine=quarantine)
    engines.append(engine)
    assert engine.submit(request("g", adapter=good)).text() == "Good."
    error = error_of(engine.submit(request("b", adapter=bad)))
    assert isinstance(error, BackendError) and error.code == "engine_crash"
    wait_until(lambda: engine.alive)
    assert engine.health().restarts == 2 and quarantine.find(bad.version) is None
    error = error_of(engine.submit(request("c", "Hello", adapter=bad)))
    assert isinstance(error, BackendError) and error.code == "engine_crash"
    wait_until(lambda: quarantine.find(bad.version) is not None)
    with pytest.raises(AdapterError) as caught:
        quarantine.check(bad)
    assert caught.value.code == "adapter_quarantined" and "SIGABRT" in caught.value.what
    quarantine.check(good)
    wait_until(lambda: engine.alive)
    assert engine.submit(request("g", adapter=good)).text() == "Good."


def test_a_base_that_cannot_be_opened(tmp_path: Path) -> None:
    """The error of the base itself, from `wait_ready` and for every request."""
    engine = RemoteEngine(opening(missing=str(tmp_path / "no")), tokenizer=FakeTokenizer(), times=QUICK)
    with pytest.raises(Unavailable) as early:
        engine.submit(request("r"))
    assert early.value.code == "model_loading"
    with pytest.raises(BaseError) as caught:
        engine.wait_ready()
    assert (caught.value.code, caught.value.remedy) == ("base_gone", "Put it back.")
    with pytest.raises(BaseError):
        engine.submit(request("r"))
    assert engine.health().state == "stopped"
    engine.close()


def test_closing_while_it_loads() -> None:
    """Nobody waits for a base that nobody wants any more."""
    engine = RemoteEngine(opening(seconds=60), tokenizer=FakeTokenizer(), times=QUICK)
    wait_until(lambda: engine.health().pid is not None)
    pid = engine.health().pid
    engine.close(drain=True, timeout=None)
    assert pid is not None and gone(pid)


def test_closing_a_process_that_hangs() -> None:
    """What is not over in time is killed, and its readers hear of it."""
    engine = started(opening(answer="x"))
    stream = engine.submit(request("r", "!hang"))
    wait_until(lambda: stream.placed)
    pid = engine.health().pid
    engine._supervisor.join = _short(engine._supervisor.join)  # type: ignore[method-assign]
    engine.close(drain=True, timeout=0.1)
    assert isinstance(error_of(stream), BackendError)
    assert pid is not None and gone(pid)


def _short(join: Any) -> Any:
    return lambda _timeout: join(0.2)
