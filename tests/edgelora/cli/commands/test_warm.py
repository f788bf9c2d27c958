"""`edgelora warm`: what it makes, what it says, and that it does nothing where a name is unknown."""

from __future__ import annotations

import json

from edgelora.store.library import Library
from tests.support.cli import make_app, run


def test_warm(library: Library) -> None:
    """stderr has a line for each adapter; an adapter that was added for this base needs no conversion."""
    done = run(make_app(library), "warm", "pirate", "medical-faq", "pirate")
    assert (done.exit_code, done.stdout) == (0, "")
    lines = done.stderr.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["pirate@1", "medical-faq@1"]
    assert all("read in" in line and "converted" not in line for line in lines)


def test_json(library: Library) -> None:
    """For programs: what was done for each, and how long it took."""
    (printed,) = json.loads(run(make_app(library), "warm", "pirate", "--json").stdout)
    ref = library.store.ref("pirate", library.bases.current())
    assert (printed["name"], printed["version"], printed["digest"]) == ("pirate", 1, ref.version)
    assert (printed["path"], printed["bytes"], printed["converted"]) == (str(ref.path), ref.path.stat().st_size, False)
    assert printed["base"] == "tiny" and printed["read_seconds"] > 0 == printed["convert_seconds"]


def test_a_missing_conversion_is_told(library: Library) -> None:
    """A conversion that was needed first is reported."""
    path = library.store.ref("pirate", library.bases.current()).path
    path.unlink()
    done = run(make_app(library), "warm", "pirate")
    assert done.exit_code == 0 and "pirate@1: converted for tiny in " in done.stderr
    assert path.is_file()


def test_an_unknown_name(library: Library) -> None:
    """Exit 3, and nothing was done for the others."""
    path = library.store.ref("pirate", library.bases.current()).path
    path.unlink()
    done = run(make_app(library), "warm", "pirate", "pirat")
    assert (done.exit_code, "pirate" in done.stderr) == (3, True)
    assert not path.exists()
