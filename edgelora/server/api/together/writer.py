"""Writing choices for Together's clients: OpenAI's choices, changed where the clients' types need it. Pure.

The shapes are those of the types in its Python packages 2.42 and 3.1. Fields that these types do not have stay as they
are for all clients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from edgelora.core.events import Candidate, FinishReason, ScoredToken, TextDelta
from edgelora.server.api.openai.chat_writer import ChatWriter
from edgelora.server.api.openai.completions import CompletionWriter
from edgelora.server.generation.choice_writer import ChoiceEnd, Delta, Fields, by_text, chat_logprobs, scored, spelled


@dataclass(slots=True)
class TogetherChatWriter:
    """Writes each call in one chunk, as no field of it may be missing, and one chunk for each token with logprobs."""

    inner: ChatWriter
    _call: dict[str, Any] | None = field(default=None, init=False)
    """The current call, as far as it has been generated."""
    _at: int = field(default=0, init=False)
    """Number of characters of the answer so far."""

    def opening(self) -> Sequence[Delta]:
        return self.inner.opening()

    def more(self, delta: TextDelta) -> Sequence[Delta]:
        at, self._at = self._at, self._at + len(delta.text)
        if self.inner.chat_format.logprobs:
            return _scored(delta, at=at)
        return [joined for part in self.inner.more(delta) for joined in self._joined(part)]

    def closing(self, reason: FinishReason) -> ChoiceEnd:
        ending = self.inner.closing(reason)
        rest = [joined for part in ending.deltas for joined in self._joined(part)]
        return ChoiceEnd(tuple(rest), ending.reason)

    def whole_choice(self, deltas: Sequence[TextDelta], reason: FinishReason) -> ChoiceEnd:
        ending = self.inner.whole_choice(deltas, reason)
        message: Any = ending.deltas[-1].fields["message"]
        if "tool_calls" in message:
            calls = [{"index": index, **call} for index, call in enumerate(message["tool_calls"])]
            message = {**message, "tool_calls": calls}
        return ChoiceEnd((Delta({"message": message}, _all_logprobs(ending, deltas)),), ending.reason)

    def _joined(self, part: Delta) -> list[Delta]:
        """Return the deltas to send now. A call is sent once something else follows it."""
        delta: Any = part.fields["delta"]
        call = delta["tool_calls"][0] if "tool_calls" in delta else None
        if call is not None and self._call is not None and call["index"] == self._call["index"]:
            self._call["function"]["arguments"] += call["function"]["arguments"]
            return []
        before = [] if self._call is None else [Delta({"delta": {"tool_calls": [self._call]}})]
        self._call = call
        return before if call is not None else [*before, part]


@dataclass(slots=True)
class TogetherCompletionWriter:
    """Writes one chunk for each token, which must have logprobs.

    A chunk is sent when the next one is known, because the last chunk has the finish reason as well. Only an answer
    without tokens ends with a chunk without `token`: the token that ended it is not known here.
    """

    inner: CompletionWriter
    _text: str = field(default="", init=False)
    """Text whose token is not complete."""
    _at: int = field(default=0, init=False)
    """The position of `_text` in characters of the answer."""
    _last: Delta | None = field(default=None, init=False)
    """The latest delta, which has not been sent."""

    def opening(self) -> Sequence[Delta]:
        self._text = self.inner.echo
        self._at = -len(self._text)
        return ()

    def more(self, delta: TextDelta) -> Sequence[Delta]:
        self._text += delta.text
        if not delta.tokens:
            return ()
        deltas = [self._delta(text, token) for text, token in by_token(self._text, delta.tokens, at=self._at)]
        if self._last is not None:
            deltas.insert(0, self._last)
        self._text, self._at, self._last = "", self._at + len(self._text), deltas[-1]
        return deltas[:-1]

    def closing(self, reason: FinishReason) -> ChoiceEnd:
        last = self._last or Delta({"text": ""})
        text = f"{last.fields['text']}{self._text}"
        return ChoiceEnd((Delta({**last.fields, "text": text}, last.logprobs),), str(reason))

    def whole_choice(self, deltas: Sequence[TextDelta], reason: FinishReason) -> ChoiceEnd:
        ending = self.inner.whole_choice(deltas, reason)
        return ChoiceEnd((Delta(ending.deltas[-1].fields, _all_logprobs(ending, deltas)),), ending.reason)

    def _delta(self, text: str, token: ScoredToken) -> Delta:
        fields: Fields = {"text": text, "token": _token(token.chosen), **_tops(token)}
        return Delta(fields, None if self.inner.logprobs is None else token.chosen.logprob)


def _scored(delta: TextDelta, *, at: int) -> list[Delta]:
    """Return a delta for each token; text whose token is not complete has one without logprobs."""
    if not delta.tokens:
        return [Delta({"delta": {"content": delta.text}})]
    return [
        Delta({"delta": {"content": text, "token_id": token.chosen.token}, **_tops(token)}, token.chosen.logprob)
        for text, token in by_token(delta.text, delta.tokens, at=at)
    ]


def by_token(text: str, tokens: Sequence[ScoredToken], *, at: int) -> list[tuple[str, ScoredToken]]:
    """Return each token with its part of `text`. `at`: the position of `text` in characters of the answer."""
    cuts = [0, *(min(max(token.start - at, 0), len(text)) for token in tokens[1:]), len(text)]
    return [(text[begin:end], token) for (begin, end), token in zip(pairwise(cuts), tokens, strict=True)]


def _token(candidate: Candidate) -> Fields:
    # Control tokens have no text.
    piece = candidate.piece
    return {"id": candidate.token, "logprob": candidate.logprob, "special": not piece, "text": spelled(piece)}


def _tops(token: ScoredToken) -> Fields:
    return {"top_logprobs": by_text(token)} if token.top else {}


def _all_logprobs(ending: ChoiceEnd, deltas: Sequence[TextDelta]) -> Fields | None:
    """Return the logprobs of a whole answer as lists of all its tokens.

    `top_logprobs` has room for one token only; those of longer answers are in `content` alone.
    """
    given = ending.deltas[-1].logprobs
    if not isinstance(given, dict):
        return None
    tokens = scored(deltas)
    return {
        **given,
        **chat_logprobs(tokens),
        "token_ids": [token.chosen.token for token in tokens],
        "tokens": [spelled(token.chosen.piece) for token in tokens],
        "token_logprobs": [token.chosen.logprob for token in tokens],
        "top_logprobs": by_text(tokens[0]) if len(tokens) == 1 and tokens[0].top else None,
    }
