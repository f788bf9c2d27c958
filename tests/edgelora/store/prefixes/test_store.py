"""Prefixes on disk: the longest is found, the least recently used goes, names stay, damage and kills do no harm."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgelora.core.errors import NotFound, StorageError, UsageError
from edgelora.core.kv import BASE, Key
from edgelora.store.prefixes.origin import Origin
from edgelora.store.prefixes.store import FoundPrefix, PrefixStore
from tests.support.prefixes import BASE_ALONE, HERE, acting, saved, store_at, tokens, with_adapters

ROOT = Path(__file__).parents[4]


def find(store: PrefixStore, prompt: tuple[int, ...], key: Key = BASE) -> FoundPrefix | None:
    return store.find(lambda length: HERE.origin(key, length), key, prompt)


def lengths(store: PrefixStore) -> list[int]:
    return sorted(entry.held.stored.length for entry in store.entries())


def used(store: PrefixStore) -> int:
    return sum(entry.held.nbytes for entry in store.entries())


def test_the_longest_prefix_is_found_and_read(tmp_path: Path) -> None:
    """Of several that a prompt begins with; a longer one, or one that parts from it, is none; also in a new process."""
    store = store_at(tmp_path)
    for length in (20, 40, 60):
        store.keep(BASE_ALONE, tokens(length), saved(length))
    store.keep(BASE_ALONE, (*tokens(49), 7), saved(50))
    for reader in (store, store_at(tmp_path)):
        for prompt, expected in ((tokens(100), 60), (tokens(60), 60), (tokens(59), 40), (tokens(20), 20)):
            found = find(reader, prompt)
            assert found is not None and found.stored.length == expected
            assert bytes(reader.read(found).data) == bytes(saved(expected).data)
        assert find(reader, tokens(19)) is None
        assert find(reader, tokens(100, first=1)) is None


def test_another_process_is_noticed(tmp_path: Path) -> None:
    """What was written or removed elsewhere after this one had listed it."""
    mine, other = store_at(tmp_path), store_at(tmp_path)
    assert find(mine, tokens(100)) is None
    other.keep(BASE_ALONE, tokens(20), saved(20))
    found = find(mine, tokens(100))
    assert found is not None
    other.remove_automatic()
    with pytest.raises(StorageError):
        mine.read(found)
    assert find(mine, tokens(100)) is None


@pytest.mark.parametrize(
    "other",
    [
        Origin("llama.cpp 2; f16", HERE.base, HERE.template, ()),
        Origin(HERE.kv, "c" * 64, HERE.template, ()),
        Origin(HERE.kv, HERE.base, "c" * 64, ()),
        with_adapters(acting()),
    ],
    ids=["library", "base", "template", "adapter"],
)
def test_nothing_is_found_for_another_origin(tmp_path: Path, other: Origin) -> None:
    """A file of another origin is not found, and not believed where it is put in the right place."""
    store = store_at(tmp_path)
    mine = store.keep(BASE_ALONE, tokens(20), saved(20))
    theirs = store.keep(other, tokens(20), saved(20, identity=other.kv))
    assert theirs.group != mine.group
    mine.path.unlink()
    assert find(store, tokens(30)) is None
    theirs.path.rename(mine.path)
    found = find(store, tokens(30))
    assert found is not None
    with pytest.raises(StorageError, match="another prefix than its name says"):
        store.read(found)
    assert not mine.path.exists()


def test_adapters_by_version_weight_and_start(tmp_path: Path) -> None:
    """Each of them counts, and their order does not."""
    store = store_at(tmp_path)
    one, two = (("v1", "/a.gguf"), 1.0, 0), (("v2", "/b.gguf"), 0.5, 0)
    key: Key = frozenset({one, two})
    store.keep(HERE.origin(key, 20), tokens(20), saved(20))
    assert find(store, tokens(30), frozenset({two, one})) is not None
    for other in (
        BASE,
        frozenset({one}),
        frozenset({one, (("v3", "/b.gguf"), 0.5, 0)}),
        frozenset({one, (("v2", "/c.gguf"), 0.5, 0)}),
        frozenset({one, (("v2", "/b.gguf"), 0.6, 0)}),
        frozenset({one, (("v2", "/b.gguf"), 0.5, 1)}),
    ):
        assert find(store, tokens(30), other) is None


def test_an_adapter_that_begins_later_uses_the_bases_prefix(tmp_path: Path) -> None:
    """Up to its start, with its own where there is one."""
    store = store_at(tmp_path)
    key: Key = frozenset({(("v1", "/a.gguf"), 1.0, 25)})
    store.keep(BASE_ALONE, tokens(20), saved(20))
    store.keep(BASE_ALONE, tokens(26), saved(26))
    found = find(store, tokens(40), key)
    assert found is not None and found.stored.length == 20 and found.origin == BASE_ALONE
    store.keep(HERE.origin(key, 30), tokens(30), saved(30))
    found = find(store, tokens(40), key)
    assert found is not None and found.stored.length == 30


def test_the_least_recently_used_make_room(tmp_path: Path) -> None:
    """By the last writing or reading; never more than the budget on disk."""
    store = store_at(tmp_path, budget=6000)
    for length in (20, 21, 22):
        store.keep(BASE_ALONE, tokens(length), saved(length))
    for length in (20, 22):
        found = find(store, tokens(length))
        assert found is not None
        store.read(found)
    store.keep(BASE_ALONE, tokens(23), saved(23, nbytes=2000))
    assert lengths(store) == [20, 22, 23] and used(store) <= 6000
    store.keep(BASE_ALONE, tokens(22), saved(22))  # again: noted as used
    store.keep(BASE_ALONE, tokens(24), saved(24, nbytes=2500))
    assert lengths(store) == [22, 24] and used(store) <= 6000
    with pytest.raises(StorageError) as error:
        store.keep(BASE_ALONE, tokens(25), saved(25, nbytes=6001))
    assert error.value.code == "prefix_budget" and lengths(store) == [22, 24]


def test_names_are_never_evicted(tmp_path: Path) -> None:
    """Automatic ones go for named ones and not the other way round; where named ones fill it, nothing is kept."""
    store = store_at(tmp_path, budget=5000)
    store.keep(BASE_ALONE, tokens(20), saved(20), name="clinic")
    for length in range(30, 40):
        store.keep(BASE_ALONE, tokens(length), saved(length))
    assert 20 in lengths(store) and used(store) <= 5000
    store.keep(BASE_ALONE, tokens(21), saved(21, nbytes=2200), name="shop")
    assert {20, 21} <= set(lengths(store)) and used(store) <= 5000
    for name in (None, "third"):
        with pytest.raises(StorageError) as error:
            store.keep(BASE_ALONE, tokens(22), saved(22, nbytes=2000), name=name)
        assert error.value.code == "prefix_budget"
    assert {20, 21} <= set(lengths(store))


def test_a_name_means_one_prefix(tmp_path: Path) -> None:
    """The same name again replaces it, in another group too; an automatic file of the same tokens becomes the named."""
    store = store_at(tmp_path)
    store.keep(BASE_ALONE, tokens(20), saved(20))
    store.keep(BASE_ALONE, tokens(20), saved(20), name="clinic")
    assert lengths(store) == [20]
    store.keep(BASE_ALONE, tokens(20), saved(20))
    assert [entry.held.stored.name for entry in store.entries()] == ["clinic"]
    store.keep(with_adapters(acting()), tokens(25), saved(25), name="clinic")
    assert lengths(store) == [25] and store.layout.every_group() == [with_adapters(acting()).group]
    with pytest.raises(NotFound) as error:
        store.remove("clinics")
    assert error.value.near == ("clinic",)
    store.remove("clinic")
    assert lengths(store) == [] and store.layout.every_group() == []
    for name in ("", "../x", "a~b", "Clinic"):
        with pytest.raises(UsageError):
            store.keep(BASE_ALONE, tokens(20), saved(20), name=name)


def test_what_an_adapter_or_base_computed_goes_with_it(tmp_path: Path) -> None:
    """Named or not, alone or among others; the rest stays."""
    store = store_at(tmp_path)
    store.keep(BASE_ALONE, tokens(20), saved(20))
    store.keep(with_adapters(acting("v1")), tokens(21), saved(21), name="clinic")
    store.keep(with_adapters(acting("v2"), acting("v1", path="/b")), tokens(22), saved(22))
    store.keep(with_adapters(acting("v3")), tokens(23), saved(23))
    assert store.drop(versions={"v1"}) == 2
    assert lengths(store) == [20, 23]
    assert store.drop(bases={HERE.base}) == 2
    assert lengths(store) == [] and store.layout.every_group() == []
    assert store_at(tmp_path / "none").drop(bases={HERE.base}) == 0
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("place", [0, 11, 20, 50, 300, -1])
def test_one_changed_byte_is_noticed(tmp_path: Path, place: int, caplog: pytest.LogCaptureFixture) -> None:
    """Wherever it is: nothing is restored from the file, it is removed, and the log says so."""
    store = store_at(tmp_path)
    path = store.keep(BASE_ALONE, tokens(20), saved(20)).path
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    refused(store, path, caplog)


@pytest.mark.parametrize("keep", [0, 10, 47, 60, 300, -1])
def test_a_cut_file_is_noticed(tmp_path: Path, keep: int, caplog: pytest.LogCaptureFixture) -> None:
    """Cut anywhere, or with a byte too many."""
    store = store_at(tmp_path)
    path = store.keep(BASE_ALONE, tokens(20), saved(20)).path
    path.write_bytes(path.read_bytes()[:keep])
    refused(store, path, caplog)
    path = store.keep(BASE_ALONE, tokens(20), saved(20)).path
    path.write_bytes(path.read_bytes() + b"\0")
    refused(store, path, caplog)


def refused(store: PrefixStore, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = find(store, tokens(30))
    assert found is not None
    caplog.clear()
    with caplog.at_level(logging.WARNING), pytest.raises(StorageError):
        store.read(found)
    assert not path.exists() and str(path) in caplog.text and find(store, tokens(30)) is None


def test_foreign_names_are_left_alone(tmp_path: Path) -> None:
    """What is none of ours is neither found nor listed; a damaged origin hides its own group alone."""
    store = store_at(tmp_path)
    path = store.keep(BASE_ALONE, tokens(20), saved(20)).path
    for name in ("notes.txt", "20-xyz.kv", f"0-{'a' * 32}.kv", f"20-{'a' * 32}~A B.kv"):
        (path.parent / name).write_text("mine")
    (store.layout.groups / "notes").mkdir()
    assert lengths(store) == [20]
    store.keep(with_adapters(acting()), tokens(21), saved(21))
    store.layout.origin(BASE_ALONE.group).write_text("{}")
    assert lengths(store) == [21]


def test_no_budget_is_no_prefix(tmp_path: Path) -> None:
    """0 switches it off: nothing is written, nothing is found."""
    store_at(tmp_path).keep(BASE_ALONE, tokens(20), saved(20))
    store = store_at(tmp_path, budget=0)
    assert find(store, tokens(30)) is None
    with pytest.raises(StorageError):
        store.keep(BASE_ALONE, tokens(21), saved(21))


def test_nobody_else_may_read_them(tmp_path: Path) -> None:
    """A system prompt is its user's own."""
    store = store_at(tmp_path / "prefixes")
    path = store.keep(BASE_ALONE, tokens(20), saved(20)).path
    assert (tmp_path / "prefixes").stat().st_mode & 0o077 == 0
    assert path.stat().st_size > 1000


