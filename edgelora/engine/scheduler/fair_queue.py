"""A fair queue: turns between clients, between a client's adapters, then by age. Pure; it orders and decides nothing.

Used for leases, for places in the batch and for the prompt tokens of a step, each with turns of its own. A client's
turn is when it was served last, or when its oldest request began to wait, whichever was later; the earliest is next. So
a client that was served, and one that is new, both stand behind everybody who waits already: between two turns of a
client each other has at most one. The same holds for the adapters of a client.

What follows, for a request before which n of its client's requests for the same adapter wait: with at most A adapters
waited for in a client and C clients waiting at any time, it is served with the (n + 1) * A * C-th turn at the latest,
whatever arrives after it.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from heapq import heapify, heappop, heappush

from edgelora.engine.scheduler.sequence import Sequence

Since = Callable[[Sequence], int]
"""Returns when a sequence began to wait, on the scale of the turns."""
Name = tuple[str, frozenset[tuple[str, str]]]
"""A client, and an adapter of its requests: or the set of them, wherever they begin; empty for the base alone."""
NEVER = -1


class FairQueue:
    def __init__(self) -> None:
        self._clients: dict[str, int] = {}
        self._adapters: dict[Name, int] = {}

    def order(self, waiting: Iterable[Sequence], *, since: Since) -> Iterator[Sequence]:
        """All of `waiting`, in the order of their turns if nobody else came. Changes nothing."""
        requests: dict[Name, deque[Sequence]] = defaultdict(deque)
        for sequence in sorted(waiting, key=lambda s: s.arrival):
            requests[_name(sequence)].append(sequence)
        clients, adapters = self._heaps(requests, since)
        # Beyond every turn there was. Each entry's first two are unlike any other's, so names are never compared.
        turn = max((turn for turn, *_ in (*clients, *(a for heap in adapters.values() for a in heap))), default=0)
        while clients:
            _, oldest, client = heappop(clients)
            _, first, name = heappop(adapters[client])
            yield requests[name].popleft()
            turn += 1
            if requests[name]:
                heappush(adapters[client], (turn, first, name))
            if adapters[client]:
                heappush(clients, (turn, oldest, client))

    def served(self, sequence: Sequence, *, at: int) -> None:
        """It had its turn, and with it its client and its adapter. `at` never falls."""
        self._clients[sequence.request.client] = self._adapters[_name(sequence)] = at

    def keep(self, live: Iterable[Sequence]) -> None:
        """Forget who has no request left: what comes later began to wait after its last turn."""
        names = {_name(sequence) for sequence in live}
        clients = {client for client, _ in names}
        self._adapters = {name: at for name, at in self._adapters.items() if name in names}
        self._clients = {client: at for client, at in self._clients.items() if client in clients}

    def _heaps(
        self, requests: dict[Name, deque[Sequence]], since: Since
    ) -> tuple[list[tuple[int, int, str]], dict[str, list[tuple[int, int, Name]]]]:
        """(turn, arrival of the oldest, whose) of the clients, and of each client's adapters."""
        clients: dict[str, tuple[int, int]] = {}
        adapters: dict[str, list[tuple[int, int, Name]]] = defaultdict(list)
        for name, line in requests.items():
            began, oldest = min(map(since, line)), line[0].arrival
            adapters[name[0]].append((max(began, self._adapters.get(name, NEVER)), oldest, name))
            before = clients.get(name[0], (began, oldest))
            clients[name[0]] = (min(before[0], began), min(before[1], oldest))
        for heap in adapters.values():
            heapify(heap)
        turns = [(max(began, self._clients.get(c, NEVER)), oldest, c) for c, (began, oldest) in clients.items()]
        heapify(turns)
        return turns, adapters


def _name(sequence: Sequence) -> Name:
    return (sequence.request.client, frozenset(use.ref.key for use in sequence.request.adapters))
