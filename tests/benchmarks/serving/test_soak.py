"""The soak: its verdicts on samples that are made up, and the whole of it for a few seconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import benchmarks
from benchmarks.__main__ import BENCHMARKS
from benchmarks.harness.watched import Sample
from benchmarks.serving import soak
from benchmarks.serving.traffic import Counts

QUIET = Sample(
    at=0.0,
    idle=True,
    resident=100_000_000,
    proportional=90_000_000,
    anonymous=50_000_000,
    files=10,
    threads=4,
    live=0,
    leases=0,
    slots=1,
    adapter_bytes=1000,
    running_cells=0,
    warm_cells=5,
    backend_cells=5,
    steps=1,
    tokens=1,
    wrong="",
)


def test_nothing_left_is_no_problem() -> None:
    """More adapters in memory, each an open file, and more warm KV are no leak."""
    end = replace(QUIET, slots=30, files=39, warm_cells=700, backend_cells=700)
    assert list(soak._leftovers(QUIET, [replace(QUIET, idle=False, live=20), end])) == []


@pytest.mark.parametrize(
    "left",
    [
        {"idle": False},
        {"live": 1},
        {"leases": 1},
        {"running_cells": 3},
        {"backend_cells": 6},
        {"backend_cells": 4},
        {"files": 13},
        {"threads": 7},
        {"wrong": "leases do not add up"},
    ],
)
def test_what_is_left_is_a_problem(left: dict[str, object]) -> None:
    """Each kind of leak is told, and alone."""
    assert len(list(soak._leftovers(QUIET, [QUIET, replace(QUIET, **left)]))) == 1  # type: ignore[arg-type]


def test_wrong_answers_and_tracebacks_are_problems() -> None:
    """What nobody should get, the first ten of them; and what the server logged."""
    counts = Counts(wrong=[f"answer {number}" for number in range(12)])
    assert len(list(soak._answers(counts, "Traceback (most recent call last):"))) == 12
    assert list(soak._answers(Counts(), "Serving edgelora-tiny")) == []


def test_growing_memory_is_a_problem() -> None:
    """Under load and after the warm-up; and too few samples say nothing."""
    steady = [replace(QUIET, at=2.0 * n) for n in range(100)]
    leaking = [replace(sample, anonymous=sample.anonymous + 200_000 * n) for n, sample in enumerate(steady)]
    assert list(soak._memory(steady, 0.0, 200.0)) == []
    assert [problem.split(":")[0] for problem in soak._memory(leaking, 0.0, 200.0)] == ["anonymous memory"]
    assert "too few" in next(soak._memory(steady[:20], 0.0, 40.0))


def test_a_few_seconds_of_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Under real load all is answered as it may be, nothing is left. Memory is not judged, which it says."""
    monkeypatch.setattr(soak, "BASELINE_SECONDS", 0.5)
    monkeypatch.setattr(soak, "QUIET_SECONDS", 0.5)
    monkeypatch.setattr(soak, "SPARE_THREADS", 40)  # idle worker threads stay for ten seconds
    arguments = ["--minutes", "0.06", "--adapters", "6", "--clients", "6", "--memory", "1", "--threads", "1"]
    assert soak.main([*arguments, "--context", "512"]) == 0
    assert "memory not judged" in capsys.readouterr().out


def test_all_benchmarks_are_listed() -> None:
    """`python -m benchmarks` names all that can be run, but for the servers and bases that others start or make."""
    root = Path(benchmarks.__file__).parent
    runnable = {
        f"{path.parent.name}.{path.stem}"
        for path in root.glob("*/*.py")
        if '__name__ == "__main__"' in path.read_text("utf-8")
    }
    listed = {f"{group}.{name}" for group, members in BENCHMARKS.items() for name in members}
    assert listed == runnable - {"harness.endless", "harness.watched"}
