"""What the next step computes: pure decisions over the sequences there are. Changes nothing; the scheduler acts.

Policies:
- A decoding sequence gets one token in every step. What is left of the step goes to prompts, oldest first; beside
  decoding sequences at most PREFILL_BESIDE_DECODE tokens of it, so that a long prompt does not stall them.
- Places in the batch are given strictly by age: a younger request never takes the place an older one waits for.
- When the KV is full, the youngest decoding sequence gives way. A newcomer starts only where the running ones have some
  room to grow, so that it is not sent back at once.
- A newcomer whose prompt begins as one that is being computed waits for that, a bounded while (`sharing.py`).
- Warm KV stands in nobody's way: it counts as free here, and `places.py` gives it up where it must go.
- Where a backend cannot mix adapters, the group that waited longest is next; a prompt's piece ends where an adapter
  begins to act.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from edgelora.sequence import Sequence
from edgelora.sharing import waits
from edgelora.states import State

PREFILL_BESIDE_DECODE = 16
"""Tokens of prompts in a step that also decodes: a step of 16 rows is the largest one that costs about as much as one
row where memory bandwidth is the limit, and at most about 2.5 times where arithmetic is."""

GROWTH_CELLS = 16
"""KV cells left for each running sequence when another starts, besides one for each step its prompt will take."""


def choose_preempted(running: Iterable[Sequence], kv_cells: int) -> list[Sequence]:
    """Who gives way so that every running sequence has the cells for all its tokens; youngest first."""
    held = list(running)
    chosen: list[Sequence] = []
    while sum(len(sequence.tokens) for sequence in held) > kv_cells:
        youngest = max((s for s in held if s.state is State.DECODE), key=lambda s: s.arrival)
        held.remove(youngest)
        chosen.append(youngest)
    return chosen


def choose_starts(
    ready: Iterable[Sequence],
    *,
    running: list[Sequence],
    places: int,
    kv_cells: int,
    reach: Callable[[Sequence], int],
) -> list[Sequence]:
    """Who gets one of the places in the batch, oldest first; stops at the first that does not fit.

    `reach`: how many tokens one need not compute if it starts now. One that waits for another's work keeps its place.
    """
    held = [len(sequence.tokens) for sequence in running]
    starts: list[Sequence] = []
    for sequence in sorted(ready, key=lambda s: s.arrival):
        # Only decoding sequences give way, so the others must not run out of cells while this prompt is computed.
        growth = GROWTH_CELLS + len(sequence.tokens) // PREFILL_BESIDE_DECODE
        need = len(sequence.tokens) + growth * len(held)
        if len(held) - len(running) == places or sum(held) + need > kv_cells:
            break
        held.append(len(sequence.tokens))
        if not waits(sequence, [*running, *starts], have=reach(sequence)):
            starts.append(sequence)
    return starts


def choose_group(running: list[Sequence], *, reused: Mapping[str, int], now: int) -> list[Sequence]:
    """The sequences whose next token gets the same deltas (or none), of those whose last turn is longest ago.

    `reused`: as for `choose_chunks`. `now`: the plan's number. One that just got its place counts as served now: a
    stream of newcomers must not pass those that wait.
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


def choose_chunks(
    group: list[Sequence], *, reused: Mapping[str, int], room: int, anyone_decodes: bool, mixed: bool
) -> list[tuple[Sequence, int]]:
    """How many tokens each sequence of the group computes in this step: one for the decoding, the rest for prompts.

    `reused`: by request id, what those that start now need not compute. `room`: tokens of the step. `anyone_decodes`:
    whether prompts must hold back, for this group or another. `mixed`: whether adapters may begin within a piece.
    """
    decoding = sorted((s for s in group if s.state is State.DECODE), key=lambda s: (s.last_plan, s.generated))
    prompts = sorted((s for s in group if s.state is not State.DECODE), key=lambda s: s.arrival)
    # One token at least is the prompts': a step full of decoding sequences must not stop them for good.
    chunks = [(sequence, 1) for sequence in decoding[: room - bool(prompts)]]
    room -= len(chunks)
    if anyone_decodes:
        room = min(room, PREFILL_BESIDE_DECODE)
    for sequence in prompts:
        position = reused.get(sequence.request.id, sequence.computed)
        size = min(room, len(sequence.tokens) - position)
        if not mixed:
            size = min(size, sequence.alike(position))
        if size:
            chunks.append((sequence, size))
        room -= size
    return chunks
