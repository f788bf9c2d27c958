"""What a request shares with those that still run: copied where it is computed, waited for where it is about to be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgelora.backends.base import Capabilities
from edgelora.core.request import AdapterRef, AdapterUse, Request
from edgelora.core.sampling_params import SamplingParams
from edgelora.engine.adapters.pool import Pool
from edgelora.engine.scheduler.plan import Choice, Copy, Plan
from edgelora.engine.scheduler.prefix_sharing import HOLD_PLANS, WORTH, waits
from edgelora.engine.scheduler.scheduler import Scheduler
from edgelora.engine.scheduler.sequence import Sequence
from edgelora.engine.scheduler.states import State
from tests.support.fake_backend.backend import FAKE_CAPABILITIES, FakeBackend

ABLE = replace(FAKE_CAPABILITIES, max_step_tokens=32)
ADAPTER = AdapterUse(AdapterRef("a", "v1", Path("a"), 1))


def sequence(tokens: int, *, arrival: int = 1, uses: tuple[AdapterUse, ...] = ()) -> Sequence:
    return Sequence(Request(f"r{arrival}", tuple(range(tokens)), uses, SamplingParams()), arrival, 999)


def test_what_is_worth_waiting_for() -> None:
    """Enough tokens that an older one of the same adapters is about to compute; and not beyond HOLD_PLANS."""
    older, newer = sequence(100), sequence(60, arrival=2)
    assert waits(newer, [older], have=0)
    assert waits(newer, [older], have=59 - WORTH) and not waits(newer, [older], have=60 - WORTH)
    older.computed = 60 - WORTH
    assert not waits(newer, [older], have=0)
    older.computed = 0
    assert not waits(sequence(60, arrival=2, uses=(ADAPTER,)), [older], have=0)
    late = replace(ADAPTER, start=30)
    assert waits(sequence(60, arrival=2, uses=(late,)), [older], have=30 - WORTH)
    assert not waits(sequence(60, arrival=2, uses=(late,)), [older], have=31 - WORTH)
    newer.held = HOLD_PLANS
    assert not waits(newer, [older], have=0)
    newer.held, older.state = 0, State.DECODE
    assert not waits(newer, [older], have=0)


class Rig:
    """A scheduler over the strict fake; the base alone."""

    def __init__(self, able: Capabilities = ABLE) -> None:
        self.scheduler = Scheduler(able, Pool(1, 1), max_queue=50)
        self.backend = FakeBackend(capabilities=able)
        self.computed: dict[str, int] = {}
        self.plans: list[Plan] = []

    def submit(self, name: str, prompt: tuple[int, ...], *, max_tokens: int = 3) -> None:
        self.scheduler.submit(Request(name, prompt, (), SamplingParams(max_tokens=max_tokens)))

    def turn(self) -> Plan:
        for sequence_id in self.scheduler.admit().clears:
            self.backend.clear(sequence_id)
        plan = self.scheduler.plan()
        assert plan == self.scheduler.plan()
        self.scheduler.begin(plan)
        for move in plan.moves:
            move.carry_out(self.backend)
        self.backend.step([row.chunk for row in plan.rows])
        for row in plan.rows:
            size = len(row.chunk.tokens)
            self.computed[row.request_id] = self.computed.get(row.request_id, 0) + size
        self.scheduler.apply(plan, {row.request_id: (Choice(7, False),) for row in plan.rows if row.chunk.logits})
        self.scheduler.check_integrity()
        self.plans.append(plan)
        return plan

    def finish(self) -> None:
        while len(self.scheduler):
            self.turn()


def prompt(*tail: int, length: int = 96) -> tuple[int, ...]:
    """Three full steps, unless it is to be longer, and an end."""
    return (*(n % 200 for n in range(length)), *tail)


def test_those_that_start_together_compute_their_beginning_once() -> None:
    """The first computes it, the others copy it and compute their own ends."""
    rig = Rig()
    for n in range(4):
        rig.submit(f"r{n}", prompt(200 + n, 210 + n))
    rig.finish()
    ends = 2 + 2  # of the prompt, and of the answer that is fed back
    assert rig.computed == {"r0": 96 + ends, "r1": ends, "r2": ends, "r3": ends}


def test_a_newcomer_copies_from_one_that_decodes() -> None:
    """While that goes on, and after it was waited for by nobody."""
    rig = Rig()
    rig.submit("old", prompt(200), max_tokens=40)
    for _ in range(10):
        rig.turn()
    assert rig.scheduler.state("old") is State.DECODE
    rig.submit("new", prompt(201))
    plan = rig.turn()
    assert plan.moves == (Copy(0, 1, 96),) and rig.computed["new"] == 1
    rig.finish()


def test_who_waits_keeps_its_place() -> None:
    """Younger ones start beside it, and neither its place nor its cells are given away."""
    rig = Rig(replace(ABLE, max_sequences=3))
    rig.submit("first", prompt(200))
    rig.submit("same", prompt(201))
    rig.submit("other", tuple(range(50, 110)))
    rig.submit("late", tuple(range(60, 110)))
    plan = rig.turn()
    assert {start.request_id for start in plan.starts} == {"first", "other"}
    assert [[start.request_id for start in rig.turn().starts] for _ in range(3)] == [[], [], ["same"]]
    rig.finish()
    assert rig.computed["same"] == 1 + 2


def test_waiting_ends() -> None:
    """After HOLD_PLANS plans it takes what there is, however slowly the older one goes on."""
    slow = replace(ABLE, max_step_tokens=1, context_length=400)
    rig = Rig(slow)
    rig.submit("first", prompt(200, length=300))
    rig.submit("same", prompt(201, length=300))
    while not any(start.request_id == "same" for start in rig.turn().starts):
        assert len(rig.plans) <= HOLD_PLANS
    assert len(rig.plans) == HOLD_PLANS + 1
    rig.finish()
    assert rig.computed["same"] == 301 + 2 - HOLD_PLANS


@pytest.mark.parametrize("how", ["cancelled", "failed"])
def test_the_one_waited_for_may_go(how: str) -> None:
    """Then the next one computes."""
    rig = Rig()
    for name in ("first", "second", "third"):
        rig.submit(name, prompt(200))
    rig.turn()
    if how == "cancelled":
        rig.scheduler.cancel("first")
    else:
        rig.scheduler.fail("first")
    rig.finish()
    left = 32 if how == "cancelled" else 0
    assert rig.computed["second"] == 97 - left + 2 and rig.computed["third"] == 1 + 2


def test_two_take_over_and_copy_what_is_warm() -> None:
    """Both begin with what an ended request left: one takes it over, the other copies from that one."""
    rig = Rig()
    rig.submit("old", prompt())
    rig.finish()
    for name in ("a", "b"):
        rig.submit(name, prompt(200))
    plan = rig.turn()
    assert [start.reused for start in plan.starts] == [96, 96]
    rig.finish()
    assert rig.computed["a"] == rig.computed["b"] == 1 + 2
