"""Typed reading of a parsed configuration, field by field, gathering what is wrong. Owns no field's meaning."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from edgelora_converters.lora.adapter import MAX_RANK
from edgelora_converters.peft.pattern import compile_pattern
from edgelora_converters.peft.pattern_nodes import PatternError
from edgelora_converters.peft.problems import Problems
from edgelora_models.files import quoted

MAX_PATTERNS = 1_024
"""Entries of rank_pattern or alpha_pattern. EVA writes one per module: 560 at 80 layers."""
MAX_ALPHA = 1e6
MAX_LIST = 4_096
PLAIN_KEY = re.compile(r"[\w.-]{1,256}")
"""A pattern's key without anything but names and dots (which still match any character)."""

WRONG = "adapter_config"
"""The code of a value that no such field can have."""
_FIX = "Correct it, or save the adapter again with PEFT."


def shown(value: Any) -> str:
    """Format a value from the file for a message: one line of ASCII JSON, cut."""
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:80] + "..."


def is_off(value: Any) -> bool:
    """Return whether a field's value turns its feature off."""
    return value is None or value is False or value in ("", [], {})


class Fields:
    """A configuration's fields. What cannot be read is refused by name, and reads as its harmless default."""

    def __init__(self, fields: Mapping[str, Any], problems: Problems) -> None:
        self.fields = fields
        self.problems = problems
        self.taken: set[str] = set()

    def take(self, name: str) -> Any:
        """Return a field's value, None where it is absent, and mark it as accounted for."""
        self.taken.add(name)
        return self.fields.get(name)

    def refuse(self, name: str, what: str, remedy: str = _FIX, *, code: str = WRONG) -> None:
        self.problems.add(code, name, what, remedy)

    def flag(self, name: str) -> bool:
        value = self.take(name)
        if value is not None and not isinstance(value, bool):
            self.refuse(name, f"{shown(value)} is neither true nor false")
        return value is True

    def count(self, name: str, value: Any, *, limit: int = MAX_RANK) -> int:
        if type(value) is int and 1 <= value <= limit:
            return value
        self.refuse(name, f"{shown(value)} is not a whole number from 1 to {limit}")
        return 1

    def number(self, name: str, value: Any) -> float:
        # A huge whole number has no float; comparing it with one is exact.
        if type(value) in (int, float) and -MAX_ALPHA <= value <= MAX_ALPHA and math.isfinite(value):
            return float(value)
        self.refuse(name, f"{shown(value)} is not a number (of at most 1e6)")
        return 1.0

    def hint(self, name: str) -> str | None:
        value = self.take(name)
        return value if isinstance(value, str) and value else None

    def strings(self, name: str, value: Any) -> tuple[str, ...]:
        """Return a list of names; null is empty."""
        if value is None:
            return ()
        if not isinstance(value, list) or len(value) > MAX_LIST or not all(isinstance(v, str) for v in value):
            self.refuse(name, f"it must be a list of at most {MAX_LIST} names")
            return ()
        return tuple(value)

    def patterns(self, name: str) -> Mapping[str, Any]:
        """Return an object from module names, or expressions for them, to anything."""
        value = self.mapping(name)
        for key in (key for key in value if PLAIN_KEY.fullmatch(key) is None):
            self.expression(name, rf"(.*\.)?({key})$")
        return value

    def mapping(self, name: str) -> Mapping[str, Any]:
        value = self.take(name)
        if value is None:
            return {}
        if not isinstance(value, dict) or len(value) > MAX_PATTERNS:
            self.refuse(name, f"it must map at most {MAX_PATTERNS} module names")
            return {}
        return value

    def expression(self, name: str, text: str) -> None:
        try:
            compile_pattern(text)
        except PatternError as e:
            self.refuse(name, f"the expression {quoted(text)} cannot be used: {e}", "Write the modules' plain names.")

    def modules(self, name: str) -> str | tuple[str, ...] | None:
        """Return a regular expression or a list of names; None where the file does not say."""
        value = self.take(name)
        if value is None or isinstance(value, str):
            if value and value != "all-linear":
                self.expression(name, value)
            return value
        return self.strings(name, value)

    def numbers(self, name: str, value: Any) -> tuple[int, ...] | None:
        """Return a list of whole numbers from 0 on."""
        if not isinstance(value, list) or len(value) > MAX_LIST or not all(type(n) is int and n >= 0 for n in value):
            self.refuse(name, f"{shown(value)} is not a list of at most {MAX_LIST} whole numbers")
            return None
        return tuple(value)
