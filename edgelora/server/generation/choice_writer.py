"""Writers of one choice of an answer: from the engine's events to the fields of a chunk or of a whole reply.

Pure. The fields around the choice are written by sse.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from edgelora.core.events import Candidate, FinishReason, ScoredToken, TextDelta

Fields = dict[str, object]


@dataclass(frozen=True, slots=True)
class Delta:
    """The fields of one choice, in a chunk or in a whole reply."""

    fields: Fields
    logprobs: Fields | float | None = None


@dataclass(frozen=True, slots=True)
class ChoiceEnd:
    """The last deltas of a choice, and its finish reason."""

    deltas: tuple[Delta, ...]
    """Never empty. The last one is sent with the finish reason."""
    reason: str


class ChoiceWriter(Protocol):
    def opening(self) -> Sequence[Delta]:
        """Return the deltas before the first text of a stream."""
        ...

    def more(self, delta: TextDelta) -> Sequence[Delta]:
        """Return the deltas for more text of a stream."""
        ...

    def closing(self, reason: FinishReason) -> ChoiceEnd:
        """Return the end of a stream."""
        ...

    def whole_choice(self, deltas: Sequence[TextDelta], reason: FinishReason) -> ChoiceEnd:
        """Return a whole answer, which is not streamed. None of the other methods is called then."""
        ...


def scored(deltas: Sequence[TextDelta]) -> list[ScoredToken]:
    return [token for delta in deltas for token in delta.tokens]


def text_of(deltas: Sequence[TextDelta]) -> str:
    return "".join(delta.text for delta in deltas)


def spelled(piece: bytes) -> str:
    """Return a token's text; bytes that are no text by themselves are escaped as OpenAI escapes them."""
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
    """`tops`: whether the request asks for the likeliest tokens. Offsets are in characters of the answer."""
    return {
        "tokens": [spelled(token.chosen.piece) for token in tokens],
        "token_logprobs": [token.chosen.logprob for token in tokens],
        "top_logprobs": [by_text(token) for token in tokens] if tops else None,
        "text_offset": [token.start for token in tokens],
    }


def _candidate(candidate: Candidate) -> Fields:
    piece = candidate.piece
    return {"token": spelled(piece), "logprob": candidate.logprob, "bytes": list(piece) or None}


def by_text(token: ScoredToken) -> dict[str, float]:
    """Return the logprobs of the likeliest tokens and of the chosen one by text; of equal texts, the likeliest."""
    logprobs: dict[str, float] = {}
    for candidate in (*token.top, token.chosen):
        logprobs.setdefault(spelled(candidate.piece), candidate.logprob)
    return logprobs
