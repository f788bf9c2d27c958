"""Keys are kept as digests in one private file."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgelora.core.errors import EdgeloraError, NotFound, StorageError, UsageError
from edgelora.store.keys.api_key import digest
from edgelora.store.keys.store import KEYS_FILE, KeyStore, parse_keys


def test_added_listed_removed(tmp_path: Path) -> None:
    """What a key may do comes back as it was said; the secret is in no file."""
    store = KeyStore(tmp_path, clock=lambda: 1000.0)
    assert store.list() == ()
    key, secret = store.add("b", adapters=("medical-*",), base=False, requests_per_minute=5, expires=2000.0)
    store.add("a", management=True, tokens_per_minute=7)
    assert [one.name for one in store.list()] == ["a", "b"] and store.list()[1] == key
    assert key.sha256 == digest(secret.encode()) and secret not in store.path.read_text()
    store.remove(["b", "b"])
    assert [one.name for one in store.list()] == ["a"]


@pytest.mark.skipif(os.name == "nt", reason="modes are POSIX's")
def test_private(tmp_path: Path) -> None:
    """No other user can read who has keys."""
    store = KeyStore(tmp_path)
    store.add("a")
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600


def test_refusals(tmp_path: Path) -> None:
    """A taken name, one that cannot be one, a past expiry, removing what is not there: refused."""
    store = KeyStore(tmp_path, clock=lambda: 1000.0)
    store.add("clinic")
    for name, expires in (("clinic", None), ("Not/A name", None), ("late", 1000.0)):
        with pytest.raises(UsageError):
            store.add(name, expires=expires)
    with pytest.raises(NotFound) as caught:
        store.remove(["clinic", "clinik"])
    assert caught.value.near == ("clinic",) and [one.name for one in store.list()] == ["clinic"]


def test_racing_additions(tmp_path: Path) -> None:
    """None of those that are added at once is lost."""
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda number: KeyStore(tmp_path).add(f"k{number}"), range(12)))
    assert len(KeyStore(tmp_path).list()) == 12


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b'{"version": 0, "keys": []}',
        b'{"version": 1, "keys": [{"name": "a"}]}',
        b'{"version": 1, "keys": [{"name": "a", "sha256": "00", "created": 1}]}',
        b'{"version": 1, "keys": [{"name": "a", "sha256": "%s", "created": 1, "base": "no"}]}' % (b"0" * 64),
        b'{"version": 1, "keys": [{"name": "a", "sha256": "%s", "created": 1, "expires": "soon"}]}' % (b"0" * 64),
    ],
)
def test_a_file_that_is_not_understood(tmp_path: Path, data: bytes) -> None:
    """Damaged, or of another version: an error, never fewer restrictions."""
    (tmp_path / KEYS_FILE).write_bytes(data)
    with pytest.raises(StorageError) as caught:
        KeyStore(tmp_path).list()
    assert caught.value.code == "bad_keys_file"
    with pytest.raises(EdgeloraError):
        parse_keys(data)


@pytest.mark.parametrize(
    "data",
    [
        b'{"version": 2, "keys": []}',
        b'{"version": 2, "keyring": {}}',
        b'{"version": 1, "keys": [{"name": "a", "sha256": "%s", "created": 1, "admin": true}]}' % (b"0" * 64),
    ],
)
def test_a_file_of_a_newer_edgelora(data: bytes) -> None:
    """It may hold restrictions that are not known here: an error that does not say to remove it."""
    with pytest.raises(StorageError) as caught:
        parse_keys(data)
    assert caught.value.code == "store_newer" and "do not delete" in caught.value.remedy
