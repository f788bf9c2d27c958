"""A key is known by its digest, and permits what its patterns mean."""

from __future__ import annotations

import pytest

from edgelora.store.keys.api_key import ApiKey, digest, matches, new_secret


def test_secrets_are_long_and_never_the_same() -> None:
    """256 random bits after a beginning that is always the same, in characters that fit a header."""
    secrets = {new_secret() for _ in range(50)}
    assert len(secrets) == 50
    assert all(secret.startswith("sk-edgelora-") and len(secret) == 55 and secret.isascii() for secret in secrets)


def test_a_digest_says_nothing_of_the_secret() -> None:
    """64 hex digits, whatever was sent, bytes of no encoding included."""
    assert {len(digest(secret)) for secret in (b"", b"\xff\xfe", b"k" * 100_000)} == {64}


@pytest.mark.parametrize(
    ("name", "patterns", "permitted"),
    [
        ("medical-faq", ("*",), True),
        ("medical-faq", ("medical-*",), True),
        ("medical-faq", ("pirate", "medical-fa?"), True),
        ("medical-faq", ("medical",), False),
        ("medical-faq", ("MEDICAL-*",), False),
        ("medical-faq", (), False),
        ("", ("*",), True),
    ],
)
def test_patterns(name: str, patterns: tuple[str, ...], permitted: bool) -> None:
    """A pattern means whole names, in the very case they are written in; no pattern means none."""
    assert matches(name, patterns) is permitted


def test_expiry() -> None:
    """A key is good until the second it expires in; one without an expiry always is."""
    key = ApiKey(name="a", sha256="0" * 64, created=0.0, expires=100.0)
    assert [key.expired(now) for now in (99.9, 100.0, 101.0)] == [False, True, True]
    assert not ApiKey(name="a", sha256="0" * 64, created=0.0).expired(1e12)
