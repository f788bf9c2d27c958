"""How a choice is worded for Together's clients: over OpenAI's wording, what their types want otherwise.

Pure. Shapes from the types of its Python packages 2.42 and 3.1. What is beyond their types stays as it is for
everybody: they keep fields that they do not know.
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
    """Calls in one piece each, as no field of a call may be missing; a chunk for each token that is scored."""

    inner: ChatWriter
    _call: dict[str, Any] | None = field(default=None, init=False)
    """What is known of a call that has not ended."""
    _at: int = field(default=0, init=False)
    """Characters of the answer that were told."""

    def opening(self) -> Sequence[Delta]:
        return self.inner.opening()

    def more(self, delta: TextDelta) -> Sequence[Delta]:
        at, self._at = self._at, self._at + len(delta.text)
        if self.inner.chat_format.logprobs:
            return _scored(delta, at=at)
        return [ended for said in self.inner.more(delta) for ended in self._ended(said)]

    def closing(self, reason: FinishReason) -> ChoiceEnd:
        ending = self.inner.closing(reason)
        told = [ended for said in ending.said for ended in self._ended(said)]
        return ChoiceEnd(tuple(told), ending.reason)

    def whole(self, deltas: Sequence[TextDelta], reason: FinishReason) -> ChoiceEnd:
        ending = self.inner.whole(deltas, reason)
        message: Any = ending.said[-1].fields["message"]
        if "tool_calls" in message:
            calls = [{"index": index, **call} for index, call in enumerate(message["tool_calls"])]
            message = {**message, "tool_calls": calls}
        return ChoiceEnd((Delta({"message": message}, _whole(ending, deltas)),), ending.reason)

    def _ended(self, said: Delta) -> list[Delta]:
        """What may be told now: nothing of a call before something else follows it."""
        delta: Any = said.fields["delta"]
        call = delta["tool_calls"][0] if "tool_calls" in delta else None
        if call is not None and self._call is not None and call["index"] == self._call["index"]:
            self._call["function"]["arguments"] += call["function"]["arguments"]
            return []
        before = [] if self._call is None else [Delta({"delta": {"tool_calls": [self._call]}})]
        self._call = call
        return before if call is not None else [*before, said]


@dataclass(slots=True)
class TogetherCompletionWriter:
    """A chunk for each token, which must be scored; it waits for the next, as there is none for an end by itself.

    Only of an answer without tokens does the end stand alone, without a `token`: which one ended it is not known here.
    """

    inner: CompletionWriter
    _text: str = field(default="", init=False)
    """Shown, and part of a token that is not."""
    _at: int = field(default=0, init=False)
    """Where `_text` begins, in characters of the answer."""
    _last: Delta | None = field(default=None, init=False)

    def opening(self) -> Sequence[Delta]:
        self._text = self.inner.echo
        self._at = -len(self._text)
        return ()

    def more(self, delta: TextDelta) -> Sequence[Delta]:
        self._text += delta.text
        if not delta.tokens:
            return ()
        now = [self._said(text, one) for text, one in by_token(self._text, delta.tokens, at=self._at)]
        told = now if self._last is None else [self._last, *now]
        self._text, self._at, self._last = "", self._at + len(self._text), told[-1]
        return told[:-1]

    def closing(self, reason: FinishReason) -> ChoiceEnd:
        last = self._last or Delta({"text": ""})
        text = f"{last.fields['text']}{self._text}"
        return ChoiceEnd((Delta({**last.fields, "text": text}, last.logprobs),), str(reason))

    def whole(self, deltas: Sequence[TextDelta], reason: FinishReason) -> ChoiceEnd:
        ending = self.inner.whole(deltas, reason)
        return ChoiceEnd((Delta(ending.said[-1].fields, _whole(ending, deltas)),), ending.reason)

    def _said(self, text: str, one: ScoredToken) -> Delta:
        asked = self.inner.logprobs is not None
        fields: Fields = {"text": text, "token": _token(one.chosen), **_tops(one)}
        return Delta(fields, one.chosen.logprob if asked else None)


def _scored(delta: TextDelta, *, at: int) -> list[Delta]:
    """Text of which no token is shown to its end yet has a chunk without scores."""
    if not delta.tokens:
        return [Delta({"delta": {"content": delta.text}})]
    return [
        Delta({"delta": {"content": text, "token_id": one.chosen.token}, **_tops(one)}, one.chosen.logprob)
        for text, one in by_token(delta.text, delta.tokens, at=at)
    ]


def by_token(text: str, tokens: Sequence[ScoredToken], *, at: int) -> list[tuple[str, ScoredToken]]:
    """`text` taken apart among its tokens. `at`: where it begins, in characters of the answer."""
    cuts = [0, *(min(max(one.start - at, 0), len(text)) for one in tokens[1:]), len(text)]
    return [(text[begin:end], one) for (begin, end), one in zip(pairwise(cuts), tokens, strict=True)]


def _token(one: Candidate) -> Fields:
    """Control tokens are those that are nothing in a text."""
    return {"id": one.token, "logprob": one.logprob, "special": not one.piece, "text": spelled(one.piece)}


def _tops(one: ScoredToken) -> Fields:
    return {"top_logprobs": by_text(one)} if one.top else {}


def _whole(ending: ChoiceEnd, deltas: Sequence[TextDelta]) -> Fields | None:
    """Lists of all tokens. `top_logprobs` has room for those of a single one: else they stand in `content` alone."""
    given = ending.said[-1].logprobs
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
