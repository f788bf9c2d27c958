"""No web page gets anything done here; programs and the pages that were let in do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.support.server import TEST_OPTIONS, RunningServer, serving
from tests.support.service import FakeService

BODY = b'{"model":"tiny","messages":[{"role":"user","content":"Hi"}]}'
JSON = {"Content-Type": "application/json"}

HOSTILE: list[tuple[dict[str, str], int, str]] = [
    ({**JSON, "Host": "evil.com"}, 403, "host_not_allowed"),
    ({**JSON, "Host": "localhost.evil.com"}, 403, "host_not_allowed"),
    ({**JSON, "Host": "127.0.0.1.nip.io:8321"}, 403, "host_not_allowed"),
    ({**JSON, "Host": ""}, 403, "host_not_allowed"),
    ({**JSON, "Host": "192.168.1.7"}, 403, "host_not_allowed"),
    ({**JSON, "Host": "evil.com", "Origin": "http://evil.com"}, 403, "host_not_allowed"),
    ({**JSON, "Host": "evil.com", "Sec-Fetch-Site": "same-origin"}, 403, "host_not_allowed"),
    ({**JSON, "Origin": "https://evil.com"}, 403, "origin_not_allowed"),
    ({**JSON, "Origin": "https://evil.com", "Sec-Fetch-Site": "none"}, 403, "origin_not_allowed"),
    ({**JSON, "Origin": "null"}, 403, "origin_not_allowed"),
    ({**JSON, "Origin": "http://localhost:3000"}, 403, "origin_not_allowed"),
    ({**JSON, "Origin": "http://127.0.0.1"}, 403, "origin_not_allowed"),
    ({**JSON, "Origin": ""}, 403, "origin_not_allowed"),
    ({**JSON, "Origin": "tauri://localhost"}, 403, "origin_not_allowed"),
    ({**JSON, "Sec-Fetch-Site": "cross-site"}, 403, "origin_not_allowed"),
    ({**JSON, "Sec-Fetch-Site": "same-site"}, 403, "origin_not_allowed"),
    ({"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
    ({"Content-Type": "text/plain; application/json"}, 415, "unsupported_media_type"),
    ({"Content-Type": "application/x-www-form-urlencoded"}, 415, "unsupported_media_type"),
    ({"Content-Type": "multipart/form-data; boundary=x"}, 415, "unsupported_media_type"),
    ({"Content-Type": "application/json; charset=utf-16"}, 415, "unsupported_media_type"),
    ({}, 415, "unsupported_media_type"),
    ({**JSON, "Content-Encoding": "gzip"}, 415, "unsupported_media_type"),
]  # fmt: skip

WELCOME = {
    "curl": JSON,
    "openai, Python": {**JSON, "Authorization": "Bearer none", "X-Stainless-Lang": "python"},
    "node's fetch, Electron's main process": {**JSON, "Sec-Fetch-Mode": "cors"},
    "Rust, Tauri's core": {"content-type": "Application/JSON; charset=UTF-8"},
    "localhost by name": {**JSON, "Host": "localhost:8321"},
    "localhost in IPv6": {**JSON, "Host": "[::1]:8321"},
    "an address typed into a browser": {**JSON, "Sec-Fetch-Site": "none"},
}


@pytest.mark.parametrize(("headers", "status", "code"), HOSTILE)
def test_hostile_requests_are_refused(server: RunningServer, headers: dict[str, str], status: int, code: str) -> None:
    """Rebound names, other origins and preflight-free posts are refused, and no CORS header lets a page read."""
    reply = server.request("POST", "/v1/chat/completions", BODY, headers)
    assert (reply.status, reply.error["code"]) == (status, code)
    assert not [name for name in reply.headers if name.startswith("access-control")]


@pytest.mark.parametrize("path", ["/v1/models", "/health", "/nowhere"])
@pytest.mark.parametrize(
    "headers", [{"Host": "evil.com"}, {"Origin": "https://evil.com"}, {"Sec-Fetch-Site": "cross-site"}]
)
def test_reading_is_guarded_too(server: RunningServer, path: str, headers: dict[str, str]) -> None:
    """A rebound or foreign page learns nothing from any path."""
    assert server.request("GET", path, headers=headers).status == 403


@pytest.mark.parametrize("who", WELCOME)
def test_real_applications_are_served(server: RunningServer, who: str) -> None:
    """Programs that call localhost as they always do are answered."""
    reply = server.request("POST", "/v1/chat/completions", BODY, WELCOME[who])
    assert reply.status == 200 and reply.json["choices"][0]["message"]["content"] == "Hello from the base."


def test_no_cors_by_default(server: RunningServer) -> None:
    """A preflight from anywhere is refused, and no answer carries a CORS header."""
    preflight = {"Origin": "https://evil.com", "Access-Control-Request-Method": "POST"}
    replies = [
        server.request("OPTIONS", "/v1/chat/completions", headers=preflight),
        server.request("GET", "/v1/models"),
    ]
    assert [reply.status for reply in replies] == [403, 200]
    assert not [name for reply in replies for name in reply.headers if name.startswith("access-control")]


def test_answers_carry_an_id_and_no_server_name(server: RunningServer) -> None:
    """Each response can be told from the others in the log; none says what serves it."""
    replies = [server.request("GET", path) for path in ("/v1/models", "/nowhere", "/v1/models/none")]
    assert len({reply.headers["x-request-id"] for reply in replies}) == 3
    assert not [reply for reply in replies if "server" in reply.headers]


@pytest.fixture(scope="module")
def opened(service: FakeService) -> Iterator[RunningServer]:
    """A server that lets one page, the desktop shells and a name in, and asks for a key."""
    options = replace(
        TEST_OPTIONS,
        api_key="s3cret",
        allow_origins=("http://localhost:3000", "desktop"),
        allow_hosts=("laptop.local",),
    )
    with serving(service, options) as running:
        yield running


KEY = {"Authorization": "Bearer s3cret"}


@pytest.mark.parametrize("origin", ["http://localhost:3000", "tauri://localhost", "app://obsidian.md"])
def test_an_allowed_origin_gets_its_preflight_and_its_answer(opened: RunningServer, origin: str) -> None:
    """A page that was let in passes the preflight, without a key, and can read answers and errors."""
    sent = "authorization, content-type, x-stainless-os, http-referer, idempotency-key"
    preflight = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": f"{sent}, bad name, x:y, ",
    }
    allowed = opened.request("OPTIONS", "/v1/chat/completions", headers=preflight)
    assert allowed.status == 204 and allowed.body == b""
    assert allowed.headers["access-control-allow-headers"] == sent
    assert "POST" in allowed.headers["access-control-allow-methods"]
    headers = {**JSON, "Origin": origin, "Sec-Fetch-Site": "cross-site"}
    for key, status in ((KEY, 200), ({}, 401)):
        reply = opened.request("POST", "/v1/chat/completions", BODY, {**headers, **key})
        assert reply.status == status and reply.headers["access-control-allow-origin"] == origin
        assert reply.headers["vary"] == "Origin" and "access-control-allow-credentials" not in reply.headers


def test_other_origins_stay_out_of_an_opened_server(opened: RunningServer) -> None:
    """Letting one page in lets no other in."""
    assert opened.request("GET", "/v1/models", headers={**KEY, "Origin": "http://localhost:3001"}).status == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (KEY, 200),
        ({"x-api-key": "s3cret"}, 200),
        ({**KEY, "Host": "laptop.local:1"}, 200),
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "s3cret"}, 401),
        ({"x-api-key": "\xff"}, 401),
    ],
)
def test_the_key_is_asked_for(opened: RunningServer, headers: dict[str, str], status: int) -> None:
    """With a key set, every request but the probes must carry it."""
    reply = opened.request("GET", "/v1/models", headers=headers)
    assert reply.status == status
    if status == 401:
        assert reply.error["code"] == "invalid_api_key" and reply.headers["www-authenticate"] == "Bearer"


def test_probes_need_no_key(opened: RunningServer) -> None:
    """/health and /ready tell a supervisor that the server lives, and nothing else."""
    assert opened.request("GET", "/health").json == {"status": "ok"}
    assert opened.request("GET", "/ready").json == {"status": "ready"}
