"""Garbage collection: everything that is used, mapped or being written stays, and all else goes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from edgelora.core.files import workspace
from edgelora.store.adapters.manifest import decode_conversion, encode
from edgelora.store.adapters.store import Store
from edgelora_converters.mapped import reader as mapped_reader
from tests.support.adapters import TINY, write_peft
from tests.support.faults import at_call, die
from tests.support.records import base_record
from tests.support.store_kills import in_child

BASE = base_record(TINY)
NAMES = ("a", "b", "c")
SEEDS = (1, 2, 3)
posix = pytest.mark.skipif(os.name != "posix", reason="forks, and flock")


def files_of(root: Path) -> set[Path]:
    return {path for path in root.rglob("*") if path.is_file() and "locks" not in path.parts}


def outdate(folder: Path) -> Path:
    """A copy of a conversion, as an older converter would have named and described it."""
    old = folder.with_name(f"{folder.name.rpartition('-')[0]}-1")
    old.mkdir(exist_ok=True)
    for path in folder.iterdir():
        if not (old / path.name).exists():
            (old / path.name).write_bytes(path.read_bytes())
    described = old / "conversion.json"
    described.write_bytes(encode(msgspec.structs.replace(decode_conversion(described.read_bytes()), converter="1")))
    return old


class GarbageMachine(RuleBasedStateMachine):
    """Adapters come and go, are mapped and let go; litter of every kind appears; gc runs at any moment."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.home = Path(self.folder.name)
        self.store = Store(self.home / "store")
        self.sources = {seed: write_peft(self.home / f"peft-{seed}", TINY, seed=seed) for seed in SEEDS}
        self.mapped: dict[Path, mapped_reader.MappedAdapter] = {}
        self.removed: set[Path] = set()
        """Mapped files whose adapter was removed since: its files go at once, though a process reads them."""

    def teardown(self) -> None:
        self.mapped.clear()
        self.folder.cleanup()

    @rule(name=st.sampled_from(NAMES), seed=st.sampled_from(SEEDS))
    def add(self, name: str, seed: int) -> None:
        self.store.add(self.sources[seed], name=name, base=BASE)

    @rule(name=st.sampled_from(NAMES))
    def remove(self, name: str) -> None:
        if name in self.store.names():
            self.store.remove(name)
            self.removed |= {path for path in self.mapped if path.parents[1].name not in self.installed()}

    @rule(name=st.sampled_from(NAMES), old=st.booleans())
    def map_one(self, name: str, old: bool) -> None:
        if name in self.store.names():
            path = self.store.ref(name, BASE).path
            path = outdate(path.parent) / path.name if old else path
            self.mapped[path] = mapped_reader.read(path, TINY)
            self.removed.discard(path)

    @rule()
    def unmap(self) -> None:
        self.mapped.clear()

    @rule(digit=st.sampled_from("0123456789abcdef"))
    def litter(self, digit: str) -> None:
        blob = self.store.root / "blobs" / "sha256" / (2 * digit) / (64 * digit)
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(b"left")
        conversion = self.store.root / "conversions" / (64 * digit) / "mapped-x-1"
        conversion.mkdir(parents=True, exist_ok=True)
        (conversion / "adapter.lora").write_bytes(b"left")

    @rule()
    def collect(self) -> None:
        listed = sum(item.nbytes for item in self.store.gc(dry_run=True))
        assert sum(item.nbytes for item in self.store.gc()) == listed
        assert self.store.gc() == ()
        for manifest in self.store.list():
            for version in manifest.versions:
                converters = {converted.conversion.converter for converted in self.store.conversions(version)}
                assert "1" not in converters or any(path.parent.name.endswith("-1") for path in self.mapped)

    @invariant()
    def nothing_that_is_used_is_gone(self) -> None:
        assert self.store.verify() == ()
        for path, adapter in self.mapped.items():
            assert path.exists() or path in self.removed
            assert all(pair.b.sum() == pair.b.sum() for pair in adapter.pairs.values())

    def installed(self) -> set[str]:
        """The digests of all installed versions."""
        return {version.digest for manifest in self.store.list() for version in manifest.versions}


GarbageMachine.TestCase.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)
TestGarbage = posix(GarbageMachine.TestCase)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    for seed, name in ((1, "a"), (2, "b")):
        store.add(write_peft(tmp_path / f"peft-{seed}", TINY, seed=seed), name=name, base=BASE)
    return store


