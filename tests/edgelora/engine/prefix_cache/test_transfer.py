"""Prefixes through the engine, on the fake backend: kept when seen twice, there after a restart, in nobody's way."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgelora.core.errors import Cancelled, EdgeloraError
from edgelora.core.events import Failed, Finished, TextDelta
from edgelora.core.kv import SavedKv
from edgelora.core.request import AdapterRef, AdapterUse, Request
from edgelora.core.sampling_params import SamplingParams
from edgelora.engine.engine import Engine
from edgelora.engine.prefix_cache.cache import MIN_TOKENS, PrefixCache
from edgelora.engine.stream import Stream
from edgelora.runtime.named_prefix import add_named
from edgelora.store.prefixes.store import FoundPrefix, PrefixStore
from tests.support.fake_backend.backend import FAKE_CAPABILITIES, FakeBackend, write_fake_adapter
from tests.support.uses import uses

SYSTEM = tuple(b"You answer for a clinic. " * 4)  # 100 tokens
SHOP = tuple(b"You sell shoes; be brief. " * 4)


class Cache(PrefixCache):
    """Reads only while its gate is open, and tells when it is asked to."""

    gate: threading.Event
    reading: threading.Event
    reads: int = 0

    def read(self, found: FoundPrefix) -> SavedKv | EdgeloraError:
        self.reads += 1
        self.reading.set()
        assert self.gate.wait(20)
        return super().read(found)


class Runtime:
    """One process's engine over a folder of prefixes."""

    def __init__(
        self, root: Path, *, budget: int = 1 << 20, base: bytes = b"base", template: str = "a", kv: str = "fake"
    ) -> None:
        root.mkdir(exist_ok=True)
        path = root / "base.gguf"
        if not path.exists() or path.read_bytes() != base:
            path.write_bytes(base)
        self.backend = FakeBackend()
        self.backend.kv_identity = kv
        self.store = PrefixStore(root / "prefixes", budget_bytes=budget)
        self.cache = Cache(self.store, path, kv=kv, template=64 * template)
        self.cache.gate, self.cache.reading = threading.Event(), threading.Event()
        self.cache.gate.set()
        self.engine = Engine(self.backend, adapter_budget_bytes=1000, max_queue=20, prefixes=self.cache)
        self._count = 0

    def submit(self, tail: str, adapter: AdapterRef | None = None, *, system: tuple[int, ...] = SYSTEM) -> Stream:
        self._count += 1
        prompt = (*system, *tail.encode())
        sampling = SamplingParams(max_tokens=12)
        return self.engine.submit(Request(f"r{self._count}", prompt, uses(adapter), sampling, system=len(system)))

    def ask(self, tail: str, adapter: AdapterRef | None = None, *, system: tuple[int, ...] = SYSTEM) -> tuple[str, int]:
        """The answer, and how many tokens were not computed."""
        return answer(self.submit(tail, adapter, system=system))

    def close(self) -> None:
        self.cache.gate.set()
        self.backend.step_gate.set()
        self.engine.close(drain=True)
        assert not self.backend.violations
        assert not any(thread.name == "edgelora-prefixes" for thread in threading.enumerate())


def answer(stream: Stream) -> tuple[str, int]:
    *texts, last = stream
    assert isinstance(last, Finished), last
    return "".join(event.text for event in texts if isinstance(event, TextDelta)), last.usage.cached_tokens


Start = Callable[..., Runtime]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A process after another over one folder: each ends before the next begins."""
    running: list[Runtime] = []

    def begin(**options: object) -> Runtime:
        for runtime in running:
            runtime.close()
        running[:] = [Runtime(tmp_path / "home", **options)]  # type: ignore[arg-type]
        return running[0]

    yield begin
    for runtime in running:
        runtime.close()


@pytest.fixture
def adapter(tmp_path: Path) -> AdapterRef:
    return write_fake_adapter(tmp_path, "medical")


def kept(runtime: Runtime) -> list[int]:
    return [entry.held.stored.length for entry in runtime.store.entries()]


def test_a_system_prompt_seen_twice_is_there_after_a_restart(start: Start, adapter: AdapterRef) -> None:
    """Not after once; then the next process reads it, computes the rest alone, and answers as a fresh one."""
    fresh = start(budget=0)
    expected = [fresh.ask(tail, adapter, system=SYSTEM)[0] for tail in ("one", "two", "three")]
    first = start()
    assert first.ask("one", adapter) == (expected[0], 0)
    first = start()
    assert first.ask("one", adapter) == (expected[0], 0) and kept(first) == []
    assert first.ask("two", adapter)[0] == expected[1]
    second = start()
    assert kept(second) == [len(SYSTEM)]
    assert second.ask("three", adapter) == (expected[2], len(SYSTEM))
    computed = [chunk for step in second.backend.history for chunk in step]
    assert computed[0].position == len(SYSTEM)
    assert second.ask("one", adapter)[1] >= len(SYSTEM) and second.cache.reads == 1, "it is warm now"


def keep(start: Start, adapter: AdapterRef | None, **options: object) -> Runtime:
    """A process after one that kept the system prompt."""
    runtime = start(**options)
    for tail in ("one", "two"):
        runtime.ask(tail, adapter)
    return start(**options)


def test_the_system_prompt_of_a_running_request_is_kept(start: Start) -> None:
    """Copied out between two steps, while others are in the batch; nobody's tokens change."""
    fresh = start(budget=0)
    tails = [f"question {n}" for n in range(6)]
    expected = [fresh.ask(tail, system=system)[0] for tail in tails for system in (SYSTEM, SHOP)]
    runtime = start()
    runtime.backend.step_gate.clear()
    streams = [runtime.submit(tail, system=system) for tail in tails for system in (SYSTEM, SHOP)]
    runtime.backend.step_gate.set()
    assert [answer(stream)[0] for stream in streams] == expected
    runtime = start()
    assert sorted(kept(runtime))[0] >= MIN_TOKENS
    streams = [runtime.submit(tail, system=system) for tail in tails for system in (SYSTEM, SHOP)]
    assert [answer(stream)[0] for stream in streams] == expected


