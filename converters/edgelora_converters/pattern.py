"""Regular expressions from an adapter's configuration, matched without backtracking.

PEFT hands such expressions to Python's `re`, which can take exponential time on a hostile one, and they come from
files of unknown origin. This owns the part of the syntax that names modules: literals, `.`, classes, `\\d \\w \\s \\b`,
groups, `|`, `* + ? {m,n}` greedy or lazy, `^ $`, lookahead. What it accepts means what it means to `re` (for names
without line ends); the rest (back-references, lookbehind, flags, possessive forms) is refused.
A node maps the set of positions where it may begin to the set where it may end; sets are integers, bit i for
position i. Repetition runs to a fixed point, and the caller's budget bounds the steps.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

MAX_PATTERN = 2_048  # characters; Unsloth's generated expression has about 300
MAX_NESTING = 32


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


class _Text:
    """The name being matched."""

    def __init__(self, text: str, budget: Budget) -> None:
        self.text = text
        self.end = 1 << len(text)
        self.spend = budget.spend


_Node = Callable[[_Text, int], int]


@dataclass(frozen=True, slots=True)
class Pattern:
    """A parsed expression. Immutable; matching raises PatternError only when the budget is spent."""

    _node: _Node

    def match(self, name: str, budget: Budget) -> bool:
        """As `re.match`: from the start of `name` to anywhere."""
        return self._node(_Text(name, budget), 1) != 0

    def fullmatch(self, name: str, budget: Budget) -> bool:
        """As `re.fullmatch`."""
        text = _Text(name, budget)
        return self._node(text, 1) & text.end != 0


@lru_cache(maxsize=4096)
def compile_pattern(expression: str) -> Pattern:
    """Parse an expression. Raises PatternError."""
    if len(expression) > MAX_PATTERN:
        raise PatternError(f"it has {len(expression)} characters, more than {MAX_PATTERN}")
    parser = _Parser(expression)
    node = parser.alternatives()
    if not parser.done:
        raise PatternError(f"there is an unmatched ')' at position {parser.position}")
    return Pattern(node)


_REPEAT = re.compile(r"\{(?!\})(\d{0,4})(?:(,)(\d{0,4}))?\}")
_CATEGORIES = {"d": str.isdecimal, "w": lambda c: c.isalnum() or c == "_", "s": str.isspace}


class _Parser:
    def __init__(self, expression: str) -> None:
        self.expression = expression
        self.position = 0
        self._depth = 0

    @property
    def done(self) -> bool:
        return self.position == len(self.expression)

    def peek(self) -> str:
        return self.expression[self.position : self.position + 1]

    def take(self, text: str) -> bool:
        if not self.expression.startswith(text, self.position):
            return False
        self.position += len(text)
        return True

    def next(self) -> str:
        if self.done:
            raise PatternError("it ends too early")
        self.position += 1
        return self.expression[self.position - 1]

    def alternatives(self) -> _Node:
        branches = [self.sequence()]
        while self.take("|"):
            branches.append(self.sequence())
        return branches[0] if len(branches) == 1 else _either(tuple(branches))

    def sequence(self) -> _Node:
        nodes: list[_Node] = []
        while not self.done and self.peek() not in "|)":
            literal = self.literals()
            nodes.append(literal if literal else self.repeated(self.atom()))
        return nodes[0] if len(nodes) == 1 else _sequence(tuple(nodes))

    def literals(self) -> _Node | None:
        """A run of plain characters as one node; the last one is left where a repetition follows it."""
        run = re.compile(r"[\w\-]{2,}").match(self.expression, self.position)
        if run is None:
            return None
        end = run.end() - 1 if self.expression[run.end() : run.end() + 1] in ("*", "+", "?", "{") else run.end()
        literal = self.expression[self.position : end]
        self.position = end
        return _literal(literal)

    def atom(self) -> _Node:
        if self.repetition() != (1, 1):
            raise PatternError(f"there is nothing to repeat before position {self.position}")
        c = self.next()
        simple = {".": _character(lambda c: c != "\n"), "^": _at_start, "$": _at_end}
        if c in simple:
            return simple[c]
        if c == "(":
            return self.group()
        if c == "[":
            return _character(self.character_class())
        return self.escape() if c == "\\" else _literal(c)

    def repeated(self, node: _Node) -> _Node:
        low, high = self.repetition()
        if (low, high) == (1, 1):
            return node
        self.take("?")
        if node in (_at_start, _at_end, _boundary) or self.repetition() != (1, 1):
            raise PatternError(f"the repetition before position {self.position} is not supported")
        return _repeat(node, low, high)

    def repetition(self) -> tuple[int, int | None]:
        """Least and most times; (1, 1) where no repetition is written."""
        for sign, bounds in {"*": (0, None), "+": (1, None), "?": (0, 1)}.items():
            if self.take(sign):
                return bounds
        found = _REPEAT.match(self.expression, self.position)
        if found is None:
            return 1, 1
        self.position = found.end()
        low = int(found[1] or 0)
        high = low if found[2] is None else int(found[3]) if found[3] else None
        if (high is not None and high < low) or (low, high) == (1, 1):  # {1} says nothing, and re forbids {2,1}
            raise PatternError(f"the repetition {found[0]} is not supported")
        return low, high

    def group(self) -> _Node:
        self._depth += 1
        if self._depth > MAX_NESTING:
            raise PatternError(f"its groups are nested more than {MAX_NESTING} deep")
        wrap = self.group_kind()
        node = self.alternatives()
        if not self.take(")"):
            raise PatternError("there is an unclosed '('")
        self._depth -= 1
        return wrap(node)

    def group_kind(self) -> Callable[[_Node], _Node]:
        if self.take("?="):
            return lambda node: _lookahead(node, wanted=True)
        if self.take("?!"):
            return lambda node: _lookahead(node, wanted=False)
        if self.peek() == "?" and not self.take("?:"):
            raise PatternError(f"the group at position {self.position - 1} is of an unsupported kind")
        return lambda node: node

    def escape(self) -> _Node:
        c = self.next()
        if c == "b":
            return _boundary
        return _character(self.category(c)) if c.lower() in _CATEGORIES else _literal(self.escaped(c))

    def category(self, c: str) -> Callable[[str], bool]:
        test = _CATEGORIES[c.lower()]
        return test if c.islower() else lambda other: not test(other)

    def escaped(self, c: str) -> str:
        if c.isalnum() or c == "_" or not c.isascii():
            raise PatternError(f"the escape \\{c} is not supported")
        return c

    def character_class(self) -> Callable[[str], bool]:
        negated = self.take("^")
        tests: list[Callable[[str], bool]] = []
        while not tests or self.peek() != "]":
            tests.append(self.class_member())
        self.position += 1
        return lambda c: any(test(c) for test in tests) != negated

    def class_member(self) -> Callable[[str], bool]:
        c = self.next()
        if c == "\\":
            c = self.next()
            if c.lower() in _CATEGORIES:
                return self.category(c)
            c = self.escaped(c)
        elif c == "[" or (c in "-&~|" and self.peek() == c):
            raise PatternError("set operations within a class are not supported")
        if self.peek() != "-" or self.expression[self.position + 1 : self.position + 2] in ("]", ""):
            return lambda other: other == c
        self.position += 1
        last = self.next()
        last = self.escaped(self.next()) if last == "\\" else last
        if last < c:
            raise PatternError(f"the range {c}-{last} runs backwards")
        return lambda other: c <= other <= last


def _literal(literal: str) -> _Node:
    def node(text: _Text, starts: int) -> int:
        text.spend()
        ends = 0
        while starts:
            low = starts & -starts
            if text.text.startswith(literal, low.bit_length() - 1):
                ends |= low << len(literal)
            starts ^= low
        return ends

    return node


def _character(test: Callable[[str], bool]) -> _Node:
    def node(text: _Text, starts: int) -> int:
        text.spend()
        return (starts & sum(1 << i for i, c in enumerate(text.text) if starts >> i & 1 and test(c))) << 1

    return node


def _sequence(nodes: tuple[_Node, ...]) -> _Node:
    def node(text: _Text, starts: int) -> int:
        for step in nodes:
            if not starts:
                break
            starts = step(text, starts)
        return starts

    return node


def _either(branches: tuple[_Node, ...]) -> _Node:
    def node(text: _Text, starts: int) -> int:
        ends = 0
        for branch in branches:
            ends |= branch(text, starts)
        return ends

    return node


def _repeat(body: _Node, low: int, high: int | None) -> _Node:
    def node(text: _Text, starts: int) -> int:
        # Positions only move forward, so that after as many rounds as there are positions nothing new can come.
        rounds = len(text.text) + 1
        for _ in range(min(low, rounds)):
            starts = body(text, starts)
        ends = starts
        for _ in range(rounds if high is None else min(high - low, rounds)):
            starts = body(text, starts) & ~ends
            if not starts:
                break
            ends |= starts
        return ends

    return node


def _lookahead(body: _Node, *, wanted: bool) -> _Node:
    def node(text: _Text, starts: int) -> int:
        return sum(1 << i for i in range(starts.bit_length()) if starts >> i & 1 and bool(body(text, 1 << i)) == wanted)

    return node


def _at_start(text: _Text, starts: int) -> int:
    return starts & 1


def _at_end(text: _Text, starts: int) -> int:
    return starts & text.end


def _boundary(text: _Text, starts: int) -> int:
    word = [False, *(_CATEGORIES["w"](c) for c in text.text), False]
    return starts & sum(1 << i for i in range(len(text.text) + 1) if word[i] != word[i + 1])
