"""Collecting everything in an adapter that cannot be honoured exactly, so that one error names all of it. Owns no
rule."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from edgelora_models.errors import AdapterUnsupported
from edgelora_models.files import quoted

_MAX_LISTED = 20


@dataclass(frozen=True, slots=True)
class Problem:
    """A reason to refuse an adapter."""

    code: str
    """Stable, for programs."""
    name: str
    """The field or the kind of tensors it is about."""
    what: str
    remedy: str


@dataclass(slots=True)
class Problems:
    """Reasons to refuse an adapter, in the order they were found."""

    found: list[Problem] = field(default_factory=list)

    def add(self, code: str, name: str, what: str, remedy: str) -> None:
        self.found.append(Problem(code, name, what, remedy))

    def names(self) -> frozenset[str]:
        return frozenset(problem.name for problem in self.found)

    def refuse_any(self, subject: str) -> None:
        """Raise AdapterUnsupported if there is a problem: with its code where all have one, else `adapter_unsupported`.

        `subject` is what holds them, such as `adapter_config.json`.
        """
        if not self.found:
            return
        shown = self.found[:_MAX_LISTED]
        codes = {problem.code for problem in self.found}
        names = list(dict.fromkeys(problem.name for problem in shown))
        more = f"; and {len(self.found) - len(shown)} more" if len(self.found) > len(shown) else ""
        raise AdapterUnsupported(
            codes.pop() if len(codes) == 1 else "adapter_unsupported",
            f"{subject} has what cannot be honoured exactly. {_lines((p.name, p.what) for p in shown)}{more}.",
            f"{_lines((p.name, p.remedy) for p in shown)}.",
            param=", ".join(names),
        )


def _lines(parts: Iterable[tuple[str, str]]) -> str:
    return "; ".join(dict.fromkeys(f"{_plain(name)}: {text.rstrip('.')}" for name, text in parts))


def _plain(name: str) -> str:
    return name if re.fullmatch(r"\w{1,64}", name) else quoted(name)
