"""The engine with real threads and the strict fake: every request gets its own answer, and exactly one end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgelora.backends.base import Chunk, Loaded
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
from edgelora.core.events import Event, Failed, Finished, FinishReason, TextDelta
from edgelora.core.request import AdapterRef, Request
from edgelora.core.sampling_params import SamplingParams
from edgelora.engine.engine import Engine
from edgelora.engine.stream import Stream
from tests.support.engines import error_of, finish_of
from tests.support.fake_backend.backend import FAKE_CAPABILITIES, FakeBackend, write_fake_adapter
from tests.support.uses import uses

ABLE = FAKE_CAPABILITIES
Start = Callable[[FakeBackend], Engine]


@pytest.fixture
def start() -> Iterator[Start]:
    """Engines that are closed, gates opened, after the test; none may have broken the backend's contract."""
    started: list[tuple[FakeBackend, Engine]] = []

    def start(backend: FakeBackend, *, max_queue: int = 20) -> Engine:
        engine = Engine(backend, adapter_budget_bytes=1000, max_queue=max_queue)
        started.append((backend, engine))
        return engine

    yield start
    for backend, engine in started:
        backend.step_gate.set()
        backend.load_gate.set()
        engine.close()
        assert not backend.violations


def request(
    name: str, prompt: str | Sequence[int] = "Hi", adapter: AdapterRef | None = None, **sampling: object
) -> Request:
    tokens = prompt.encode() if isinstance(prompt, str) else prompt
    return Request(name, tuple(tokens), uses(adapter), replace(SamplingParams(), **sampling))  # type: ignore[arg-type]


class Pausing(FakeBackend):
    """Closes its own gate when it comes to one step, so that a test acts in exactly that state."""

    pause_at = -1

    def step(self, chunks: Sequence[Chunk]) -> list[NDArray[np.float32] | None]:
        if len(self.history) == self.pause_at:
            self.step_gate.clear()
            self.stepping.clear()
        return super().step(chunks)

    def wait_for_pause(self) -> None:
        wait_until(lambda: len(self.history) == self.pause_at + 1 and self.stepping.is_set())


def wait_until(holds: Callable[[], bool]) -> None:
    """For what another thread is about to do; the run's own timeout is the limit."""
    while not holds():
        threading.Event().wait(0.001)


@pytest.mark.parametrize("mixed", [True, False])
def test_mixed_adapters_give_what_each_gives_alone(start: Start, tmp_path: Path, mixed: bool) -> None:
    """Four adapters and the base, prompts of any length, all at once: the answers of one after the other."""
    refs = [None, *(write_fake_adapter(tmp_path, f"a{n}") for n in range(4))]
    able = replace(ABLE, mixed_adapters=mixed, max_sequences=5, max_step_tokens=24)
    wanted = [("p" * (7 * n + 1) + str(k), ref) for n, ref in enumerate(refs) for k in range(3)]
    alone = start(FakeBackend(capabilities=able))
    expected = [alone.submit(request("r", prompt, ref, max_tokens=40)).text() for prompt, ref in wanted]
    backend = FakeBackend(capabilities=able)
    together = start(backend)
    for ref in refs:  # All resident, so that all can run as soon as the first step is over.
        together.submit(request("first", "x", ref, max_tokens=1)).text()
    backend.step_gate.clear()
    streams = [together.submit(request(f"r{n}", p, ref, max_tokens=40)) for n, (p, ref) in enumerate(wanted)]
    backend.step_gate.set()
    assert [stream.text() for stream in streams] == expected
    assert len(set(expected)) == len(expected)
    most = max(len({chunk.adapters for chunk in step}) for step in backend.history)
    assert most >= 4 if mixed else most == 1


