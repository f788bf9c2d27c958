"""Ways for the engine's process to die that need no luck, one after the other: what the default tests have no time for.

Each raises AssertionError where something is not as it should be.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from edgelora.core.errors import BackendError
from edgelora.engine.process.messages import Prefixes
from edgelora.engine.process.remote import RemoteEngine
from edgelora.store.adapters.quarantine import Quarantine
from tests.support.engines import QUICK, error_of, finish_of, gone, request, started, wait_until
from tests.support.fake_backend.backend import write_fake_adapter
from tests.support.fake_backend.tokenizer import FakeTokenizer
from tests.support.openers import opening


def by_a_request(folder: Path) -> None:
    """One that kills is tried twice and told what of; the next one is served."""
    del folder
    for death, told in (("abort", "SIGABRT"), ("segv", "SIGSEGV"), ("exit", "exit code 1")):
        engine = started(opening(answer="Fine."))
        error = error_of(engine.submit(request("bad", f"!{death}")))
        assert isinstance(error, BackendError) and error.code == "engine_crash" and told in error.what
        wait_until(lambda engine=engine: engine.alive)  # type: ignore[misc]
        assert engine.health().restarts == 2
        assert engine.submit(request("good")).text() == "Fine."
        _close(engine)


def by_an_adapter(folder: Path) -> None:
    """In every phase crashes of two prompts are its quarantine; one prompt's second try, and a kill -9, are not."""
    for number, (phase, death) in enumerate([("load", "abort"), ("attach", "segv"), ("step", "kill")]):
        quarantine = Quarantine(folder / f"quarantine-{number}")
        bad = write_fake_adapter(folder, f"bad-{number}", answer=f"{phase}!{death}")
        engine = started(opening(answer="Fine."), quarantine=quarantine)
        for prompt in ("Hi", "Hello"):
            assert quarantine.find(bad.version) is None
            assert isinstance(error_of(engine.submit(request(prompt, prompt, adapter=bad))), BackendError)
            wait_until(lambda engine=engine: engine.alive)  # type: ignore[misc]
        assert (quarantine.find(bad.version) is None) == (death == "kill")
        _close(engine)


def by_standing_still(folder: Path) -> None:
    """A process that is stopped, and so does not answer, is killed."""
    del folder
    engine = started(opening(answer="x" * 900, step_seconds=0.01), times=replace(QUICK, silent=0.5, turn=0.1))
    stream = engine.submit(request("r"))
    next(stream)
    _signal(engine, signal.SIGSTOP)
    assert "did not answer" in str(error_of(stream))
    wait_until(lambda: engine.alive)
    _close(engine)


def while_loading(folder: Path) -> None:
    """A base that kills its process three times in a row is given up."""
    engine = RemoteEngine(opening(dying=str(folder / "never")), tokenizer=FakeTokenizer(), times=QUICK)
    try:
        engine.wait_ready()
    except BackendError as error:
        assert error.code == "engine_crash" and "3 times" in error.what
    else:
        raise AssertionError("it was ready")
    engine.close()


def with_prefixes(folder: Path) -> None:
    """A system prompt that was kept is read by the next process instead of computed."""
    base = folder / "base"
    base.write_bytes(b"base")
    kept = Prefixes(folder / "prefixes", 1 << 20, base, 64 * "a")
    engine = started(opening(answer="Yes.", prefixes=kept))
    system = "You answer for a clinic. " * 4
    asked = [replace(request(f"r{n}", system + str(n)), system=len(system)) for n in range(3)]
    for one in asked[:2]:
        finish_of(engine.submit(one))
    wait_until(lambda: any(kept.root.rglob("*.kv")))
    _signal(engine, signal.SIGKILL)
    wait_until(lambda: engine.health().restarts == 1 and engine.alive)
    assert finish_of(engine.submit(asked[2])).usage.cached_tokens == len(system)
    _close(engine)


DEATHS: tuple[Callable[[Path], None], ...] = (
    by_a_request,
    by_an_adapter,
    by_standing_still,
    while_loading,
    with_prefixes,
)


def _signal(engine: RemoteEngine, number: int) -> None:
    pid = engine.health().pid
    assert pid is not None
    os.kill(pid, number)


def _close(engine: RemoteEngine) -> None:
    pid = engine.health().pid
    engine.close(timeout=5)
    assert pid is None or gone(pid)
