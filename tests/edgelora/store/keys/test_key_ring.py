"""A running server sees every change of token and keys, and none that would open it by accident."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgelora.core.errors import StorageError
from edgelora.store.keys.api_key import digest
from edgelora.store.keys.key_ring import KeyRing
from edgelora.store.keys.management_token import TOKEN_FILE, ensure_token, rotate_token
from edgelora.store.keys.store import KEYS_FILE, KeyStore


def given(*secrets: str) -> list[str]:
    return [digest(secret.encode()) for secret in secrets]


def test_changes_are_seen_at_once(tmp_path: Path) -> None:
    """Keys come and go, and a token is replaced, under a ring that is never made anew."""
    ring, store = KeyRing(tmp_path), KeyStore(tmp_path)
    assert not ring.in_use and not ring.is_token(given(""))
    old = ensure_token(tmp_path)
    assert ring.is_token(given("wrong", old))
    new = rotate_token(tmp_path)
    assert ring.is_token(given(new)) and not ring.is_token(given(old))
    _, first = store.add("a")
    _, second = store.add("b")
    found = ring.find(given(second), now=0)
    assert ring.in_use and found is not None and found.name == "b"
    store.remove(["b"])
    assert ring.find(given(second), now=0) is None and ring.find(given("x", first), now=0) is not None
    store.remove(["a"])
    assert not ring.in_use


def test_expired_keys_open_nothing_and_still_count(tmp_path: Path) -> None:
    """The last key's expiry does not open the server to everybody."""
    _, secret = KeyStore(tmp_path, clock=lambda: 1000.0).add("a", expires=2000.0)
    ring = KeyRing(tmp_path)
    assert ring.find(given(secret), now=1999.0) is not None
    assert ring.find(given(secret), now=2000.0) is None and ring.in_use


def test_a_file_that_breaks_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What was known still holds, the log says so once, and a repaired file is read."""
    token = ensure_token(tmp_path)
    _, secret = KeyStore(tmp_path).add("a")
    ring = KeyRing(tmp_path)
    good = (tmp_path / KEYS_FILE).read_bytes()
    (tmp_path / KEYS_FILE).write_bytes(b'{"version": 1, "ke')
    (tmp_path / TOKEN_FILE).write_bytes(b"")
    for _ in range(3):
        assert ring.in_use and ring.find(given(secret), now=0) is not None and ring.is_token(given(token))
    assert len(caplog.records) == 2
    (tmp_path / KEYS_FILE).write_bytes(good.replace(b'"a"', b'"renamed"'))
    found = ring.find(given(secret), now=0)
    assert found is not None and found.name == "renamed"


def test_a_broken_file_at_the_start(tmp_path: Path) -> None:
    """Nothing is served over keys that cannot be read."""
    (tmp_path / KEYS_FILE).write_bytes(b"{")
    with pytest.raises(StorageError):
        KeyRing(tmp_path)
