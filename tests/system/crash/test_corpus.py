"""Damaged adapters never end the process, hang it or leave files: a share of `python -m tests.system.crash`,
in a process of
its own.
"""

from __future__ import annotations

import pytest

from tests.system.crash.corpus import cuts, find, killers, mutant, mutants
from tests.system.crash.originals import KINDS, Kind, originals
from tests.system.crash.runner import run

SHARE = 400
"""Damaged files of the 10,000 that the whole corpus tries."""
EVERY = 29
"""One cut in so many; a number that shares no factor with the three cuts at a boundary."""


def test_known_killers() -> None:
    """All that libllama dies of, refuses, or computes nonsense with: an error, or values it can be given."""
    outcome = run([case.name for case in killers()])
    assert outcome.findings == []
    assert outcome.codes["read"] < 5 < len(outcome.codes)


def test_cuts() -> None:
    """Cut at, before or behind a boundary, no file is read: half an adapter is none."""
    names = [case.name for kind in KINDS for case in cuts(kind)]
    outcome = run(names[::EVERY])
    assert outcome.findings == []
    assert outcome.codes["read"] == 0


def test_damage_by_seed() -> None:
    """Bytes changed at random: an error, or the values that the format's own library reads as well."""
    outcome = run(case.name for case in mutants(0, SHARE))
    assert outcome.findings == []
    assert 0 < outcome.codes["read"] < SHARE


def test_what_ends_a_process_is_found() -> None:
    """An abort, a hang and an exception that is not ours are named, and the cases behind them are still tried."""
    harmless = next(killers()).name
    outcome = run(["self/abort", harmless, "self/hang", "self/wrong", harmless], seconds=2)
    assert [finding.split()[0].rstrip(":") for finding in outcome.findings] == ["self/abort", "self/hang", "self/wrong"]
    assert (outcome.tried, outcome.codes.total()) == (5, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_is_enough(kind: Kind) -> None:
    """A finding names its seed; the seed makes the same file again, and others make others."""
    cases = [mutant(kind, seed) for seed in range(20)]
    assert [find(case.name) for case in cases] == cases
    assert len({str(case.files) for case in cases}) == 20
    assert all(case.files not in originals(case.kind) for case in cases)