def test_an_adapter_that_begins_later_has_no_part_in_it(start: Start, adapter: AdapterRef) -> None:
    """An aLoRA's system prompt is the base's: seen and kept as that, wherever each prompt invokes the adapter."""
    runtime = start()

    def ask(tail: str) -> int:
        tokens = (*SYSTEM, *tail.encode())
        late = (AdapterUse(adapter, start=len(tokens) - 1),)
        sampling = SamplingParams(max_tokens=2)
        request = Request(tail, tokens, late, sampling, system=len(SYSTEM))
        return answer(runtime.engine.submit(request))[1]

    assert ask("one") == 0 and ask("three") == len(SYSTEM)
    runtime = start()
    assert ask("seventeen") == len(SYSTEM) and runtime.cache.reads == 1
    (entry,) = runtime.store.entries()
    assert entry.origin.adapters == ()


def test_short_ones_and_texts_are_not_kept(start: Start) -> None:
    """Below MIN_TOKENS it is not worth a file; a prompt without a system message has nothing to keep."""
    runtime = start()
    for n in range(3):
        runtime.ask(f"q{n}", system=SYSTEM[: MIN_TOKENS - 1])
        runtime.engine.submit(Request(f"t{n}", (*SYSTEM, n), (), SamplingParams(max_tokens=1))).text()
    runtime = start()
    assert kept(runtime) == []


@pytest.mark.parametrize("other", ["adapter", "base alone", "base", "template", "library"])
def test_nothing_else_hits(start: Start, adapter: AdapterRef, tmp_path: Path, other: str) -> None:
    """What was kept for one adapter version, base, template and library is computed anew for any other."""
    runtime = keep(start, adapter)
    assert runtime.ask("three", adapter)[1] == len(SYSTEM)
    ref: AdapterRef | None = adapter
    if other == "adapter":
        ref = write_fake_adapter(tmp_path, "medical", answer="a new version")
        assert ref.path == adapter.path and ref.version != adapter.version
    elif other == "base alone":
        ref = None
    options = {"base": {"base": b"Base"}, "template": {"template": "b"}, "library": {"kv": "fake 2"}}.get(other, {})
    runtime = start(**options)
    assert runtime.ask("four", ref)[1] == 0 and runtime.cache.reads == 0


def test_a_damaged_file_is_computed_instead(
    start: Start, adapter: AdapterRef, caplog: pytest.LogCaptureFixture
) -> None:
    """The same answer, later; the file is gone, and kept anew."""
    runtime = keep(start, adapter)
    expected = runtime.ask("three", adapter)[0]
    (path,) = (entry.held.stored.path for entry in runtime.store.entries())
    runtime = start()
    path.write_bytes(path.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING):
        assert runtime.ask("three", adapter) == (expected, 0)
    assert "damaged" in caplog.text and not path.exists()
    runtime.ask("four", adapter)
    assert kept(start()) == [len(SYSTEM)]


def test_who_waits_for_a_prefix_can_be_cancelled(start: Start, adapter: AdapterRef) -> None:
    """While it is being read; the others that wait for it have it, and requests without one pass."""
    runtime = keep(start, adapter)
    runtime.cache.gate.clear()
    first, second = runtime.submit("three", adapter), runtime.submit("four", adapter)
    assert runtime.cache.reading.wait(20)
    runtime.engine.submit(Request("other", (1, 2, 3), (), SamplingParams(max_tokens=2))).text()
    first.cancel()
    *_, last = first
    assert isinstance(last, Failed) and isinstance(last.error, Cancelled)
    runtime.cache.gate.set()
    assert answer(second)[1] == len(SYSTEM) and runtime.cache.reads == 1


