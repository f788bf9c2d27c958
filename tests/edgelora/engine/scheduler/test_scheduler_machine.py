"""Scheduler and pool under any sequence of events, driving the strict fake: nothing is lost, over-used or starved."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from numpy.typing import NDArray

from edgelora.backends.base import Applied, Capabilities, Chunk
from edgelora.core.errors import AdapterError, BackendError, Busy
from edgelora.core.kv import Key, SavedKv, parting
from edgelora.core.request import AdapterRef, AdapterUse, Request
from edgelora.core.sampling_params import SamplingParams
from edgelora.engine.adapters.pool import Pool
from edgelora.engine.scheduler.plan import Choice, Copy, Load, Plan
from edgelora.engine.scheduler.scheduler import Scheduler
from edgelora.engine.scheduler.states import State
from tests.support.fake_backend.backend import FAKE_CAPABILITIES, FakeBackend, FakeLoaded
from tests.support.repeating import Repeating
from tests.support.stepped import FreeRows
from tests.support.uses import uses

ABLE = replace(FAKE_CAPABILITIES, max_slots=2, max_sequences=3, max_step_tokens=12, context_length=40, kv_cells=64)
BUDGET = 50
SIZES = {"a": 10, "b": 20, "c": 30, "d": 50}
REFS = {name: AdapterRef(name=name, version=name, path=Path(name), nbytes=n) for name, n in SIZES.items()}
acting = st.lists(
    st.builds(
        AdapterUse,
        st.sampled_from(list(REFS.values())),
        st.sampled_from([0.5, 1.0]),
        st.sampled_from([0, 0, 3, 10, 18]),
    ),
    max_size=3,
    unique_by=lambda use: use.ref.name,
).map(tuple)
Uses = tuple[AdapterUse, ...]


def prompt_of(length: int, *, turn_off: int = 99) -> tuple[int, ...]:
    """All alike up to `turn_off`, and different from there on for each `turn_off`."""
    return tuple(n if n < turn_off else 100 + turn_off + n for n in range(length))


prompts = st.builds(prompt_of, st.integers(1, 39), turn_off=st.sampled_from([0, 3, 10, 18, 25, 99]))


StepSeconds = Callable[[int], float]


def any_step_alike(rows: int) -> float:
    return 0.1


def in_proportion(rows: int) -> float:
    return 0.1 * rows


def fits(acting: Uses) -> bool:
    """Whether they can all be in memory at once."""
    return len(acting) <= ABLE.max_slots and sum(use.ref.nbytes for use in acting) <= BUDGET


class Rig:
    """A scheduler, the fake it drives, and who ended how."""

    def __init__(
        self, able: Capabilities, *, max_queue: int, step: StepSeconds = any_step_alike, speculate: bool = False
    ) -> None:
        """`speculate`: and every row is free, so that whatever can be drafted is."""
        self.scheduler = Scheduler(able, Pool(BUDGET, able.max_slots), max_queue=max_queue, speculate=speculate)
        if speculate:
            self.scheduler.costs = FreeRows()
        self.backend = Repeating(capabilities=able)
        self.step = step
        self.loads: list[Load] = []
        self.prefixes: list[tuple[Request, int]] = []
        """On their way from the disk."""
        self.submitted = self.restored = 0
        self.ended: list[str] = []
        self.requests: dict[str, Request] = {}
        self.chosen: dict[str, list[int]] = {}
        self.reused = self.copied = 0
        """Tokens that were not computed again, and how often they were copied."""

    def submit(self, acting: Uses, *, prompt: int | tuple[int, ...], max_tokens: int, stored: int = 0) -> str:
        """`stored`: so many tokens of the prompt are on disk, and it waits until they are read."""
        name = f"r{self.submitted}"
        tokens = prompt_of(prompt) if isinstance(prompt, int) else prompt
        request = Request(name, tokens, acting, SamplingParams(max_tokens=max_tokens))
        self.scheduler.submit(request, prefix=bool(stored))
        if stored:
            self.prefixes.append((request, stored))
        self.requests[name], self.chosen[name] = request, []
        self.submitted += 1
        return name

    def arrive(self, load: Load, *, fails: bool) -> None:
        self.loads.remove(load)
        if fails:
            self.ended += self.scheduler.load_failed(load.ref)
        else:
            self.backend.attach(load.slot, FakeLoaded(load.ref.path, load.ref.name.encode()))
            self.scheduler.loaded(load.ref)

    def read(self, *, fails: bool) -> None:
        """The first prefix arrives, and is warm where there is room, or could not be read."""
        request, length = self.prefixes.pop(0)
        room = None if fails else self.scheduler.make_room(length)
        if room is not None:
            for move in room.moves:
                move.carry_out(self.backend)
            self.backend.restore(room.sequence, computed_elsewhere(request, length))
            key = frozenset(use.key for use in request.adapters)
            self.scheduler.fill_room(room, key, list(request.prompt[:length]))
            self.restored += 1
        self.scheduler.prefix_done(request.id)

    def turn(self, *, stops: bool = False, fails: bool = False) -> None:
        admission = self.scheduler.admit()
        for sequence in admission.clears:
            self.backend.clear(sequence)
        for slot in admission.detach:
            self.backend.detach(slot)
        self.loads += admission.loads
        plan = self.scheduler.plan()
        assert plan == self.scheduler.plan()
        self.check_plan(plan)
        self.scheduler.begin(plan)
        for move in plan.moves:
            move.carry_out(self.backend)
        if not plan.rows:
            return
        if fails:
            self.backend.fail_steps = {len(self.backend.history)}
            with pytest.raises(BackendError, match="told to fail"):
                self.backend.step([row.chunk for row in plan.rows])
            self.ended += [row.request_id for row in plan.rows if self.scheduler.fail(row.request_id)]
            return
        logits = self.backend.step([row.chunk for row in plan.rows])
        self.check_kv(plan)
        self.scheduler.costs.observe(plan.tokens, self.step(plan.tokens))
        choices: dict[str, tuple[Choice, ...]] = {}
        for row, values in zip(plan.rows, logits, strict=True):
            if values is not None:
                choices[row.request_id] = chosen_of(values, row.draft, stop=stops and not choices)
                self.chosen[row.request_id] += [choice.token for choice in choices[row.request_id]]
        self.ended += [ended.request_id for ended in self.scheduler.apply(plan, choices)]

    def check_plan(self, plan: Plan) -> None:
        """Nobody starts on what another adapter left, and nobody is sent back for the sake of warm KV."""
        left: dict[int, Key] = {warm.id: warm.key for warm in self.scheduler._allocator.cached}
        left |= {s.id: s.key for s in self.scheduler._live.values() if s.running and s.id is not None}
        for move in plan.moves:
            if isinstance(move, Copy):
                left[move.sequence] = left[move.source]
        self.copied += sum(isinstance(move, Copy) for move in plan.moves)
        for start in plan.starts:
            request = self.requests[start.request_id]
            if start.reused:
                key = frozenset(use.key for use in request.adapters)
                assert parting(left[start.sequence], key) >= start.reused
                assert start.reused < len(request.prompt) + len(self.chosen[request.id])
        running = [s for s in self.scheduler._live.values() if s.running]
        assert not plan.preempted or sum(len(s.tokens) for s in running) > self.backend.capabilities.kv_cells
        self.reused += sum(start.reused for start in plan.starts)

    def check_kv(self, plan: Plan) -> None:
        """What the backend holds for a row is the beginning of its request: prompt, what was chosen, the draft."""
        for row in plan.rows:
            held = self.backend.kv[row.chunk.sequence]
            whole = [*self.requests[row.request_id].prompt, *self.chosen[row.request_id]]
            sure = row.chunk.position + len(row.chunk.tokens) - len(row.draft)
            assert held == [*whole[:sure], *row.draft]
            assert not row.draft or sure == len(whole)

    def finish(self, *, turns: int) -> None:
        """Up to so many turns, every load arriving at once."""
        for _ in range(turns):
            if not len(self.scheduler):
                return
            for load in list(self.loads):
                self.arrive(load, fails=False)
            while self.prefixes:
                self.read(fails=False)
            self.turn()
            self.check()

    def cancel(self, name: str) -> None:
        if self.scheduler.cancel(name):
            self.ended.append(name)

    def check(self) -> None:
        self.scheduler.check_integrity()
        assert len(set(self.ended)) == len(self.ended), "a request ended twice"
        live = set(self.scheduler.live_ids())
        assert live.isdisjoint(self.ended) and len(live) + len(self.ended) == self.submitted
        pool = self.scheduler.pool
        assert pool.used_bytes <= BUDGET and len(pool.snapshot()) <= pool.slots
        assert set(self.backend.slots) == {e.slot for e in pool.snapshot() if e.resident}
        assert sum(map(len, self.backend.kv.values())) <= self.backend.capabilities.kv_cells
        assert not self.backend.violations


def chosen_of(logits: NDArray[np.float32], draft: tuple[int, ...], *, stop: bool) -> tuple[Choice, ...]:
    """Greedy, as far as the draft goes along; `stop`: the answer ends with the first token."""
    tokens = [int(token) for token in logits.argmax(axis=1)]
    kept = 0 if stop else next((n for n, token in enumerate(draft) if tokens[n] != token), len(draft))
    return tuple(Choice(token, stop) for token in tokens[: kept + 1])


def computed_elsewhere(request: Request, length: int) -> SavedKv:
    """The KV of a request's first tokens, from a backend of its own."""
    backend = FakeBackend(capabilities=replace(ABLE, max_step_tokens=99, max_slots=9))
    for slot, use in enumerate(request.adapters):
        backend.attach(slot, FakeLoaded(use.ref.path, use.ref.name.encode()))
    acting = tuple(Applied(slot, use.weight, use.start) for slot, use in enumerate(request.adapters))
    backend.step([Chunk(sequence=0, position=0, tokens=request.prompt[:length], adapters=acting, logits=0)])
    return backend.save(0, length)


