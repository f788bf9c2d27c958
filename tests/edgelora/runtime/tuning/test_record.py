"""What was measured, on disk: for one base, one machine, one build."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from edgelora.core.config import Settings, read_settings
from edgelora.runtime.opening.plan import plan_setup
from edgelora.runtime.tuning.record import Finding, Tuning, Tunings, conditions
from edgelora.runtime.tuning.search import Workload
from edgelora.store.bases.record import BaseRecord


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return read_settings({"EDGELORA_HOME": str(tmp_path)})


@pytest.fixture
def tunings(settings: Settings) -> Tunings:
    return Tunings(settings.directories)


def tuning() -> Tuning:
    return Tuning(
        base="edgelora-tiny",
        conditions=conditions(),
        threads=3,
        batch_threads=5,
        weights="repacked",
        findings=(Finding("threads", "3", "2", "3", 0.8, True),),
        seconds=dict.fromkeys(Workload, 0.5),
        others=0.0,
        created=1.0,
    )


def test_it_comes_back(tunings: Tunings, record: BaseRecord) -> None:
    """What is put is what is read, below the state folder, and forgotten when told so."""
    assert tunings.current(record) is None
    tunings.put(record, tuning())
    assert tunings.current(record) == tunings.get(record) == tuning()
    assert tunings.path(record).parent == tunings.directories.state / "tuning"
    assert tunings.clear(record) and tunings.get(record) is None and not tunings.clear(record)


def test_the_next_start_uses_it(tunings: Tunings, record: BaseRecord, settings: Settings) -> None:
    """Threads and weights are the measured ones, unless the settings say otherwise."""
    tunings.put(record, tuning())
    setup = plan_setup(record, settings)
    assert (setup.threads, setup.batch_threads, setup.weights, setup.measured) == (3, 5, "repacked", True)
    assert str(setup).startswith("3 threads, 5 for batches, weights repacked, measured;")
    setup = plan_setup(record, replace(settings, threads=1))
    assert (setup.threads, setup.batch_threads, setup.weights, setup.measured) == (1, 1, "repacked", True)
    setup = plan_setup(record, replace(settings, threads=1, weights="mapped"))
    assert (setup.weights, setup.measured) == ("mapped", False)


def test_weights_that_were_not_measured(tunings: Tunings, record: BaseRecord, settings: Settings) -> None:
    """Where there was no memory to measure them, the default stands."""
    before = plan_setup(record, settings).weights
    tunings.put(record, msgspec.structs.replace(tuning(), weights=None))
    assert plan_setup(record, settings).weights == before


@pytest.mark.parametrize("field", ["processor", "cores", "processors", "library", "kernel"])
def test_another_machine_or_build(tunings: Tunings, record: BaseRecord, field: str) -> None:
    """What was measured elsewhere, or with another library, is known and not used."""
    other = 99 if field in ("cores", "processors") else "other"
    where = msgspec.structs.replace(conditions(), **{field: other})
    tunings.put(record, msgspec.structs.replace(tuning(), conditions=where))
    assert tunings.get(record) is not None and tunings.current(record) is None


def test_each_quantization_has_its_own(tunings: Tunings, record: BaseRecord) -> None:
    """The name and the place of a base do not matter; what it is does."""
    assert tunings.path(record) == tunings.path(msgspec.structs.replace(record, name="other", location="/x"))
    other = replace(record.identity, quantization="Q4_K_M")
    assert tunings.path(record) != tunings.path(msgspec.structs.replace(record, identity=other))


@pytest.mark.parametrize("damage", [b"", b"{", b'{"threads": 0}', b"\xff\xfe"])
def test_a_damaged_file(tunings: Tunings, record: BaseRecord, damage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged and not used; it stops no start."""
    tunings.put(record, tuning())
    tunings.path(record).write_bytes(damage)
    assert tunings.current(record) is None and "is not used" in caplog.text


def test_the_build_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel of other bytes is another build; conditions are the same from one call to the next."""
    from edgelora.backends.kernels import native

    assert conditions() == conditions() and conditions().library
    monkeypatch.setattr(native, "PATH", tmp_path / "none.so")
    assert conditions().kernel == "numpy"
    (tmp_path / "none.so").write_bytes(b"another")
    assert conditions().kernel not in ("numpy", "")


@pytest.mark.parametrize(
    ("finding", "told"),
    [
        (Finding("threads", "1", "1", None, None, False), "1: there is no other choice"),
        (Finding("threads", "2", "2", "1", 1.01, False), "2: no difference to 1 that is more than noise"),
        (Finding("threads", "1", "2", "1", 0.5, True), "1: 2.00 times as fast as 2"),
        (Finding("threads", "2", "2", "1", 1.9, True), "2: 1 takes 1.90 times as long"),
        (Finding("threads", "2", "2", "1", 0.5, True), "2: 1 was 2.00 times as fast, but others kept the machine busy"),
        (
            Finding("weights", "mapped", "mapped", "repacked", 0.95, True),
            "mapped: repacked was 1.05 times as fast, too little for its cost",
        ),
    ],
)
def test_in_words(finding: Finding, told: str) -> None:
    """Every outcome is one sentence."""
    assert str(finding) == told
