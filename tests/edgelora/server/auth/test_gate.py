"""The gate of a route: token, key, body's kind and limits of a minute, over a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from edgelora.core.errors import EdgeloraError
from edgelora.server.auth.caller import caller
from edgelora.server.auth.gate import Authenticators
from edgelora.server.http.endpoint import Access, Endpoint, Media, Method
from edgelora.server.http.options import ServerOptions
from edgelora.server.router import make_routes
from edgelora.store.keys.management_token import ensure_token, rotate_token
from edgelora.store.keys.store import KeyStore
from tests.support.engines import wait_until
from tests.support.server import TEST_OPTIONS, WAIT_SECONDS, RunningServer, serving, with_token
from tests.support.service import FakeService, Turnstile

CHAT = {"model": "medical-faq", "messages": [{"role": "user", "content": "Hi"}]}


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


@pytest.fixture
def keyed(
    service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[RunningServer, KeyStore]]:
    """A server whose keys come and go, and for whose limits no time passes."""
    monkeypatch.setattr("edgelora.server.auth.gate.monotonic", lambda: 100.0)
    with serving(service, replace(TEST_OPTIONS, secrets=tmp_path)) as running:
        yield running, KeyStore(tmp_path)


def test_keys_take_effect_in_a_running_server(keyed: tuple[RunningServer, KeyStore]) -> None:
    """The first key closes the server to those without one; the last one's removal opens it again."""
    server, store = keyed
    assert server.post("/v1/chat/completions", CHAT).status == 200
    _, secret = store.add("clinic", adapters=("medical-*",), base=False)
    assert server.post("/v1/chat/completions", CHAT).error["code"] == "invalid_api_key"
    assert server.post("/v1/chat/completions", CHAT, bearer(secret)).status == 200
    refused = server.post("/v1/chat/completions", {**CHAT, "model": "tiny"}, bearer(secret))
    assert (refused.status, refused.error["code"], refused.error["param"]) == (403, "model_not_allowed", "model")
    composed = {**CHAT, "adapters": [{"name": "medical-faq"}, {"name": "letters"}]}
    refused = server.post("/v1/chat/completions", composed, bearer(secret))
    assert (refused.status, refused.error["param"]) == (403, "adapters[1].name")
    listed = server.request("GET", "/v1/models", headers=bearer(secret)).json
    assert [entry["id"] for entry in listed["data"]] == ["medical-faq"]
    store.remove(["clinic"])
    assert server.post("/v1/chat/completions", CHAT).status == 200


def test_limits_of_a_minute(keyed: tuple[RunningServer, KeyStore]) -> None:
    """Answers say what is left; beyond it 429 says when to come back; looking costs nothing."""
    server, store = keyed
    _, secret = store.add("a", requests_per_minute=2, tokens_per_minute=10_000)
    first = server.post("/v1/chat/completions", CHAT, bearer(secret))
    assert first.headers["x-ratelimit-limit-requests"] == "2" and first.headers["x-ratelimit-remaining-requests"] == "1"
    assert server.request("GET", "/v1/models", headers=bearer(secret)).status == 200
    second = server.post("/v1/chat/completions", {**CHAT, "stream": True}, bearer(secret))
    left = 10_000 - first.json["usage"]["total_tokens"]
    assert second.headers["x-ratelimit-remaining-tokens"] == str(left)
    third = server.post("/v1/chat/completions", CHAT, bearer(secret))
    assert (third.status, third.error["code"], third.error["type"]) == (429, "rate_limit_exceeded", "rate_limit_error")
    assert third.headers["retry-after"] == "30" and third.headers["x-ratelimit-remaining-requests"] == "0"


def test_requests_that_run_at_once_share_the_tokens_of_a_minute(
    keyed: tuple[RunningServer, KeyStore], service: FakeService
) -> None:
    """A prompt counts from its beginning, so that a second request finds what the first one uses."""
    server, store = keyed
    _, secret = store.add("a", tokens_per_minute=5)
    gate = Turnstile()
    service.backend.step_gate = gate
    try:
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(server.post, "/v1/chat/completions", CHAT, bearer(secret))
            wait_until(lambda: service.stats().running == 1)
            second = server.post("/v1/chat/completions", CHAT, bearer(secret))
            gate.open()
            assert (second.status, second.error["code"]) == (429, "rate_limit_exceeded")
            assert first.result(WAIT_SECONDS).status == 200
    finally:
        gate.open()


def test_counting_tokens_is_a_request(keyed: tuple[RunningServer, KeyStore]) -> None:
    """It is work on text like any other."""
    server, store = keyed
    _, secret = store.add("a", requests_per_minute=1)
    assert server.post("/tokenize", {"content": "Hi"}, bearer(secret)).status == 200
    assert server.post("/v1/chat/completions", CHAT, bearer(secret)).status == 429