class SchedulerMachine(RuleBasedStateMachine):
    """Every event there is, in any order."""

    rig: Rig

    @initialize(mixed=st.booleans(), step=st.sampled_from([any_step_alike, in_proportion]), speculate=st.booleans())
    def begin(self, mixed: bool, step: StepSeconds, speculate: bool) -> None:
        self.rig = Rig(replace(ABLE, mixed_adapters=mixed), max_queue=5, step=step, speculate=speculate)

    @rule(uses=acting, prompt=prompts, max_tokens=st.integers(1, 30), stored=st.integers(-40, 40))
    def submit(self, uses: Uses, prompt: tuple[int, ...], max_tokens: int, stored: int = 0) -> None:
        full = len(self.rig.scheduler) == self.rig.scheduler.limits.capacity
        try:
            self.rig.submit(uses, prompt=prompt, max_tokens=max_tokens, stored=max(0, min(stored, len(prompt))))
            assert not full and fits(uses)
        except Busy:
            assert full
        except AdapterError:
            assert not fits(uses)

    @precondition(lambda self: self.rig.ended)
    @rule(pick=st.integers(0, 30), uses=acting, more=st.integers(1, 5), same=st.booleans())
    def next_turn(self, pick: int, uses: Uses, more: int, same: bool) -> None:
        """A conversation goes on, mostly with the adapters it had."""
        name = self.rig.ended[pick % len(self.rig.ended)]
        before = self.rig.requests[name]
        prompt = (*before.prompt, *self.rig.chosen[name], *range(200, 200 + more))
        if len(prompt) < 40:
            self.submit(before.adapters if same else uses, prompt, max_tokens=5)

    @rule(pick=st.integers(0, 30))
    def cancel(self, pick: int) -> None:
        self.rig.cancel(f"r{pick}")

    @precondition(lambda self: self.rig.loads)
    @rule(pick=st.integers(0, 9), fails=st.booleans())
    def arrive(self, pick: int, fails: bool) -> None:
        self.rig.arrive(self.rig.loads[pick % len(self.rig.loads)], fails=fails)

    @precondition(lambda self: self.rig.prefixes)
    @rule(fails=st.booleans())
    def read(self, fails: bool) -> None:
        self.rig.read(fails=fails)

    @rule(turns=st.integers(1, 12), stops=st.booleans())
    def turn(self, turns: int, stops: bool) -> None:
        for _ in range(turns):
            self.rig.turn(stops=stops)
            self.rig.check()

    @rule()
    def failing_turn(self) -> None:
        self.rig.turn(fails=True)

    @invariant()
    def adds_up(self) -> None:
        if hasattr(self, "rig"):
            self.rig.check()

    def teardown(self) -> None:
        """Left alone, with its loads arriving, every request ends: in at most so many turns as it has work to do."""
        if not hasattr(self, "rig"):
            return
        # Each live request: its prompt in pieces and its tokens, again for each time it may be sent back.
        self.rig.finish(turns=300 * (1 + len(self.rig.scheduler)))
        self.rig.check()
        assert len(self.rig.ended) == self.rig.submitted
        assert all(entry.leases == 0 for entry in self.rig.scheduler.pool.snapshot())


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(
    deadline=None, max_examples=60, stateful_step_count=40, suppress_health_check=[HealthCheck.too_slow]
)


