"""The built-in base and adapters: installed once for each version, never against the user's will."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgelora.core.errors import NotFound, StorageError
from edgelora.store import builtin
from edgelora.store.adapters.store import Store
from edgelora.store.bases.record import BUILTIN
from edgelora.store.bases.registry import Bases
from edgelora.store.builtin import ensure_builtin
from edgelora_models.shape import LlamaShape
from tests.support.adapters import write_peft
from tests.support.bases import MIN_VOCAB, write_tiny_gguf
from tests.support.records import directories

SHAPE = LlamaShape(layers=1, hidden=32, heads=2, kv_heads=1, head_dim=16, ffn=32, vocab=MIN_VOCAB, tied=True)


@dataclass
class Package:
    """A small stand-in for edgelora_models.builtin."""

    root: Path
    BASE_NAME: str = "edgelora-tiny"

    def base_gguf(self) -> Path:
        return self.root / "base.gguf"

    def adapters(self) -> Mapping[str, Path]:
        return {path.name: path for path in sorted((self.root / "adapters").iterdir())}


def write_package(root: Path, *, seed: int = 1) -> Package:
    (root / "adapters").mkdir(parents=True, exist_ok=True)
    write_tiny_gguf(root / "base.gguf", SHAPE, seed=1)
    for n, name in enumerate(("medical-faq", "pirate")):
        write_peft(root / "adapters" / name, SHAPE, rank=2, seed=seed + n)
    return Package(root)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_package(tmp_path_factory.mktemp("original") / "package").root


class Machine:
    """A home, and the package installed on it."""

    def __init__(self, root: Path, original: Path) -> None:
        self.package = Package(root / "package")
        shutil.copytree(original, self.package.root)
        self.bases = Bases(directories(root / "home"))
        self.store = Store(self.bases.directories.data)
        self.steps: list[tuple[str, int, int]] = []

    def start(self, package: Package | None = None) -> None:
        """One program start. `steps` are what its progress bar was told."""
        self.steps.clear()
        progress = lambda *step: self.steps.append(step)  # noqa: E731
        ensure_builtin(self.bases, self.store, progress, source=package or self.package)


@pytest.fixture
def machine(tmp_path: Path, original: Path) -> Machine:
    return Machine(tmp_path, original)


def test_first_use_installs_everything(machine: Machine) -> None:
    """After the first start the base is chosen, and every adapter is installed and converted for it."""
    machine.start()
    base = machine.bases.current()
    assert (base.name, base.origin, base.path) == ("edgelora-tiny", BUILTIN, machine.package.base_gguf())
    assert machine.store.names() == ("medical-faq", "pirate")
    assert all(machine.store.conversions(manifest.latest) for manifest in machine.store.list())
    assert machine.store.ref("medical-faq", base).path.is_file() and machine.store.verify() == ()
    assert [step[1:] for step in machine.steps] == [(1, 3), (2, 3), (3, 3)]


def test_a_second_start_does_nothing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is new, nothing is read, hashed, converted or written."""
    machine.start()
    monkeypatch.setattr(builtin, "_install", lambda *_, **__: pytest.fail("installed again"))
    monkeypatch.setattr(builtin, "locked", lambda *_, **__: pytest.fail("locked"))
    machine.start()
    assert machine.steps == []


def test_what_was_removed_stays_removed(machine: Machine) -> None:
    """An adapter or base the user removed does not come back, also not with another installation of the same files."""
    machine.start()
    machine.store.remove("pirate")
    machine.bases.remove("edgelora-tiny")
    machine.start()
    elsewhere = machine.package.root.with_name("elsewhere")
    shutil.copytree(machine.package.root, elsewhere)
    machine.start(Package(elsewhere))
    assert machine.store.names() == ("medical-faq",)
    with pytest.raises(NotFound):
        machine.bases.get("edgelora-tiny")


def test_an_upgrade_brings_new_versions(machine: Machine) -> None:
    """A new content of a built-in adapter becomes its latest version; the old one stays."""
    machine.start()
    write_package(machine.package.root, seed=10)
    machine.start()
    assert [len(manifest.versions) for manifest in machine.store.list()] == [2, 2]
    assert machine.store.get("pirate").latest.number == 2
    assert machine.bases.current().name == "edgelora-tiny"