def test_the_limit_that_all_share(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds without keys too, over all adapters together."""
    monkeypatch.setattr("edgelora.server.auth.gate.monotonic", lambda: 100.0)
    with serving(service, replace(TEST_OPTIONS, requests_per_minute=2)) as server:
        statuses = [
            server.post("/v1/chat/completions", {**CHAT, "model": model}).status
            for model in ("tiny", "medical-faq", "letters")
        ]
    assert statuses == [200, 200, 429]


def test_a_key_is_one_client(keyed: tuple[RunningServer, KeyStore], service: FakeService) -> None:
    """Making up users does not get a key more turns."""
    server, store = keyed
    _, secret = store.add("clinic")
    for user in ("x", "y"):
        server.post("/v1/chat/completions", {**CHAT, "user": user}, bearer(secret))
    assert service.clients[-2:] == ["clinic", "clinic"]


def test_the_token_opens_everything_and_can_be_replaced(service: FakeService, tmp_path: Path) -> None:
    """With keys in use the token goes on working as one; a rotated one stops at once."""
    options, token = with_token(tmp_path)
    KeyStore(tmp_path).add("a")
    with serving(service, options) as server:
        assert server.request("GET", "/v1/models", headers=token).status == 200
        new = rotate_token(tmp_path)
        assert server.request("GET", "/v1/models", headers=token).status == 401
        assert server.request("GET", "/v1/models", headers=bearer(new)).status == 200


async def _who(request: Request) -> Response:
    await request.body()
    return PlainTextResponse(f"{caller().name}/{caller().management}")


def _endpoint(method: Method, path: str, access: Access, media: Media = Media.JSON) -> Endpoint:
    return Endpoint(method, path, _who, access, "who", "Who calls", media=media)


ENDPOINTS = (
    _endpoint("POST", "/v1/files", Access.MANAGEMENT, Media.FORM),
    _endpoint("GET", "/v1/files", Access.MANAGEMENT),
    _endpoint("GET", "/v1/models/{id:path}", Access.KEY),
    _endpoint("DELETE", "/v1/models/{id:path}", Access.MANAGEMENT),
    _endpoint("GET", "/metrics", Access.FULL_KEY),
    _endpoint("PUT", "/v2/uploads/{upload}/{file:number}/{piece:number}", Access.SIGNED, Media.BYTES),
)


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., str]:
    """Send a request to gated routes; returns the status, or the code of the error."""
    routes = make_routes(ENDPOINTS, Authenticators.of(ServerOptions(secrets=tmp_path)))

    def send_request(method: str, path: str, **headers: str) -> str:
        sent: list[dict[str, object]] = []

        async def receive() -> dict[str, object]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: dict[str, object]) -> None:
            sent.append(message)

        raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        route = next(route for route in routes if route.path_regex.match(path))
        scope = {"type": "http", "method": method, "path": path, "headers": raw, "edgelora.headers": []}
        try:
            asyncio.run(route.app(scope, receive, send))  # type: ignore[arg-type]
        except EdgeloraError as error:
            return error.code
        return str(sent[0]["status"])

    return send_request


def test_management(ask: Callable[..., str], tmp_path: Path) -> None:
    """By method: reading a model needs nothing, deleting it needs the token; so do files, which are forms."""
    token = f"Bearer {ensure_token(tmp_path)}"
    form = "multipart/form-data; boundary=x; charset=latin-1"
    assert ask("GET", "/v1/models/a") == "200"
    assert ask("DELETE", "/v1/models/a") == ask("GET", "/v1/files") == "management_token_required"
    assert ask("DELETE", "/v1/models/a", authorization=token) == "200"
    assert ask("POST", "/v1/files", content_type=form) == "management_token_required"
    assert ask("POST", "/v1/files", authorization=token, content_type=form) == "200"
    for other in ("application/json", "text/plain", ""):
        assert ask("POST", "/v1/files", authorization=token, content_type=other) == "unsupported_media_type"
    assert ask("POST", "/v1/files", x_api_key=token[7:], content_type=form, content_encoding="gzip") == (
        "unsupported_media_type"
    )


def test_what_tells_of_every_adapter(ask: Callable[..., str], tmp_path: Path) -> None:
    """A key for some adapters does not read of the others there; without keys, and with a whole one, anybody does."""
    assert ask("GET", "/metrics") == "200"
    store = KeyStore(tmp_path)
    secrets = [store.add("some", adapters=("a*",))[1], store.add("no-base", base=False)[1], store.add("whole")[1]]
    codes = [ask("GET", "/metrics", x_api_key=secret) for secret in secrets]
    assert codes == ["whole_view_not_allowed", "whole_view_not_allowed", "200"]


def test_signed_addresses(ask: Callable[..., str], tmp_path: Path) -> None:
    """They need no key, keys or not, and take bytes of any kind: their route looks at the signature."""
    KeyStore(tmp_path).add("a")
    assert ask("PUT", "/v2/uploads/x/0/1", content_type="application/octet-stream") == "200"
    assert ask("PUT", "/v2/uploads/x/0/1") == "200"


def test_errors_before_the_route_cost_nothing(keyed: tuple[RunningServer, KeyStore]) -> None:
    """A body of the wrong kind is refused before it counts as a request."""
    server, store = keyed
    _, secret = store.add("a", requests_per_minute=1)
    headers = {**bearer(secret), "Content-Type": "text/plain"}
    assert server.request("POST", "/v1/chat/completions", json.dumps(CHAT).encode(), headers).status == 415
    assert server.post("/v1/chat/completions", CHAT, bearer(secret)).status == 200
