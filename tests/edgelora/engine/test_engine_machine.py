"""The whole engine over the strict fake, under any sequence of events: commands, loads, failures, replaced adapters.

The fake's answers are a pure function, so that what each request must say is computed beside the engine. The engine
runs on the test's thread (`tests/support/stepped.py`); a test at the end has real threads.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from numpy.typing import NDArray

from edgelora.backends.base import Applied, Chunk
from edgelora.core.errors import AdapterCorrupt, AdapterError, BackendError, Busy, ContextTooLong
from edgelora.core.events import Finished, FinishReason
from edgelora.core.request import AdapterRef, AdapterUse, Request
from edgelora.core.sampling_params import SamplingParams
from edgelora.engine.engine import Engine
from edgelora.engine.stream import Stream
from tests.support.fake_backend.backend import FAKE_CAPABILITIES, FakeLoaded
from tests.support.kept import KeptPrefixes
from tests.support.repeating import Repeating
from tests.support.stepped import SteppedEngine, outcome

CONTEXT = 60
NAMES = ("a", "b", "c", "d")
SIZES = (10, 20, 30, 50)
QUEUE = 6


class Tricky(Repeating):
    """A fake whose logits can be spoilt, and whose adapters need no file."""

    spoil = False
    """Whether the first chunk of a step that wants logits gets none that are numbers."""

    def step(self, chunks: Sequence[Chunk]) -> list[NDArray[np.float32] | None]:
        found = super().step(chunks)
        for rows in [values for values in found if values is not None][:1]:
            if self.spoil:
                rows[:] = np.nan
        return found

    def load(self, path: Path) -> FakeLoaded:
        """No file: the content is the name."""
        self.loads.append(path)
        return FakeLoaded(path=path, content=path.name.encode())


def ref(name: str, version: int, nbytes: int) -> AdapterRef:
    return AdapterRef(name=name, version=f"{version}", path=Path(f"{name}-{version}"), nbytes=nbytes)


def expected(request: Request) -> tuple[list[int], FinishReason]:
    """The tokens of the answer and why it ends, from the fake's function alone."""
    model = Tricky()
    for slot, use in enumerate(request.adapters):
        model.attach(slot, model.load(use.ref.path))
    adapters = [Applied(slot, use.weight, use.start) for slot, use in enumerate(request.adapters)]
    tokens = list(request.prompt)
    limit = min(CONTEXT, len(tokens) + (request.sampling.max_tokens or CONTEXT))
    answer: list[int] = []
    while len(tokens) < limit:
        token = model.next_token(adapters, tokens)
        tokens.append(token)
        answer.append(token)
        if token in model.tokenizer.end_ids:
            return answer, FinishReason.STOP
    return answer, FinishReason.LENGTH


def kept_before() -> KeptPrefixes:
    """What an engine before this one left on disk: prefixes of the base and of two adapters."""
    kept, model = KeptPrefixes(), Tricky()
    for slot, (name, length) in enumerate([("", 35), ("a", 25), ("b", 40)]):
        tokens = tuple(range(65, 65 + length))
        uses = (AdapterUse(ref(name, 1, SIZES[NAMES.index(name)])),) if name else ()
        for use in uses:
            model.attach(slot, model.load(use.ref.path))
        adapters = tuple(Applied(slot) for _ in uses)
        model.step([Chunk(sequence=slot, position=0, tokens=tokens, adapters=adapters, logits=0)])
        kept.held[frozenset(use.key for use in uses), tokens] = model.save(slot, length)
    return kept


