"""The queues for a lease, for a sequence id, and for the prefill tokens of a step. Owns only the turns.

A preempted request keeps its turn: it comes before all requests that have not started yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from edgelora.engine.scheduler.fair_queue import FairQueue
from edgelora.engine.scheduler.sequence import Sequence


class WaitQueues:
    def __init__(self) -> None:
        self._lease_queue, self._sequence_queue, self._prompt_queue = FairQueue(), FairQueue(), FairQueue()
        self._tickets = 0
        """Number of arrivals, leases, first starts and second tokens so far; each takes the next number."""

    def ticket(self) -> int:
        """Return the number of the current event, larger than all before."""
        self._tickets += 1
        return self._tickets

    def for_leases(self, waiting: Iterable[Sequence]) -> Iterator[Sequence]:
        """Yield requests for the base alone first, then the others in turn.

        The former take nothing that others wait for, so they are no turn. If they were, a client that repeatedly
        requests the base would never get its turn at an adapter.
        """
        sequences = list(waiting)
        yield from (sequence for sequence in sequences if not sequence.request.adapters)
        yield from _line((sequence for sequence in sequences if sequence.request.adapters), self._lease_queue)

    def for_sequences(self, ready: Iterable[Sequence]) -> Iterator[Sequence]:
        return _line(ready, self._sequence_queue)

    def for_prompts(self, prompts: Iterable[Sequence], *, now: int) -> Iterator[Sequence]:
        """Yield prompts in turn.

        `now`: the plan's number. One that starts with it comes after all that waited before.
        """
        return self._prompt_queue.order(prompts, since=lambda s: s.last_plan if s.running else now - 1)

    def leased(self, sequence: Sequence) -> None:
        if sequence.request.adapters:
            self._lease_queue.served(sequence, at=self.ticket())

    def placed(self, sequence: Sequence) -> None:
        """Record a start; only the first one is a turn."""
        if not sequence.granted:
            sequence.granted = self.ticket()
            self._sequence_queue.served(sequence, at=sequence.granted)

    def prefilled(self, sequence: Sequence, *, now: int) -> None:
        """Record that some of its prompt is computed in plan `now`."""
        self._prompt_queue.served(sequence, at=now)

    def keep(self, live: Iterable[Sequence]) -> None:
        """Forget the turns of all other requests."""
        sequences = list(live)
        for queue in (self._lease_queue, self._sequence_queue, self._prompt_queue):
            queue.keep(sequences)


def _line(waiting: Iterable[Sequence], queue: FairQueue) -> Iterator[Sequence]:
    sequences = list(waiting)
    yield from sorted((s for s in sequences if s.granted), key=lambda s: s.granted)
    yield from queue.order((s for s in sequences if not s.granted), since=lambda s: s.arrival)
