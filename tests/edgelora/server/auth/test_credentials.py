"""The caller is identified by the shared key, the management token, a named key, or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgelora.server.auth.caller import ANYONE, OWNER, Caller
from edgelora.server.auth.credentials import Credentials
from edgelora.server.http.endpoint import Access
from edgelora.server.http.errors import Forbidden, Unauthorized
from edgelora.server.http.options import ServerOptions
from edgelora.store.keys.management_token import ensure_token
from edgelora.store.keys.store import KeyStore


def admit(credentials: Credentials, access: Access, secret: str | None = None) -> Caller:
    by_bearer = credentials.admit(access, authorization=secret and f"Bearer {secret}", x_api_key=None)
    assert credentials.admit(access, authorization=None, x_api_key=secret) == by_bearer
    return by_bearer


def refused(credentials: Credentials, access: Access, secret: str | None = None) -> str:
    with pytest.raises((Unauthorized, Forbidden)) as caught:
        admit(credentials, access, secret)
    return caught.value.code


def test_loopback_without_keys(tmp_path: Path) -> None:
    """Anyone may use, whatever key their client insists on sending; the token manages; nobody else does."""
    token = ensure_token(tmp_path)
    credentials = Credentials(ServerOptions(secrets=tmp_path))
    assert admit(credentials, Access.KEY) is admit(credentials, Access.KEY, "anything") is ANYONE
    assert admit(credentials, Access.MANAGEMENT, token) is admit(credentials, Access.KEY, token) is OWNER
    assert (
        refused(credentials, Access.MANAGEMENT)
        == refused(credentials, Access.MANAGEMENT, "x")
        == "management_token_required"
    )


def test_without_a_folder_nobody_manages() -> None:
    """No token is no key to everything: an empty one opens nothing either."""
    credentials = Credentials(ServerOptions())
    for secret in (None, "", "None", "x"):
        assert refused(credentials, Access.MANAGEMENT, secret) == "management_token_required"


def test_the_shared_key_does_not_manage(tmp_path: Path) -> None:
    """Every application needs the shared key, which does not allow management."""
    token = ensure_token(tmp_path)
    credentials = Credentials(ServerOptions(secrets=tmp_path, api_key="s3cret"))
    assert admit(credentials, Access.KEY, "s3cret") is ANYONE and admit(credentials, Access.KEY, token) is OWNER
    assert refused(credentials, Access.KEY) == refused(credentials, Access.KEY, "S3cret") == "invalid_api_key"
    assert refused(credentials, Access.MANAGEMENT, "s3cret") == "management_token_required"
    assert admit(credentials, Access.OPEN) is ANYONE


def test_named_keys(tmp_path: Path) -> None:
    """Once there is one, everybody needs one; each is its own caller; managing needs a key made for it."""
    credentials = Credentials(ServerOptions(secrets=tmp_path))
    assert admit(credentials, Access.KEY) is ANYONE
    _, plain = KeyStore(tmp_path).add("plain", adapters=("medical-*",), base=False, requests_per_minute=3)
    _, admin = KeyStore(tmp_path).add("admin", management=True)
    who = admit(credentials, Access.KEY, plain)
    assert (who.name, who.adapters, who.base, who.limits.requests) == ("plain", ("medical-*",), False, 3)
    assert admit(credentials, Access.MANAGEMENT, admin).name == "admin"
    assert refused(credentials, Access.KEY) == refused(credentials, Access.KEY, "x") == "invalid_api_key"
    assert refused(credentials, Access.MANAGEMENT, plain) == "management_not_allowed"


def test_keyless_on_loopback(tmp_path: Path) -> None:
    """With `keyless`, programs without a key are let in; one with a key has its own limits."""
    _, secret = KeyStore(tmp_path).add("a")
    credentials = Credentials(ServerOptions(secrets=tmp_path, keyless=True))
    assert admit(credentials, Access.KEY) is ANYONE and admit(credentials, Access.KEY, secret).name == "a"
    assert refused(credentials, Access.MANAGEMENT) == "management_token_required"


def test_off_loopback_a_key_is_always_asked_for(tmp_path: Path) -> None:
    """Removing the last key shuts everybody out; it does not let the network in."""
    store = KeyStore(tmp_path)
    _, secret = store.add("a")
    credentials = Credentials(ServerOptions(host="0.0.0.0", secrets=tmp_path, keyless=True))
    assert admit(credentials, Access.KEY, secret).name == "a"
    store.remove(["a"])
    assert refused(credentials, Access.KEY, secret) == refused(credentials, Access.KEY) == "invalid_api_key"


def test_expired_keys(tmp_path: Path) -> None:
    """An expired key is treated like an unknown one."""
    _, secret = KeyStore(tmp_path, clock=lambda: 0.0).add("a", management=True, expires=100.0)
    now = [99.0]
    credentials = Credentials(ServerOptions(secrets=tmp_path), clock=lambda: now[0])
    assert admit(credentials, Access.MANAGEMENT, secret).name == "a"
    now[0] = 100.0
    assert refused(credentials, Access.KEY, secret) == "invalid_api_key"
    assert refused(credentials, Access.MANAGEMENT, secret) == "management_token_required"
