"""When a process is given up, how long the next start waits, and which adapter is blamed: no process is needed."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest

from edgelora.core.errors import AdapterError, BackendError, Unavailable
from edgelora.core.request import AdapterRef, AdapterUse, Request
from edgelora.core.sampling_params import SamplingParams
from edgelora.engine.process import output_log
from edgelora.engine.process.crash_blame import KNOWN_ADAPTERS, STRIKE_SECONDS, CrashBlame, CrashSuspects, prompts_of
from edgelora.engine.process.instrumented_backend import (
    LEAST_SECONDS,
    MEASURED,
    UNMEASURED_SECONDS,
    InstrumentedBackend,
)
from edgelora.engine.process.lifecycle import Lifecycle
from edgelora.engine.process.messages import Pong
from edgelora.engine.process.output_log import OutputLog
from edgelora.engine.process.watchdog import Backoff, Watchdog, WatchdogTimes
from edgelora.store.adapters.quarantine import Quarantine
from tests.support.openers import Mortal

TIMES = WatchdogTimes(turn=5.0, silent=20.0, first=40.0)
ONE, TWO = Path("one"), Path("two")
REF = AdapterRef("bad", "b" * 64, ONE, 5)


def test_silence_is_counted_in_turns() -> None:
    """Four unanswered looks are twenty seconds; an answer in between begins anew; the first may take longer."""
    watch = Watchdog(TIMES)
    assert [watch.looked() for _ in range(8)] == [None] * 8
    assert watch.answered(Pong(1, None)) is None
    assert [watch.looked() for _ in range(4)] == [None] * 4
    assert "did not answer for 20 seconds" in (watch.looked() or "")


def test_a_call_hangs_after_its_bound() -> None:
    """The same call in every answer; another call, or none, begins anew."""
    watch = Watchdog(TIMES)
    assert [watch.answered(Pong(7, 10.0)) for _ in range(2)] == [None, None]
    assert watch.answered(Pong(8, 10.0)) is None and watch.answered(Pong(8, None)) is None
    assert [watch.answered(Pong(9, 10.0)) for _ in range(2)] == [None, None]
    assert "did not return for 10 seconds" in (watch.answered(Pong(9, 10.0)) or "")


def test_a_round_that_stands_still() -> None:
    """The same round without a call, in as many answers as fill the time of silence; asleep, it may last."""
    watch = Watchdog(TIMES)
    assert [watch.answered(Pong(7, None, 3)) for _ in range(4)] == [None] * 4
    assert "stood still for 20 seconds" in (watch.answered(Pong(7, None, 3)) or "")
    assert [watch.answered(pong) for pong in (Pong(7, None, 4), Pong(7, 60.0, 4), Pong(8, None, 4))] == [None] * 3
    assert [watch.answered(Pong(8, None, None)) for _ in range(40)] == [None] * 40


def test_a_process_that_is_ready_has_answered() -> None:
    """The long wait is for the modules of a process that starts; it is over once the base is in memory."""
    watch = Watchdog(TIMES)
    watch.ready()
    assert [watch.looked() for _ in range(4)] == [None] * 4
    assert "did not answer for 20 seconds" in (watch.looked() or "")


def test_starts_wait_longer_and_longer() -> None:
    """None after a steady run, doubled with each failure, bounded."""
    backoff = Backoff(WatchdogTimes(least_delay=0.25, most_delay=2.0, steady=60.0))
    assert [backoff.ended(1.0) for _ in range(6)] == [0.0, 0.25, 0.5, 1.0, 2.0, 2.0]
    assert backoff.ended(60.0) == 0.0 and backoff.failures == 1


class Suspects:
    """Suspects whose every crash is of a prompt of its own, unless `prompt` is given."""

    def __init__(self) -> None:
        self._suspects = CrashSuspects()
        self.trying = self._suspects.trying
        self._crashes = 0

    def ended(self, *, blamed: bool, prompt: int | None = None, now: float = 0.0) -> tuple[Path, ...]:
        self._crashes += 1
        identity = frozenset({("", self._crashes if prompt is None else -prompt)})
        return self._suspects.ended(blamed=blamed, prompts=lambda _path: identity, now=now)


def test_one_prompt_strikes_once() -> None:
    """However often it is sent: it may be at fault itself. A second prompt that crashes is the second strike."""
    suspects = Suspects()
    for _ in range(5):
        suspects.trying("step", (ONE,))
        assert suspects.ended(blamed=True, prompt=1) == ()
    suspects.trying("step", (ONE,))
    assert suspects.ended(blamed=True, prompt=2) == (ONE,)


def test_strikes_are_forgotten_after_a_while() -> None:
    """Two crashes far apart are no pattern."""
    suspects = Suspects()
    for crash in range(5):
        suspects.trying("load", (ONE,))
        assert suspects.ended(blamed=True, now=crash * STRIKE_SECONDS) == ()
    suspects.trying("load", (ONE,))
    assert suspects.ended(blamed=True, now=4.5 * STRIKE_SECONDS) == (ONE,)


def test_prompts_are_those_that_use_the_adapter() -> None:
    """By client and tokens; another client's same prompt is another."""
    uses, other = (AdapterUse(REF),), (AdapterUse(replace(REF, path=TWO)),)
    a, b = (Request(name, (1, 2), uses, SamplingParams(), name) for name in "ab")
    again = replace(a, id="again")
    assert prompts_of([a, again, replace(a, id="x", adapters=other)], ONE) == prompts_of([a], ONE)
    assert len(prompts_of([a, b], ONE)) == 2 and prompts_of([a, b], TWO) == frozenset()


