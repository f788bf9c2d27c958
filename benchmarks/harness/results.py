"""The newest run of each benchmark as data: `benchmarks/results/NAME.json`, and the Markdown made of it.

Every figure that README, docs or RESULTS.md quote comes from one of these files.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

FOLDER = Path(__file__).resolve().parents[1] / "results"

Cell = str | int | float


class Machine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The machine of a run; figures mean nothing without it."""

    processor: str
    """With its widest instruction set."""
    cores: int
    memory_gib: int
    system: str


class Result(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One benchmark's newest run."""

    benchmark: str
    """Group and module: `throughput.decode`."""
    title: str
    command: str
    date: str
    """Year, month and day."""
    runs: int
    """How many runs the figures are the medians of."""
    machine: Machine
    base: str
    """The base and the adapters it ran on."""
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()


def load(name: str, folder: Path = FOLDER) -> Result:
    """Return the newest run of a benchmark by its module's name. Raises FileNotFoundError, msgspec.ValidationError."""
    return msgspec.json.decode((folder / f"{name}.json").read_bytes(), type=Result)


def load_all(folder: Path = FOLDER) -> tuple[Result, ...]:
    """Return every result, by benchmark."""
    results = (load(path.stem, folder) for path in folder.glob("*.json"))
    return tuple(sorted(results, key=lambda result: result.benchmark))


def table(result: Result) -> str:
    """Return the rows as a Markdown table; numbers are set to the right."""
    numeric = [all(not isinstance(row[i], str) for row in result.rows) for i in range(len(result.columns))]
    rule = "|".join("---:" if right else "---" for right in numeric)
    rows = ["| " + " | ".join(map(_show, row)) + " |" for row in result.rows]
    return "\n".join(["| " + " | ".join(result.columns) + " |", f"|{rule}|", *rows])


def section(result: Result) -> str:
    """Return a result as a section of RESULTS.md."""
    runs = "one run" if result.runs == 1 else f"medians of {result.runs} runs"
    machine = f"{result.machine.processor}, {result.machine.cores} cores"
    facts = f"`{result.command}`, {result.date}, {runs}. {machine}. {_cap(result.base)}."
    return "\n".join([f"### {result.title}", facts, "", table(result), *(f"\n{note}" for note in result.notes), ""])


def _show(cell: Cell) -> str:
    return cell if isinstance(cell, str) else str(cell) if isinstance(cell, int) else f"{cell:g}"


def _cap(text: str) -> str:
    return text[:1].upper() + text[1:]
