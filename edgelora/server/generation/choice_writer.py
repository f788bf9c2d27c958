"""How a choice of an answer is worded, by either API: from its events to what stands in a chunk or in the whole.

Pure. A `ChoiceWriter` follows one choice; the names around it are `sse.py`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from edgelora.core.events import Candidate, FinishReason, ScoredToken, TextDelta

Fields = dict[str, object]


@dataclass(frozen=True, slots=True)
class Delta:
    """One chunk's choice, or a whole answer's."""

    fields: Fields
    logprobs: Fields | float | None = None


@dataclass(frozen=True, slots=True)
class ChoiceEnd:
    said: tuple[Delta, ...]
    """The last of them stands beside the reason."""
    reason: str


class ChoiceWriter(Protocol):
    def opening(self) -> Sequence[Delta]:
        """What stands before the first text of a stream."""
        ...

    def more(self, delta: TextDelta) -> Sequence[Delta]: ...

    def closing(self, reason: FinishReason) -> ChoiceEnd: ...

    def whole(self, deltas: Sequence[TextDelta], reason: FinishReason) -> ChoiceEnd:
        """The whole answer at once, instead of all the others."""
        ...


def scored(deltas: Sequence[TextDelta]) -> list[ScoredToken]:
    return [token for delta in deltas for token in delta.tokens]


def text_of(deltas: Sequence[TextDelta]) -> str:
    return "".join(delta.text for delta in deltas)


def spelled(piece: bytes) -> str:
    """A token's text; bytes that are no text by themselves as OpenAI spells them."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


def chat_logprobs(tokens: Sequence[ScoredToken]) -> Fields:
    content = [
        {**_candidate(token.chosen), "top_logprobs": [_candidate(other) for other in token.top]} for token in tokens
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(tokens: Sequence[ScoredToken], *, tops: bool) -> Fields:
    """`tops`: whether likeliest tokens were asked for. Offsets are in characters of the answer."""
    return {
        "tokens": [spelled(token.chosen.piece) for token in tokens],
        "token_logprobs": [token.chosen.logprob for token in tokens],
        "top_logprobs": [by_text(token) for token in tokens] if tops else None,
        "text_offset": [token.start for token in tokens],
    }


def _candidate(one: Candidate) -> Fields:
    return {"token": spelled(one.piece), "logprob": one.logprob, "bytes": list(one.piece) or None}


def by_text(token: ScoredToken) -> dict[str, float]:
    """The likeliest tokens by their texts, and the chosen one, often among them. Of one text, the likeliest."""
    found: dict[str, float] = {}
    for one in (*token.top, token.chosen):
        found.setdefault(spelled(one.piece), one.logprob)
    return found
