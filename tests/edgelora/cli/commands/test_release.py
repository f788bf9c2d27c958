"""`edgelora release`, and where an adapter in quarantine is told of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgelora.core.request import AdapterRef
from edgelora.store.library import Library
from tests.support.cli import make_app, run


@pytest.fixture
def library(library: Library) -> Library:
    """medical-faq is in quarantine."""
    version = library.store.get("medical-faq").latest.digest
    library.quarantine().add(AdapterRef("medical-faq", version, Path("x"), 1), "SIGSEGV")
    return library


def test_ls_and_doctor_tell(library: Library) -> None:
    """The list names it with what to do, in JSON too, and doctor warns of it."""
    done = run(make_app(library), "ls")
    assert "medical-faq is in quarantine" in done.stderr and "edgelora release medical-faq" in done.stderr
    assert "pirate is not run" not in done.stderr
    printed = {load["name"]: load["quarantined"] for load in json.loads(run(make_app(library), "ls", "--json").stdout)}
    assert printed == {"medical-faq": "SIGSEGV", "pirate": None}
    checks = json.loads(run(make_app(library), "doctor", "--json").stdout)["checks"]
    (quarantine,) = [check for check in checks if check["name"] == "quarantine"]
    assert quarantine["status"] == "warn" and "medical-faq@" in quarantine["detail"]


def test_release(library: Library) -> None:
    """It may run again; one that could is told so; an unknown name is exit 3."""
    done = run(make_app(library), "release", "medical-faq", "pirate")
    assert (done.exit_code, done.stderr.splitlines()) == (
        0,
        ["medical-faq may run again.", "pirate was not in quarantine."],
    )
    assert library.quarantine().list() == []
    assert run(make_app(library), "release", "medical-fax").exit_code == 3


def test_release_of_one_version(library: Library) -> None:
    """NAME@1 is that version alone."""
    assert run(make_app(library), "release", "medical-faq@1").exit_code == 0
    assert library.quarantine().list() == []


def test_removing_forgets(library: Library) -> None:
    """A removed adapter is not in quarantine when it is installed again."""
    assert run(make_app(library), "rm", "medical-faq").exit_code == 0
    assert library.quarantine().list() == []
