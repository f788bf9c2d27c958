"""Names that are safe on every system, and writes that are whole or absent."""

from __future__ import annotations

import errno
import hashlib
import os
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelora.core import files
from edgelora.core.errors import Busy, StorageError, UsageError
from edgelora_models import storage

NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")}


@pytest.mark.parametrize("name", ["a", "medical-faq", "0.5b_v2", "llama-3.1-8b", "x" * 128, "console"])
def test_valid_names(name: str) -> None:
    """Small letters, digits and . _ - make a name."""
    assert files.check_name(name, kind="adapter") == name


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "-a", ".a", "A", "a/b", "a\\b", "../a", "a b", "a\n", "a@1", "a:b", "ä", "x" * 129, "a."),
        *("a\0", "con", "nul", "com1", "lpt9.json", "aux.tar.gz"),
    ],
)
def test_invalid_names(name: str) -> None:
    """Paths, capitals, what Windows takes for a device, and a trailing newline or dot are no names."""
    assert not files.valid_name(name)
    with pytest.raises(UsageError) as caught:
        files.check_name(name, kind="adapter")
    assert caught.value.code == "bad_name"


@given(st.text(max_size=200))
@settings(deadline=None, max_examples=200)
def test_a_suggested_name_is_valid_or_refused(text: str) -> None:
    """Whatever a folder is called, its suggested name is valid, or there is none."""
    try:
        name = files.suggest_name(text, kind="adapter")
    except UsageError:
        return
    assert files.valid_name(name)


@given(st.text(max_size=40))
@settings(deadline=None, max_examples=200)
def test_inside_never_leaves_its_root(text: str) -> None:
    """A joined path has the root as its very parent, or is refused."""
    root = Path("/somewhere/store")
    try:
        path = files.inside(root, text)
    except UsageError:
        return
    assert path.parent == root
    assert Path(os.path.normpath(path)) == path


def test_suggest_name_examples() -> None:
    """Capitals and blanks become what a person would have written."""
    assert files.suggest_name("Medical FAQ (v2)", kind="adapter") == "medical-faq-v2"
    assert files.suggest_name("_checkpoint-500", kind="adapter") == "checkpoint-500"
    with pytest.raises(UsageError):
        files.suggest_name("???", kind="adapter")
    with pytest.raises(UsageError):
        files.suggest_name("NUL", kind="adapter")


@pytest.mark.parametrize(
    ("text", "valid"), [("0" * 64, True), ("0" * 63, False), ("F" * 64, False), ("a" * 64 + "\n", False)]
)
def test_digests(text: str, valid: bool) -> None:
    """A digest is 64 small hex digits and nothing else."""
    assert files.valid_digest(text) is valid


def test_write_atomic_replaces(tmp_path: Path) -> None:
    """The new bytes take the old ones' place and nothing else is left."""
    path = tmp_path / "new folder" / "a.json"
    storage.write_atomic(path, b"one")
    storage.write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert names_in(tmp_path) == {"new folder", "a.json"}


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """ENOSPC at any step: the old bytes stay, no temporary is left, and the error says where and how much is free."""
    path = tmp_path / "a.json"
    storage.write_atomic(path, b"old")

    def full(*_: object, **__: object) -> None:
        raise NO_SPACE

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(StorageError) as caught:
            storage.write_atomic(path, b"new")
    assert caught.value.code == "no_space"
    assert str(path) in caught.value.what and "free" in caught.value.what
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == {"a.json"}


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, "no_space"),
        (errno.EDQUOT, "no_space"),
        (errno.EACCES, "no_permission"),
        (errno.EPERM, "no_permission"),
        (errno.EROFS, "read_only"),
        (errno.EIO, "io_error"),
    ],
)
def test_every_oserror_has_a_code_and_a_remedy(tmp_path: Path, number: int, code: str) -> None:
    """The operating system's refusals become StorageErrors that say what to do."""
    with pytest.raises(StorageError) as caught, storage.storing(tmp_path / "x"):
        raise OSError(number, os.strerror(number))
    assert caught.value.code == code
    assert caught.value.remedy
    assert str(tmp_path) in caught.value.what


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root and Windows are not held by these permissions")
def test_a_closed_folder_is_no_permission(tmp_path: Path) -> None:
    """A folder that may not be written gives its name and the remedy."""
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    with pytest.raises(StorageError) as caught:
        storage.write_atomic(folder / "a", b"x")
    assert caught.value.code == "no_permission"