def run_kills(root: Path, argument: str) -> list[dict[str, object]]:
    """The JSON lines of tests.support.prefix_kills."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.support.prefix_kills", str(root), argument]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.skipif(os.name == "nt", reason="forks")
def test_a_kill_at_any_moment_loses_nothing(tmp_path: Path) -> None:
    """Before any call that changes the disk, making room and replacing a name: old or new, whole, within budget."""
    reports = run_kills(tmp_path, "kills")
    assert [report["killed"] for report in reports] == [True] * (len(reports) - 1) + [False]
    assert len(reports) > 12
    for report in reports:
        assert report["broken"] == [] and report["named"] in (["old"], ["old", "new"], ["new"]), report
        # Between the new file of a name and the end of the old one both are there, until the next writing.
        assert not report["over_budget"] or report["named"] == ["old", "new"], report
        assert report["after"] == ["new"] and report["after_over_budget"] is False, report


@pytest.mark.skipif(os.name == "nt", reason="forks")
def test_several_processes_share_one_folder(tmp_path: Path) -> None:
    """All writing, reading and evicting at once: nothing broken, nothing over the budget, nobody fails."""
    (report,) = run_kills(tmp_path, "race")
    assert report["statuses"] == [0] * 4 and report["broken"] == [] and report["over_budget"] is False
    assert report["named"] == ["clinic-0", "clinic-1", "clinic-2", "clinic-3"]
