"""Nobody waits longer than a bound that is known beforehand, whatever arrives meanwhile: in turns, and in plans.

The bound on turns is that of `fair_queue.py`: with n requests of its client for the same adapter before it, at most A
adapters waited for in its client and at most C clients waiting, a request gets its place with the (n + 1) * A * C-th
turn at the latest. On plans, with P places, prompts of at most p tokens and answers of at most m:

- In each plan every decoding sequence gains a token, and at least one token of a prompt is computed. So all that run at
  some time have ended P * p + m plans later, and at least P turns were given.
- Where KV runs short: whoever got its place first of those that run is never sent back and has a turn at prompt tokens
  in every P plans, so it has ended P * (p + m) + m plans later. When P have ended so, there is room for the next.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelora.backends.base import Capabilities
from edgelora.core.request import AdapterRef, Request
from edgelora.core.sampling_params import SamplingParams
from edgelora.engine.adapters.pool import Pool
from edgelora.engine.scheduler.adapter_leases import PATIENCE
from edgelora.engine.scheduler.plan import Choice, Plan
from edgelora.engine.scheduler.scheduler import Scheduler
from edgelora.engine.scheduler.sequence import Sequence
from edgelora.engine.scheduler.states import State
from tests.support.fake_backend.backend import FAKE_CAPABILITIES
from tests.support.uses import uses

PLACES, PROMPT, ANSWER = 2, 8, 5
ADAPTERS = (None, *(AdapterRef(name, name, Path(name), 1) for name in "xyz"))
ABLE = replace(FAKE_CAPABILITIES, max_slots=3, max_sequences=PLACES, max_step_tokens=6, context_length=16, kv_cells=64)
SCARCE, LONGER = replace(ABLE, context_length=40, kv_cells=56), 6
"""Answers are so many times longer than anybody leaves cells for: two of them are more than there are."""
ALONE = replace(ABLE, mixed_adapters=False)

Arrival = tuple[str, AdapterRef | None, int, int]
"""Client, adapter, tokens of the prompt, tokens of the answer."""


def arrivals(clients: str) -> st.SearchStrategy[Arrival]:
    kinds = st.sampled_from(clients), st.sampled_from(ADAPTERS)
    return st.tuples(*kinds, st.integers(1, PROMPT), st.integers(1, ANSWER))


class Crowd:
    """A scheduler that is never left alone: before each plan come new requests, as many as it takes."""

    def __init__(self, able: Capabilities, stream: list[list[Arrival]], *, adapters_in_memory: int = 3) -> None:
        able = replace(able, max_slots=adapters_in_memory)
        self.scheduler = Scheduler(able, Pool(adapters_in_memory, adapters_in_memory), max_queue=10)
        self.stream = stream
        self.plans = self.turns = self.submitted = 0
        self.clients = self.adapters = 1
        """The most that waited at once: clients, and adapters of the watched one's client."""

    def submit(self, arrival: Arrival) -> str:
        client, adapter, prompt, answer = arrival
        name = f"r{self.submitted}"
        self.submitted += 1
        # No two begin alike: nothing is warm for anybody.
        tokens = tuple(1000 * self.submitted + n for n in range(prompt))
        answer *= LONGER if self.scheduler.capabilities.kv_cells == SCARCE.kv_cells else 1
        self.scheduler.submit(Request(name, tokens, uses(adapter), SamplingParams(max_tokens=answer), client))
        return name

    def fill(self, arrivals: list[Arrival]) -> None:
        for arrival in arrivals:
            if len(self.scheduler) < self.scheduler.limits.capacity - 1:
                self.submit(arrival)

    def waiting(self) -> list[Sequence]:
        return [sequence for sequence in self.scheduler._live.values() if not sequence.granted]

    def granted(self, name: str) -> bool:
        sequence = self.scheduler._live.get(name)
        return sequence is None or sequence.granted > 0

    def turn(self, client: str = "") -> Plan:
        self.fill(self.stream[self.plans % len(self.stream)])
        waiting = self.waiting()
        self.clients = max(self.clients, len({s.request.client for s in waiting}))
        mine = {s.request.adapters for s in waiting if s.request.client == client}
        self.adapters = max(self.adapters, len(mine))
        for load in self.scheduler.admit().loads:
            self.scheduler.loaded(load.ref)
        plan = self.scheduler.plan()
        self.turns += sum(not self.granted(start.request_id) for start in plan.starts)
        self.scheduler.begin(plan)
        self.scheduler.apply(plan, {row.request_id: (Choice(7, False),) for row in plan.rows if row.chunk.logits})
        self.scheduler.check_integrity()
        self.plans += 1
        return plan

    def watch(self, arrival: Arrival) -> tuple[str, int]:
        """Its id, and how many of its client's for the same adapter are before it."""
        self.plans = self.turns = 0
        name = self.submit(arrival)
        watched = self.scheduler._live[name]
        own = [s for s in self.waiting() if s.request.client == arrival[0]]
        return name, sum(s.request.adapters == watched.request.adapters for s in own) - 1


streams = st.lists(st.lists(arrivals("abcdefgh"), max_size=3), min_size=8, max_size=20)