Work = list[tuple[Uses, tuple[int, ...], int, int, int]]
"""What acts, prompt, max_tokens, turns until the next one comes, and how much of the prompt is on disk."""


@settings(deadline=None, max_examples=60)
@given(
    work=st.lists(
        st.tuples(acting.filter(fits), prompts, st.integers(1, 20), st.integers(0, 12), st.integers(-40, 40)),
        min_size=1,
        max_size=10,
    ),
    mixed=st.booleans(),
    speculate=st.booleans(),
)
def test_reuse_and_drafts_change_no_token(work: Work, mixed: bool, speculate: bool) -> None:
    """Whatever was warm or drafted: a request's tokens are those of a scheduler that served nobody else and drafts
    nothing."""
    able = replace(ABLE, mixed_adapters=mixed)
    rig = Rig(able, max_queue=20, speculate=speculate)
    for parts, prompt, max_tokens, turns, stored in work:
        rig.submit(parts, prompt=prompt, max_tokens=max_tokens, stored=max(0, min(stored, len(prompt))))
        rig.finish(turns=turns)
    rig.finish(turns=5000)
    for name, (parts, prompt, max_tokens, *_) in zip(rig.chosen, work, strict=True):
        alone = Rig(able, max_queue=20)
        alone.submit(parts, prompt=prompt, max_tokens=max_tokens)
        alone.finish(turns=5000)
        assert rig.chosen[name] == alone.chosen["r0"] and alone.reused == 0


