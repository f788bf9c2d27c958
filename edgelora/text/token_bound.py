"""A lower bound on the number of tokens of any text, from the pieces of a vocabulary. Pure.

Every byte of a text is part of exactly one token. So n bytes of some kind, letters for example, take at least n tokens
divided by the most bytes of that kind a single token has. This holds for every kind, and the largest bound counts. It
needs a vocabulary that loses no byte: one in which every byte that UTF-8 can hold is a token of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LOOKED_AT = 1 << 20
"""Maximum characters of a text that are counted by kind: a bound for its beginning holds for all of it."""

_LETTERS = bytes(range(0x41, 0x5B)) + bytes(range(0x61, 0x7B))
_DIGITS = bytes(range(0x30, 0x3A))
_SPACES = bytes(range(0x21)) + b"\x7f"
_BEYOND = bytes(range(0x80, 0x100))
_SIGNS = bytes(sorted(set(range(0x80)) - {*_LETTERS, *_DIGITS, *_SPACES}))
KINDS = (_LETTERS, _DIGITS, _SPACES, _SIGNS, _BEYOND)
_NEVER = {0xC0, 0xC1, *range(0xF5, 0x100)}
"""Bytes that occur in no UTF-8 text."""


@dataclass(frozen=True, slots=True)
class TokenBound:
    longest: int
    """Number of bytes of the longest piece."""
    most: tuple[int, ...]
    """For each of KINDS, the most bytes of it in one piece; 0 where no piece has any."""

    @classmethod
    def of(cls, pieces: Sequence[bytes]) -> TokenBound | None:
        """Return the bound for a vocabulary whose tokens stand for these bytes, control tokens as they are written.

        None where a byte has no token of its own: then a text may lose bytes, and nothing can be said.
        """
        single = {piece[0] for piece in pieces if len(piece) == 1}
        if not single >= set(range(0x100)) - _NEVER:
            return None
        data = np.frombuffer(b"".join(pieces), np.uint8)
        lengths = np.array([len(piece) for piece in pieces if piece])
        starts = np.cumsum(lengths) - lengths
        table = np.zeros((len(KINDS), 256), np.int64)
        for row, kind in zip(table, KINDS, strict=True):
            row[list(kind)] = 1
        most = (int(np.add.reduceat(row[data], starts).max()) for row in table)
        return cls(int(lengths.max()), tuple(most))

    def fewest(self, text: str) -> int:
        """Return a lower bound on the number of tokens of `text`, and of any text that begins with it."""
        data = text[:LOOKED_AT].encode("utf-8", "replace")
        bounds = [-(-len(text) // self.longest)]
        for kind, most in zip(KINDS, self.most, strict=True):
            count = len(data) - len(data.translate(None, kind))
            bounds.append(-(-count // most) if most else 0)
        return max(bounds)
