"""The parts of a parsed expression: each maps the set of positions where it may begin to the set where it may end.

Sets are integers, bit i standing for position i. Repetition runs to a fixed point; nothing backtracks. Owns matching;
`pattern` owns the syntax.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache


class PatternError(ValueError):
    """The expression is invalid, outside the supported syntax, or too costly. The message is for people."""


class Budget:
    """Node visits left, over any number of matches. An ordinary match takes under a hundred."""

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def spend(self) -> None:
        self._steps -= 1
        if self._steps < 0:
            raise PatternError("it takes too long to match")


class Text:
    """The name being matched, and whose budget pays."""

    def __init__(self, text: str, budget: Budget) -> None:
        self.text = text
        self.end = 1 << len(text)
        self.spend = budget.spend


Node = Callable[[Text, int], int]
"""Maps a set of match beginnings to the set of ends."""

CATEGORIES: dict[str, Callable[[str], bool]] = {
    "d": str.isdecimal,
    "w": lambda c: c.isalnum() or c == "_",
    "s": str.isspace,
}
"""Predicates for the character classes \\d, \\w and \\s."""


def category(c: str) -> Callable[[str], bool]:
    test = CATEGORIES[c.lower()]
    return test if c.islower() else lambda other: not test(other)


def literal(expected: str) -> Node:
    def node(text: Text, starts: int) -> int:
        text.spend()
        ends = 0
        while starts:
            low = starts & -starts
            if text.text.startswith(expected, low.bit_length() - 1):
                ends |= low << len(expected)
            starts ^= low
        return ends

    return node


def character(test: Callable[[str], bool]) -> Node:
    def node(text: Text, starts: int) -> int:
        text.spend()
        return (starts & _where(test, text.text)) << 1

    return node


@lru_cache(maxsize=4096)
def _where(test: Callable[[str], bool], text: str) -> int:
    """Return the positions whose character passes the test."""
    return sum(1 << i for i, c in enumerate(text) if test(c))


def sequence(nodes: tuple[Node, ...]) -> Node:
    def node(text: Text, starts: int) -> int:
        for step in nodes:
            if not starts:
                break
            starts = step(text, starts)
        return starts

    return node


def either(branches: tuple[Node, ...]) -> Node:
    def node(text: Text, starts: int) -> int:
        ends = 0
        for branch in branches:
            ends |= branch(text, starts)
        return ends

    return node


def repeat(body: Node, low: int, high: int | None) -> Node:
    def node(text: Text, starts: int) -> int:
        # Positions only move forward, so that after as many rounds as there are positions nothing new can come.
        rounds = len(text.text) + 1
        for _ in range(min(low, rounds)):
            text.spend()
            before, starts = starts, body(text, starts)
            if starts == before:
                break
        ends = starts
        for _ in range(rounds if high is None else min(high - low, rounds)):
            text.spend()
            starts = body(text, starts) & ~ends
            if not starts:
                break
            ends |= starts
        return ends

    return node


def lookahead(body: Node, *, positive: bool) -> Node:
    def node(text: Text, starts: int) -> int:
        return sum(
            1 << i for i in range(starts.bit_length()) if starts >> i & 1 and bool(body(text, 1 << i)) == positive
        )

    return node


any_character = character(lambda c: c != "\n")


def at_start(text: Text, starts: int) -> int:
    return starts & 1


def at_end(text: Text, starts: int) -> int:
    return starts & text.end


def boundary(text: Text, starts: int) -> int:
    word = [False, *(CATEGORIES["w"](c) for c in text.text), False]
    return starts & sum(1 << i for i in range(len(text.text) + 1) if word[i] != word[i + 1])