@contextmanager
def other_process(script: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Another Python that runs `script`, which prints a line when it is ready and then waits."""
    command = [sys.executable, "-c", script + "\nprint('ready', flush=True)\nsys.stdin.read()", *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


MAPS = """
import sys
from pathlib import Path
from edgelora_converters.mapped.mapping import map_bytes
with Path(sys.argv[1]).open("rb") as file:
    data = map_bytes(file)
"""
WRITES = """
import sys
from pathlib import Path
from edgelora.core.files import workspace
context = workspace(Path(sys.argv[1]))
work = context.__enter__()
(work / "half").write_bytes(b"half")
"""


@posix
def test_a_conversion_that_another_process_maps_stays(store: Store) -> None:
    """Of an older converter, and so garbage: it stays until the process that maps it ends, however it ends."""
    old = outdate(store.ref("a", BASE).path.parent)
    with other_process(MAPS, old / "adapter.lora") as process:
        assert store.gc() == () and old.exists()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert [(item.path, item.why) for item in store.gc()] == [(old, "old converter")]
    assert not old.exists() and store.verify() == ()


@posix
def test_a_live_processs_workspace_stays_and_a_dead_ones_goes(store: Store) -> None:
    """Whatever its age: the lock tells, not the clock."""
    tmp = store.root / "tmp"
    with other_process(WRITES, tmp) as process:
        (work,) = (path for path in tmp.iterdir() if path.is_dir())
        os.utime(work, (0, 0))
        store.gc()
        assert (work / "half").exists()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        store.gc()
    assert list(tmp.iterdir()) == []


def test_a_newer_converters_work_stays(store: Store) -> None:
    """An older edgelora on the same store deletes nothing that a newer one made."""
    folder = store.ref("a", BASE).path.parent
    newer = outdate(folder)
    described = newer / "conversion.json"
    conversion = decode_conversion(described.read_bytes())
    described.write_bytes(encode(msgspec.structs.replace(conversion, converter="999")))
    assert store.gc() == () and newer.exists()


def test_a_damaged_conversion_of_a_used_version_goes(store: Store) -> None:
    """It would be made again in any case."""
    folder = store.ref("a", BASE).path.parent
    (folder / "conversion.json").write_text("{")
    assert [item.path for item in store.gc()] == [folder]
    assert store.ref("a", BASE).path.exists()


def test_beside_a_damaged_manifest_nothing_goes(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """What it uses is not known; a change of another adapter still works, and the reason is in the log."""
    (store.root / "manifests" / "b.json").write_text("{")
    before = files_of(store.root)
    store.tidy()
    assert files_of(store.root) == before and "garbage was not collected" in caplog.text


@posix
@pytest.mark.parametrize("work", ["gc", "add"])
def test_killed_at_every_point(store: Store, tmp_path: Path, work: str) -> None:
    """kill -9 before each change of the disk: the store works afterwards, and the next gc frees what was left."""
    source = write_peft(tmp_path / "peft-3", TINY, seed=3)

    def act() -> None:
        if work == "gc":
            Store(store.root).gc()
        else:
            Store(store.root).add(source, name="c", base=BASE)

    for point in range(1, 200, 1 if work == "gc" else 7):
        for digit in "0f":
            stray = store.root / "blobs" / "sha256" / (2 * digit) / (64 * digit)
            stray.parent.mkdir(parents=True, exist_ok=True)
            stray.write_bytes(b"left")
        outdate(store.ref("a", BASE).path.parent)
        child = in_child(lambda point=point: killed_at(point, act))
        _, status = os.waitpid(child, 0)
        assert Store(store.root).verify() == () and {"a", "b"} <= set(store.names())
        if "c" in store.names():
            store.remove("c")
        store.gc()
        assert list((store.root / "tmp").iterdir()) == [] and store.gc() == ()
        if status == 0:
            break
    else:
        raise AssertionError("it never came to its end")
    used = {version.digest for name in ("a", "b") for version in store.get(name).versions}
    assert {path.name for path in (store.root / "conversions").iterdir()} == used


def killed_at(point: int, act: Callable[[], Any]) -> None:
    with at_call(point, die):
        act()


def test_a_workspace_leaves_no_lock(tmp_path: Path) -> None:
    """Neither at its end nor after an error in it."""
    with pytest.raises(ZeroDivisionError), workspace(tmp_path / "tmp") as work:
        assert {path.name for path in (tmp_path / "tmp").iterdir()} == {work.name, f"{work.name}.lock"}
        raise ZeroDivisionError
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_description_is_json(store: Store) -> None:
    """What `outdate` above changes is what the store reads."""
    folder = store.ref("a", BASE).path.parent
    assert json.loads((outdate(folder) / "conversion.json").read_bytes())["converter"] == "1"


def test_a_file_that_vanishes_while_it_is_measured(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody cleans up by hand at the same time: that is no error."""
    litter = store.root / "conversions" / (64 * "f") / "mapped-x-1"
    litter.mkdir(parents=True)
    (litter / "adapter.lora").write_bytes(b"left")
    is_file = Path.is_file

    def vanishing(path: Path) -> bool:
        there = is_file(path)
        if path.name == "adapter.lora" and path.is_relative_to(litter):
            path.unlink()
        return there

    monkeypatch.setattr(Path, "is_file", vanishing)
    assert [item.nbytes for item in store.gc(dry_run=True)] == [0]