def test_a_preempted_request_gives_the_same_answer(start: Start) -> None:
    """KV for hardly two: everybody is sent back at some time, and nobody's answer shows it."""
    prompts = [f"prompt {n}" for n in range(6)]
    roomy, scarce = FakeBackend(), FakeBackend(capabilities=replace(ABLE, kv_cells=70, context_length=70))
    alone, engine = start(roomy), start(scarce)
    expected = [alone.submit(request("r", p, max_tokens=50)).text() for p in prompts]
    scarce.step_gate.clear()
    streams = [engine.submit(request(f"r{n}", p, max_tokens=50)) for n, p in enumerate(prompts)]
    scarce.step_gate.set()
    ends: list[Finished] = []
    for stream, whole in zip(streams, expected, strict=True):
        *texts, last = stream
        assert "".join(e.text for e in texts if isinstance(e, TextDelta)) == whole
        assert isinstance(last, Finished)
        ends.append(last)
    assert min(min(e.timings.queued, e.timings.prefill, e.timings.decode) for e in ends) >= 0.0
    length = len(prompts[0])
    again = [c for step in scarce.history for c in step if len(c.tokens) > 1 and c.position + len(c.tokens) > length]
    assert again, "the test is about preemption"


def test_the_next_turn_of_a_chat_computes_only_what_is_new(start: Start, tmp_path: Path) -> None:
    """The same answer as a fresh engine's, the prompt's old part not computed, and the usage says so."""
    ref = write_fake_adapter(tmp_path, "a")
    backend, fresh = FakeBackend(), FakeBackend()
    engine, other = start(backend), start(fresh)
    first = engine.submit(request("r", "p" * 30, ref, max_tokens=9)).text()
    engine.submit(request("between", "p" * 30, max_tokens=9)).text()
    prompt = "p" * 30 + first + " and then?"
    *texts, end = engine.submit(request("r", prompt, ref, max_tokens=9))
    steps = len(backend.history)
    assert isinstance(end, Finished) and end.usage.prompt_tokens == len(prompt)
    assert end.usage.cached_tokens >= 30 + len(first) - 1
    computed = sum(len(chunk.tokens) for chunk in backend.history[steps - end.usage.completion_tokens])
    assert computed == len(prompt) - end.usage.cached_tokens
    whole = other.submit(request("r", prompt, ref, max_tokens=9)).text()
    assert "".join(e.text for e in texts if isinstance(e, TextDelta)) == whole


def test_an_evicted_adapter_keeps_its_warm_kv(start: Start, tmp_path: Path) -> None:
    """It comes back, in whatever slot, to what it had computed; a new version of its name does not."""
    one, other = write_fake_adapter(tmp_path, "a"), write_fake_adapter(tmp_path, "b")
    backend = FakeBackend(capabilities=replace(ABLE, max_slots=1))
    engine = start(backend)
    whole = engine.submit(request("r", "p" * 40, one, max_tokens=9)).text()
    assert finish_of(engine.submit(request("r", "p" * 40, other, max_tokens=9))).usage.cached_tokens == 0
    again = list(engine.submit(request("r", "p" * 40, one, max_tokens=9)))
    assert len(backend.loads) == 3
    assert isinstance(again[-1], Finished) and again[-1].usage.cached_tokens == 39
    assert "".join(e.text for e in again if isinstance(e, TextDelta)) == whole
    newer = replace(one, version="another")
    assert finish_of(engine.submit(request("r", "p" * 40, newer, max_tokens=9))).usage.cached_tokens == 0


def test_nothing_of_a_failed_step_is_reused(start: Start) -> None:
    """The same prompt after a failure is computed from its first token on."""
    backend = FakeBackend(answers={None: "abcdef"})
    backend.fail_steps = {2}
    engine = start(backend)
    assert isinstance(error_of(engine.submit(request("r", "p" * 40))), BackendError)
    *texts, end = engine.submit(request("r", "p" * 40))
    assert isinstance(end, Finished) and end.usage.cached_tokens == 0 and len(texts) == 6


def test_a_cancelled_request_leaves_its_kv(start: Start) -> None:
    """What was computed before the cancel need not be computed again."""
    backend = Pausing(answers={None: "x" * 100})
    backend.pause_at = 5
    engine = start(backend)
    stream = engine.submit(request("r", "p" * 40))
    backend.wait_for_pause()
    stream.cancel()
    backend.step_gate.set()
    assert isinstance(error_of(stream), Cancelled)
    assert finish_of(engine.submit(request("r", "p" * 40 + "?", max_tokens=3))).usage.cached_tokens == 40