@settings(deadline=None, max_examples=60)
@given(
    able=st.sampled_from([ABLE, SCARCE, ALONE]),
    before=st.lists(arrivals("abc"), max_size=11),
    watched=arrivals("aei"),
    stream=streams,
)
def test_nobody_waits_longer_than_the_bound(
    able: Capabilities, before: list[Arrival], watched: Arrival, stream: list[list[Arrival]]
) -> None:
    """For a place: no more turns and no more plans than said above, under a stream that never ends."""
    crowd = Crowd(able, stream)
    crowd.fill(before)
    for _ in range(3):
        crowd.turn()
    name, ahead = crowd.watch(watched)
    while not crowd.granted(name):
        crowd.turn(watched[0])
        turns = (ahead + 1) * crowd.adapters * crowd.clients
        assert crowd.turns <= turns + PLACES - 1, "the last plan may give several"
        assert crowd.plans <= plans_for(able, turns)


def plans_for(able: Capabilities, turns: int) -> int:
    """The bound of the module; where adapters cannot mix each of up to P groups has its step in P plans."""
    if able is SCARCE:
        answer = ANSWER * LONGER
        return turns * PLACES * (PLACES * (PROMPT + answer) + answer)
    return (turns // PLACES + 1) * (PLACES * PROMPT + ANSWER) * (1 if able.mixed_adapters else PLACES)


@settings(deadline=None, max_examples=40)
@given(
    able=st.sampled_from([ABLE, SCARCE, ALONE]),
    before=st.lists(arrivals("abc"), max_size=11),
    watched=arrivals("aei"),
    stream=streams,
    memory=st.integers(1, 2),
)
def test_nobody_starves_for_room_in_the_pool(
    able: Capabilities, before: list[Arrival], watched: Arrival, stream: list[list[Arrival]], memory: int
) -> None:
    """More adapters than fit in memory: the one that waits for room lets PATIENCE pass it, then nobody.

    So each turn at a lease costs at most PATIENCE others' and that of all who hold one; and the request ends, too.
    """
    crowd = Crowd(able, stream, adapters_in_memory=memory)
    crowd.fill(before)
    for _ in range(3):
        crowd.turn()
    name, ahead = crowd.watch(watched)
    capacity = crowd.scheduler.limits.capacity
    while crowd.scheduler.state(name):
        crowd.turn(watched[0])
        turns = (ahead + 1) * crowd.adapters * crowd.clients * (PATIENCE + capacity)
        assert crowd.plans <= plans_for(able, turns)


def test_asking_the_base_costs_no_turn_at_the_pool() -> None:
    """Room for one adapter, which others use all the time: a client gets its own, however often it asks the base."""
    _, x, y, z = ADAPTERS
    stream: list[list[Arrival]] = [
        [("a", None, 1, 1), ("a", z, 1, 1)],
        [],
        [("a", None, 1, 4)],
        [("f", y, 1, 5), ("b", None, 1, 1), ("a", None, 1, 1)],
        [("a", None, 1, 2), ("a", x, 4, 5)],
        [],
        [("b", None, 4, 3)],
        [("a", None, 1, 2)],
        [("f", y, 1, 5), ("a", x, 1, 1)],
        [("a", x, 1, 1)],
    ]
    crowd = Crowd(ABLE, stream, adapters_in_memory=1)
    crowd.fill([("a", z, 1, 3), ("b", x, 3, 3), ("b", x, 6, 3)])
    for _ in range(3):
        crowd.turn()
    name, _ = crowd.watch(("a", z, 1, 1))
    while crowd.scheduler.state(name):
        crowd.turn("a")
        assert crowd.plans <= 200, "it took 103 when this was written, and for ever before"


@pytest.mark.parametrize("able", [ABLE, ALONE])
def test_who_queues_sixty_takes_every_second_place(able: Capabilities) -> None:
    """A client with one request at a time waits for the next place or the one after, not for sixty answers."""
    crowd = Crowd(able, [[]])
    crowd.scheduler.limits = replace(crowd.scheduler.limits, capacity=100)
    for _ in range(60):
        crowd.submit(("greedy", None, PROMPT, ANSWER))
    crowd.turn()
    for _ in range(5):
        name, _ = crowd.watch(("modest", ADAPTERS[1], PROMPT, ANSWER))
        while not crowd.granted(name):
            crowd.turn("modest")
        assert crowd.turns <= 2 and crowd.plans <= 2 * (PLACES * PROMPT + ANSWER)
        while crowd.scheduler.state(name):
            crowd.turn()


def test_a_stream_of_short_prompts_does_not_stop_a_long_one() -> None:
    """It has a turn at the prompt tokens in every few plans, though each of the others is over at once."""
    able = replace(ABLE, max_sequences=3, context_length=100, kv_cells=300)
    crowd = Crowd(able, [[("a", None, 6, 1), ("b", None, 6, 1), ("c", ADAPTERS[1], 6, 1)]])
    for _ in range(5):
        crowd.turn()
    name, _ = crowd.watch(("d", None, 60, 1))
    while crowd.scheduler.state(name):
        crowd.turn()
        # Its place first; then 60 tokens, 6 in each of its turns, among three.
        assert crowd.plans <= 10 + 3 * 10


def test_the_first_of_those_that_run_is_never_sent_back() -> None:
    """However scarce the cells and whatever comes: so somebody always goes forward."""
    crowd = Crowd(SCARCE, [[("a", None, 8, 5), ("b", ADAPTERS[1], 7, 5)], [("c", ADAPTERS[2], 3, 5)]])
    preempted = 0
    for _ in range(600):
        running = [s for s in crowd.scheduler._live.values() if s.running]
        first = min(running, key=lambda s: s.granted, default=None)
        plan = crowd.turn()
        preempted += len(plan.preempted)
        assert first is None or first.request.id not in plan.preempted
        assert first is None or first.state is not State.WAITING
    assert preempted > 5, "the test is about scarcity"
