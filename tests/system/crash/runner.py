"""Tries cases in a process of their own and says which ended it, which hung it and which went wrong otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.bases import write_tiny_gguf
from tests.system.crash.originals import SHAPE

SECONDS = 20.0
"""For one case: a thousand times what it takes, so that a busy machine is no finding."""
_SHOWN_BYTES = 4_000


@dataclass(slots=True)
class Outcome:
    tried: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    """`read`, and the codes of errors, by how many cases ended so."""
    findings: list[str] = field(default_factory=list)
    """A line for each case that is not as it should be, its name first."""


def run(names: Iterable[str], *, seconds: float = SECONDS) -> Outcome:
    """Try every case by name. After a crash the next process goes on with the case that follows."""
    outcome = Outcome()
    left = list(names)
    with tempfile.TemporaryDirectory() as temporary:
        base = write_tiny_gguf(Path(temporary, "base.gguf"), SHAPE, seed=1)
        while left:
            left = left[_batch(left, base, Path(temporary), seconds, outcome) :]
    return outcome


def _batch(names: Sequence[str], base: Path, folder: Path, seconds: float, outcome: Outcome) -> int:
    """How many of `names` one process got through, the one that ended it included."""
    journal = folder / f"journal-{outcome.tried}"
    cases = folder / f"cases-{outcome.tried}"
    cases.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "tests.system.crash.worker", str(journal), str(base), str(seconds)],
        input="".join(f"{name}\n" for name in names).encode(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(cases), "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    lines = journal.read_text().splitlines() if journal.exists() else []
    last = "".join(done.stderr.decode(errors="replace")[-_SHOWN_BYTES:])
    if not lines:
        raise RuntimeError(f"the worker did not start: {last}")
    started = _take(lines, outcome)
    if done.returncode:
        outcome.findings.append(f"{lines[-1].removeprefix('> ')} ended the process ({done.returncode}): {last}")
    elif started != len(names):
        raise RuntimeError(f"the worker stopped after {started} of {len(names)} cases: {last}")
    return started


def _take(lines: Sequence[str], outcome: Outcome) -> int:
    name, started = "", 0
    for line in lines:
        if line.startswith("> "):
            name, started = line[2:], started + 1
            continue
        verdict, _, message = line[2:].partition(" ")
        if verdict == "ok":
            outcome.codes[message] += 1
        else:
            outcome.findings.append(f"{name}: {message}")
    outcome.tried += started
    return started
