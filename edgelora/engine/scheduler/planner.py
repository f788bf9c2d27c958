"""The planner: the decision what the next step computes. Reads the scheduler's state and changes nothing.

It puts the policies of `policy.py` in their order: preempt, choose the newcomers, find the KV they reuse, cut the step
into chunks, add drafts. The scheduler carries the plan out.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgelora.backends.base import Capabilities
from edgelora.engine.adapters.pool import Pool
from edgelora.engine.cost_model.step_costs import StepCosts
from edgelora.engine.scheduler import policy
from edgelora.engine.scheduler.plan import Plan
from edgelora.engine.scheduler.sequence import Sequence
from edgelora.engine.scheduler.sequence_allocator import SequenceAllocator
from edgelora.engine.scheduler.states import State
from edgelora.engine.scheduler.wait_queues import WaitQueues
from edgelora.engine.speculative.draft_budget import DraftBudget


@dataclass(frozen=True, slots=True)
class Planner:
    """Holds what a decision reads; all of it belongs to the scheduler."""

    able: Capabilities
    pool: Pool
    allocator: SequenceAllocator
    wait_queues: WaitQueues
    draft_budget: DraftBudget | None

    def plan(self, running: list[Sequence], ready: list[Sequence], *, costs: StepCosts, number: int) -> Plan:
        """Return the plan of the next step.

        `running`: sequences in prefill or decode. `ready`: sequences whose adapters are loaded and that have no
        sequence id yet. `costs`: how long steps take, by their number of tokens. `number`: one more than the previous
        plan's.
        """
        able = self.able
        preempted = policy.choose_preempted(running, able.kv_cells)
        running = [sequence for sequence in running if sequence not in preempted]
        newcomers = [] if preempted else self._choose_starts(ready, running, costs)
        running += newcomers
        left = able.kv_cells - sum(len(sequence.tokens) for sequence in running)
        chosen = self.allocator.choose(newcomers, running=running, cells=left)
        reused = {start.request_id: start.reused for start in chosen.starts}
        group = running if able.mixed_adapters else policy.choose_group(running, reused=reused, now=number)
        prompts = self.wait_queues.for_prompts((s for s in group if s.state is not State.DECODE), now=number)
        chunks = policy.choose_chunks(
            group, running=running, prompts=prompts, reused=reused, able=able, costs=costs, now=number
        )
        drafts = policy.choose_drafts(self.draft_budget, chunks, able=able, costs=costs, cells=left)
        if drafts.rows:  # Cached KV makes room for drafts, too.
            chosen = self.allocator.choose(newcomers, running=running, cells=left - drafts.rows)
        return Plan(
            number=number,
            preempted=tuple(sequence.request.id for sequence in preempted),
            given_up=chosen.given_up,
            moves=(*policy.make_cuts(preempted, running), *chosen.moves),
            starts=chosen.starts,
            rows=policy.make_rows(chunks, starts=chosen.starts, drafts=drafts, slot=self.pool.held),
            stake=drafts.stake,
        )

    def _choose_starts(self, ready: list[Sequence], running: list[Sequence], costs: StepCosts) -> list[Sequence]:
        line = self.wait_queues.for_sequences(ready)
        return policy.choose_starts(line, running=running, allocator=self.allocator, able=self.able, costs=costs)
