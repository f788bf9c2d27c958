"""`edgelora keys`: what it prints, keeps and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgelora.cli.commands.keys import parse_expiry
from edgelora.cli.support.app import App
from edgelora.core.errors import UsageError
from edgelora.store.keys.api_key import digest
from edgelora.store.keys.store import KeyStore
from tests.support.cli import make_app, run


@pytest.fixture
def app(tmp_path: Path) -> App:
    return make_app(EDGELORA_HOME=str(tmp_path / "home"))


def test_add_prints_the_key_once(app: App, tmp_path: Path) -> None:
    """stdout has the key and nothing else; on disk there is its digest. The first one says what changes."""
    done = run(app, "keys", "add", "clinic", "--adapter", "medical-*", "--no-base", "--requests-per-minute", "60")
    (key,) = KeyStore(tmp_path / "home").list()
    assert done.exit_code == 0 and digest(done.stdout.strip().encode()) == key.sha256
    assert (key.adapters, key.base, key.requests_per_minute, key.management) == (("medical-*",), False, 60, False)
    assert "--allow-keyless" in done.stderr
    assert "--allow-keyless" not in run(app, "keys", "add", "other").stderr


def test_add_as_json(app: App) -> None:
    """The JSON has the permissions and the key."""
    done = run(app, "keys", "add", "admin", "--management", "--expires", "30d", "--json")
    printed = json.loads(done.stdout)
    assert printed["key"].startswith("sk-edgelora-") and printed["management"] is True and printed["expired"] is False
    assert "sha256" not in printed and printed["adapters"] == ["*"] and printed["expires"] > printed["created"]


def test_ls(app: App) -> None:
    """Every key with what it may do, and never a secret."""
    assert run(app, "keys", "ls").stdout == ""
    secret = run(app, "keys", "add", "clinic", "-a", "medical-*", "-a", "notes").stdout.strip()
    run(app, "keys", "add", "base-only", "--no-adapters", "--tokens-per-minute", "9000", "--expires", "2999-01-31")
    shown = run(app, "keys", "ls").stdout
    assert "medical-*, notes" in shown and "none" in shown and "9000" in shown and "2999-01-31" in shown
    listed = run(app, "keys", "ls", "--json").stdout
    assert [key["name"] for key in json.loads(listed)] == ["base-only", "clinic"]
    assert secret not in shown + listed


def test_rm(app: App) -> None:
    """A removed key is gone; an unknown one is exit 3 with a near name, and removes nothing."""
    run(app, "keys", "add", "clinic")
    done = run(app, "keys", "rm", "clinic", "clinik")
    assert (done.exit_code, "'clinic'" in done.stderr) == (3, True)
    assert run(app, "keys", "rm", "clinic").exit_code == 0
    assert json.loads(run(app, "keys", "ls", "--json").stdout) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("Not/A name",),
        ("a", "--requests-per-minute", "0"),
        ("a", "--expires", "tomorrow"),
        ("a", "--expires", "2001-01-01"),
        ("a", "--no-adapters", "--no-base"),
        ("a", "--no-adapters", "--adapter", "b"),
    ],
)
def test_refused(app: App, arguments: tuple[str, ...]) -> None:
    """Invalid options give exit code 2 and make no key."""
    done = run(app, "keys", "add", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert json.loads(run(app, "keys", "ls", "--json").stdout) == []


def test_token(app: App, tmp_path: Path) -> None:
    """The same one each time, until it is replaced; it is what the file holds."""
    first, again = (run(app, "keys", "token").stdout for _ in range(2))
    assert first == again == (tmp_path / "home" / "token").read_text()
    assert run(app, "keys", "token", "--rotate").stdout != first


def test_expiries() -> None:
    """Minutes, hours and days from now; dates in UTC; times with a zone of their own."""
    assert [parse_expiry(text, now=1000.0) for text in ("90m", "12h", "30d")] == [6400.0, 44200.0, 2593000.0]
    assert parse_expiry("1970-01-02", now=0) == 86400.0
    assert parse_expiry("1970-01-01T02:00:00+01:00", now=0) == 3600.0
    for text in ("", "0d", "d", "1w", "-1d", "2030-13-01", "９d"):
        with pytest.raises(UsageError):
            parse_expiry(text, now=0)
