"""The digest of a base's file: remembered while the file is what it was, never for another one."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from edgelora.core.errors import StorageError
from edgelora.store.prefixes.base_digest import BaseDigests


def test_a_file_is_read_once(tmp_path: Path) -> None:
    """Its sha256, with progress; afterwards it is known, in another process too, without being read."""
    base, seen = tmp_path / "base.gguf", []
    base.write_bytes(b"weights" * 400_000)
    contents = BaseDigests(tmp_path / "digests")
    assert contents.known(base) is None
    digest = contents.digest(base, lambda done, total: seen.append((done, total)))
    assert digest == hashlib.sha256(base.read_bytes()).hexdigest()
    assert seen[-1] == (base.stat().st_size, base.stat().st_size) and len(seen) == 3
    assert BaseDigests(tmp_path / "digests").known(base) == digest
    assert contents.digest(base, lambda done, total: pytest.fail("it was read again")) == digest


@pytest.mark.skipif(os.name == "nt", reason="its change time is the time of creation")
@pytest.mark.parametrize("how", ["written", "replaced"])
def test_another_file_is_never_mistaken(tmp_path: Path, how: str) -> None:
    """Of the same size and with the same modification time, written over it or put in its place."""
    base = tmp_path / "base.gguf"
    base.write_bytes(b"weights")
    contents = BaseDigests(tmp_path / "digests")
    before, stat = contents.digest(base), base.stat()
    changed = base if how == "written" else tmp_path / "other.gguf"
    changed.write_bytes(b"Weights")
    os.utime(changed, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    changed.replace(base)
    assert base.stat().st_mtime_ns == stat.st_mtime_ns and base.stat().st_size == stat.st_size
    assert contents.known(base) is None
    assert contents.digest(base) != before


def test_a_folder_is_all_its_files(tmp_path: Path) -> None:
    """An MLX base: names and bytes of each file count."""
    base = tmp_path / "base"
    base.mkdir()
    contents = BaseDigests(tmp_path / "digests")
    digests = set()
    for names in (("a", "b"), ("a", "c")):
        for name, data in zip(names, (b"1", b"23"), strict=True):
            (base / name).write_bytes(data)
        digests.add(contents.digest(base))
        for name in names:
            (base / name).unlink()
    for name, data in (("a", b"12"), ("b", b"3")):
        (base / name).write_bytes(data)
    assert len(digests | {contents.digest(base)}) == 3


def test_what_is_damaged_is_read_anew(tmp_path: Path) -> None:
    """A record that cannot be read; a base that is gone is an error; what was remembered can be told and forgotten."""
    base = tmp_path / "base.gguf"
    base.write_bytes(b"weights")
    contents = BaseDigests(tmp_path / "digests")
    digest = contents.digest(base)
    (record,) = (tmp_path / "digests").iterdir()
    record.write_text("{")
    assert contents.known(base) is None and contents.digest(base) == digest
    base.unlink()
    assert contents.forget(base) == digest and contents.forget(base) is None
    with pytest.raises(StorageError):
        contents.digest(base)