def test_known_adapters_are_bounded() -> None:
    """A server may meet any number of versions in its life."""
    blame = CrashBlame(None)
    for number in range(2 * KNOWN_ADAPTERS):
        blame.know([replace(REF, path=Path(str(number)))])
    assert len(blame) == KNOWN_ADAPTERS


def test_two_strikes_in_the_same_place() -> None:
    """Only dying while it was tried counts, only of one's own, and doing well once ends it."""
    suspects = Suspects()
    suspects.trying("load", (ONE,))
    assert suspects.ended(blamed=True) == ()
    suspects.trying("load", (TWO,))
    suspects.trying("load", ())
    suspects.trying("step", (ONE, TWO))
    assert suspects.ended(blamed=False) == ()
    suspects.trying("attach", (ONE,))
    assert suspects.ended(blamed=True) == (ONE,)
    suspects.trying("step", (TWO,))
    assert suspects.ended(blamed=True) == ()
    suspects.trying("step", (TWO,))
    suspects.trying("step", ())
    suspects.trying("step", (TWO,))
    assert suspects.ended(blamed=True) == ()


def test_quarantine_is_kept_and_lifted(tmp_path: Path) -> None:
    """By version: seen by every process, with why; another version of the name is free; lifting it is enough."""
    blame = CrashBlame(Quarantine(tmp_path / "q"))
    blame.know([REF])
    for _ in range(2):
        blame.trying("load", (ONE,))
        guilty = blame.ended("SIGSEGV", blamed=True, requests=(), now=0.0)
    assert guilty == [REF]
    quarantine = Quarantine(tmp_path / "q")
    with pytest.raises(AdapterError) as caught:
        quarantine.check(REF)
    assert caught.value.code == "adapter_quarantined" and "edgelora release bad" in caught.value.remedy
    assert [(one.name, one.version, one.why) for one in quarantine.list()] == [("bad", REF.version, "SIGSEGV")]
    quarantine.check(AdapterRef("bad", "c" * 64, ONE, 5))
    quarantine.check(AdapterRef("bad", "../../etc", ONE, 5))
    assert quarantine.lift(REF.version) and not quarantine.lift(REF.version)
    quarantine.check(REF)


def test_a_damaged_record_still_keeps_out(tmp_path: Path) -> None:
    """Better an adapter too few than a crash too many."""
    (tmp_path / f"{REF.version}.json").write_bytes(b"{")
    assert Quarantine(tmp_path).find(REF.version) is not None
    assert Quarantine(tmp_path).lift(REF.version) and Quarantine(tmp_path).list() == []


def test_status_says_when_to_come_back() -> None:
    """From how long the last load took, or how much of this one is done; never less than a second."""
    status = Lifecycle(now=100.0)
    status.loading(104.0, 0.25)
    health = status.health(104.0, 7)
    assert (health.state, health.retry_after, health.pid) == ("loading", 12.0, 7)
    status.ready(110.0)
    status.check(110.0)
    status.ended("SIGKILL")
    status.waiting(200.0, 4.0)
    with pytest.raises(Unavailable) as caught:
        status.check(201.0)
    assert caught.value.retry_after == 13.0 and "SIGKILL" in caught.value.what
    status.starting(204.0)
    assert status.health(300.0, None).retry_after == 1.0
    status.ready(301.0)
    assert status.health(301.0, 8).restarts == 1
    status.stop(BackendError("engine_stopped", "It was stopped."))
    with pytest.raises(BackendError):
        status.check(302.0)
    assert (status.health(302.0, None).state, status.health(302.0, None).retry_after) == ("stopped", None)


def test_what_is_printed_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last lines in memory, two files of a limited size, long lines cut; a folder that is gone stops nothing."""
    monkeypatch.setattr(output_log, "FILE_BYTES", 1000)
    path = tmp_path / "state" / "engine.log"
    printed = OutputLog(path)
    printed.read(BytesIO(b"".join(b"line %d\n" % n for n in range(500)) + b"x" * 5000))
    assert printed.last()[-2] == "line 499" and len(printed.last()) == output_log.LAST_LINES
    assert len(printed.last()[-1]) == output_log.LINE_BYTES
    files = sorted(path.parent.iterdir())
    assert [file.name for file in files] == ["engine.log", "engine.old"]
    assert sum(file.stat().st_size for file in files) < 2 * 1000 + 2 * output_log.LINE_BYTES
    printed.close()
    (tmp_path / "file").touch()
    lost = OutputLog(tmp_path / "file" / "engine.log")
    lost.note("still there")
    assert lost.last() == ["still there"] and lost.path is None


def test_the_witness_tells_before_it_acts(tmp_path: Path) -> None:
    """Load, attach and the first step of an adapter, each ended once it went well; later steps are nobody's first."""
    told: list[tuple[str, tuple[Path, ...]]] = []
    backend = Mortal(answers={None: "abc"})
    witness = InstrumentedBackend(backend, lambda phase, paths: told.append((phase, paths)))
    path = tmp_path / "a"
    path.write_bytes(b"answer:x")
    witness.attach(0, witness.load(path))
    assert told == [("load", (path,)), ("load", ()), ("attach", (path,)), ("attach", ())]
    assert witness.pong().bound is None and witness.pong().call == 1


def test_the_bound_is_measured() -> None:
    """Long before enough calls were timed; then some minute, or many times the longest."""
    backend = Mortal(answers={None: "abc"})
    witness = InstrumentedBackend(backend, lambda phase, paths: None)
    bounds: list[float | None] = []
    backend.truncate = lambda *_: bounds.append(witness.pong().bound)  # type: ignore[method-assign]
    for _ in range(MEASURED + 1):
        witness.truncate(0, 0)
    assert bounds[0] == UNMEASURED_SECONDS and bounds[-1] == LEAST_SECONDS
