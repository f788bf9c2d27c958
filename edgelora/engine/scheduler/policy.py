"""The contents of the next step: pure decisions over the sequences. Changes nothing; the scheduler acts.

Policies:
- A decoding sequence gets one token in every step. The rest of the step goes to prompts, in turns between clients and
between a client's adapters (`fair_queue.py`), up to the prefill chunk (`prefill_chunks.py`).
- The gap is limited for sequences that were decoding before the newcomer arrived. Among requests that arrived together,
the first one past prefill has no such claim: the other prompts are computed as if none decoded, in far fewer steps.
- Sequence ids are given in the same kind of turns: no request overtakes the one whose turn it is, whatever its size.
- When the KV is full, the sequence that started last is preempted, and is the first to restart. A newcomer starts only
if the running sequences keep some room to grow, so that none is preempted at once.
- A newcomer whose prompt shares a prefix with one being computed waits for it, a bounded time (`prefix_sharing.py`).
- Cached KV blocks nothing: it counts as free here, and `sequence_allocator.py` gives it up when needed.
- Drafts come last: they are less certain to be useful than prompts, and a longest step limits them, too.
- If a backend cannot mix adapters, the group that waited longest is next, and a prompt chunk ends where an adapter
begins to act.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import inf

from edgelora.backends.base import Applied, Capabilities, Chunk
from edgelora.core.request import AdapterRef
from edgelora.engine.cost_model.prefill_chunks import ALONE, DecodeLoad, choose_piece
from edgelora.engine.cost_model.step_costs import StepCosts
from edgelora.engine.scheduler.plan import Cut, ScheduledChunk, Start
from edgelora.engine.scheduler.prefix_sharing import waits
from edgelora.engine.scheduler.sequence import Sequence
from edgelora.engine.scheduler.sequence_allocator import SequenceAllocator
from edgelora.engine.scheduler.states import State
from edgelora.engine.speculative.draft_budget import NO_DRAFTS, DraftBudget, DraftCandidate, Drafts

ALONE_AGAIN = 16
"""One plan in this many computes only decoding rows, even if there are prompts.

It measures the step without prompts again, so that prefill chunks fit the current speed of the machine.
"""

GROWTH_CELLS = 16
"""KV cells left for each running sequence when another starts, besides one for each step its prompt will take."""


def choose_preempted(running: Iterable[Sequence], kv_cells: int) -> list[Sequence]:
    """Choose the sequences to preempt so that every running one has the cells for all its tokens; the last to
    start is the first to go.
    """
    held = sorted(running, key=lambda s: s.granted)
    chosen: list[Sequence] = []
    while sum(len(sequence.tokens) for sequence in held) > kv_cells:
        chosen.append(held.pop())
    return chosen


def choose_starts(
    line: Iterable[Sequence],
    *,
    running: list[Sequence],
    allocator: SequenceAllocator,
    able: Capabilities,
    costs: StepCosts,
) -> list[Sequence]:
    """Return the requests that get a sequence id, in the order of `line`; stops at the first one that does not fit.

    A request that waits for a prefix being computed keeps its place in the batch.
    """
    held, starts = list(running), list[Sequence]()
    if not allocator.available:
        return starts
    beside = decode_load(running, running, room=able.max_step_tokens)
    piece = choose_piece(costs, beside, room=able.max_step_tokens - beside.here)
    for sequence in line:
        # In each step that its prompt takes the others grow by a token, as far as they may.
        reusable = allocator.cached_for(sequence, running)
        growth = GROWTH_CELLS + (len(sequence.tokens) - reusable) // piece
        need = len(sequence.tokens) + sum(len(s.tokens) + min(growth, s.max_tokens - len(s.tokens)) for s in held)
        if len(held) - len(running) == allocator.available or need > able.kv_cells:
            break
        held.append(sequence)
        if not waits(sequence, [*running, *starts], have=reusable):
            starts.append(sequence)
    return starts


def choose_group(running: list[Sequence], *, reused: Mapping[str, int], now: int) -> list[Sequence]:
    """Return the sequences whose next token gets the same deltas (or none), choosing the group that waited longest.

    `reused`: as for `choose_chunks`. `now`: the plan's number. A sequence that just started counts as served now, so
    that a stream of newcomers does not overtake those that wait.
    """
    groups: dict[object, list[Sequence]] = {}
    for sequence in running:
        position = reused.get(sequence.request.id, sequence.computed)
        groups.setdefault(sequence.acting(position), []).append(sequence)
    turn = {s.arrival: s.last_plan if s.last_plan >= 0 else now for s in running}
    return min(
        groups.values(),
        key=lambda group: (max(turn[s.arrival] for s in group), min(s.arrival for s in group)),
        default=[],
    )


def decode_load(group: list[Sequence], running: list[Sequence], *, room: int) -> DecodeLoad:
    """Return the decoding rows beside the group's prompts. `room`: maximum tokens of the step."""
    decoding = sum(sequence.state is State.DECODE for sequence in group)
    prompts = {sequence.key for sequence in running if sequence.state is not State.DECODE}
    return DecodeLoad(
        # Prompts get at least one token, so that a step full of decoding sequences does not stop them for good.
        here=min(decoding, room - 1) if decoding < len(group) else min(decoding, room),
        everywhere=sum(sequence.state is State.DECODE for sequence in running),
        groups=1 if len(group) == len(running) else max(1, len(prompts)),
    )


