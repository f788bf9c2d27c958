"""Output for a person or a program: tables, fields, JSON, notes, ages.

Answers and data go to stdout, the rest to stderr.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

import click

if TYPE_CHECKING:
    from edgelora_converters.lora.combine import Part


def tell_treatments(parts: Iterable[Part]) -> None:
    """A line on stderr for each part whose reading says something of it."""
    for part in parts:
        if treatment := part.adapter.metadata.get("treatment"):
            note(f"{part.name}: {treatment}")


MINUTE, HOUR, DAY = 60, 3600, 86400


def interactive(stream: TextIO) -> bool:
    """Return whether `stream` is a terminal on which lines can be redrawn."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def paint(text: str, *, to: TextIO, bold: bool = False, dim: bool = False, fg: str | None = None) -> str:
    """`text` in a style, where `to` is a terminal and NO_COLOR is not set."""
    if not interactive(to) or os.environ.get("NO_COLOR"):
        return text
    return click.style(text, bold=bold or None, dim=dim or None, fg=fg)


def note(text: str) -> None:
    """Something worth saying that is not the answer."""
    click.echo(text, err=True)


def hint(text: str) -> None:
    """The same, for what can be done next: less loud."""
    click.echo(paint(text, to=sys.stderr, dim=True), err=True, color=True)


def emit(text: str) -> None:
    """A line of the answer itself."""
    click.echo(text, color=True)


def emit_json(value: Any) -> None:
    emit(json.dumps(value, indent=2, ensure_ascii=False))


def emit_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, right: frozenset[int] = frozenset()) -> None:
    """Columns two spaces apart, never cut; `right` are the columns of numbers."""
    lines = [tuple(header), *map(tuple, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]

    def laid(line: Sequence[str]) -> str:
        cells = (c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        return "  ".join(cells).rstrip()

    emit(paint(laid(lines[0]), to=sys.stdout, bold=True))
    for line in lines[1:]:
        emit(laid(line))


def emit_fields(pairs: Iterable[tuple[str, str]]) -> None:
    """One `label  value` a line, values below each other."""
    fields = list(pairs)
    width = max(len(label) for label, _ in fields)
    for label, value in fields:
        emit(f"{paint(label.ljust(width), to=sys.stdout, bold=True)}  {value}")


def human_age(seconds: float) -> str:
    """Return how long ago, in one unit: just now, 5 minutes ago, 3 days ago."""
    for unit, length in (("day", DAY), ("hour", HOUR), ("minute", MINUTE)):
        count = int(seconds // length)
        if count > 0:
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"
