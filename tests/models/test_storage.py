"""Writes that are whole or absent, and errors of the disk in the tree's words."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from edgelora.core.errors import StorageError
from edgelora_models import storage

NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")}


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


def test_move_folder_refuses_a_taken_place(tmp_path: Path) -> None:
    """A published folder is never mixed with another."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    with pytest.raises(OSError):
        storage.move_folder(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b" / "file").read_text() == "b"


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


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_staged_is_whole_or_absent(tmp_path: Path, kind: str) -> None:
    """A clean exit renames a synced file or folder to its place; an error leaves nothing, not even a temporary."""
    out = tmp_path / "out"

    def write(path: Path) -> None:
        if kind == "folder":
            path.mkdir()
            path = path / "a"
        path.write_bytes(b"x")

    with pytest.raises(ZeroDivisionError), storage.staged(out) as temporary:
        write(temporary)
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    with storage.staged(out) as temporary:
        write(temporary)
    assert list(tmp_path.iterdir()) == [out] and (out / "a" if kind == "folder" else out).read_bytes() == b"x"


def test_a_missing_folder_is_named_and_not_the_temporary(tmp_path: Path) -> None:
    """The error shows the path that was asked for, and says to check the folder."""
    with pytest.raises(StorageError, match="out") as caught, storage.staged(tmp_path / "none" / "out") as temporary:
        temporary.write_bytes(b"x")
    assert storage.TEMP_PREFIX not in caught.value.what and "folder exists" in caught.value.remedy


def test_scratch_is_gone_whatever_happens(tmp_path: Path) -> None:
    """Also where nothing was made."""
    for body in (Path.touch, Path.mkdir, lambda _path: None):
        with storage.scratch(tmp_path / "out") as temporary:
            body(temporary)
        assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    """Whether the folder itself or one above it is a file."""
    file = tmp_path / "home"
    file.touch()
    for path in (file, file / "data", file / "data" / "deeper"):
        with pytest.raises(StorageError) as caught:
            storage.make_folder(path)
        assert (caught.value.code, caught.value.exit_code) == ("not_a_folder", 7)
        assert caught.value.what.startswith(f"{file} is a file")