def choose_chunks(
    group: list[Sequence],
    *,
    running: list[Sequence],
    prompts: Iterable[Sequence],
    reused: Mapping[str, int],
    able: Capabilities,
    costs: StepCosts,
    now: int,
) -> list[tuple[Sequence, int]]:
    """Choose how many tokens each sequence of the group computes: one if decoding, the rest for prompts.

    `running`: all running sequences, of this group or not. `prompts`: those of the group in prefill, in the order of
    their turns. `reused`: by request id, the tokens that a newcomer need not compute. `now`: the plan's number.
    """
    beside = decode_load(group, running, room=able.max_step_tokens)
    decoding = sorted((s for s in group if s.state is State.DECODE), key=lambda s: (s.last_plan, s.generated))
    chunks = [(sequence, 1) for sequence in decoding[: beside.here]]
    if len(decoding) == len(group) or (0 < beside.here == beside.everywhere and now % ALONE_AGAIN == 0):
        return chunks
    waiting = list(prompts)
    together = _as_old(waiting, running)
    piece = choose_piece(costs, ALONE if together else beside, room=able.max_step_tokens - beside.here)
    for sequence in together or waiting:
        position = reused.get(sequence.request.id, sequence.computed)
        size = min(piece, len(sequence.tokens) - position)
        if not able.mixed_adapters:
            size = min(size, sequence.alike(position))
        if size:
            chunks.append((sequence, size))
        piece -= size
    return chunks


def _as_old(prompts: Iterable[Sequence], running: Iterable[Sequence]) -> list[Sequence]:
    """Return the prompts that arrived before any running answer had a second token."""
    begun = [s.begun or inf for s in running if s.state is State.DECODE]
    return [s for s in prompts if begun and s.arrival < min(begun)]


def choose_drafts(
    draft_budget: DraftBudget | None,
    chunks: list[tuple[Sequence, int]],
    *,
    able: Capabilities,
    costs: StepCosts,
    cells: int,
) -> Drafts:
    """Choose the drafts behind the tokens of decoding sequences. `cells`: KV cells that no running sequence needs."""
    if draft_budget is None:
        return NO_DRAFTS
    rows, decoding = sum(size for _, size in chunks), [s for s, _ in chunks if s.state is State.DECODE]
    # The last token an answer may have is never computed: nothing follows it.
    draft_candidates = [
        DraftCandidate(s.request.id, s.prompt_lookup, s.left - 1)
        for s in decoding
        if s.prompt_lookup is not None and (able.mixed_adapters or s.all_begun)
    ]
    room = min(cells, able.max_step_tokens - rows, able.max_outputs - len(chunks))
    return draft_budget.choose(draft_candidates, costs=costs, rows=rows, answers=len(decoding), room=room)


def make_cuts(preempted: Iterable[Sequence], running: Iterable[Sequence]) -> list[Cut]:
    """Return the cuts of all KV of preempted sequences, and of rejected drafts."""
    cuts = [Cut(s.id, 0) for s in preempted if s.id is not None]
    return cuts + [Cut(s.id, s.computed) for s in running if s.rejected and s.id is not None]


def make_rows(
    chunks: list[tuple[Sequence, int]], *, starts: tuple[Start, ...], drafts: Drafts, slot: Callable[[AdapterRef], int]
) -> tuple[ScheduledChunk, ...]:
    """Return the step's rows. `starts`: the sequences that start with it. `slot`: returns an adapter's slot."""
    begin = {start.request_id: (start.sequence, start.reused) for start in starts}
    rows: list[ScheduledChunk] = []
    for sequence, size in chunks:
        name = sequence.request.id
        draft = drafts.tokens.get(name, ())
        place, at = begin[name] if sequence.id is None else (sequence.id, sequence.computed)
        chunk = Chunk(
            sequence=place,
            position=at,
            tokens=(*sequence.tokens[at : at + size], *draft),
            adapters=tuple(Applied(slot(use.ref), use.weight, use.start) for use in sequence.request.adapters),
            logits=len(draft) + (at + size == len(sequence.tokens)),
        )
        rows.append(ScheduledChunk(name, chunk))
    return tuple(rows)
