"""Turns by themselves: the order that is said is the order that is kept, and nobody waits for more than the bound."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from edgelora.core.request import AdapterRef, Request
from edgelora.core.sampling_params import SamplingParams
from edgelora.engine.scheduler.fair_queue import FairQueue
from edgelora.engine.scheduler.sequence import Sequence
from tests.support.uses import uses

ADAPTERS = (None, *(AdapterRef(name, name, Path(name), 1) for name in "xyz"))


def sequence(client: str, adapter: AdapterRef | None, arrival: int) -> Sequence:
    return Sequence(Request(f"r{arrival}", (1,), uses(adapter), SamplingParams(), client), arrival, 9)


def age(waiting: Sequence) -> int:
    return waiting.arrival


class Counter:
    """One counter serves all who wait, one after the other."""

    def __init__(self) -> None:
        self.turns = FairQueue()
        self.waiting: list[Sequence] = []
        self.now = 0

    def arrive(self, client: str, adapter: AdapterRef | None) -> Sequence:
        self.now += 1
        self.waiting.append(sequence(client, adapter, self.now))
        return self.waiting[-1]

    def serve(self) -> Sequence:
        self.now += 1
        chosen = next(self.turns.order(self.waiting, since=age))
        self.waiting.remove(chosen)
        self.turns.served(chosen, at=self.now)
        self.turns.keep(self.waiting)
        return chosen

    def order(self) -> list[Sequence]:
        return list(self.turns.order(self.waiting, since=age))


arrivals = st.tuples(st.sampled_from("abcd"), st.sampled_from(ADAPTERS))


@settings(deadline=None, max_examples=100)
@given(before=st.lists(arrivals | st.none(), max_size=20), waiting=st.lists(arrivals, min_size=1, max_size=20))
def test_the_order_is_the_order_of_serving(
    before: list[tuple[str, AdapterRef | None] | None], waiting: list[tuple[str, AdapterRef | None]]
) -> None:
    """Said once for all, or asked again before each: the same, and nobody is lost."""
    counter = Counter()
    for arrival in before:
        if arrival is not None:
            counter.arrive(*arrival)
        elif counter.waiting:
            counter.serve()
    for one in waiting:
        counter.arrive(*one)
    order = counter.order()
    assert order == counter.order(), "asking changes nothing"
    assert [counter.serve() for _ in order] == order and not counter.waiting


@settings(deadline=None, max_examples=150)
@given(
    before=st.lists(arrivals, max_size=25),
    client=st.sampled_from("abe"),
    adapter=st.sampled_from(ADAPTERS),
    stream=st.lists(
        st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(ADAPTERS)), max_size=3), min_size=9
    ),
)
def test_nobody_waits_for_more_turns_than_the_bound(
    before: list[tuple[str, AdapterRef | None]],
    client: str,
    adapter: AdapterRef | None,
    stream: list[list[tuple[str, AdapterRef | None]]],
) -> None:
    """(n + 1) * A * C: n of its own before it, A adapters of its client, C clients, counted while it waits."""
    counter = Counter()
    for arrival in before:
        counter.arrive(*arrival)
    watched = counter.arrive(client, adapter)
    own = [s for s in counter.waiting if s.request.client == client]
    ahead = sum(s.request.adapters == watched.request.adapters for s in own) - 1
    adapters = clients = turns = 0
    while watched in counter.waiting:
        for newcomer in stream[turns % len(stream)]:
            counter.arrive(*newcomer)
        clients = max(clients, len({s.request.client for s in counter.waiting}))
        mine = [s for s in counter.waiting if s.request.client == client]
        adapters = max(adapters, len({s.request.adapters for s in mine}))
        counter.serve()
        turns += 1
        assert turns <= (ahead + 1) * adapters * clients


def test_a_stream_of_new_clients_passes_nobody() -> None:
    """A name that was never heard is behind all who wait, however often it changes."""
    counter = Counter()
    for _ in range(3):
        counter.arrive("patient", None)
    for number in range(2):
        counter.arrive(f"early{number}", None)
    served = []
    for number in range(9):
        counter.arrive(f"new{number}", None)
        served.append(counter.serve().request.client)
    assert served[:3] == ["patient", "early0", "early1"]
    # In its turns' order: behind those that were there when it was served, before those that came later.
    assert served[3] == "new0" and served[4] == "patient"


def test_who_left_is_forgotten() -> None:
    """Names are not collected; and coming back is no better and no worse than being new."""
    counter = Counter()
    for number in range(50):
        counter.arrive(f"c{number}", None)
        counter.serve()
    assert len(counter.turns._clients) == len(counter.turns._adapters) == 0


def test_equal_turns_go_by_age() -> None:
    """As prompts count by plans, several may have had theirs in the same one."""
    turns = FairQueue()
    waiting = [sequence("b", None, 2), sequence("a", None, 1), sequence("c", None, 3)]
    for one in waiting:
        turns.served(one, at=7)
    since: Callable[[Sequence], int] = lambda _: 5  # noqa: E731
    assert [s.arrival for s in turns.order(waiting, since=since)] == [1, 2, 3]
