"""Warming: what is not there is made, and every byte is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgelora.core.errors import NotFound
from edgelora.store.adapters.prewarm import warm
from edgelora.store.adapters.store import Store
from tests.support.adapters import TINY, write_peft
from tests.support.records import base_record

BASE, OTHER = base_record(TINY), base_record(TINY, name="other", vocabulary="2" * 64)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "data")
    store.add(write_peft(tmp_path / "a", TINY, rank=2), base=BASE)
    return store


def test_what_is_there_is_only_read(store: Store) -> None:
    """For the base it was added for nothing is converted; all of the file is read."""
    done = warm(store, "a", BASE)
    assert (done.converted, done.ref, done.number) == (False, store.ref("a", BASE), 1)
    assert done.nbytes == done.ref.path.stat().st_size


def test_a_conversion_that_is_missing_is_made(store: Store) -> None:
    """For another base of the same shapes, once; a folder is read whole."""
    assert [warm(store, "a@1", OTHER).converted for _ in range(2)] == [True, False]
    mlx = warm(store, "a", base_record(TINY, format="mlx"))
    assert mlx.converted and mlx.nbytes == sum(file.stat().st_size for file in mlx.ref.path.iterdir())


def test_an_unknown_name(store: Store) -> None:
    """As everywhere: NotFound with near names."""
    with pytest.raises(NotFound):
        warm(store, "b", BASE)
