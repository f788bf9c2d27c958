"""The scheduler: requests in, plans out. No I/O, no clock, no threads; the engine calls it from one thread.

A step is one call of `Backend.step`. It computes some tokens of some running sequences, and there is no step that is
"a prefill" or "a decode": each sequence has the tokens of its prompt and its answer, and a number of them that are
computed. A step brings sequences nearer to having all of theirs computed. A sequence that lacks many (its prompt, or
all of it after a preemption) gets a chunk; one that lacks a single token gets that one, and possibly draft tokens
behind it. A sequence with all tokens computed has logits, and from them comes its next token.

One round of the engine calls `admit` and does what the admission says, then `plan`, `begin`, the plan's moves of KV,
`Backend.step`, and `apply`, or `fail` for the requests of a step that failed. `plan` reads and changes nothing; every
other method acts. The transitions of a request are in `states.py`, the order of decisions in `planner.py`, the policies
in `policy.py`. The pool of resident adapters belongs to this scheduler alone.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

from edgelora.backends.base import Capabilities
from edgelora.core.engine_errors import queue_full
from edgelora.core.errors import UsageError
from edgelora.core.events import FinishReason
from edgelora.core.kv import Key
from edgelora.core.request import AdapterRef, Request
from edgelora.engine.adapters.pool import Pool
from edgelora.engine.cost_model.step_costs import StepCosts
from edgelora.engine.scheduler import adapter_leases
from edgelora.engine.scheduler.limits import Limits
from edgelora.engine.scheduler.occupancy import Occupancy, Reuse, occupancy
from edgelora.engine.scheduler.plan import Admission, Choice, Ended, Load, Plan, Start
from edgelora.engine.scheduler.planner import Planner
from edgelora.engine.scheduler.sequence import Sequence
from edgelora.engine.scheduler.sequence_allocator import AllocatedId, SequenceAllocator
from edgelora.engine.scheduler.states import RUNNING, Move, State
from edgelora.engine.scheduler.wait_queues import WaitQueues
from edgelora.engine.speculative.draft_budget import DraftBudget


class Scheduler:
    """Accepts `max_queue` requests beyond the backend's max_sequences. Owns `pool`."""

    def __init__(
        self,
        capabilities: Capabilities,
        pool: Pool,
        *,
        max_queue: int,
        vocabulary_size: int = sys.maxsize,
        speculate: bool = False,
    ) -> None:
        """`speculate`: draft tokens by prompt lookup where that pays."""
        self.capabilities = capabilities
        self.pool = pool
        self.costs = StepCosts()
        """Empty until the engine reports how long steps took."""
        self._draft_budget = DraftBudget() if speculate else None
        self.limits = Limits.of(
            capabilities, vocabulary_size=vocabulary_size, max_queue=max_queue, budget_bytes=pool.budget_bytes
        )
        self._live: dict[str, Sequence] = {}
        """The oldest request first."""
        self._allocator = SequenceAllocator(capabilities.max_sequences)
        self._computing: frozenset[str] = frozenset()
        """Requests of the step that was begun and not yet applied; the contents of their KV are unknown."""
        self._wait_queues = WaitQueues()
        self._planner = Planner(capabilities, pool, self._allocator, self._wait_queues, self._draft_budget)
        self._plans = 0

    def __len__(self) -> int:
        return len(self._live)

    def make_room(self, length: int) -> AllocatedId | None:
        """Return a sequence id for KV of `length` tokens that is read from disk, or None if there is no room.

        Cached KV is given up for it; the KV of a running request never is.
        """
        # Rejected drafts are cut with the next step only.
        running = sum(len(s.tokens) + len(s.rejected) for s in self._in(*RUNNING))
        return self._allocator.make_room(length, cells=self.capabilities.kv_cells - running)

    def fill_room(self, room: AllocatedId, key: Key, tokens: list[int]) -> None:
        """Note that the KV of `room` was read and holds `tokens`.

        An empty list means that reading failed; the KV is cleared before the next step.
        """
        if tokens:
            self._allocator.cached.keep(room.sequence, key, tokens)
            self._allocator.reuse = self._allocator.reuse.read()
        else:
            self._allocator.give_back(room.sequence)

    @property
    def drafts(self) -> tuple[int, int]:
        """Number of draft tokens computed since the start, and the number of them that were accepted."""
        return (self._draft_budget.drafted, self._draft_budget.accepted) if self._draft_budget else (0, 0)

    @property
    def reuse(self) -> Reuse:
        return self._allocator.reuse

    def occupancy(self) -> tuple[Occupancy, ...]:
        """Return the number of requests and of KV tokens for each set of adapters."""
        return occupancy(self._live.values(), self._allocator.cached, self.pool.counter)

    @property
    def num_running(self) -> int:
        return len(self._in(*RUNNING))

    def state(self, request_id: str) -> State | None:
        """Return the state of a request; None for an ended or unknown id."""
        sequence = self._live.get(request_id)
        return sequence.state if sequence else None

    def live_ids(self) -> tuple[str, ...]:
        return tuple(self._live)

    def check(self, request: Request) -> None:
        """Refuse a request that could never run. Raises as `Limits.check` does. May be called from any thread."""
        self.limits.check(request, pinned=self.pool.pinned)

    def submit(self, request: Request, *, prefix: bool = False) -> None:
        """Accept a request. With `prefix` it does not start before `prefix_done`.

        Raises as `check` does, Busy(code queue_full), or UsageError for an id in use, with nothing changed.
        """
        self.limits.check_size(request, pinned=self.pool.pinned)
        if request.id in self._live:
            raise UsageError("duplicate_id", f"A request with the id {request.id!r} is running.", param="id")
        if len(self._live) >= self.limits.capacity:
            raise queue_full(len(self._live))
        most, answer = self.limits.sequence_tokens, request.sampling.max_tokens
        limit = most if answer is None else min(most, len(request.prompt) + answer)
        prompt_lookup = self._draft_budget.prompt_lookup() if self._draft_budget else None
        sequence = Sequence(
            request, self._wait_queues.ticket(), limit, awaits_prefix=prefix, prompt_lookup=prompt_lookup
        )
        self._live[request.id] = sequence
        self._wait_queues.keep(self._live.values())

    def cancel(self, request_id: str) -> bool:
        """End a request in any state. Return False, with nothing changed, for an ended or unknown id."""
        return self._end(request_id, Move.CANCELLED)

    def fail(self, request_id: str) -> bool:
        """End a running request whose step failed. Return False if it had already ended."""
        return self._end(request_id, Move.STEP_FAILED)

    def admit(self) -> Admission:
        """Clear the KV of ended requests, and lease adapters to waiting requests in turn while the pool has room.

        A request that finds no room keeps its turn. Requests for the base alone may pass it, since they need no room,
        and so may up to `adapter_leases.PATIENCE` requests with adapters; after that no request that needs room may.
        """
        detach: list[int] = []
        loads: list[Load] = []
        loading: list[str] = []
        blocked: Sequence | None = None
        for sequence in tuple(self._wait_queues.for_leases(self._in(State.WAITING))):
            if not adapter_leases.may_take(self.pool, sequence, blocked):
                blocked = blocked or sequence
                continue
            if blocked is not None and sequence.request.adapters:
                blocked.overtaken += 1
            loads += adapter_leases.take(self.pool, sequence, detach)
            self._wait_queues.leased(sequence)
            sequence.move(Move.ADMIT_RESIDENT if self._complete(sequence) else Move.ADMIT_ABSENT)
            if sequence.state is State.LOADING:
                loading.append(sequence.request.id)
        return Admission(self._allocator.clears(), tuple(detach), tuple(loads), tuple(loading), blocked is not None)

    def loaded(self, ref: AdapterRef) -> tuple[str, ...]:
        """Note that an adapter is attached to its slot. Return the requests that waited for it alone, now ready."""
        self.pool.loaded(ref)
        complete = [sequence for sequence in self._loading(ref) if self._complete(sequence)]
        for sequence in complete:
            sequence.move(Move.LOADED)
        return tuple(sequence.request.id for sequence in complete)

    def prefix_done(self, request_id: str) -> bool:
        """Note that a request's prefix is in the KV, or that it will not be.

        Return True if the request waited for nothing else and is now ready; False also if it had ended.
        """
        sequence = self._live.get(request_id)
        if sequence is None:
            return False
        sequence.awaits_prefix = False
        ready = sequence.state is State.LOADING and self._complete(sequence)
        if ready:
            sequence.move(Move.LOADED)
        return ready

    def known(self, request: Request) -> int:
        """Return the length of the prompt's prefix that would be reused if the request started now, in tokens."""
        return self._allocator.cached_for(Sequence(request, 0, 0), self._in(*RUNNING))

    def load_failed(self, ref: AdapterRef) -> tuple[str, ...]:
        """Note that an adapter could not be loaded. Return the requests that failed; a later one tries again."""
        failed = tuple(sequence.request.id for sequence in self._loading(ref))
        for request_id in failed:
            self._end(request_id, Move.LOAD_FAILED)
        self.pool.drop(ref)
        return failed

    def plan(self) -> Plan:
        """Return what the next step should compute. Changes nothing."""
        running, ready = self._in(*RUNNING), self._in(State.READY)
        return self._planner.plan(running, ready, costs=self.costs, number=self._plans + 1)

    def begin(self, plan: Plan) -> None:
        """Carry out the latest plan's changes of state. The caller then does `plan.moves` and computes `plan.rows`."""
        if self._draft_budget is not None:
            self._draft_budget.begin(plan.stake)
        self._plans = plan.number
        for request_id in plan.preempted:
            self._preempt(self._live[request_id])
        for sequence_id in plan.given_up:
            self._allocator.give_up(sequence_id)
        self._allocator.cleared(move.sequence for move in plan.moves)
        for sequence in self._in(*RUNNING):
            sequence.rejected = ()
        for start in plan.starts:
            self._start(start, self._live[start.request_id], now=plan.number)
        for sequence in self._in(State.READY):
            sequence.held += 1
        self._computing = frozenset(row.request_id for row in plan.rows)
        for row in plan.rows:
            sequence = self._live[row.request_id]
            sequence.last_plan = plan.number
            if sequence.state is State.DECODE:
                sequence.begun = sequence.begun or self._wait_queues.ticket()
            if sequence.state is State.PREFILL:
                self._wait_queues.prefilled(sequence, now=plan.number)

    def apply(self, plan: Plan, choices: Mapping[str, tuple[Choice, ...]]) -> tuple[Ended, ...]:
        """Take in a computed step and return the requests that ended with it.

        `choices`: the tokens chosen from each row that has logits, by request id. They go on as long as each equals the
        next token of the row's draft, plus the first that differs, and end with a stop. A request that ended while the
        step ran needs none.
        """
        ended: list[Ended] = []
        self._computing = frozenset()
        for row in plan.rows:
            sequence = self._live.get(row.request_id)
            if sequence is None:
                continue
            sequence.compute(len(row.chunk.tokens) - len(row.draft))
            if row.chunk.logits:
                ended += self._advance(sequence, choices[row.request_id], row.draft)
        return tuple(ended)

    def check_integrity(self) -> None:
        """Recount leases, KV cells and sequence ids. Raises RuntimeError if they do not add up."""
        adapter_leases.check_integrity(self.pool, self._live.values())
        self._allocator.check_integrity(sequence.id for sequence in self._in(*RUNNING))
        live = sum(sequence.computed + len(sequence.rejected) for sequence in self._live.values())
        if live + self._allocator.cached.cells > self.capabilities.kv_cells:
            raise RuntimeError("more KV cells in use than there are")

    def _in(self, *states: State) -> list[Sequence]:
        return [sequence for sequence in self._live.values() if sequence.state in states]

    def _complete(self, sequence: Sequence) -> bool:
        """Return whether everything that the request waits for in LOADING is in memory."""
        return not sequence.awaits_prefix and all(self.pool.resident(use.ref) for use in sequence.request.adapters)

    def _loading(self, ref: AdapterRef) -> list[Sequence]:
        """Return the requests that wait for this adapter."""
        return [s for s in self._in(State.LOADING) if any(use.ref.key == ref.key for use in s.request.adapters)]

    def _start(self, start: Start, sequence: Sequence, *, now: int) -> None:
        sequence.move(Move.SCHEDULED)
        self._allocator.take(start)
        self._wait_queues.placed(sequence)
        # KV that the request computed itself before it was preempted is not counted as reused.
        sequence.cached = start.reused if sequence.last_plan < 0 else min(sequence.cached, start.reused)
        sequence.id, sequence.computed, sequence.last_plan = start.sequence, start.reused, now - 1

    def _advance(self, sequence: Sequence, choices: tuple[Choice, ...], draft: tuple[int, ...]) -> list[Ended]:
        """Add a token. This is the only place where a sequence gains tokens."""
        if sequence.state is State.PREFILL:
            sequence.move(Move.PROMPT_DONE)
        sequence.extend([choice.token for choice in choices], draft)
        if self._draft_budget:
            self._draft_budget.computed(draft, sequence.rejected)
        if not choices[-1].stop and len(sequence.tokens) < sequence.max_tokens:
            return []
        self._end(sequence.request.id, Move.ENDED)
        reason = FinishReason.STOP if choices[-1].stop else FinishReason.LENGTH
        return [Ended(sequence.request.id, reason, sequence.usage)]

    def _preempt(self, sequence: Sequence) -> None:
        self._give_back(sequence, keep_kv=False)
        sequence.move(Move.PREEMPTED)

    def _end(self, request_id: str, move: Move) -> bool:
        sequence = self._live.get(request_id)
        if sequence is None:
            return False
        kv_known = move in (Move.ENDED, Move.CANCELLED) and request_id not in self._computing
        self._give_back(sequence, keep_kv=kv_known)
        sequence.move(move)
        del self._live[request_id]
        return True

    def _give_back(self, sequence: Sequence, *, keep_kv: bool) -> None:
        """Return a request's leases, sequence id and KV cells; nothing else does. `keep_kv`: leave its KV cached."""
        adapter_leases.give_back(self.pool, sequence)
        if sequence.id is not None and sequence.computed and keep_kv:
            self._allocator.cached.keep(sequence.id, sequence.key, sequence.in_kv)
        elif sequence.id is not None:
            self._allocator.give_back(sequence.id)
        sequence.id, sequence.computed, sequence.rejected = None, 0, ()