class EngineMachine(RuleBasedStateMachine):
    """Submits of every kind, cancels, loads that arrive late or never, failing steps, spoilt logits, new versions of a
    name, a close."""

    engine: SteppedEngine

    @initialize(
        mixed=st.booleans(),
        slots=st.integers(1, 4),
        sequences=st.integers(1, 6),
        step=st.integers(1, 24),
        cells=st.sampled_from([CONTEXT, 90, 200]),
        budget=st.sampled_from([50, 65, 110]),
        each=st.sampled_from([0.0, 0.01, 0.1]),
        before=st.booleans(),
        speculate=st.booleans(),
    )
    def begin(
        self,
        mixed: bool,
        slots: int,
        sequences: int,
        step: int,
        cells: int,
        budget: int,
        each: float,
        before: bool,
        speculate: bool,
    ) -> None:
        able = replace(
            FAKE_CAPABILITIES,
            mixed_adapters=mixed,
            max_slots=slots,
            max_sequences=sequences,
            max_step_tokens=step,
            max_outputs=max(sequences, FAKE_CAPABILITIES.max_outputs),
            context_length=CONTEXT,
            kv_cells=cells,
        )
        self.slots, self.budget = slots, budget
        self.backend = Tricky(capabilities=able)
        self.kept = kept_before() if before else KeptPrefixes()
        self.engine = SteppedEngine(
            self.backend,
            adapter_budget_bytes=budget,
            max_queue=QUEUE,
            prefixes=self.kept,
            fixed=0.1,
            each=each,
            speculate=speculate,
        )
        self.versions = dict.fromkeys(NAMES, 1)
        self.requests: dict[str, Request] = {}
        self.spared: set[str] = set()
        """Requests that nothing was done to: they must finish with their own answer."""
        self.pins: dict[str, tuple[AdapterRef, Future[bool]]] = {}
        self.fetches: list[Future[bool]] = []
        self.closed = False

    @rule(
        names=st.lists(st.sampled_from(NAMES), max_size=1),
        shared=st.integers(0, 40),
        own=st.integers(0, 8),
        answer=st.one_of(st.none(), st.integers(1, 20)),
        client=st.sampled_from(["", "x", "y"]),
        system=st.booleans(),
    )
    def submit(self, names: list[str], shared: int, own: int, answer: int | None, client: str, system: bool) -> None:
        """A prompt that begins as others do and ends as few do; what it shares may be kept on disk."""
        prompt = (*range(65, 65 + shared), *range(65 + own, 65, -1))
        uses = tuple(AdapterUse(self._ref(name)) for name in names)
        self._submit(uses, prompt, answer, client, system=shared if system and own else 0)

    @rule(
        names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True),
        weights=st.lists(st.sampled_from([1.0, 0.5, -1.0]), min_size=3, max_size=3),
        starts=st.lists(st.sampled_from([0, 0, 4, 19]), min_size=3, max_size=3),
        length=st.integers(1, 30),
    )
    def compose(self, names: list[str], weights: list[float], starts: list[int], length: int) -> None:
        uses = tuple(AdapterUse(self._ref(n), w, s) for n, w, s in zip(names, weights, starts, strict=False))
        self._submit(uses, tuple(range(65, 65 + length)), 9)

    @precondition(lambda self: self.requests)
    @rule(pick=st.integers(0, 40), more=st.integers(1, 5), other=st.sampled_from([None, *NAMES]))
    def next_turn(self, pick: int, more: int, other: str | None) -> None:
        """A conversation goes on, at times with another adapter or a new version."""
        before = list(self.requests.values())[pick % len(self.requests)]
        said = [token for token, _ in self.engine.chosen[before.id]]
        uses = before.adapters if other is None else (AdapterUse(self._ref(other)),)
        self._submit(uses, (*before.prompt, *said, *range(70, 70 + more)), 6)

    @rule(pick=st.integers(0, 40), twice=st.booleans())
    def cancel(self, pick: int, twice: bool) -> None:
        """In whatever state, once or twice, known or not."""
        for _ in range(1 + twice):
            self.engine.cancel(f"r{pick}")
        self.spared.discard(f"r{pick}")

    @rule(name=st.sampled_from(NAMES))
    def replace_adapter(self, name: str) -> None:
        self.versions[name] += 1

    @precondition(lambda self: not self.closed)
    @rule(name=st.sampled_from(NAMES))
    def hint(self, name: str) -> None:
        """It may be asked for soon: never in anybody's way."""
        self.fetches.append(self.engine.fetch(self._ref(name)))

    @precondition(lambda self: not self.closed and len(self._pinned()) < 3)
    @rule(name=st.sampled_from(NAMES))
    def pin(self, name: str) -> None:
        """It stays in memory, in the place of the version that was pinned; or is refused."""
        before = self._pinned().get(name)
        found = self.engine.fetch(self._ref(name), pin=True, instead_of=before)
        self.engine.turn()
        if before is None or not (found.done() and found.exception()):
            self.pins[name] = (self._ref(name), found)
        self.fetches.append(found)

    @precondition(lambda self: self.engine.loads.jobs)
    @rule(damaged=st.booleans())
    def read_prefix(self, damaged: bool) -> None:
        """What was kept comes from the disk, or cannot be read: then it is computed."""
        self.kept.damaged = damaged
        self.engine.loads.do_job()
        self.kept.damaged = False

    @precondition(lambda self: self.engine.loads.wanted)
    @rule(pick=st.integers(0, 9), fails=st.booleans())
    def arrive(self, pick: int, fails: bool) -> None:
        ref = self.engine.loads.wanted[pick % len(self.engine.loads.wanted)]
        if fails:
            self._disturb(name for name in self.engine.live if ref in self._refs(name))
        self.engine.loads.arrive(ref, error=AdapterCorrupt("adapter_corrupt", "It is.", "") if fails else None)

    @rule(turns=st.integers(1, 10))
    def turn(self, turns: int) -> None:
        for _ in range(turns):
            self.engine.turn()
            self.check()

    @rule()
    def failing_turn(self) -> None:
        """The step fails: its requests do, the others go on."""
        self.backend.fail_steps = {len(self.backend.history)}
        self.engine.turn()
        self.backend.fail_steps = set()
        if self.engine.plan is not None:
            self._disturb(row.request_id for row in self.engine.plan.rows)

    @rule()
    def spoilt_turn(self) -> None:
        """One request's logits are no numbers: it fails, the others go on."""
        self.backend.spoil = True
        self.engine.turn()
        self.backend.spoil = False
        if self.engine.plan is not None:
            self._disturb([row.request_id for row in self.engine.plan.rows if row.chunk.logits][:1])

    @precondition(lambda self: not self.closed and len(self.requests) > 8)
    @rule(drain=st.booleans())
    def close(self, drain: bool) -> None:
        """Nothing is accepted after it; what was live is finished, or told so."""
        if not drain:
            self._disturb(self.engine.live)
        self.engine.end(drain=drain)
        self.closed = True

    @invariant()
    def check(self) -> None:
        if not hasattr(self, "engine"):
            return
        scheduler, pool = self.engine.scheduler, self.engine.scheduler.pool
        assert not self.backend.violations
        if self.closed:
            return
        scheduler.check_integrity()
        assert pool.used_bytes <= self.budget and len(pool.snapshot()) <= self.slots
        resident = {entry.slot: entry.ref.path for entry in pool.snapshot() if entry.resident}
        assert {slot: loaded.path for slot, loaded in self.backend.slots.items() if slot in resident} == resident
        assert sum(map(len, self.backend.kv.values())) <= self.backend.capabilities.kv_cells
        held = Counter(use.ref.key for seq in scheduler._live.values() if seq.leased for use in seq.request.adapters)
        assert {entry.ref.key: entry.leases for entry in pool.snapshot() if entry.leases} == held
        assert set(pool.pinned) == {pin.key for pin in self._pinned().values()}
        there = {entry.ref.key for entry in pool.snapshot()}
        assert all(pin.key in there for pin, done in self.pins.values() if done.done() and not done.exception())

    def teardown(self) -> None:
        """Left alone every request ends, in at most so many turns as it has work to do; then nothing is left."""
        if not hasattr(self, "engine"):
            return
        if not self.closed:
            # Each: its prompt in pieces and its tokens, again for each time it may be sent back.
            self.engine.finish(turns=400 * (1 + len(self.engine.live)), check=self.check)
            assert all(entry.leases == 0 for entry in self.engine.scheduler.pool.snapshot())
            self.engine.end(drain=True)
        for name in self.requests:
            self._check_answer(name)
        assert all(fetch.done() for fetch in self.fetches)
        assert not self.engine.live and len(self.engine.scheduler) == 0
        assert self.backend.closed and not self.backend.violations
        with pytest.raises(BackendError, match="stopped"):
            self.engine.submit(Request("late", (65,), (), SamplingParams()))

    def _submit(
        self,
        uses: tuple[AdapterUse, ...],
        prompt: tuple[int, ...],
        answer: int | None,
        client: str = "",
        system: int = 0,
    ) -> None:
        name, sampling = f"r{len(self.requests)}", SamplingParams(max_tokens=answer)
        request = Request(name, prompt, uses, sampling, client=client, system=system)
        full = len(self.engine.live) == self.backend.capabilities.max_sequences + QUEUE
        together = {use.ref for use in uses} | set(self._pinned().values())
        fits = sum(ref.nbytes for ref in together) <= self.budget and len(together) <= self.slots
        if self.closed or not prompt:
            return
        try:
            self.engine.submit(request)
        except Busy:
            assert full
        except ContextTooLong:
            assert len(prompt) >= CONTEXT
        except AdapterError:
            assert not fits
        else:
            assert fits and not full and len(prompt) < CONTEXT
            self.requests[request.id] = request
            self.spared.add(request.id)

    def _check_answer(self, name: str) -> None:
        """Exactly one end; and its own answer, as far as it got."""
        text, last = outcome(self.engine.streams[name])
        tokens, reason = expected(self.requests[name])
        said = [token for token, _ in self.engine.chosen[name]]
        if name in self.spared:
            assert isinstance(last, Finished)
        if isinstance(last, Finished):
            assert (said, last.reason) == (tokens, reason)
            assert last.usage.completion_tokens == len(tokens)
            assert text == "".join(chr(token) for token in tokens if token < 256)
        assert said == tokens[: len(said)]

    def _pinned(self) -> dict[str, AdapterRef]:
        """By name: asked for and not refused."""
        return {name: pin for name, (pin, done) in self.pins.items() if not (done.done() and done.exception())}

    def _ref(self, name: str) -> AdapterRef:
        return ref(name, self.versions[name], SIZES[NAMES.index(name)])

    def _refs(self, name: str) -> set[AdapterRef]:
        return {use.ref for use in self.requests[name].adapters}

    def _disturb(self, names: Iterable[str]) -> None:
        self.spared.difference_update(names)