def test_a_close_ends_who_waits_for_a_prefix(start: Start, adapter: AdapterRef) -> None:
    """A read that takes for ever holds up no shutdown."""
    runtime = keep(start, adapter)
    runtime.cache.gate.clear()
    stream = runtime.submit("three", adapter)
    assert runtime.cache.reading.wait(20)
    closing = threading.Thread(target=lambda: runtime.engine.close(drain=False))
    closing.start()
    *_, last = stream
    assert isinstance(last, Failed)
    runtime.cache.gate.set()
    closing.join(20)
    assert not closing.is_alive()


def test_no_disk_is_touched_on_the_engines_thread(
    start: Start, adapter: AdapterRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looked for in the request's thread, read in the loader's, written in the writer's."""
    threads: dict[str, set[str]] = {"find": set(), "read": set(), "keep": set()}
    for name, seen in threads.items():
        original = getattr(PrefixStore, name)

        def noted(
            *args: object, _original: Callable[..., object] = original, _seen: set[str] = seen, **rest: object
        ) -> object:
            _seen.add(threading.current_thread().name)
            return _original(*args, **rest)

        monkeypatch.setattr(PrefixStore, name, noted)
    keep(start, adapter).ask("three", adapter)
    assert threads == {
        "find": {threading.current_thread().name},
        "read": {"edgelora-loader"},
        "keep": {"edgelora-prefixes"},
    }


def test_no_room_on_disk_costs_no_answer(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and everything else goes on."""
    runtime = start(budget=100)
    with caplog.at_level(logging.WARNING):
        for tail in ("one", "two"):
            runtime.ask(tail)
        runtime.close()
    assert "is not kept" in caplog.text


def test_no_room_in_the_kv_costs_no_answer(start: Start, adapter: AdapterRef) -> None:
    """Where others fill the cells, what was read is let go, and the request computes when it can."""
    runtime = keep(start, adapter)
    expected = runtime.ask("three", adapter)[0]
    runtime = start()
    scarce = replace(FAKE_CAPABILITIES, kv_cells=220, context_length=220)
    runtime.close()
    runtime.backend = FakeBackend(capabilities=scarce)
    runtime.engine = Engine(runtime.backend, adapter_budget_bytes=1000, max_queue=20, prefixes=runtime.cache)
    runtime.backend.step_gate.clear()
    streams = [runtime.submit(f"{n}" * 80, system=()) for n in range(2)]
    assert runtime.backend.stepping.wait(20)
    waiting = runtime.submit("three", adapter)
    runtime.backend.step_gate.set()
    assert answer(waiting)[0] == expected
    for stream in streams:
        answer(stream)


def test_a_named_prefix(start: Start, adapter: AdapterRef) -> None:
    """Computed with progress, there for the next request and the next process; again under another name it is read."""
    runtime, seen = start(), []
    use = (AdapterUse(adapter),)
    progress = lambda label, done, total: seen.append((label, done, total))  # noqa: E731
    stored = add_named(runtime.engine, runtime.cache, SYSTEM, uses=use, name="clinic", progress=progress)
    assert (stored.length, stored.name) == (len(SYSTEM), "clinic")
    assert [entry for entry in seen if entry[0] == "Computing clinic"] == [
        ("Computing clinic", 64, 100),
        ("Computing clinic", 100, 100),
    ]
    runtime = start()
    steps = len(runtime.backend.history)
    add_named(runtime.engine, runtime.cache, SYSTEM, uses=use, name="again")
    assert len(runtime.backend.history) == steps + 1 and runtime.cache.reads == 1
    assert runtime.ask("three", adapter)[1] == len(SYSTEM)
    assert sorted(str(entry.held.stored.name) for entry in runtime.store.entries()) == ["again", "clinic"]


def test_named_prefixes_that_cannot_be(start: Start) -> None:
    """A bad name, no tokens, more than the context, no room, nowhere to keep them: errors, and nothing is kept."""
    runtime = start(budget=500)
    for tokens, name, code in (
        (SYSTEM, "a/b", "bad_name"),
        ((), "a", "empty_prefix"),
        (SYSTEM * 21, "a", "context_length_exceeded"),
        (SYSTEM, "a", "prefix_budget"),
    ):
        with pytest.raises(EdgeloraError) as error:
            add_named(runtime.engine, runtime.cache, tokens, uses=(), name=name)
        assert error.value.code == code
    with pytest.raises(EdgeloraError) as error:
        add_named(runtime.engine, None, SYSTEM, uses=(), name="a")
    assert error.value.code == "no_prefixes"
    assert kept(runtime) == []