def test_more_adapters_than_slots(start: Start, tmp_path: Path) -> None:
    """Each is loaded when its turn comes, and the unused ones make room."""
    refs = [write_fake_adapter(tmp_path, f"a{n}", answer=f"I am {n}.") for n in range(7)]
    backend = FakeBackend(capabilities=replace(ABLE, max_slots=2))
    engine = start(backend)
    streams = [engine.submit(request(f"r{n}{k}", adapter=ref)) for k in range(2) for n, ref in enumerate(refs)]
    assert [stream.text() for stream in streams] == [f"I am {n}." for n in range(7)] * 2
    assert len(engine.stats().adapters) == 2


def test_a_resident_adapter_is_not_loaded_again(start: Start, tmp_path: Path) -> None:
    """Requests that come together share one load, later ones need none, and the times say so."""
    ref = write_fake_adapter(tmp_path, "a", answer="Hello.")
    backend = FakeBackend()
    engine = start(backend)
    backend.load_gate.clear()
    first = [engine.submit(request(f"r{n}", adapter=ref)) for n in range(3)]
    wait_until(lambda: [a.leases for a in engine.stats().adapters] == [3])
    backend.load_gate.set()
    assert all(finish_of(stream).timings.load > 0 for stream in first)
    assert finish_of(engine.submit(request("later", adapter=ref))).timings.load == 0.0
    assert len(backend.loads) == 1


def test_times_and_usage(start: Start) -> None:
    """Prompt and completion tokens, the end token counted; no time is negative."""
    engine = start(FakeBackend(answers={None: "abc"}))
    end = finish_of(engine.submit(request("r", "Hello")))
    assert (end.usage.prompt_tokens, end.usage.completion_tokens, end.reason) == (5, 4, FinishReason.STOP)
    times = end.timings
    assert min(times.queued, times.load, times.prefill, times.decode) >= 0.0
    assert engine.stats().tokens == 4 and engine.stats().steps == 4


def test_text_comes_as_it_is_made(start: Start) -> None:
    """One event a character, whole characters only, nothing of the end token."""
    engine = start(FakeBackend(answers={None: "né!"}))
    events = list(engine.submit(request("r")))
    assert [e.text for e in events if isinstance(e, TextDelta)] == ["n", "é", "!"]


def test_stop_strings_end_the_answer(start: Start) -> None:
    """The text before the stop string, reason stop, and no step after it."""
    backend = FakeBackend(answers={None: "one END two"})
    events = list(start(backend).submit(request("r", stop=("END", "zzz"))))
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == "one "
    assert isinstance(events[-1], Finished) and events[-1].reason is FinishReason.STOP
    assert len(backend.history) == len("one END")


def test_max_tokens_ends_the_answer(start: Start) -> None:
    """Reason length; what was held back for a stop string is shown, and half a character as U+FFFD."""
    engine = start(FakeBackend(answers={None: "abEN", Path("never"): ""}))
    stream = engine.submit(request("r", max_tokens=4, stop=("END",)))
    assert stream.text() == "abEN"
    engine = start(FakeBackend(answers={None: "aé"}))
    events = list(engine.submit(request("r", max_tokens=2)))
    assert [e.text for e in events if isinstance(e, TextDelta)] == ["a", "\ufffd"]
    assert isinstance(events[-1], Finished) and events[-1].reason is FinishReason.LENGTH


def test_a_seed_repeats_an_answer(start: Start) -> None:
    """Hot sampling with one seed gives one text, whoever else is in the batch."""
    engine = start(FakeBackend())

    def hot(name: str, seed: int) -> Request:
        return request(name, temperature=30.0, max_tokens=20, seed=seed)

    alone = engine.submit(hot("a", 5)).text()
    crowd = [engine.submit(hot(f"r{seed}", seed)) for seed in (4, 5, 6)]
    texts = [stream.text() for stream in crowd]
    assert texts[1] == alone and len(set(texts)) == 3


