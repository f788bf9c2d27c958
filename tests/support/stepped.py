"""The whole engine on the caller's thread: a turn when the test says so, a load when the test says so. Deterministic.

Everything between `submit` and the stream is the engine's own; only its thread and the loader's are replaced.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelora.backends.base import Backend, Capabilities, Loaded
from edgelora.core.errors import EdgeloraError
from edgelora.core.events import Event, Failed, Finished, TextDelta
from edgelora.core.request import AdapterRef, Request
from edgelora.engine.adapters.loader import LoadResult
from edgelora.engine.commands import Close
from edgelora.engine.cost_model.step_costs import StepCosts
from edgelora.engine.engine import Engine
from edgelora.engine.prefix_cache.cache import PrefixWrite
from edgelora.engine.scheduler.plan import Choice, Plan
from edgelora.engine.stream import Stream

Logits = NDArray[np.float32]


class HandLoader:
    """In the loader's place: keeps what is asked for, until `arrive` reads it."""

    def __init__(self, load: Callable[[Path], Loaded], post: Callable[[Any], None]) -> None:
        self._load = load
        self._post = post
        self.wanted: list[AdapterRef] = []
        self.jobs: list[Callable[[], object]] = []
        """Other reading."""
        self.at_once = False
        """Whether everything arrives as soon as it is asked for."""

    def request(self, ref: AdapterRef) -> None:
        self.wanted.append(ref)
        if self.at_once:
            self.arrive(ref)

    def call(self, job: Callable[[], object]) -> None:
        self.jobs.append(job)
        if self.at_once:
            self.do_job()

    def do_job(self) -> None:
        """The oldest of them."""
        self._post(self.jobs.pop(0)())

    def arrive(self, ref: AdapterRef, *, error: EdgeloraError | None = None) -> None:
        self.wanted.remove(ref)
        self._post(LoadResult(ref, error or self._load(ref.path)))

    def arrive_all(self) -> None:
        """These, and from now on every one at once."""
        self.at_once = True
        for ref in tuple(self.wanted):
            self.arrive(ref)
        while self.jobs:
            self.do_job()

    def close(self, _timeout: float) -> bool:
        return True


class SaidCosts(StepCosts):
    """What a step takes is said and not measured: `fixed` seconds and `each` for a row."""

    def __init__(self, *, fixed: float, each: float) -> None:
        super().__init__()
        self._fixed, self._each = fixed, each

    def observe(self, rows: int, _seconds: float) -> None:
        super().observe(rows, self._fixed + self._each * rows)


class FreeRows(StepCosts):
    """Of a machine on which every step takes as long, whatever its rows: whatever is drafted pays at once."""

    def known(self, rows: int) -> float:
        return 0.05

    def best(self, rows: int) -> float:
        return 0.05

    def at_least(self, rows: int) -> float:
        return 0.05

    def at_most(self, rows: int) -> float:
        return 0.05


class SteppedEngine(Engine):
    """`turn` instead of a thread. `chosen` holds, by request, each token with its logits, [vocab]."""

    def __init__(
        self,
        backend: Backend,
        *,
        adapter_budget_bytes: int,
        max_queue: int,
        prefixes: Any = None,
        fixed: float = 0.0,
        each: float = 0.05,
        speculate: bool = False,
    ) -> None:
        """`fixed`, `each`: what a step is said to take, for the pieces of prompts that follow from it. `speculate`:
        and every row is said to be free."""
        super().__init__(
            backend,
            adapter_budget_bytes=adapter_budget_bytes,
            max_queue=max_queue,
            prefixes=prefixes,
            speculate=speculate,
        )
        self._scheduler.costs = FreeRows() if speculate else SaidCosts(fixed=fixed, each=each)
        self._thread.join()
        self._loader.close(10.0)
        self.loads = HandLoader(backend.load, self._commands.put)
        self._loader: Any = self.loads
        self._prefix_transfer._loader = self._loader
        self.chosen: dict[str, list[tuple[int, Logits]]] = {}
        self.streams: dict[str, Stream] = {}
        self.plan: Plan | None = None
        """What the latest turn computed; None where it had nothing to."""

    @property
    def scheduler(self) -> Any:
        return self._scheduler

    @property
    def live(self) -> frozenset[str]:
        """Accepted and not ended, commands on their way included."""
        return frozenset(request.id for request in self._runs.requests())

    def submit(self, request: Request, *, keep: PrefixWrite | None = None) -> Stream:
        stream = super().submit(request, keep=keep)
        self.streams[request.id], self.chosen[request.id] = stream, []
        return stream

    def turn(self) -> None:
        """Admit, compute one step where there is one, obey what was asked for meanwhile."""
        self.plan = None
        self._turn()

    def finish(self, *, turns: int, check: Callable[[], None] = lambda: None) -> None:
        """Turns until nothing is live, every load arriving at once. Raises AssertionError after so many turns."""
        self.loads.arrive_all()
        for _ in range(turns):
            if not self._runs:
                return
            self.turn()
            check()
        raise AssertionError(f"{len(self._runs)} requests are not done after {turns} turns")

    def end(self, *, drain: bool) -> None:
        """Close: finish what is live (`drain`) or fail it, and give the backend back."""
        self.loads.arrive_all()
        self._runs.stop("The engine was stopped by the test.")
        self._commands.put(Close(None if drain else time.monotonic()))
        super()._main()

    def _main(self) -> None:
        """Nothing runs by itself."""

    def _obey(self, *, wait: bool) -> None:
        super()._obey(wait=False)

    def _compute(self, plan: Plan) -> None:
        self.plan = plan
        super()._compute(plan)

    def _choose(self, plan: Plan, logits: list[Logits | None]) -> dict[str, tuple[Choice, ...]]:
        choices = super()._choose(plan, logits)
        for row, values in zip(plan.rows, logits, strict=True):
            if values is not None:
                chosen = zip(choices.get(row.request_id, ()), values, strict=False)
                self.chosen[row.request_id] += [(choice.token, after) for choice, after in chosen]
        return choices


class Narrowed:
    """A real backend that says it can do less, and outlives its engines: `close` only forgets adapters and KV."""

    def __init__(self, backend: Backend, capabilities: Capabilities) -> None:
        self._backend = backend
        self.capabilities = capabilities
        self.attached: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def attach(self, slot: int, loaded: Loaded) -> None:
        self._backend.attach(slot, loaded)
        self.attached.add(slot)

    def detach(self, slot: int) -> None:
        self._backend.detach(slot)
        self.attached.remove(slot)

    def close(self) -> None:
        for slot in tuple(self.attached):
            self.detach(slot)
        for sequence in range(self._backend.capabilities.max_sequences):
            self._backend.clear(sequence)


def outcome(stream: Stream) -> tuple[str, Finished | Failed]:
    """The text and the end of a stream whose request has ended. Raises AssertionError where it is no whole stream."""
    events: list[Event] = list(stream) if stream._sealed else []
    assert events, "the request has no end"
    *deltas, last = events
    assert isinstance(last, (Finished, Failed)) and all(isinstance(event, TextDelta) for event in deltas)
    return "".join(event.text for event in deltas if isinstance(event, TextDelta)), last