def test_check_space_says_needed_and_free(tmp_path: Path) -> None:
    """Too little space is said before any work, with both numbers; the folder need not exist."""
    storage.check_space(tmp_path / "not" / "yet", 1, what="This")
    with pytest.raises(StorageError) as caught:
        storage.check_space(tmp_path / "not" / "yet", 1 << 60, what="This")
    assert caught.value.code == "no_space"
    assert "1152921504.6 GB" in caught.value.what and "free" in caught.value.what


def test_sweep_takes_old_temporaries_only(tmp_path: Path) -> None:
    """A day-old temporary goes, a young one and everything else stay."""
    old_file, old_folder, young = (storage.temp_path(tmp_path) for _ in range(3))
    old_file.write_bytes(b"x")
    old_folder.mkdir()
    (old_folder / "inner").write_bytes(b"x")
    young.write_bytes(b"x")
    other = tmp_path / "a.json"
    other.write_bytes(b"x")
    now = other.stat().st_mtime
    for path in (old_file, old_folder, other):
        os.utime(path, (now - 2 * files.TEMP_MAX_AGE,) * 2)
    assert files.sweep(tmp_path, now=now) == 2
    assert names_in(tmp_path) == {young.name, "a.json"}


def test_workspace_is_gone_whatever_happens(tmp_path: Path) -> None:
    """A temporary folder ends with its block, also by an error."""
    with pytest.raises(RuntimeError), files.workspace(tmp_path) as work:
        (work / "inner").mkdir()
        raise RuntimeError
    assert names_in(tmp_path) == set()


def test_copy_hashed(tmp_path: Path) -> None:
    """A copy's digest is that of the bytes."""
    data = os.urandom(3 * files.CHUNK + 1)
    (tmp_path / "a").write_bytes(data)
    digest, nbytes = files.copy_hashed(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == data
    assert digest == hashlib.sha256(data).hexdigest() == files.file_digest(tmp_path / "b")
    assert nbytes == len(data)


def test_move_folder_refuses_a_taken_place(tmp_path: Path) -> None:
    """A published folder is never mixed with another."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    with pytest.raises(OSError):
        storage.move_folder(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b" / "file").read_text() == "b"


def test_locked_excludes_other_threads(tmp_path: Path) -> None:
    """One holder at a time; who cannot wait is told Busy."""
    path = tmp_path / "locks" / "a.lock"
    result: list[str] = []

    def contend() -> None:
        try:
            with files.locked(path, timeout=0.05, busy="Somebody is at it."):
                result.append("entered")
        except Busy as error:
            result.append(error.what)

    with files.locked(path, timeout=1, busy=""):
        thread = threading.Thread(target=contend)
        thread.start()
        thread.join()
    contend()
    assert result == ["Somebody is at it.", "entered"]


def test_locked_lets_errors_of_its_body_through(tmp_path: Path) -> None:
    """An OSError of the work itself is not taken for one of the lock."""
    with pytest.raises(TimeoutError), files.locked(tmp_path / "a.lock", timeout=1, busy=""):
        raise TimeoutError


@pytest.mark.skipif(sys.platform != "darwin", reason="F_FULLFSYNC is Apple's")
def test_sync_file_on_macos(tmp_path: Path) -> None:
    """A full sync of an ordinary file succeeds."""
    with (tmp_path / "a").open("wb") as file:
        storage.sync_file(file.fileno())


@pytest.mark.parametrize(
    ("nbytes", "text"), [(0, "0 bytes"), (1500, "1.5 kB"), (84_000_000, "84.0 MB"), (4_920_739_232, "4.9 GB")]
)
def test_size_text(nbytes: int, text: str) -> None:
    """Sizes are said in decimal units."""
    assert storage.size_text(nbytes) == text