@pytest.mark.parametrize(
    ("bad", "error", "code"),
    [
        (request("x", ""), UsageError, "empty_prompt"),
        (request("x", "x" * ABLE.context_length), ContextTooLong, "context_length_exceeded"),
        (request("x", [999]), UsageError, "bad_token"),
        (request("x", [-1]), UsageError, "bad_token"),
        (request("x", temperature=-1.0), UsageError, "invalid_value"),
        (request("x", adapter=AdapterRef("big", "v", Path("p"), 1001)), AdapterError, "adapter_too_large"),
    ],
)
def test_what_can_never_run_is_refused_at_once(
    start: Start, bad: Request, error: type[EdgeloraError], code: str
) -> None:
    """In the caller's thread, before anything is queued."""
    engine = start(FakeBackend())
    with pytest.raises(error) as caught:
        engine.submit(bad)
    assert caught.value.code == code and engine.stats().queued == 0


def test_an_id_in_use_is_refused(start: Start) -> None:
    """Two live requests never share an id; an ended one's may be used again."""
    backend = FakeBackend(answers={None: "a"})
    engine = start(backend)
    backend.step_gate.clear()
    stream = engine.submit(request("r"))
    with pytest.raises(UsageError) as caught:
        engine.submit(request("r"))
    assert caught.value.code == "duplicate_id"
    backend.step_gate.set()
    assert stream.text() == engine.submit(request("r")).text() == "a"


def test_a_full_queue_refuses_and_recovers() -> None:
    """Busy, with a wait to suggest; as soon as one ends there is room again."""
    backend = FakeBackend(answers={None: "a"}, capabilities=replace(ABLE, max_sequences=1))
    engine = Engine(backend, adapter_budget_bytes=1000, max_queue=2)
    backend.step_gate.clear()
    streams = [engine.submit(request(f"r{n}")) for n in range(3)]
    with pytest.raises(Busy) as caught:
        engine.submit(request("x"))
    assert caught.value.code == "queue_full" and (caught.value.retry_after or 0) > 0
    backend.step_gate.set()
    assert [stream.text() for stream in streams] == ["a"] * 3
    assert engine.submit(request("x")).text() == "a"
    engine.close()


def test_cancel_while_decoding(start: Start) -> None:
    """The stream ends with Cancelled within a step; the others go on, and the place is free again."""
    backend = Pausing(answers={None: "x" * 100}, capabilities=replace(ABLE, max_sequences=2))
    backend.pause_at = 5
    engine = start(backend)
    stream = engine.submit(request("r"))
    other = engine.submit(request("other", max_tokens=50))
    backend.wait_for_pause()
    stream.cancel()
    stream.cancel()
    backend.step_gate.set()
    *texts, last = stream
    assert isinstance(last, Failed) and isinstance(last.error, Cancelled)
    assert len(texts) <= 6, "only the step that ran may still give a token"
    assert finish_of(other).usage.completion_tokens == 50
    assert finish_of(engine.submit(request("next", max_tokens=3))).usage.completion_tokens == 3


def test_cancel_while_loading(start: Start, tmp_path: Path) -> None:
    """It ends at once, while the load goes on, and the adapter is there for the next one."""
    ref = write_fake_adapter(tmp_path, "a", answer="Hello.")
    backend = FakeBackend()
    backend.load_gate.clear()
    engine = start(backend)
    stream = engine.submit(request("r", adapter=ref))
    assert backend.loading.wait(10)
    stream.cancel()
    assert isinstance(error_of(stream), Cancelled)
    assert [(a.resident, a.leases) for a in engine.stats().adapters] == [(False, 0)]
    backend.load_gate.set()
    assert engine.submit(request("next", adapter=ref)).text() == "Hello."
    assert len(backend.loads) == 1


def test_cancel_while_waiting_and_while_computing_the_prompt(start: Start) -> None:
    """One place: the first is in its prompt, the second waits; both can be ended, in any order."""
    backend = FakeBackend(answers={None: "abc"}, capabilities=replace(ABLE, max_sequences=1, max_step_tokens=8))
    engine = start(backend)
    backend.step_gate.clear()
    running, waiting = engine.submit(request("running", "p" * 500)), engine.submit(request("waiting"))
    assert backend.stepping.wait(10)
    waiting.cancel()
    running.cancel()
    engine.cancel("unknown")
    backend.step_gate.set()
    assert isinstance(error_of(waiting), Cancelled) and isinstance(error_of(running), Cancelled)
    assert len(backend.history) == 1
    assert engine.submit(request("next")).text() == "abc"


