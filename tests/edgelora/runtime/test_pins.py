"""Pins by name: each follows its name to a new version, and never loses the old one to a failure."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path

import pytest

from edgelora.core.errors import AdapterError, BackendError
from edgelora.core.request import AdapterRef
from edgelora.runtime.pins import Pins

OLD, NEW = (AdapterRef("a", version * 64, Path(version), 10) for version in "12")


class Recorder:
    """Takes fetches down and settles each at once."""

    def __init__(self) -> None:
        self.fetches: list[tuple[AdapterRef, AdapterRef | None]] = []
        self.error: Exception | None = None
        self.stopped = False

    def fetch(self, ref: AdapterRef, *, pin: bool = False, instead_of: AdapterRef | None = None) -> Future[bool]:
        assert pin or instead_of is not None
        if self.stopped:
            raise BackendError("engine_stopped", "The engine was stopped.")
        self.fetches.append((ref, instead_of))
        done: Future[bool] = Future()
        if self.error is None:
            done.set_result(True)
        else:
            done.set_exception(self.error)
        return done


def pinned(engine: Recorder) -> Pins:
    pins = Pins(engine)
    pins.add("a", OLD)
    return pins


def test_a_pin_follows_its_name() -> None:
    """Once, when the name is first asked for and means another version."""
    engine = Recorder()
    pins = pinned(engine)
    pins.follow("a", OLD)
    pins.follow("b", NEW)
    pins.follow("a", NEW)
    pins.follow("a", NEW)
    assert engine.fetches == [(OLD, None), (NEW, OLD)]


def test_what_finds_no_room_tries_again() -> None:
    """The old version stays pinned meanwhile."""
    engine = Recorder()
    pins = pinned(engine)
    engine.error = AdapterError("pins_too_large", "There is no room.")
    pins.follow("a", NEW)
    engine.error = None
    pins.follow("a", NEW)
    assert engine.fetches[1:] == [(NEW, OLD), (NEW, OLD)]


def test_a_pin_that_fails_is_none() -> None:
    """Who pins hears why, and the name is not followed."""
    engine = Recorder()
    engine.error = AdapterError("pins_too_large", "There is no room.")
    pins = Pins(engine)
    with pytest.raises(AdapterError):
        pins.add("a", OLD)
    pins.follow("a", NEW)
    assert engine.fetches == [(OLD, None)]


def test_a_stopped_engine_is_no_error_of_a_request() -> None:
    """Following is a service to later requests: the one that caused it does not fail for it."""
    engine = Recorder()
    pins = pinned(engine)
    engine.stopped = True
    pins.follow("a", NEW)


def test_a_pin_that_is_taken_away() -> None:
    """Its adapter may go then, unless another name pins it; a name that pins nothing says so, and is not followed."""
    engine = Recorder()
    pins = pinned(engine)
    pins.add("alias", OLD)
    assert pins.remove("a") and engine.fetches[2:] == []
    assert pins.remove("alias") and engine.fetches[2:] == [(OLD, OLD)]
    assert not pins.remove("a")
    pins.follow("a", NEW)
    engine.stopped = True
    assert engine.fetches[3:] == []


def test_what_is_uninstalled_is_not_pinned() -> None:
    """By its name or a version's; pins of its other versions stay, and so do other adapters of the same content."""
    engine = Recorder()
    pins = pinned(engine)
    pins.add("a@2", NEW)
    pins.add("b", NEW)
    pins.drop("a", {OLD.version, "3" * 64})
    assert engine.fetches[3:] == [(OLD, OLD)] and not pins.remove("a")
    pins.drop("a", {NEW.version})
    assert engine.fetches[4:] == [] and pins.remove("b") and not pins.remove("a@2")
    assert engine.fetches[4:] == [(NEW, NEW)]