TestEngineMachine = EngineMachine.TestCase
TestEngineMachine.settings = settings(
    deadline=None, max_examples=120, stateful_step_count=40, suppress_health_check=[HealthCheck.too_slow]
)


Script = list[tuple[int, int, bool]]
"""What one thread does, one after the other: an adapter or none, tokens of the answer, whether to cancel at once."""
scripts = st.lists(st.tuples(st.integers(-1, 3), st.integers(1, 20), st.booleans()), min_size=1, max_size=8)


class Client(threading.Thread):
    """Sends its requests without waiting for the answers, until the engine takes no more."""

    def __init__(self, engine: Engine, name: str, script: Script) -> None:
        super().__init__(name=name)
        self._engine = engine
        self._script = script
        self.sent: list[tuple[Request, Stream, bool]] = []

    def run(self) -> None:
        for number, (adapter, answer, cancel) in enumerate(self._script):
            uses = () if adapter < 0 else (AdapterUse(ref(NAMES[adapter], 1, SIZES[adapter])),)
            request = Request(
                f"{self.name}-{number}", tuple(range(65, 70 + number)), uses, SamplingParams(max_tokens=answer)
            )
            try:
                stream = self._engine.submit(request)
            except (Busy, BackendError):  # full, or closed meanwhile
                continue
            self.sent.append((request, stream, cancel))
            if cancel:
                stream.cancel()


