"""A mapped file: the same bytes, read-only, alive as long as any view of it, whatever becomes of its name."""

from __future__ import annotations

import gc
import mmap
import weakref
from pathlib import Path

import numpy as np
import pytest

from edgelora_converters.mapped.mapping import map_bytes, prefetch, release, touch

CONTENT = np.random.default_rng(0).integers(0, 256, 10_000, dtype=np.uint8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "file"
    file.write_bytes(CONTENT.tobytes())
    return file


def test_the_bytes_of_the_file(path: Path) -> None:
    """All of them, and nobody may write through the map. Hints and touching change nothing."""
    with path.open("rb") as file:
        prefetch(file)
        data = map_bytes(file)
    touch(data)
    assert np.array_equal(data, CONTENT)
    with pytest.raises(ValueError, match="read-only"):
        data[0] = 1


def test_an_empty_file(tmp_path: Path) -> None:
    """Nothing to map is no error."""
    (tmp_path / "empty").touch()
    with (tmp_path / "empty").open("rb") as file:
        data = map_bytes(file)
    touch(data)
    assert data.size == 0


def test_a_view_keeps_the_map(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mapping goes with the last view of it, and not before."""

    class Watched(mmap.mmap):
        pass

    made: list[weakref.ref[mmap.mmap]] = []

    def watched(*arguments: int, access: int) -> mmap.mmap:
        found = Watched(*arguments, access=access)
        made.append(weakref.ref(found))
        return found

    monkeypatch.setattr(mmap, "mmap", watched)
    with path.open("rb") as file:
        data = map_bytes(file)
    view = data[64:128].view(np.float16).reshape(4, 8)
    del data
    gc.collect()
    assert made[0]() is not None and np.array_equal(view.view(np.uint8).ravel(), CONTENT[64:128])
    del view
    gc.collect()
    assert made[0]() is None


def test_a_deleted_file_stays_mapped(path: Path) -> None:
    """Removing or replacing the name does not touch what is mapped: an adapter may be uninstalled while it runs."""
    with path.open("rb") as file:
        data = map_bytes(file)
    other = path.with_name("other")
    other.write_bytes(b"other")
    other.replace(path)
    assert np.array_equal(data, CONTENT) and path.read_bytes() == b"other"


def test_a_file_system_that_cannot_map(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There the bytes are read, read-only all the same."""

    def refused(*_: object, **__: object) -> mmap.mmap:
        raise OSError(19, "No such device")

    monkeypatch.setattr(mmap, "mmap", refused)
    with path.open("rb") as file:
        data = map_bytes(file)
    assert np.array_equal(data, CONTENT) and not data.flags.writeable


def test_what_is_let_go_of_comes_back(tmp_path: Path) -> None:
    """The pages of a file that was read once, and of one that could not be mapped, hold the same bytes afterwards."""
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 64)
    with path.open("rb") as file:
        mapped = map_bytes(file)
    release(mapped)
    assert mapped.tobytes() == path.read_bytes()
    release(np.arange(4, dtype=np.uint8))
