"""Regular expressions from an adapter's configuration, matched without backtracking.

PEFT hands such expressions to Python's `re`, which can take exponential time on a hostile one, and they come from
files of unknown origin. This owns the part of the syntax that names modules: literals, `.`, classes, `\\d \\w \\s \\b`,
groups, `|`, `* + ? {m,n}` greedy or lazy, `^ $`, lookahead. What it accepts means what it means to `re` (for names
without line ends); the rest (back-references, lookbehind, flags, possessive forms) is refused. The caller's budget
bounds the steps. `pattern_nodes` says how matching works.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from edgelora_converters.peft import pattern_nodes
from edgelora_converters.peft.pattern_nodes import Budget, PatternError

MAX_PATTERN = 2_048  # characters; Unsloth's generated expression has about 300
MAX_NESTING = 32


@dataclass(frozen=True, slots=True)
class Pattern:
    """A parsed expression. Immutable; matching raises PatternError only when the budget is spent."""

    _node: pattern_nodes.Node

    def match(self, name: str, budget: Budget) -> bool:
        """Match as `re.match` does: from the start of `name`, to any end."""
        return self._node(pattern_nodes.Text(name, budget), 1) != 0

    def fullmatch(self, name: str, budget: Budget) -> bool:
        """Match all of `name`, as `re.fullmatch` does."""
        text = pattern_nodes.Text(name, budget)
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

    def alternatives(self) -> pattern_nodes.Node:
        branches = [self.sequence()]
        while self.take("|"):
            branches.append(self.sequence())
        return branches[0] if len(branches) == 1 else pattern_nodes.either(tuple(branches))

    def sequence(self) -> pattern_nodes.Node:
        parts: list[pattern_nodes.Node] = []
        while not self.done and self.peek() not in "|)":
            literal = self.literals()
            parts.append(literal if literal else self.repeated(self.atom()))
        return parts[0] if len(parts) == 1 else pattern_nodes.sequence(tuple(parts))

    def literals(self) -> pattern_nodes.Node | None:
        """Return a run of plain characters as one node; the last one is left where a repetition follows it."""
        run = re.compile(r"[\w\-]{2,}").match(self.expression, self.position)
        if run is None:
            return None
        end = run.end() - 1 if self.expression[run.end() : run.end() + 1] in ("*", "+", "?", "{") else run.end()
        literal = self.expression[self.position : end]
        self.position = end
        return pattern_nodes.literal(literal)

    def atom(self) -> pattern_nodes.Node:
        if self.repetition() != (1, 1):
            raise PatternError(f"there is nothing to repeat before position {self.position}")
        c = self.next()
        if c in ".^$":
            return {".": pattern_nodes.any_character, "^": pattern_nodes.at_start, "$": pattern_nodes.at_end}[c]
        if c == "(":
            return self.group()
        if c == "[":
            return pattern_nodes.character(self.character_class())
        return self.escape() if c == "\\" else pattern_nodes.literal(c)

    def repeated(self, node: pattern_nodes.Node) -> pattern_nodes.Node:
        low, high = self.repetition()
        if (low, high) == (1, 1):
            return node
        self.take("?")
        if node in (pattern_nodes.at_start, pattern_nodes.at_end, pattern_nodes.boundary) or self.repetition() != (
            1,
            1,
        ):
            raise PatternError(f"the repetition before position {self.position} is not supported")
        return pattern_nodes.repeat(node, low, high)

    def repetition(self) -> tuple[int, int | None]:
        """Least and most times; (1, 1) where no repetition is written."""
        for sign, bounds in {"*": (0, None), "+": (1, None), "?": (0, 1)}.items():
            if self.take(sign):
                return bounds
        match = _REPEAT.match(self.expression, self.position)
        if match is None:
            return 1, 1
        self.position = match.end()
        low = int(match[1] or 0)
        high = low if match[2] is None else int(match[3]) if match[3] else None
        if (high is not None and high < low) or (low, high) == (1, 1):  # {1} says nothing, and re forbids {2,1}
            raise PatternError(f"the repetition {match[0]} is not supported")
        return low, high

    def group(self) -> pattern_nodes.Node:
        self._depth += 1
        if self._depth > MAX_NESTING:
            raise PatternError(f"its groups are nested more than {MAX_NESTING} deep")
        wrap = self.group_kind()
        node = self.alternatives()
        if not self.take(")"):
            raise PatternError("there is an unclosed '('")
        self._depth -= 1
        return wrap(node)

    def group_kind(self) -> Callable[[pattern_nodes.Node], pattern_nodes.Node]:
        if self.take("?="):
            return lambda node: pattern_nodes.lookahead(node, positive=True)
        if self.take("?!"):
            return lambda node: pattern_nodes.lookahead(node, positive=False)
        if self.peek() == "?" and not self.take("?:"):
            raise PatternError(f"the group at position {self.position - 1} is of an unsupported kind")
        return lambda node: node

    def escape(self) -> pattern_nodes.Node:
        c = self.next()
        return (
            pattern_nodes.boundary
            if c == "b"
            else pattern_nodes.character(pattern_nodes.category(c))
            if c.lower() in pattern_nodes.CATEGORIES
            else pattern_nodes.literal(self.escaped(c))
        )

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
            if c.lower() in pattern_nodes.CATEGORIES:
                return pattern_nodes.category(c)
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
