"""`edgelora tune`: measures, shows, forgets."""

from __future__ import annotations

import json

import pytest

from edgelora.cli.commands import doctor_checks
from edgelora.cli.commands.doctor_checks import Level
from edgelora.core.config import Settings
from edgelora.core.progress import Progress
from edgelora.runtime.tuning import measure as tuning_measure
from edgelora.runtime.tuning.record import Conditions, Finding, Tuning, Tunings, conditions
from edgelora.runtime.tuning.search import Workload
from edgelora.store.bases.record import BaseRecord
from edgelora.store.library import Library
from tests.support.cli import make_app, run


def tuning(where: Conditions | None = None) -> Tuning:
    return Tuning(
        base="tiny",
        conditions=where or conditions(),
        threads=3,
        batch_threads=2,
        weights=None,
        findings=(Finding("threads", "3", "2", "3", 0.8, True), Finding("batch threads", "2", "2", "1", 1.5, True)),
        seconds={Workload.ONE: 0.001, Workload.BATCH: 0.0042, Workload.PROMPT: 1.5},
        others=0.25,
        created=0.0,
    )


@pytest.fixture(autouse=True)
def nothing_measured(installed: Library) -> None:
    Tunings(installed.settings.directories).clear(installed.bases.get("tiny"))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Instead of a measurement: the base's name is noted."""
    names: list[str] = []

    def measure(record: BaseRecord, _settings: Settings, _progress: Progress | None) -> Tuning:
        names.append(record.name)
        return tuning()

    monkeypatch.setattr(tuning_measure, "measure", measure)
    return names


def test_it_measures_and_keeps(installed: Library, measured: list[str]) -> None:
    """The result is shown, stored for the chosen base, and used from then on."""
    done = run(make_app(installed), "tune")
    assert (done.exit_code, measured) == (0, ["tiny"])
    assert "threads         3: 1.25 times as fast as 2" in done.stdout
    assert "not measured: repacking needs more memory" in done.stdout
    assert "4.2 ms" in done.stdout and "1,500.0 ms" in done.stdout and "others using 25%" in done.stdout
    stored = Tunings(installed.settings.directories).current(installed.bases.get("tiny"))
    assert stored is not None and stored.threads == 3
    check = doctor_checks.tuning(installed.settings, installed.bases.current())
    assert (check.status, check.detail) == (Level.OK, "3 threads, 2 for batches, weights mapped: measured here")


def test_show_and_clear(installed: Library, measured: list[str]) -> None:
    """Shown again without measuring; forgotten; and then there is nothing to show."""
    app = make_app(installed)
    assert "Nothing was measured for tiny" in run(app, "tune", "--show").stderr
    assert json.loads(run(app, "tune", "--show", "--json").stdout) is None
    run(app, "tune", "--base", "tiny")
    assert "1.25 times" in run(app, "tune", "--show").stdout
    assert run(app, "tune", "--clear").stderr == "Deleted the result for tiny.\n"
    assert run(app, "tune", "--clear").stderr == "Nothing was measured for tiny.\n"
    assert json.loads(run(app, "tune", "--clear", "--json").stdout) == {"base": "tiny", "cleared": False}
    assert measured == ["tiny"]


def test_json(installed: Library, measured: list[str]) -> None:
    """All of it, and whether it still holds here."""
    printed = json.loads(run(make_app(installed), "tune", "--json").stdout)
    assert (printed["threads"], printed["batch_threads"], printed["weights"], printed["current"]) == (3, 2, None, True)
    assert printed["findings"][0] == {
        "question": "threads",
        "chosen": "3",
        "default": "2",
        "rival": "3",
        "ratio": 0.8,
        "sure": True,
    }


def test_another_machine(installed: Library) -> None:
    """A result of another machine is shown as not used, and doctor warns."""
    record = installed.bases.current()
    Tunings(installed.settings.directories).put(record, tuning(Conditions("another", 1, 1, "x", "y")))
    assert "not used" in run(make_app(installed), "tune", "--show").stdout
    check = doctor_checks.tuning(installed.settings, record)
    assert check.status is Level.WARN and "edgelora tune" in check.remedy


def test_what_it_refuses(installed: Library, measured: list[str]) -> None:
    """Two wishes that exclude each other, and a base nobody knows."""
    assert run(make_app(installed), "tune", "--show", "--clear").exit_code == 2
    assert run(make_app(installed), "tune", "--base", "tinny").exit_code == 3
    assert measured == []
