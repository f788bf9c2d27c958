"""Cutting a text at its special tokens, in time linear in the text.

llama.cpp cuts texts itself (`tokenizer_st_partition` in llama-vocab.cpp), but counts through a linked list at every
token that it finds: 60,000 of them take seconds, and 400,000 minutes. So a text is cut here, and llama.cpp gets the
texts in between, which it tokenizes independently of one another. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Some of a vocabulary's tokens by the bytes that spell them."""

    ids: Mapping[bytes, int]
    pattern: re.Pattern[bytes] | None
    """Matches any of them; None if there are none."""

    @classmethod
    def of(cls, tokens: Iterable[tuple[int, bytes]]) -> Self | None:
        """Return the tokens, or None if the order in which they are looked for matters.

        llama.cpp looks for the longest token in the whole text first, then for the next. The result is the same from
        left to right if no two occurrences can overlap: no token contains another, and none begins as another ends.
        """
        listed = list(tokens)
        ids = {text: token for token, text in listed}
        if b"" in ids or len(ids) < len(listed) or _overlap(ids):
            return None
        return cls(ids, re.compile(_any_of(sorted(ids))) if ids else None)

    def cut(self, text: bytes) -> Iterator[int | bytes]:
        """Yield the parts of a text in order: the ids of special tokens, and the texts between them, never empty."""
        at = 0
        for match in self.pattern.finditer(text) if self.pattern is not None else ():
            if match.start() > at:
                yield text[at : match.start()]
            yield self.ids[match[0]]
            at = match.end()
        if at < len(text):
            yield text[at:]


def _overlap(tokens: Iterable[bytes]) -> bool:
    """Return whether two occurrences of tokens, or of one token, can share a byte."""
    whole = set(tokens)
    beginnings = {text[:end] for text in whole for end in range(1, len(text))}
    for text in whole:
        ends = {text[start:] for start in range(1, len(text))}
        inside = {text[start:end] for start in range(len(text)) for end in range(start + 1, len(text) + 1)} - {text}
        if ends & beginnings or inside & whole:
            return True
    return False


def _any_of(tokens: list[bytes]) -> bytes:
    """Return a pattern that matches any of these sorted, distinct texts, none the beginning of another.

    Common beginnings are shared, so a text that only looks like a token costs no more than its own length.
    """
    if len(tokens) == 1:
        return re.escape(tokens[0])
    branches: dict[bytes, list[bytes]] = {}
    for text in tokens:
        branches.setdefault(text[:1], []).append(text[1:])
    return b"(?:" + b"|".join(re.escape(first) + _any_of(rest) for first, rest in branches.items()) + b")"
