"""Uploaded files on disk: kept whole or not at all, within a budget, for a time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgelora.core.errors import NotFound, StorageError
from edgelora.store.uploads import UploadedFile, Uploads
from tests.support.faults import at_call, die


class Clock:
    def __init__(self) -> None:
        self.now = 1_750_000_000.0

    def __call__(self) -> float:
        return self.now


def make(root: Path, *, budget: int = 1000, clock: Clock | None = None) -> Uploads:
    return Uploads(root, budget_bytes=budget, clock=clock or Clock())


def keep(uploads: Uploads, data: bytes, *, name: str = "a.zip", seconds: float = 3600) -> UploadedFile:
    incoming = uploads.begin()
    try:
        for start in range(0, len(data), 7):
            incoming.write(data[start : start + 7])
        return incoming.keep(filename=name, purpose="fine_tuning", seconds=seconds)
    finally:
        incoming.close()


def left(root: Path) -> list[str]:
    """Every file there is but the lock."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.suffix != ".lock")


def test_a_file_is_there_with_its_bytes(tmp_path: Path) -> None:
    """Name, size and end are as given; the bytes are those that were written, whoever opens the folder later."""
    kept = keep(make(tmp_path), b"the archive")
    uploads = make(tmp_path)
    assert uploads.get(kept.id) == kept and uploads.every() == [kept]
    assert (kept.filename, kept.nbytes, kept.expires - kept.created) == ("a.zip", 11, 3600)
    with uploads.borrowed(kept) as path:
        assert path.read_bytes() == b"the archive"
    assert not list((tmp_path / "tmp").iterdir())


def test_an_unknown_id_is_not_found_and_never_a_path(tmp_path: Path) -> None:
    """Ids have one form; anything else is as unknown as a wrong one."""
    uploads = make(tmp_path)
    for file_id in ("file-" + "0" * 24, "../../etc/passwd", "file-../x", "", "file-" + "0" * 23 + "\n"):
        with pytest.raises(NotFound):
            uploads.get(file_id)


def test_two_files_of_one_content_share_its_bytes(tmp_path: Path) -> None:
    """Deleting one leaves the other's; deleting both leaves nothing."""
    uploads = make(tmp_path)
    one, two = keep(uploads, b"same"), keep(uploads, b"same")
    assert len(list((tmp_path / "blobs").iterdir())) == 1 and one.id != two.id
    uploads.delete(one.id)
    with uploads.borrowed(two) as path:
        assert path.read_bytes() == b"same"
    uploads.delete(two.id)
    assert left(tmp_path) == []
    with pytest.raises(NotFound):
        uploads.delete(two.id)


def test_a_cut_upload_leaves_nothing(tmp_path: Path) -> None:
    """What was written and not kept is gone, and its bytes count no more."""
    uploads = make(tmp_path, budget=10)
    incoming = uploads.begin()
    incoming.write(b"x" * 10)
    incoming.close()
    incoming.close()
    assert left(tmp_path) == [] and uploads.every() == []
    keep(uploads, b"y" * 10)


def test_the_budget_counts_what_is_kept_and_what_is_being_sent(tmp_path: Path) -> None:
    """No byte over it is written; what the refusal says has the way out."""
    uploads = make(tmp_path, budget=20)
    keep(uploads, b"a" * 10)
    flying = uploads.begin()
    flying.write(b"b" * 6)
    with pytest.raises(StorageError, match="EDGELORA_UPLOAD_DISK") as caught:
        keep(uploads, b"c" * 5)
    assert caught.value.code == "upload_budget"
    flying.close()
    keep(uploads, b"c" * 10)
    with pytest.raises(StorageError):
        uploads.begin()


def test_an_expired_file_makes_room(tmp_path: Path) -> None:
    """Past its end it is unknown at once, and its bytes go when the next upload begins."""
    clock = Clock()
    uploads = make(tmp_path, budget=10, clock=clock)
    old = keep(uploads, b"a" * 10, seconds=60)
    clock.now += 61
    with pytest.raises(NotFound):
        uploads.get(old.id)
    assert uploads.every() == []
    kept = keep(uploads, b"b" * 10)
    assert left(tmp_path) == [f"blobs/{kept.digest}", f"files/{kept.id}.json"]


def test_a_borrowed_file_stays_while_it_is_used(tmp_path: Path) -> None:
    """Deleting it meanwhile takes nothing from who reads it; afterwards it cannot be borrowed."""
    uploads = make(tmp_path)
    kept = keep(uploads, b"bytes")
    with uploads.borrowed(kept) as path:
        uploads.delete(kept.id)
        assert path.read_bytes() == b"bytes"
    with pytest.raises(NotFound), uploads.borrowed(kept):
        pass


def test_damaged_bytes_are_never_used(tmp_path: Path) -> None:
    """A blob that is not what was sent is an error and not an adapter."""
    uploads = make(tmp_path)
    kept = keep(uploads, b"bytes")
    (tmp_path / "blobs" / kept.digest).write_bytes(b"other")
    with pytest.raises(StorageError, match="not what was sent"), uploads.borrowed(kept):
        pass


def test_a_damaged_record_hides_no_other(tmp_path: Path) -> None:
    """It is left out of the list, and the others are as they were."""
    uploads = make(tmp_path)
    kept = keep(uploads, b"bytes")
    (tmp_path / "files" / f"file-{'0' * 24}.json").write_bytes(b"{")
    assert uploads.every() == [kept]


def killed_at(point: int, root: Path) -> bool:
    """Upload in a forked child that dies before its `point`-th call to the system. False where it came to its end."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with at_call(point, die):
                keep(make(root), b"new content")
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1] != 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_kill_at_any_call_leaves_what_was_there_and_a_file_that_works_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After kill -9 at every call: the old file is whole, the new one whole or absent, and there is room."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # a kill loses nothing that was written
    point, outcomes = 0, set()
    while True:
        point += 1
        root = tmp_path / str(point)
        old = keep(make(root), b"old content")
        killed = killed_at(point, root)
        uploads = make(root, budget=45)
        for one in uploads.every():
            with uploads.borrowed(one) as path:
                assert path.read_bytes() in (b"old content", b"new content")
        assert old in uploads.every()
        outcomes.add(len(uploads.every()))
        uploads.delete(keep(uploads, b"third, newest").id)
        assert {path.name for path in (root / "blobs").iterdir()} == {one.digest for one in uploads.every()}
        if not killed:
            break
    assert outcomes == {1, 2} and point > 10