def test_cancel_after_the_end_is_nothing(start: Start) -> None:
    """An ended request stays ended."""
    engine = start(FakeBackend(answers={None: "abc"}))
    stream = engine.submit(request("r"))
    assert stream.text() == "abc"
    stream.cancel()
    assert engine.submit(request("next")).text() == "abc" and list(stream) == []


def test_a_failed_load_fails_only_its_requests(start: Start, tmp_path: Path) -> None:
    """The error of the load itself; the base goes on meanwhile; a later request tries again."""
    ref = write_fake_adapter(tmp_path, "a", answer="Hello.")
    backend = FakeBackend(answers={None: "base"})
    backend.load_gate.clear()
    backend.load_error = AdapterCorrupt("adapter_corrupt", "Half of it is missing.")
    engine = start(backend)
    streams = [engine.submit(request(f"r{n}", adapter=ref)) for n in range(2)]
    assert engine.submit(request("base")).text() == "base"
    backend.load_gate.set()
    assert all(error_of(stream) is backend.load_error for stream in streams)
    backend.load_error = None
    assert engine.submit(request("again", adapter=ref)).text() == "Hello."


def test_any_error_of_a_load_is_an_adapter_error(start: Start, tmp_path: Path) -> None:
    """What a file causes below, of whatever class, names the adapter and does not end the loader."""
    ref = write_fake_adapter(tmp_path, "a", answer="Hello.")
    backend = FakeBackend()
    backend.load_error = MemoryError("no room")
    engine = start(backend)
    error = error_of(engine.submit(request("r", adapter=ref)))
    assert isinstance(error, AdapterError) and error.code == "adapter_load_failed" and "a@" in error.what
    backend.load_error = None
    assert engine.submit(request("again", adapter=ref)).text() == "Hello."


def test_a_failed_attach_is_a_failed_load(start: Start, tmp_path: Path) -> None:
    """The slot is free again and the engine goes on."""

    class Refusing(FakeBackend):
        refuse = True

        def attach(self, slot: int, loaded: Loaded) -> None:
            if self.refuse:
                raise ValueError("no")
            super().attach(slot, loaded)

    backend = Refusing()
    engine = start(backend)
    ref = write_fake_adapter(tmp_path, "a", answer="Hello.")
    assert isinstance(error_of(engine.submit(request("r", adapter=ref))), BackendError)
    backend.refuse = False
    assert engine.submit(request("again", adapter=ref)).text() == "Hello."


def test_a_failed_step_fails_its_sequences_and_no_more(start: Start) -> None:
    """Those of the step get the backend's error, their KV is cleared, and who waited runs as if nothing was."""
    backend = FakeBackend(answers={None: "abcdef"}, capabilities=replace(ABLE, max_sequences=2))
    backend.fail_steps = {1}
    backend.step_gate.clear()
    engine = start(backend)
    streams = [engine.submit(request(f"r{n}")) for n in range(4)]
    backend.step_gate.set()
    results = [list(stream)[-1] for stream in streams]
    failed = [r.error for r in results if isinstance(r, Failed)]
    assert failed and all(isinstance(e, BackendError) and e.code == "fake_failure" for e in failed)
    assert len(failed) == len(backend.history[1])
    assert engine.submit(request("next")).text() == "abcdef"


def test_any_error_of_a_step_is_a_backend_error(start: Start) -> None:
    """An exception of another class is wrapped, and the engine goes on."""

    class Broken(FakeBackend):
        def step(self, chunks: Sequence[Chunk]) -> list[NDArray[np.float32] | None]:
            if any(chunk.tokens[0] == ord("!") for chunk in chunks):
                raise ZeroDivisionError("oops")
            return super().step(chunks)

    engine = start(Broken(answers={None: "abc"}))
    error = error_of(engine.submit(request("r", "!")))
    assert isinstance(error, BackendError) and error.code == "backend_failed" and "oops" in error.what
    assert engine.submit(request("next")).text() == "abc"


