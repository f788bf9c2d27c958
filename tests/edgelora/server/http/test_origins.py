"""Hosts and origins are allowed by exact names; all others are refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelora.core.errors import UsageError
from edgelora.server.http.origins import (
    LOOPBACK_HOSTS,
    HostList,
    OriginList,
    host_name,
    own_origin,
    presented,
    site_admitted,
)

LOOPBACK = HostList(LOOPBACK_HOSTS, any_address=False)

REFUSED_HOSTS = [
    None,
    "",
    "evil.com",
    "localhost.evil.com",
    "evil.com:8321",
    "127.0.0.1.nip.io",
    "localhost.",
    "localhost@evil.com",
    "localhost, evil.com",
    "localhost:80:80",
    "localhost:port",
    "localhost/",
    " localhost",
    "0.0.0.0",
    "[::]",
    "::1",
    "[::1",
    "[::1]evil.com",
    "192.168.1.7:8321",
    "2130706433",
    "0x7f.1",
    "lоcalhost",
]


@pytest.mark.parametrize("host", ["localhost", "LocalHost:8321", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:65535"])
def test_loopback_hosts_are_admitted_with_and_without_a_port(host: str) -> None:
    """A Host header that names this machine is let in."""
    assert LOOPBACK.admits(host)


@pytest.mark.parametrize("host", REFUSED_HOSTS)
def test_other_hosts_are_refused(host: str | None) -> None:
    """A name that only looks like a loopback one is somebody else's."""
    assert not LOOPBACK.admits(host)


def test_configured_names_and_addresses() -> None:
    """Off loopback, addresses are let in, and names only where they were configured."""
    hosts = HostList([*LOOPBACK_HOSTS, "Laptop.local", "[fd00::7]"], any_address=True)
    assert all(map(hosts.admits, ["laptop.local:8321", "192.168.1.7:8321", "[fe80::1]", "[fd00::7]:1"]))
    assert not hosts.admits("evil.com")


@given(st.text(max_size=40))
@settings(deadline=None, max_examples=200)
def test_a_parsed_host_is_contained_in_its_header(header: str) -> None:
    """The parser takes a header as a whole or not at all, and never raises."""
    name = host_name(header)
    assert name is None or header.lower().strip("[").startswith(name)


def test_origins_are_exact_or_a_whole_scheme() -> None:
    """An admitted origin has no prefix, suffix or other port that is admitted with it."""
    origins = OriginList(["https://app.example.com/", "http://localhost:3000", "app://*"])
    assert all(
        origin in origins for origin in ["https://app.example.com", "http://localhost:3000", "app://obsidian.md"]
    )
    refused = [
        "https://app.example.com.evil.com",
        "http://app.example.com",
        "http://localhost:3001",
        "http://localhost",
        "null",
        "",
        "*",
        "app://x/y",
        "app:",
        "xapp://y",
        "app://a b",
    ]
    assert [origin for origin in refused if origin in origins] == []


def test_desktop_stands_for_the_application_shells() -> None:
    """`desktop` lets in pages inside shells and no page of the web."""
    origins = OriginList(["desktop"])
    assert all(origin in origins for origin in ["tauri://localhost", "app://-", "file://", "vscode-webview://1a2b"])
    assert "http://localhost" not in origins and "https://evil.com" not in origins


@pytest.mark.parametrize(
    "entry", ["*", "https://*", "http://*", "example.com", "https://a.com/x", "", "https://*.a.com"]
)
def test_entries_that_would_open_too_much_are_refused(entry: str) -> None:
    """Only an origin, a private scheme or `desktop` can be configured."""
    with pytest.raises(UsageError) as caught:
        OriginList([entry])
    assert caught.value.code == "bad_origin"


def test_no_origins_by_default() -> None:
    """Nothing configured means no page at all."""
    assert "http://localhost" not in OriginList([]) and "" not in OriginList([])


def test_sec_fetch_site() -> None:
    """A browser must say that the request comes from nowhere or from our own origin."""
    assert all(map(site_admitted, [None, "none", "same-origin"]))
    assert not any(map(site_admitted, ["same-site", "cross-site", "", "None", "anything"]))


def test_a_page_served_here_is_known_by_its_address() -> None:
    """Only http, the very host and the very port are this server itself."""
    assert own_origin("http://localhost:8321", "localhost:8321") and own_origin("http://[::1]:1", "[::1]:1")
    assert own_origin("HTTP://LocalHost", "localhost")
    for origin in ("http://localhost", "http://127.0.0.1:8321", "https://localhost:8321", "null", "", "localhost:8321"):
        assert not own_origin(origin, "localhost:8321")


def test_keys_may_come_in_either_header() -> None:
    """Authorization as Bearer, and x-api-key, are the two places; any other word is no key, nor is an empty one."""
    assert presented("Bearer k1", None) == presented("bearer  k1 ", "") == presented(None, "k1") == [b"k1"]
    assert presented("Bearer k1", " k2") == [b"k1", b"k2"]
    assert presented("Bearer \xff", None) == [b"\xff"]
    for authorization in ("k1", "Basic k1", "Bearer", "Bearer  ", "", None):
        assert presented(authorization, None) == []
