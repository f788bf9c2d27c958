"""The token of an installation is made once, by whoever comes first, and only its owner can read it."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgelora.core.errors import StorageError
from edgelora.store.keys.management_token import TOKEN_FILE, ensure_token, parse_token, read_token, rotate_token

posix = pytest.mark.skipif(os.name == "nt", reason="modes are POSIX's")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_none_at_first(tmp_path: Path) -> None:
    """Asking for it makes none."""
    assert read_token(tmp_path / "config") is None and not (tmp_path / "config").exists()


@posix
def test_made_once_and_private(tmp_path: Path) -> None:
    """The first use makes it, folder included; every later one finds the same. No other user can read it."""
    folder = tmp_path / "config"
    token = ensure_token(folder)
    assert ensure_token(folder) == read_token(folder) == token
    assert (mode(folder), mode(folder / TOKEN_FILE)) == (0o700, 0o600)


@posix
def test_private_from_its_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even the temporary file it is written to can be read by others, whatever the umask."""
    seen: list[int] = []
    replace = Path.replace

    def watched(self: Path, target: Path) -> Path:
        seen.append(mode(self))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    before = os.umask(0)
    try:
        ensure_token(tmp_path)
    finally:
        os.umask(before)
    assert seen == [0o600]


def test_racing_processes_get_one_token(tmp_path: Path) -> None:
    """Whoever is late takes what the other wrote."""
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: ensure_token(tmp_path), range(16)))) == 1


@posix
def test_rotating(tmp_path: Path) -> None:
    """A new token takes the old one's place, as private."""
    old = ensure_token(tmp_path)
    new = rotate_token(tmp_path)
    assert new != old and read_token(tmp_path) == new and mode(tmp_path / TOKEN_FILE) == 0o600


@posix
def test_one_that_others_could_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They are shut out, and the owner is told that it may be known."""
    ensure_token(tmp_path)
    (tmp_path / TOKEN_FILE).chmod(0o644)
    ensure_token(tmp_path)
    assert mode(tmp_path / TOKEN_FILE) == 0o600 and "--rotate" in caplog.text


@pytest.mark.parametrize("data", [b"", b"\n", b"short", b"two words " * 5, b"\xff" * 40, b"a" * 1000])
def test_what_is_no_token(tmp_path: Path, data: bytes) -> None:
    """An empty or damaged file is an error that says what to do, never a token that everybody knows."""
    (tmp_path / TOKEN_FILE).write_bytes(data)
    with pytest.raises(StorageError, match="--rotate"):
        ensure_token(tmp_path)
    assert len(rotate_token(tmp_path)) == 55


def test_whitespace_around_it_does_not_count() -> None:
    """An editor's newline is no part of it."""
    assert parse_token(b"  " + b"a" * 43 + b"\r\n") == "a" * 43