def test_damaged_logits_fail_one_request(start: Start, tmp_path: Path) -> None:
    """NaN from one adapter ends its own request; its neighbours in the same step finish."""

    class Damaged(FakeBackend):
        def step(self, chunks: Sequence[Chunk]) -> list[NDArray[np.float32] | None]:
            results = super().step(chunks)
            for chunk, logits in zip(chunks, results, strict=True):
                if chunk.adapters and logits is not None:
                    logits[:, 0] = np.nan
            return results

    backend = Damaged(answers={None: "abc"})
    backend.step_gate.clear()
    engine = start(backend)
    bad = engine.submit(request("bad", adapter=write_fake_adapter(tmp_path, "a")))
    good = engine.submit(request("good"))
    backend.step_gate.set()
    error = error_of(bad)
    assert isinstance(error, BackendError) and error.code == "bad_logits"
    assert good.text() == "abc"


def test_a_dead_engine_tells_everybody() -> None:
    """When the thread itself dies, parked readers wake with an error and later requests are refused."""

    class Fatal(FakeBackend):
        def clear(self, sequence: int) -> None:
            raise SystemError("gone")

    backend = Fatal(answers={None: "abc", Path("x"): ""}, capabilities=replace(ABLE, max_sequences=1))
    backend.fail_steps = {0}
    engine = Engine(backend, adapter_budget_bytes=1000, max_queue=20)
    backend.step_gate.clear()
    streams = [engine.submit(request(f"r{n}")) for n in range(3)]
    backend.step_gate.set()
    ends: list[Event] = []
    readers = [threading.Thread(target=lambda s=s: ends.append(list(s)[-1]), daemon=True) for s in streams]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(10)
    errors = [end.error for end in ends if isinstance(end, Failed)]
    assert sorted(getattr(e, "code", "") for e in errors) == ["engine_stopped"] * 2 + ["fake_failure"]
    with pytest.raises(BackendError) as caught:
        engine.submit(request("late"))
    assert caught.value.code == "engine_stopped" and "gone" in caught.value.what
    assert not engine.alive
    engine.close()
    assert backend.closed


def test_close_without_drain_fails_what_runs() -> None:
    """Running and waiting requests end with engine_stopped, the backend is closed, later requests are refused."""
    backend = FakeBackend(answers={None: "x" * 1500}, capabilities=replace(ABLE, max_sequences=1))
    engine = Engine(backend, adapter_budget_bytes=1000, max_queue=20)
    backend.step_gate.clear()
    streams = [engine.submit(request(f"r{n}")) for n in range(3)]
    closer = threading.Thread(target=lambda: engine.close(drain=False))
    closer.start()
    wait_until(lambda: not engine.alive)
    backend.step_gate.set()
    closer.join(10)
    assert [getattr(error_of(s), "code", "") for s in streams] == ["engine_stopped"] * 3
    assert backend.closed and not engine.alive and not backend.violations
    with pytest.raises(BackendError, match="stopped"):
        engine.submit(request("late"))
    engine.close(drain=True)


@pytest.mark.parametrize("timeout", [30.0, None])
def test_close_with_drain_finishes_what_runs(tmp_path: Path, timeout: float | None) -> None:
    """Accepted requests, one whose adapter is still loading included, get their whole answers; new ones are refused."""
    ref = write_fake_adapter(tmp_path, "a", answer="adapter")
    backend = FakeBackend(answers={None: "base"}, capabilities=replace(ABLE, max_sequences=1))
    backend.load_gate.clear()
    engine = Engine(backend, adapter_budget_bytes=1000, max_queue=20)
    streams = [engine.submit(request(f"r{n}", adapter=(None, ref)[n % 2])) for n in range(4)]
    closer = threading.Thread(target=lambda: engine.close(drain=True, timeout=timeout))
    closer.start()
    wait_until(lambda: not engine.alive)
    with pytest.raises(BackendError):
        engine.submit(request("late"))
    backend.load_gate.set()
    assert [stream.text() for stream in streams] == ["base", "adapter"] * 2
    closer.join(10)
    assert backend.closed and not backend.violations


