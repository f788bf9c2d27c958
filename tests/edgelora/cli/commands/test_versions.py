"""`alias` and `rollback` over a real store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgelora.store.library import Library
from tests.support.adapters import write_peft
from tests.support.cli import SHAPE, make_app, run


@pytest.fixture
def versions(library: Library, tmp_path: Path) -> Library:
    """`pirate` with three versions."""
    for seed in (7, 8):
        library.store.add(
            write_peft(tmp_path / str(seed), SHAPE, seed=seed), name="pirate", base=library.bases.get("tiny")
        )
    return library


def test_an_alias_is_given_moved_and_taken_away(versions: Library) -> None:
    """The latest version where none is named; --json has the adapter with its aliases."""
    app = make_app(versions)
    assert run(app, "alias", "pirate", "stable").stderr == "pirate@stable is now version 3.\n"
    printed = json.loads(run(app, "alias", "pirate@1", "stable", "--json").stdout)
    assert printed["aliases"] == {"latest": 3, "stable": 1}
    assert run(app, "show", "pirate@stable").exit_code == 0
    assert run(app, "alias", "pirate", "stable", "--delete").exit_code == 0
    assert run(app, "show", "pirate@stable").exit_code == 3


def test_rollback_goes_one_back_or_to_the_version_named(versions: Library) -> None:
    """The newer versions stay; before the first there is nothing."""
    app = make_app(versions)
    assert run(app, "rollback", "pirate").stderr == "pirate is now version 2.\n"
    assert run(app, "rollback", "pirate@3").exit_code == 0 and versions.store.get("pirate").latest.number == 3
    assert json.loads(run(app, "rollback", "pirate@1", "--json").stdout)["version"] == 1
    assert len(versions.store.get("pirate").versions) == 3
    assert run(app, "rollback", "pirate").exit_code == 2
    assert run(app, "rollback", "pirate@9").exit_code == 3


@pytest.mark.parametrize("alias", ["3", "abcdef", "A"])
def test_an_alias_is_no_number_and_no_digest(versions: Library, alias: str) -> None:
    """Exit code 2, and nothing changed."""
    done = run(make_app(versions), "alias", "pirate", alias)
    assert (done.exit_code, versions.store.get("pirate").aliases) == (2, {"latest": 3})
