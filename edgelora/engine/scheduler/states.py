"""The states of a request and the table of all legal moves between them; any other move is a bug."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    WAITING = "waiting"
    """Holds nothing."""
    LOADING = "loading"
    """Holds a lease on a reserved slot; its adapter is being read."""
    READY = "ready"
    """Holds its lease; waits for a place in the batch."""
    PREFILL = "prefill"
    """Holds its lease, a sequence id and KV cells; its prompt is being computed."""
    DECODE = "decode"
    """Holds the same as in prefill; gains one token or more each step."""
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Move(StrEnum):
    ADMIT_RESIDENT = "admit, adapter resident"
    ADMIT_ABSENT = "admit, adapter absent"
    LOADED = "loaded"
    LOAD_FAILED = "load failed"
    SCHEDULED = "scheduled"
    PROMPT_DONE = "prompt done"
    ENDED = "stop or length"
    PREEMPTED = "preempted"
    STEP_FAILED = "step failed"
    CANCELLED = "cancel"


LEASED = frozenset({State.LOADING, State.READY, State.PREFILL, State.DECODE})
RUNNING = frozenset({State.PREFILL, State.DECODE})
LIVE = LEASED | {State.WAITING}

TRANSITIONS: dict[tuple[State, Move], State] = {
    (State.WAITING, Move.ADMIT_RESIDENT): State.READY,
    (State.WAITING, Move.ADMIT_ABSENT): State.LOADING,
    (State.LOADING, Move.LOADED): State.READY,
    (State.LOADING, Move.LOAD_FAILED): State.FAILED,
    (State.READY, Move.SCHEDULED): State.PREFILL,
    (State.PREFILL, Move.PROMPT_DONE): State.DECODE,
    (State.PREFILL, Move.PREEMPTED): State.WAITING,
    (State.PREFILL, Move.STEP_FAILED): State.FAILED,
    (State.DECODE, Move.ENDED): State.FINISHED,
    (State.DECODE, Move.PREEMPTED): State.WAITING,
    (State.DECODE, Move.STEP_FAILED): State.FAILED,
    **{(state, Move.CANCELLED): State.CANCELLED for state in LIVE},
}


class IllegalMove(RuntimeError):
    """A bug in the scheduler: no request or file can cause it."""


def after(state: State, move: Move) -> State:
    try:
        return TRANSITIONS[state, move]
    except KeyError:
        raise IllegalMove(f"{state} -{move}->") from None