@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_nobody_starves(mixed: bool, seed: int) -> None:
    """Under a never-ending stream of others, a request of every kind ends within a bounded number of plans."""
    chance = random.Random(seed)
    rig = Rig(replace(ABLE, mixed_adapters=mixed), max_queue=20, speculate=seed % 2 == 1)
    for _ in range(5):
        rig.submit(uses(chance.choice([None, REFS["a"]])), prompt=9, max_tokens=9)
    watched = [rig.submit(uses(adapter), prompt=30, max_tokens=8) for adapter in (None, *REFS.values())]
    two = tuple(AdapterUse(REFS[name], 0.5, start) for name, start in (("b", 0), ("c", 12)))
    watched.append(rig.submit(two, prompt=30, max_tokens=8))
    for _ in range(600):
        while len(rig.scheduler) < rig.scheduler.limits.capacity:
            adapter = chance.choice([None, REFS["a"], REFS["a"], REFS["b"]])
            rig.submit(uses(adapter), prompt=chance.randint(1, 30), max_tokens=chance.randint(1, 9))
        rig.turn()
        for load in list(rig.loads):
            rig.arrive(load, fails=False)
        rig.check()
    assert set(watched) <= set(rig.ended)
    assert rig.reused > 200 and rig.copied > 5, "the test is about reuse, too"
    assert (rig.scheduler.drafts[1] > 20) == (seed % 2 == 1), "and about drafts"


def test_the_oldest_is_never_sent_back() -> None:
    """However scarce the cells: the oldest running request only goes forward, so somebody always does."""
    rig = Rig(replace(ABLE, kv_cells=40), max_queue=20)
    for n in range(6):
        rig.submit((), prompt=4 + n, max_tokens=28)
    order = list(rig.scheduler.live_ids())
    running = (State.PREFILL, State.DECODE)
    while len(rig.scheduler):
        oldest = next(name for name in order if rig.scheduler.state(name))
        was_running = rig.scheduler.state(oldest) in running
        rig.turn()
        assert rig.scheduler.state(oldest) in (*running, None) or not was_running
    assert rig.ended == order
