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
    """Number of the request in the order of arrival; older means smaller."""
    max_tokens: int
    """Maximum tokens of prompt and answer, limited by max_tokens, the context and the KV."""
    state: State = State.WAITING
    tokens: list[int] = field(init=False)
    """Tokens of the prompt, then the tokens chosen so far."""
    computed: int = 0
    """Number of `tokens` that are in the KV."""
    cached: int = 0
    """Number of prompt tokens taken from cached KV, at the start and at each restart."""
    granted: int = 0
    """Ticket of its first start, 0 before. A preempted request keeps it, and so its turn."""
    begun: int = 0
    """Ticket of the first plan of its second token, 0 before.

    A request that arrived earlier has waited as long, or came while the step of the first token ran.
    """
    id: int | None = None
    """The backend's sequence id; None unless running."""
    last_plan: int = -1
    """Number of the last plan that held a chunk of it, for turns; -1 before it started."""
    overtaken: int = 0
    """Number of times a younger request took a lease while this one waited for room in the pool."""
    held: int = 0
    """Number of plans that passed while it was ready."""
    awaits_prefix: bool = False
    """True while a prefix of its prompt is being read from disk."""
    prompt_lookup: PromptLookup | None = None
    """The source of drafts; None if nothing is drafted."""
    rejected: tuple[int, ...] = ()
    """Drafted tokens that were rejected and are in the KV behind `computed`."""
    drafted: int = 0
    accepted: int = 0
    """Number of draft tokens accepted, out of the `drafted` ones that were computed."""

    def __post_init__(self) -> None:
        self.tokens = list(self.request.prompt)

    @property
    def key(self) -> Key:
        """The adapters that its KV depends on besides the tokens."""
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
        """True if all its next tokens get the deltas of the same adapters."""
        return all(use.start <= self.computed for use in self.request.adapters)

    @property
    def generated(self) -> int:
        return len(self.tokens) - len(self.request.prompt)

    @property
    def pending(self) -> int:
        """Number of tokens to compute before the next one can be chosen."""
        return len(self.tokens) - self.computed

    @property
    def left(self) -> int:
        """Number of tokens by which the answer may still grow."""
        return self.max_tokens - len(self.tokens)

    @property
    def in_kv(self) -> list[int]:
        """All tokens in its KV, rejected drafts included."""
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
        """Record that `count` more of its tokens are in the KV."""
        self.computed += count
        if self.prompt_lookup is not None and len(self.prompt_lookup) < self.computed:
            self.prompt_lookup.read(self.tokens[len(self.prompt_lookup) : self.computed])

    def extend(self, chosen: list[int], draft: tuple[int, ...]) -> None:
        """Append `chosen` to the answer, after a step that computed `draft` behind its tokens.

        All of `chosen` except the last token are the draft's first ones; the last may be the next of them.
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
        """Change the state. Raises IllegalMove."""
        self.state = after(self.state, move)
