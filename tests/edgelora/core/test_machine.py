"""What this machine is."""

from __future__ import annotations

import os
import platform

import psutil
import pytest

from edgelora.core import machine


def test_never_more_threads_than_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process bound to fewer processors than there are cores has that many cores, and one at least."""
    assert 1 <= machine.usable_cores() <= machine.usable_processors() <= (os.cpu_count() or 1)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: 16 if logical else 8)
    monkeypatch.setattr(machine, "usable_processors", lambda: 3)
    assert machine.usable_cores() == 3
    monkeypatch.setattr(machine, "usable_processors", lambda: 16)
    assert machine.usable_cores() == 8


def test_a_machine_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system cannot count its cores its processors count, and there is always one."""
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: None)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.usable_cores() == 1


def test_the_processor_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's own, and the architecture where there is none."""
    assert machine.processor_name()
    monkeypatch.setattr(machine.Path, "read_text", lambda *_, **__: "flags : fpu\n")
    monkeypatch.setattr(platform, "processor", lambda: "")
    assert machine.processor_name() == platform.machine()


def test_other_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was neither idle nor this process's, by all there was; a clock that has not moved is no work."""
    now = [(100.0, 20.0, 10.0)]
    monkeypatch.setattr(machine, "_times", lambda: now[0])
    others = machine.OtherWork()
    assert others.share() == 0.0
    now[0] = (110.0, 28.0, 13.0)
    assert others.share() == pytest.approx(0.5)
    now[0] = (110.0, 22.0, 13.0)
    assert others.share() == 0.0


def test_the_times_of_this_machine() -> None:
    """Busy is part of all, and neither goes backwards."""
    before, after = machine._times(), machine._times()
    assert before[1] <= before[0] and all(old <= new for old, new in zip(before, after, strict=True))


def test_memory_within_control_groups() -> None:
    """A container's limit is all there is, and what it uses is gone; several limits all hold."""
    whole = machine.Memory(total=100, available=60)
    assert machine.within(whole, []) == whole
    assert machine.within(whole, [(50, 45)]) == machine.Memory(50, 5)
    assert machine.within(whole, [(50, 70), (80, 10)]) == machine.Memory(50, 0)
    assert machine.within(whole, [(500, 10)]) == whole


def test_this_machine_has_memory() -> None:
    """Some of it is free."""
    found = machine.memory()
    assert 0 < found.available <= found.total
