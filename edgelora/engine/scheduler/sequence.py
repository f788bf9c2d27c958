"""A live generation, as the scheduler sees it. Only the scheduler changes it."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgelora.core.events import Usage
from edgelora.core.kv import Key
from edgelora.core.request import Request
from edgelora.engine.scheduler.states import LEASED, RUNNING, Move, State, after
from edgelora.engine.speculative.prompt_lookup import PromptLookup


@dataclass(slots=True)
class Sequence:
    request: Request
    arrival: int
    """Its number in the order of arrival; older means smaller."""
    max_tokens: int
    """Tokens of prompt and answer at most: by max_tokens, the context and the KV."""
    state: State = State.WAITING
    tokens: list[int] = field(init=False)
    """Prompt, then what was chosen so far."""
    computed: int = 0
    """Number of `tokens` that are in the KV."""
    cached: int = 0
    """Tokens of the prompt that were never computed for it: they were warm at its start, and at each restart."""
    granted: int = 0
    """When it first got a place, in the order of arrivals and such events; 0 before. Sent back, it keeps its turn."""
    begun: int = 0
    """When its second token was first planned, in the same order; 0 before. Who arrived before that has waited as long,
    or came while the step of its first token ran."""
    id: int | None = None
    """The backend's sequence id; only while running."""
    last_plan: int = -1
    """Number of the plan that last held a chunk of it, for turns; -1 before it got a place."""
    overtaken: int = 0
    """How often a younger request took a lease while this one waited for room in the pool."""
    held: int = 0
    """Plans that it saw pass while it was ready."""
    awaits_prefix: bool = False
    """Its prompt's beginning is being read from disk."""
    prompt_lookup: PromptLookup | None = None
    """The source of drafts; None where nothing is drafted."""
    rejected: tuple[int, ...] = ()
    """Drafted tokens that were not accepted and stand in the KV behind `computed`."""
    drafted: int = 0
    accepted: int = 0
    """Tokens computed as drafts, and of those the ones that came."""

    def __post_init__(self) -> None:
        self.tokens = list(self.request.prompt)

    @property
    def key(self) -> Key:
        """Return what its KV depends on besides the tokens."""
        return frozenset(use.key for use in self.request.adapters)

    def acting(self, position: int) -> frozenset[tuple[tuple[str, str], float]]:
        """Return the adapters, with their weights, whose delta that position gets."""
        return frozenset((use.ref.key, use.weight) for use in self.request.adapters if use.start <= position)

    def alike(self, position: int) -> int:
        """Return how many tokens from `position` on get the deltas of the same adapters as that one."""
        starts = [use.start for use in self.request.adapters if use.start > position]
        return min(starts, default=len(self.tokens)) - position

    @property
    def all_begun(self) -> bool:
        """Whether its next tokens get the deltas of the same adapters, however many there are."""
        return all(use.start <= self.computed for use in self.request.adapters)

    @property
    def generated(self) -> int:
        return len(self.tokens) - len(self.request.prompt)

    @property
    def pending(self) -> int:
        """Tokens still to compute before the next one can be chosen."""
        return len(self.tokens) - self.computed

    @property
    def left(self) -> int:
        """Tokens the answer may still have."""
        return self.max_tokens - len(self.tokens)

    @property
    def in_kv(self) -> list[int]:
        """All that its KV holds."""
        return [*self.tokens[: self.computed], *self.rejected]

    @property
    def usage(self) -> Usage:
        return Usage(len(self.request.prompt), self.generated, self.cached, self.drafted, self.accepted)

    @property
    def running(self) -> bool:
        return self.state in RUNNING

    @property
    def leased(self) -> bool:
        return self.state in LEASED

    def compute(self, count: int) -> None:
        """So many more of its tokens are in the KV."""
        self.computed += count
        if self.prompt_lookup is not None and len(self.prompt_lookup) < self.computed:
            self.prompt_lookup.read(self.tokens[len(self.prompt_lookup) : self.computed])

    def extend(self, chosen: list[int], draft: tuple[int, ...]) -> None:
        """The answer goes on with `chosen`, after a step that computed `draft` behind its tokens.

        All of `chosen` but its last token are the draft's first ones; the last may be the next of them.
        """
        kept = sum(token == drafted for token, drafted in zip(chosen, draft, strict=False))
        self.tokens += chosen
        self.computed += kept
        self.rejected = draft[kept:]
        self.drafted += len(draft)
        self.accepted += kept
        if self.prompt_lookup is not None:
            for token in chosen:
                self.prompt_lookup.follow(token)

    def move(self, move: Move) -> None:
        """Raises IllegalMove."""
        self.state = after(self.state, move)
