"""The queues for a lease, for a sequence id, and for the prefill tokens of a step. Owns the turns, and no policy of
what there is to give.

A request that was sent back keeps the turn it had: it is before everybody who has had no place yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from edgelora.engine.scheduler.fair_queue import FairQueue
from edgelora.engine.scheduler.sequence import Sequence


class WaitQueues:
    def __init__(self) -> None:
        self._lease_queue, self._sequence_queue, self._prompt_queue = FairQueue(), FairQueue(), FairQueue()
        self._tickets = 0
        """Arrivals, leases, first places and second tokens so far: each has the next number."""

    def ticket(self) -> int:
        """Return the number of what happens now, larger than all before."""
        self._tickets += 1
        return self._tickets

    def for_leases(self, waiting: Iterable[Sequence]) -> Iterator[Sequence]:
        """The base alone first: it takes nothing that others wait for, so it is no turn either. Were it one, a client
        that asks the base again and again would never have its turn at an adapter."""
        sequences = list(waiting)
        yield from (sequence for sequence in sequences if not sequence.request.adapters)
        yield from _line((sequence for sequence in sequences if sequence.request.adapters), self._lease_queue)

    def for_sequences(self, ready: Iterable[Sequence]) -> Iterator[Sequence]:
        return _line(ready, self._sequence_queue)

    def for_prompts(self, prompts: Iterable[Sequence], *, now: int) -> Iterator[Sequence]:
        """`now`: the plan's number. One that starts with it comes after all that waited before."""
        return self._prompt_queue.order(prompts, since=lambda s: s.last_plan if s.running else now - 1)

    def leased(self, sequence: Sequence) -> None:
        if sequence.request.adapters:
            self._lease_queue.served(sequence, at=self.ticket())

    def placed(self, sequence: Sequence) -> None:
        """It starts; a first time is a turn."""
        if not sequence.granted:
            sequence.granted = self.ticket()
            self._sequence_queue.served(sequence, at=sequence.granted)

    def prefilled(self, sequence: Sequence, *, now: int) -> None:
        """Some of its prompt is computed in the plan of number `now`."""
        self._prompt_queue.served(sequence, at=now)

    def keep(self, live: Iterable[Sequence]) -> None:
        """Forget all others' turns."""
        sequences = list(live)
        for queue in (self._lease_queue, self._sequence_queue, self._prompt_queue):
            queue.keep(sequences)


def _line(waiting: Iterable[Sequence], queue: FairQueue) -> Iterator[Sequence]:
    sequences = list(waiting)
    yield from sorted((s for s in sequences if s.granted), key=lambda s: s.granted)
    yield from queue.order((s for s in sequences if not s.granted), since=lambda s: s.arrival)
