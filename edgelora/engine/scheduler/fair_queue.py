"""A fair queue: turns between clients, then between a client's adapters, then by age. Pure; only orders.

It is used for leases, for sequence ids and for the prompt tokens of a step, each with its own turns. A client's turn is
the time it was last served or the time its oldest request began to wait, whichever is later; the earliest is next. So
both a client that was just served and a new one stand behind all clients that already wait: between two turns of one
client, each other client has at most one. The same holds for the adapters of a client.
Consequently, a request with n earlier requests of its client for the same adapter, at most A adapters waited for per
client and at most C waiting clients is served by the (n + 1) * A * C-th turn, whatever arrives after it.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from heapq import heapify, heappop, heappush

from edgelora.engine.scheduler.sequence import Sequence

Since = Callable[[Sequence], int]
"""Returns when a sequence began to wait, on the scale of the turns."""
Name = tuple[str, frozenset[tuple[str, str]]]
"""A client and the set of adapters of a request, regardless of their starts; empty for the base alone."""
NEVER = -1


class FairQueue:
    def __init__(self) -> None:
        self._clients: dict[str, int] = {}
        self._adapters: dict[Name, int] = {}

    def order(self, waiting: Iterable[Sequence], *, since: Since) -> Iterator[Sequence]:
        """Yield all of `waiting` in the order of their turns if no other request arrived. Changes nothing."""
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
        """Record a turn of the sequence, and so of its client and its adapters. `at` never decreases."""
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