def test_another_installation_takes_the_base_along(machine: Machine) -> None:
    """After moving to another environment the base's record follows, and no adapter is doubled."""
    machine.start()
    elsewhere = machine.package.root.with_name("elsewhere")
    machine.package.root.rename(elsewhere)
    machine.start(Package(elsewhere))
    assert machine.bases.current().path == elsewhere / "base.gguf"
    assert [len(manifest.versions) for manifest in machine.store.list()] == [1, 1]


def test_the_users_own_names_win(machine: Machine, tmp_path: Path) -> None:
    """An adapter of the user's under a built-in name is neither replaced nor given a version."""
    base = machine.bases.add(machine.package.base_gguf(), "mine")
    mine = write_peft(tmp_path / "mine", SHAPE, rank=3, seed=99)
    _, version = machine.store.add(mine, name="pirate", base=base)
    machine.start()
    assert machine.store.get("pirate").versions == (version,)
    assert machine.store.names() == ("medical-faq", "pirate")


def test_a_chosen_base_stays_chosen(machine: Machine) -> None:
    """The built-in base becomes the current one only where none was chosen."""
    machine.bases.add(machine.package.base_gguf(), "mine")
    machine.bases.use("mine")
    machine.start()
    assert machine.bases.current().name == "mine"
    assert set(machine.bases.names()) == {"edgelora-tiny", "mine"}


def test_a_base_of_the_users_under_the_built_in_name(machine: Machine, tmp_path: Path) -> None:
    """The user's base keeps the name; the built-in adapters, which are not for it, are not installed."""
    other = tmp_path / "mine.gguf"
    shutil.copy(machine.package.base_gguf(), other)
    machine.bases.add(other, "edgelora-tiny")
    machine.start()
    assert machine.bases.get("edgelora-tiny").path == other
    assert machine.store.names() == ()


def test_a_damaged_marker_costs_one_more_look(machine: Machine) -> None:
    """A marker that cannot be read sets everything up again, without doubling anything."""
    machine.start()
    before = machine.store.list()
    (machine.bases.directories.data / "builtin.json").write_bytes(b"{")
    machine.start()
    assert machine.store.list() == before


def test_an_interrupted_installation_is_finished(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk in the middle is an error; the next start installs what is missing."""
    add = Store.add

    def full(store: Store, source: Path, **options: object) -> object:
        if source.name == "pirate":
            raise StorageError("no_space", "The disk is full.")
        return add(store, source, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Store, "add", full)
        with pytest.raises(StorageError):
            machine.start()
    assert machine.store.names() == ("medical-faq",)
    machine.start()
    assert machine.store.names() == ("medical-faq", "pirate")
    assert [len(manifest.versions) for manifest in machine.store.list()] == [1, 1]


def test_an_installation_without_built_ins_works(machine: Machine) -> None:
    """Where the package's files are missing, nothing is installed and nothing fails."""
    machine.package.base_gguf().unlink()
    machine.start()
    assert machine.store.names() == () and machine.bases.list() == ()


RACE = """
import sys
from pathlib import Path
from edgelora.store.adapters.store import Store
from edgelora.store.builtin import ensure_builtin
from edgelora.store.bases.registry import Bases
from tests.edgelora.store.test_builtin import Package
from tests.support.records import directories

bases = Bases(directories(Path(sys.argv[2])))
store = Store(bases.directories.data)
print("ready", flush=True)
sys.stdin.readline()
ensure_builtin(bases, store, source=Package(Path(sys.argv[1])))
print(bases.current().name, *store.names())
"""


def test_two_first_starts_at_once(machine: Machine, tmp_path: Path) -> None:
    """Two processes at first use both find everything installed, once."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", RACE, str(machine.package.root), str(tmp_path / "home")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    with subprocess.Popen(command, **pipes) as one, subprocess.Popen(command, **pipes) as two:  # type: ignore[call-overload]
        for process in (one, two):
            assert process.stdout.readline() == "ready\n"
        for process in (one, two):
            process.stdin.write("\n")
            process.stdin.flush()
        answers = [process.communicate()[0] for process in (one, two)]
    assert answers == ["edgelora-tiny medical-faq pirate\n"] * 2
    assert [len(manifest.versions) for manifest in machine.store.list()] == [1, 1]
    assert machine.store.verify() == ()
