"""The store: adapters by name, whole or not at all, whatever happens in between."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelora.core.errors import (
    AdapterCorrupt,
    AdapterIncompatible,
    AdapterUnsupported,
    NotFound,
    StorageError,
    UsageError,
)
from edgelora.store.adapters.manifest import AdapterManifest, Version
from edgelora.store.adapters.store import Store
from edgelora_converters.mapped import reader as mapped_reader
from edgelora_models.shape import LlamaShape
from tests.support.adapters import TINY, write_peft
from tests.support.faults import MAKING, at_call, disk_full
from tests.support.records import base_record

BASE = base_record(TINY)
WIDER = LlamaShape(layers=2, hidden=96, heads=6, kv_heads=2, head_dim=16, ffn=128, vocab=256, tied=False)
DAY = 24 * 3600.0


def peft(folder: Path, *, seed: int = 0, **options: Any) -> Path:
    return write_peft(folder, TINY, seed=seed, rank=2, targets=["q_proj", "down_proj"], **options)


def installed(
    store: Store, tmp_path: Path, *, seed: int = 0, name: str | None = None
) -> tuple[AdapterManifest, Version]:
    return store.add(peft(tmp_path / f"adapter-{seed}", seed=seed), name=name, base=BASE)


def files_of(store: Store) -> set[str]:
    """All files of a store but its lock files and `tmp` folder, which come with the first attempt."""
    paths = [path.relative_to(store.root) for path in store.root.rglob("*") if path.is_file()]
    return {path.as_posix() for path in paths if path.parts[0] != "locks"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data", clock=lambda: 1_750_000_000.0)


def test_an_unused_store_is_empty_and_makes_nothing(store: Store) -> None:
    """Reading before anything was added finds nothing and touches no disk."""
    assert store.list() == () and store.names() == () and store.verify() == ()
    with pytest.raises(NotFound):
        store.resolve("medical-faq")
    assert not store.root.exists()


def test_add_from_a_folder(store: Store, tmp_path: Path) -> None:
    """An added adapter is listed with the facts of its configuration, and its source is kept byte for byte."""
    source = peft(tmp_path / "Medical FAQ", alpha=8)
    manifest, version = store.add(source, base=BASE)
    assert manifest.name == "medical-faq"
    assert store.list() == (manifest,) and store.get("medical-faq") == manifest
    assert (version.number, version.created, version.rank, version.alpha) == (1, 1_750_000_000.0, 2, "8")
    assert (version.scales, version.use_rslora) == ((4.0, 4.0), False)
    assert version.targets == ("down_proj", "q_proj")
    assert (version.base_name, version.base_model) == ("tiny", "tests/tiny-llama")
    assert version.base_fingerprint == BASE.identity.fingerprint.digest
    for file in version.files:
        blob = store.root / "blobs" / "sha256" / file.digest[:2] / file.digest
        assert blob.read_bytes() == (source / file.name).read_bytes()


def test_add_from_a_zip_is_the_same_version(store: Store, tmp_path: Path) -> None:
    """A zip of a folder is the folder's content; its name is the zip's stem."""
    source = peft(tmp_path / "adapter")
    with zipfile.ZipFile(tmp_path / "by-zip.zip", "w") as archive:
        for path in source.iterdir():
            archive.write(path, path.name)
    _, from_zip = store.add(tmp_path / "by-zip.zip", base=BASE)
    _, from_folder = store.add(source, base=BASE)
    assert from_zip.digest == from_folder.digest
    assert store.names() == ("adapter", "by-zip")


def test_add_from_a_tar_and_from_a_folder_around_it(store: Store, tmp_path: Path) -> None:
    """A tar.gz is the folder's content too; an adapter PEFT saved under its own name is found, and called by it."""
    folder = peft(tmp_path / "out" / "legal-faq")
    with tarfile.open(tmp_path / "By.Tar.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "out", "out")
    versions = [store.add(source, base=BASE)[1] for source in (folder, tmp_path / "By.Tar.tar.gz", tmp_path / "out")]
    assert len({version.digest for version in versions}) == 1
    assert store.names() == ("by.tar", "legal-faq")


def test_files_that_nobody_changes_may_be_linked(store: Store, tmp_path: Path) -> None:
    """The same version either way; the source stays as it was, and its origin is remembered."""
    folder = peft(tmp_path / "cached")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    manifest, version = store.add(folder, base=BASE, origin="hub:o/r@c", immutable=True)
    assert version.files == store.add(folder, name="copied", base=BASE)[1].files
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert store.get(manifest.name).latest.origin == "hub:o/r@c"
    assert store.verify() == ()


def test_the_source_may_go(store: Store, tmp_path: Path) -> None:
    """After adding, nothing depends on where the adapter came from; the conversion is there for the base."""
    source = peft(tmp_path / "gone")
    store.add(source, base=BASE)
    for path in source.iterdir():
        path.unlink()
    ref = store.ref("gone", BASE)
    assert ref.path.name == "adapter.lora" and ref.path.read_bytes()[:4] == b"GGUF"
    assert ref.name == "gone" and ref.version == store.get("gone").latest.digest
    assert ref.nbytes == 4 * store.get("gone").latest.parameters


def test_the_same_content_is_the_same_version(store: Store, tmp_path: Path) -> None:
    """Adding the same content again makes no version and no file; under another name it shares every file."""
    manifest, version = installed(store, tmp_path, name="a")
    before = files_of(store)
    assert installed(store, tmp_path, name="a") == (manifest, version)
    assert files_of(store) == before
    installed(store, tmp_path, name="b")
    assert files_of(store) == before | {"manifests/b.json"}


def test_new_content_is_a_new_version(store: Store, tmp_path: Path) -> None:
    """New content under an old name becomes latest; the old version stays reachable; adding it again points back."""
    _, one = installed(store, tmp_path, seed=1, name="a")
    manifest, two = installed(store, tmp_path, seed=2, name="a")
    assert [version.number for version in manifest.versions] == [1, 2]
    assert store.resolve("a")[1] == store.resolve("a@latest")[1] == store.resolve("a@2")[1] == two
    assert store.resolve("a@1")[1] == store.resolve(f"a@{one.digest[:6]}")[1] == one
    again, back = installed(store, tmp_path, seed=1, name="a")
    assert back == one and again.latest == one and len(again.versions) == 2


@pytest.mark.parametrize(
    "spec", ["medical", "medical-faq@9", "medical-faq@", "../medical-faq", "Medical-FAQ", "", "nul", "a\0"]
)
def test_unknown_names(store: Store, tmp_path: Path, spec: str) -> None:
    """What is not installed is NotFound, whatever it looks like."""
    installed(store, tmp_path, name="medical-faq")
    with pytest.raises(NotFound):
        store.resolve(spec)


def test_unknown_names_come_with_near_ones(store: Store, tmp_path: Path) -> None:
    """A misspelt name suggests the right one."""
    installed(store, tmp_path, name="medical-faq")
    with pytest.raises(NotFound) as caught:
        store.ref("medcal-faq", BASE)
    assert caught.value.near == ("medical-faq",)


def test_remove_a_version(store: Store, tmp_path: Path) -> None:
    """A removed version takes its own files along, leaves shared ones, and its number is not given again."""
    _, one = installed(store, tmp_path, seed=1, name="a")
    before = files_of(store) - {"manifests/a.json"}
    _, two = installed(store, tmp_path, seed=2, name="a")
    assert store.remove("a@2") == (two,)
    assert files_of(store) - {"manifests/a.json"} == before
    assert store.get("a").latest == one
    assert installed(store, tmp_path, seed=3, name="a")[1].number == 3
    assert store.verify() == ()


def test_remove_a_name(store: Store, tmp_path: Path) -> None:
    """A removed name is gone with all its versions; what another name uses stays, open files stay readable."""
    installed(store, tmp_path, seed=1, name="a")
    installed(store, tmp_path, seed=2, name="a")
    installed(store, tmp_path, seed=2, name="b")
    with store.ref("a@1", BASE).path.open("rb") as open_file:
        assert len(store.remove("a")) == 2
        assert open_file.read(4) == b"GGUF"
    assert store.names() == ("b",)
    assert store.verify() == () and store.ref("b", BASE).path.is_file()
    store.remove("b@latest")
    assert files_of(store) == set()
    with pytest.raises(NotFound):
        store.remove("b")


def test_removing_beside_a_damaged_manifest_deletes_no_file(store: Store, tmp_path: Path) -> None:
    """What a damaged manifest may refer to is not deleted; once it is away, gc takes what is left over."""
    installed(store, tmp_path, name="a")
    (store.root / "manifests" / "b.json").write_text("{")
    store.remove("a")
    assert any(name.startswith("blobs/") for name in files_of(store))
    with pytest.raises(StorageError):
        store.gc()
    (store.root / "manifests" / "b.json").unlink()
    later = Store(store.root)
    assert later.gc() != ()
    assert files_of(store) == set()


def test_ref_converts_for_another_format(store: Store, tmp_path: Path) -> None:
    """A base of another format gets its own conversion of the kept source, once."""
    _, version = installed(store, tmp_path, name="a")
    mlx = base_record(TINY, format="mlx")
    seen: list[tuple[str, int, int]] = []
    ref = store.ref("a", mlx, progress=lambda *step: seen.append(step))
    assert ref.path.is_dir() and seen[-1][0] == "Converting a" and seen[-1][1] == seen[-1][2]
    assert store.ref("a", mlx, progress=lambda *step: pytest.fail("converted twice")) == ref
    assert {converted.conversion.format for converted in store.conversions(version)} == {"mapped", "mlx"}
    assert store.verify() == ()


def test_ref_converts_for_another_base_of_the_same_shapes(store: Store, tmp_path: Path) -> None:
    """Conversions are kept apart by the base's fingerprint."""
    installed(store, tmp_path, name="a")
    other = base_record(TINY, name="other", vocabulary="2" * 64)
    assert store.ref("a", other).path != store.ref("a", BASE).path


def test_another_converter_converts_again(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new converter's outcome is not mixed up with the old one's."""
    from edgelora_converters.convert import convert

    installed(store, tmp_path, name="a")
    old = store.ref("a", BASE)
    monkeypatch.setattr(convert, "CONVERTER_VERSION", "next")
    assert store.ref("a", BASE).path != old.path


def test_a_lost_or_cut_conversion_is_made_again(store: Store, tmp_path: Path) -> None:
    """Conversions are derived: missing or shortened files are simply converted again."""
    installed(store, tmp_path, name="a")
    path = store.ref("a", BASE).path
    whole = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(whole[:-1])
    assert store.ref("a", BASE).path.read_bytes() == whole
    path.unlink()
    assert store.ref("a", BASE).path.read_bytes() == whole
    (path.parent / "conversion.json").write_text("{")
    assert store.ref("a", BASE).path.read_bytes() == whole
    assert store.verify() == ()


def test_a_conversion_is_read_only(store: Store, tmp_path: Path) -> None:
    """What processes map, nothing writes to by mistake; it can still be removed and collected."""
    installed(store, tmp_path, name="a")
    path = store.ref("a", BASE).path
    assert path.stat().st_mode & 0o222 == 0
    store.remove("a")
    assert not path.exists()


def test_removing_what_runs(store: Store, tmp_path: Path) -> None:
    """Whoever has the converted file mapped keeps every byte of it, however the name fares."""
    installed(store, tmp_path, name="a")
    ref = store.ref("a", BASE)
    running = mapped_reader.read(ref.path, TINY)
    before = {target: pair.b.copy() for target, pair in running.pairs.items()}
    store.remove("a")
    Store(store.root).gc()
    assert not ref.path.exists()
    assert all(np.array_equal(pair.b, before[target]) for target, pair in running.pairs.items())


def test_a_folder_that_cannot_be_moved(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system holds on to a mapped file, as Windows does, the adapter is gone and its folder waits for gc."""
    installed(store, tmp_path, name="a")
    folder = store.ref("a", BASE).path.parents[1]
    rename = Path.rename

    def refused(path: Path, target: Path) -> Path:
        if path == folder:
            raise PermissionError(13, "it is in use")
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", refused)
        store.remove("a")
        assert store.names() == () and folder.exists()
        assert Store(store.root).gc() == ()
    assert Store(store.root).gc() != ()
    assert files_of(store) == set()


def test_the_memory_of_an_adapter(store: Store, tmp_path: Path) -> None:
    """As stored where it is mapped; four bytes a value for a backend that widens, or for llama.cpp's own format."""
    store.add(write_peft(tmp_path / "a", TINY, dtype="F16"), base=BASE)
    parameters = store.get("a").latest.parameters
    assert store.ref("a", BASE).nbytes == 2 * parameters
    assert store.ref("a", BASE, widened=True).nbytes == 4 * parameters
    own = store.ref("a", BASE, to="gguf")
    assert (own.path.name, own.nbytes) == ("adapter.gguf", 4 * parameters)
    assert own.key != store.ref("a", BASE).key


def test_a_lost_source_says_what_to_do(store: Store, tmp_path: Path) -> None:
    """Without its kept source an adapter cannot be converted again; adding it again repairs it."""
    _, version = installed(store, tmp_path, name="a")
    digest = version.files[1].digest
    (store.root / "blobs" / "sha256" / digest[:2] / digest).unlink()
    assert [problem.path.name for problem in store.verify()] == [digest]
    with pytest.raises(StorageError) as caught:
        store.ref("a", base_record(TINY, format="mlx"))
    assert "Add the adapter again" in caught.value.remedy
    installed(store, tmp_path, name="a")
    assert store.verify() == ()


def test_the_source_for_a_while(store: Store, tmp_path: Path) -> None:
    """A version's PEFT folder is there as it was added, for the block only; a lost file is said."""
    folder = peft(tmp_path / "peft")
    manifest, version = store.add(folder, name="a", base=BASE)
    with store.source("a", version) as source:
        assert {path.name: path.read_bytes() for path in source.iterdir()} == {
            path.name: path.read_bytes() for path in folder.iterdir()
        }
    assert not source.exists()
    (store.root / "blobs" / "sha256" / version.files[0].digest[:2] / version.files[0].digest).unlink()
    with pytest.raises(StorageError, match="missing"), store.source(manifest.name, version):
        pass


def test_an_adapter_for_another_base(store: Store, tmp_path: Path) -> None:
    """Shapes that do not fit are refused with both names, when adding and when asking."""
    wider = base_record(WIDER, name="wider")
    with pytest.raises(AdapterIncompatible) as caught:
        store.add(peft(tmp_path / "a"), base=wider)
    assert "adapter a " in caught.value.what and "base wider" in caught.value.what
    assert store.names() == () and files_of(store) == set()
    installed(store, tmp_path, name="a")
    with pytest.raises(AdapterIncompatible) as caught:
        store.ref("a", wider)
    assert "tests/tiny-llama" in caught.value.what and "base wider" in caught.value.what


def truncated(folder: Path) -> Path:
    weights = peft(folder) / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    return folder


def pickled(folder: Path) -> Path:
    (peft(folder) / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    return folder


def arrow(folder: Path) -> Path:
    return peft(folder, arrow_config={"top_k": 3})


def cut_zip(folder: Path) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in peft(folder).iterdir():
            archive.write(file, file.name)
    path.write_bytes(path.read_bytes()[:-40])
    return path


def climbing_zip(folder: Path) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in peft(folder).iterdir():
            archive.write(file, f"../{file.name}")
    return path


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (truncated, AdapterCorrupt),
        (pickled, AdapterUnsupported),
        (arrow, AdapterUnsupported),
        (cut_zip, AdapterCorrupt),
        (climbing_zip, AdapterCorrupt),
        (lambda folder: folder, UsageError),
    ],
    ids=["truncated", "pickle", "arrow", "cut-zip", "climbing-zip", "absent"],
)
def test_what_is_refused_leaves_nothing(store: Store, tmp_path: Path, make: Any, kind: type[Exception]) -> None:
    """A refused adapter leaves no file, no name and no temporary."""
    source = make(tmp_path / "bad")
    with pytest.raises(kind):
        store.add(source, base=BASE)
    assert files_of(store) == set() and store.names() == ()
    assert list((store.root / "tmp").glob("*")) == []


@pytest.mark.parametrize("name", ["../a", "A", "", "nul", "a/b"])
def test_bad_names_are_refused_before_any_work(store: Store, tmp_path: Path, name: str) -> None:
    """A name that could be a path, or that some system cannot store, never reaches the disk."""
    with pytest.raises(UsageError):
        store.add(peft(tmp_path / "a"), name=name, base=BASE)
    assert not store.root.exists()


def test_a_damaged_manifest_hides_no_other(store: Store, tmp_path: Path) -> None:
    """One damaged manifest is reported by get and verify; the rest of the list stays."""
    installed(store, tmp_path, name="good")
    bad = store.root / "manifests" / "bad.json"
    bad.write_bytes(b'{"name": "bad"')
    assert [manifest.name for manifest in store.list()] == ["good"]
    with pytest.raises(StorageError) as caught:
        store.get("bad")
    assert str(bad) in caught.value.what
    assert [problem.path for problem in store.verify()] == [bad]
    with pytest.raises(StorageError):
        installed(store, tmp_path, name="bad")


def test_verify_finds_a_flipped_bit(store: Store, tmp_path: Path) -> None:
    """A changed byte in a blob or in a conversion is found, with what to do; adding again repairs the blob."""
    _, version = installed(store, tmp_path, name="a")
    blob = store.root / "blobs" / "sha256" / version.files[1].digest[:2] / version.files[1].digest
    converted = store.ref("a", BASE).path
    for path in (blob, converted):
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    problems = store.verify()
    assert [problem.path for problem in problems] == [blob, converted]
    assert "Add a again" in problems[0].remedy and str(converted.parent) in problems[1].remedy
    installed(store, tmp_path, name="a")
    assert [problem.path for problem in store.verify()] == [converted]


def test_gc_spares_what_is_used(store: Store, tmp_path: Path) -> None:
    """Only what no adapter uses goes; a dry run says how much that is and touches nothing."""
    installed(store, tmp_path, name="a")
    used = files_of(store)
    stray = store.root / "blobs" / "sha256" / "ab" / ("ab" * 32)
    stray.parent.mkdir(parents=True, exist_ok=True)
    stray.write_bytes(b"123")
    assert [(item.path, item.nbytes, item.why) for item in store.gc(dry_run=True)] == [(stray, 3, "unused")]
    assert stray.exists()
    assert [item.nbytes for item in store.gc()] == [3]
    assert files_of(store) == used and store.gc() == ()


def test_add_sweeps_what_a_killed_process_left(store: Store, tmp_path: Path) -> None:
    """Day-old temporaries are gone after the next add."""
    installed(store, tmp_path, name="a")
    left = store.root / "tmp" / ".tmp-left"
    left.mkdir()
    os.utime(left, (1.0, 1.0))
    installed(store, tmp_path, name="a")
    assert not left.exists()


def test_a_full_disk_at_any_point_changes_nothing(tmp_path: Path) -> None:
    """ENOSPC at each writing call of an add: a StorageError, no temporary, and a store as before or as after."""
    source, base_store = peft(tmp_path / "second", seed=2), Store(tmp_path / "0")
    installed(base_store, tmp_path, name="a")
    point, failed = 0, True
    while failed:
        point += 3
        store = Store(tmp_path / str(point))
        shutil.copytree(base_store.root, store.root)
        with at_call(point, disk_full, calls=MAKING) as counter:
            try:
                store.add(source, name="a", base=BASE)
            except StorageError as error:
                assert error.code == "no_space", point
        failed = counter.calls >= point
        assert len(store.get("a").versions) in ({1, 2} if failed else {2})
        assert store.verify() == ()
        assert list((store.root / "tmp").iterdir()) == []
    assert point > 40


def test_too_little_space_is_said_before_work(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An add that cannot fit is refused with how much it needs."""
    monkeypatch.setattr("edgelora_models.storage.free_bytes", lambda folder: 100)
    with pytest.raises(StorageError) as caught:
        installed(store, tmp_path, name="a")
    assert caught.value.code == "no_space" and "100 bytes are free" in caught.value.what
    assert files_of(store) == set()


@pytest.mark.parametrize(("number", "code"), [(errno.EROFS, "read_only"), (errno.EACCES, "no_permission")])
def test_a_store_that_cannot_be_written(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: str
) -> None:
    """On a read-only disk adding and removing fail with the reason, and everything installed still works."""
    installed(store, tmp_path, name="a")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), str(store.root / "tmp"))

    for call in ("mkdir", "replace", "rename", "unlink"):
        monkeypatch.setattr(os, call, refuse)
    for work in (lambda: installed(store, tmp_path, name="a"), lambda: store.remove("a")):
        with pytest.raises(StorageError) as caught:
            work()
        assert caught.value.code == code
    assert store.ref("a", BASE).path.is_file()
    assert store.verify() == ()


def run_script(root: Path, argument: str) -> list[Any]:
    """The JSON lines of tests.support.store_kills."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "tests.support.store_kills", str(root), argument]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.mark.timeout(600)  # a second or two, and minutes where something else has the processors
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_kill_9_at_any_point_of_add(tmp_path: Path) -> None:
    """A store whose writer was killed at any call verifies, serves what it had, and takes the next add."""
    first = installed(Store(tmp_path / "template"), tmp_path, seed=1, name="kept")[1].digest
    for name, seed in (("second", 2), ("third", 3)):
        peft(tmp_path / name, seed=seed)
    reports = run_script(tmp_path, "2")
    second = reports[-1]["after"][-1]
    assert len(reports) > 20 and [report["killed"] for report in reports] == [True] * (len(reports) - 1) + [False]
    for report in reports:
        assert report["versions"] in ([first], [first, second]), report
        assert report["readable"] and report["after"] == [first, second], report
        assert report["problems"] == report["after_problems"] == report["after_gc"] == [], report
    assert [first] in [report["versions"] for report in reports]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_processes_racing_for_one_name(tmp_path: Path) -> None:
    """Five processes adding four contents under one name: four versions, all sound."""
    for n in range(4):
        peft(tmp_path / str(n), seed=n)
    assert run_script(tmp_path, "race") == [[0, 0, 0, 0, 0]]
    store = Store(tmp_path / "store")
    manifest = store.get("same")
    assert [version.number for version in manifest.versions] == [1, 2, 3, 4]
    assert manifest.latest in manifest.versions
    assert store.verify() == ()


def test_an_alias_means_the_version_it_was_pointed_at(store: Store, tmp_path: Path) -> None:
    """Named by number, digest or another alias; it stays there when a new version comes, and goes with its version."""
    for seed in range(3):
        installed(store, tmp_path, seed=seed, name="a")
    digest = store.get("a").versions[0].digest
    store.point("a", "stable", digest[:8])
    store.point("a", "old", "stable")
    installed(store, tmp_path, seed=3, name="a")
    assert [store.resolve(f"a@{alias}")[1].number for alias in ("stable", "old", "latest")] == [1, 1, 4]
    assert store.unpoint("a", "old").aliases == {"latest": 4, "stable": 1}
    store.remove("a@1")
    with pytest.raises(NotFound):
        store.resolve("a@stable")


def test_rolling_back_is_pointing_latest_at_an_older_version(store: Store, tmp_path: Path) -> None:
    """The bare name means it; adding the newer content again makes that the latest, and no new version."""
    for seed in range(2):
        installed(store, tmp_path, seed=seed, name="a")
    assert store.point("a", "latest", "1").latest.number == 1
    assert store.ref("a", BASE).version == store.get("a").versions[0].digest
    assert installed(store, tmp_path, seed=1, name="a")[1].number == 2


@pytest.mark.parametrize(("alias", "selector", "kind"), [
    ("12", "1", UsageError), ("abcdef0", "1", UsageError), ("../x", "1", UsageError), ("", "1", UsageError),
    ("stable", "9", NotFound), ("stable", "none", NotFound),
])  # fmt: skip
def test_what_cannot_be_pointed(store: Store, tmp_path: Path, alias: str, selector: str, kind: type[Exception]) -> None:
    """An alias is no number and no digest, and means a version that is there; nothing has changed."""
    installed(store, tmp_path, name="a")
    with pytest.raises(kind):
        store.point("a", alias, selector)
    assert store.get("a").aliases == {"latest": 1}
    for missing, wrong in (("latest", UsageError), ("no", NotFound)):
        with pytest.raises(wrong):
            store.unpoint("a", missing)