def test_a_drain_ends_at_its_deadline(tmp_path: Path) -> None:
    """What cannot be done in time fails; nobody waits for a load that never ends."""
    ref = write_fake_adapter(tmp_path, "a", answer="adapter")
    backend = FakeBackend(answers={None: "base"})
    backend.load_gate.clear()
    engine = Engine(backend, adapter_budget_bytes=1000, max_queue=20)
    loading, running = engine.submit(request("a", adapter=ref)), engine.submit(request("b"))
    assert running.text() == "base"
    closer = threading.Thread(target=lambda: engine.close(drain=True, timeout=0.05))
    closer.start()
    assert getattr(error_of(loading), "code", "") == "engine_stopped"
    backend.load_gate.set()
    closer.join(10)
    assert backend.closed


def test_a_reader_that_left_holds_up_nobody(start: Start) -> None:
    """Its events pile up for it alone; the others get theirs, and the engine ends in good order."""
    backend = FakeBackend(answers={None: "x" * 300}, capabilities=replace(ABLE, max_sequences=2))
    engine = start(backend)
    engine.submit(request("left"))
    assert engine.submit(request("stays")).text() == "x" * 300
    assert engine.submit(request("after")).text() == "x" * 300


def test_stats_tell_who_runs_and_who_waits(start: Start, tmp_path: Path) -> None:
    """Running, queued, and each adapter's leases, while a step is being computed and after all is done."""
    ref = write_fake_adapter(tmp_path, "a", answer="Hello.")
    backend = FakeBackend(capabilities=replace(ABLE, max_sequences=2), answers={None: "abc"})
    engine = start(backend)
    engine.submit(request("first", adapter=ref)).text()
    backend.step_gate.clear()
    backend.stepping.clear()
    streams = [engine.submit(request(f"r{n}", adapter=(ref, None)[n % 2])) for n in range(4)]
    assert backend.stepping.wait(10)
    backend.stepping.clear()
    stats = engine.stats()
    assert stats.running + stats.queued == 4 and 1 <= stats.running <= 2
    assert [(a.ref, a.resident) for a in stats.adapters] == [(ref, True)]
    assert stats.adapters[0].leases >= 1
    backend.step_gate.set()
    for stream in streams:
        stream.text()
    stats = engine.stats()
    assert (stats.running, stats.queued, stats.adapters[0].leases) == (0, 0, 0)


def test_an_asyncio_reader(start: Start) -> None:
    """The same streams, read by tasks of a loop, several at once."""
    engine = start(FakeBackend(answers={None: "Hello."}))

    async def read(stream: Stream) -> str:
        return "".join([e.text async for e in stream if isinstance(e, TextDelta)])

    async def scene() -> list[str]:
        streams = [engine.submit(request(f"r{n}")) for n in range(5)]
        return await asyncio.wait_for(asyncio.gather(*map(read, streams)), 30)

    assert asyncio.run(scene()) == ["Hello."] * 5


def test_many_threads_at_once(start: Start, tmp_path: Path) -> None:
    """Submit and cancel from many threads: each answer is whole, or ended by its own cancel."""
    refs = [None, *(write_fake_adapter(tmp_path, f"a{n}", answer=f"I am {n}." * 5) for n in range(5))]
    engine = start(FakeBackend(answers={None: "Base." * 5}))
    expected = ["Base." * 5, *(f"I am {n}." * 5 for n in range(5))]
    wrong: list[object] = []

    def client(number: int) -> None:
        for turn in range(4):
            kind = (number + turn) % len(refs)
            stream = engine.submit(request(f"{number}-{turn}", adapter=refs[kind]))
            if turn % 2:
                stream.cancel()
            try:
                if stream.text() != expected[kind]:
                    wrong.append(number)
            except Cancelled:
                if not turn % 2:
                    wrong.append(number)

    clients = [threading.Thread(target=client, args=(n,)) for n in range(12)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join(60)
    assert not wrong
    stats = engine.stats()
    assert (stats.running, stats.queued) == (0, 0) and all(a.leases == 0 for a in stats.adapters)
