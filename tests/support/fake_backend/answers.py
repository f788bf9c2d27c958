"""How far a scripted answer was said, and how an adapter's weight and start show in what is said. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence


def mark(weight: float, start: int) -> bytes:
    return (b"" if weight == 1.0 else b"*%g" % weight) + (b"" if start == 0 else b"@%d" % start)


def said(answer: bytes, tokens: Sequence[int]) -> int:
    """How much of `answer` stands at the end of `tokens`. Stateless, so that a preempted sequence goes on rightly."""
    # As text of one character a token: comparing strings is fast, and control tokens equal no byte.
    spoken, whole = "".join(map(chr, tokens[-len(answer) :])), answer.decode("latin-1")
    return next(n for n in range(len(answer), -1, -1) if spoken.endswith(whole[:n]))