@settings(deadline=None, max_examples=25)
@given(work=st.lists(scripts, min_size=2, max_size=4), drain=st.booleans(), timeouts=st.floats(0, 0.02))
def test_real_threads_leave_nothing_behind(work: list[Script], drain: bool, timeouts: float) -> None:
    """Clients in threads of their own and a close in the middle: one end for each accepted request, and no thread."""
    before = set(threading.enumerate())
    backend = Tricky(capabilities=replace(FAKE_CAPABILITIES, max_slots=2, max_step_tokens=16, context_length=CONTEXT))
    engine = Engine(backend, adapter_budget_bytes=110, max_queue=10)
    clients = [Client(engine, f"client-{number}", script) for number, script in enumerate(work)]
    for client in clients:
        client.start()
    threading.Event().wait(timeouts)
    engine.close(drain=drain, timeout=20.0)
    for client in clients:
        client.join()
    for request, stream, cancelled in (sent for client in clients for sent in client.sent):
        text, last = outcome(stream)
        tokens, _ = expected(request)
        whole = "".join(chr(token) for token in tokens if token < 256)
        assert isinstance(last, Finished) or cancelled or not drain
        assert text == whole if isinstance(last, Finished) else whole.startswith(text)
    assert set(threading.enumerate()) == before
    assert backend.closed and not backend.violations and not engine.alive
    assert (engine.stats().running, engine.stats().queued, engine.stats().adapters) == (0, 0, ())
