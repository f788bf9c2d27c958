"""What this machine is."""

from __future__ import annotations

import os
import platform

import psutil
import pytest

from edgelora import machine


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
