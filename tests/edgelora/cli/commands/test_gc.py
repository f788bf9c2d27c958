"""`edgelora gc`: what is deleted, how much that frees, and what a dry run says of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgelora.store.library import Library
from tests.support.cli import make_app, run


@pytest.fixture
def stray(library: Library) -> Path:
    """A file of 2,000 bytes that no version uses."""
    path = library.store.root / "blobs" / "sha256" / "ab" / ("ab" * 32)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(2000))
    return path


def test_a_dry_run_deletes_nothing(library: Library, stray: Path) -> None:
    """It lists the file, its size and why it is garbage, and says what would be freed."""
    done = run(make_app(library), "gc", "--dry-run")
    assert done.exit_code == 0 and stray.exists()
    assert "2.0 kB" in done.stdout and "unused" in done.stdout and str(stray) in done.stdout
    assert done.stderr == "2.0 kB would be freed.\n"


def test_it_frees_bytes(library: Library, stray: Path) -> None:
    """The second time there is nothing left, and every adapter still resolves."""
    assert run(make_app(library), "gc").stderr == "2.0 kB freed.\n"
    assert not stray.exists() and library.store.verify() == ()
    assert run(make_app(library), "gc").stderr == "There is nothing to delete.\n"


def test_json(library: Library, stray: Path) -> None:
    """For programs: the sum, and each item."""
    printed = json.loads(run(make_app(library), "gc", "--json").stdout)
    assert printed == {
        "dry_run": False,
        "bytes": 2000,
        "items": [{"path": str(stray), "bytes": 2000, "why": "unused"}],
    }


def test_a_damaged_manifest_is_named(library: Library, stray: Path) -> None:
    """Nothing is deleted, because the files it uses are unknown, and the exit code is the disk's."""
    manifest = library.store.root / "manifests" / "damaged.json"
    manifest.parent.mkdir(exist_ok=True)
    manifest.write_text("{")
    done = run(make_app(library), "gc")
    assert done.exit_code == 7 and "damaged.json" in done.stderr and stray.exists()
