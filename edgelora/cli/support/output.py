"""Output for people and programs: tables, fields, JSON, notes and ages.

Answers and data go to stdout, everything else to stderr.
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
    """Print how each part was read, if its reader recorded it."""
    for part in parts:
        if treatment := part.adapter.metadata.get("treatment"):
            note(f"{part.name}: {treatment}")


MINUTE, HOUR, DAY = 60, 3600, 86400


def interactive(stream: TextIO) -> bool:
    """Return whether `stream` is a terminal on which lines can be redrawn."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def paint(text: str, *, to: TextIO, bold: bool = False, dim: bool = False, fg: str | None = None) -> str:
    """Return `text` in a style if `to` is a terminal and NO_COLOR is not set."""
    if not interactive(to) or os.environ.get("NO_COLOR"):
        return text
    return click.style(text, bold=bold or None, dim=dim or None, fg=fg)


def note(text: str) -> None:
    """Print a message to stderr."""
    click.echo(text, err=True)


def hint(text: str) -> None:
    """Print a dimmed message to stderr, such as what to do next."""
    click.echo(paint(text, to=sys.stderr, dim=True), err=True, color=True)


def emit(text: str) -> None:
    """Print a line to stdout."""
    click.echo(text, color=True)


def emit_json(value: Any) -> None:
    emit(json.dumps(value, indent=2, ensure_ascii=False))


def emit_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, right: frozenset[int] = frozenset()) -> None:
    """Print columns two spaces apart, never cut; the columns in `right` are right-aligned."""
    lines = [tuple(header), *map(tuple, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]

    def laid(line: Sequence[str]) -> str:
        cells = (c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        return "  ".join(cells).rstrip()

    emit(paint(laid(lines[0]), to=sys.stdout, bold=True))
    for line in lines[1:]:
        emit(laid(line))


def emit_fields(pairs: Iterable[tuple[str, str]]) -> None:
    """Print a `label  value` line for each pair, with the values aligned."""
    rows = list(pairs)
    width = max(len(label) for label, _ in rows)
    for label, value in rows:
        emit(f"{paint(label.ljust(width), to=sys.stdout, bold=True)}  {value}")


def human_age(seconds: float) -> str:
    """Return an age in one unit: just now, 5 minutes ago, 3 days ago."""
    for unit, length in (("day", DAY), ("hour", HOUR), ("minute", MINUTE)):
        count = int(seconds // length)
        if count > 0:
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"
