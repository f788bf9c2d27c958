"""Every combination of what a request can say of where it is from, held against a rule of its own.

The rule is written from what browsers send, not from what the server checks; the whole application is asked, in this
process. Which request is a page's can be told by three headers that no script can set: Host, Origin, Sec-Fetch-Site.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette

from edgelora.server.app import build_app
from tests.support.server import with_token
from tests.support.service import FakeService

OWN = "localhost:8321"
GOOD_HOSTS = (OWN, "127.0.0.1:8321", "[::1]:8321", "LOCALHOST")
BAD_HOSTS = (
    None,
    "",
    "evil.com",
    "evil.com:8321",
    "localhost.evil.com",
    "127.0.0.1.nip.io",
    "localhost.",
    "0.0.0.0:8321",
)
BAD_ORIGINS = (
    *(
        "https://evil.com",
        "http://evil.com:8321",
        "null",
        "http://localhost:3000",
        "http://localhost",
        "https://localhost:8321",
    ),
    *(
        "http://localhost:8321.evil.com",
        "http://evil.com#http://localhost:8321",
        "tauri://localhost",
        "file://",
        "app://x",
    ),
    *("vscode-webview://1a2b", "chrome-extension://abc", "localhost:8321", "http://127.0.0.2:8321", " ", ""),
)
BAD_SITES = ("cross-site", "same-site", "", "nonsense", "same-origin, cross-site")
JSON_TYPES = ("application/json", "application/json; charset=utf-8", "Application/JSON")
OTHER_TYPES = (
    *(
        None,
        "",
        "text/plain",
        "text/plain;charset=UTF-8",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
    ),
    *("application/jsonx", "text/json", "application/json; charset=utf-16", "text/plain, application/json"),
)
SIMPLE_TYPES = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data")
"""The content types that a page can send across origins without a preflight (Fetch standard)."""
ROUTES = (
    ("GET", "/v1/models"),
    ("GET", "/"),
    ("POST", "/v1/chat/completions"),
    ("DELETE", "/v1/models/medical-faq"),
    ("POST", "/v1/adapters"),
    ("POST", "/v1/files"),
    ("OPTIONS", "/v1/chat/completions"),
)
REFUSALS = {"host_not_allowed", "origin_not_allowed"}


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    code: str
    headers: dict[str, str]


class Asker:
    """The application, asked without a socket."""

    def __init__(self, app: Starlette, token: str) -> None:
        self._app = app
        self.token = token

    async def __call__(self, method: str, path: str, headers: list[tuple[str, str | None]]) -> Answer:
        sent: list[dict[str, Any]] = []
        messages = iter([{"type": "http.request", "body": b"{}", "more_body": False}, {"type": "http.disconnect"}])

        async def receive() -> dict[str, Any]:
            return next(messages)

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers if value is not None]
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": raw,
            "root_path": "",
            "http_version": "1.1",
            "scheme": "http",
            "server": ("127.0.0.1", 8321),
        }
        await self._app(scope, receive, send)  # type: ignore[arg-type]
        body = b"".join(message.get("body", b"") for message in sent[1:])
        try:
            code = json.loads(body)["error"]["code"]
        except (ValueError, KeyError, TypeError):
            code = ""
        received = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return Answer(sent[0]["status"], code, received)


@pytest.fixture(scope="module")
def asker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asker]:
    with application(tmp_path_factory.mktemp("closed")) as asker:
        yield asker


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asker]:
    """The same application, with one page and the desktop shells let in."""
    with application(tmp_path_factory.mktemp("opened"), "https://app.example.com", "desktop") as asker:
        yield asker


class application:
    def __init__(self, folder: Path, *origins: str) -> None:
        self._service = FakeService(folder, adapters={"medical-faq": "x"})
        options, headers = with_token(folder)
        app = build_app(self._service, replace(options, allow_origins=origins))
        self._asker = Asker(app, headers["Authorization"])

    def __enter__(self) -> Asker:
        return self._asker

    def __exit__(self, *_: object) -> None:
        self._service.close()


def cors(answer: Answer) -> list[str]:
    return [name for name in answer.headers if name.startswith("access-control")]


def wrong(host: str | None, origins: tuple[str | None, ...], site: str | None) -> bool:
    """Return True if the three headers are those of a foreign page."""
    given = [origin for origin in origins if origin is not None]
    own = given == [f"http://{host}".lower()]
    return host in BAD_HOSTS or bool(given and not own) or site in BAD_SITES


def test_every_combination_of_host_origin_and_site(asker: Asker) -> None:
    """A single bad header is enough, on every route and method; without one the request passes."""

    async def ask() -> tuple[int, list[object]]:
        odd: list[object] = []
        sent = 0
        origins = [
            (None,),
            ("http://localhost:8321",),
            ("https://evil.com", "http://localhost:8321"),
            *zip(BAD_ORIGINS),
        ]
        for (method, path), host, some, site in product(
            ROUTES, (*GOOD_HOSTS, *BAD_HOSTS), origins, (None, "none", "same-origin", *BAD_SITES)
        ):
            headers = [("Host", host), *(("Origin", origin) for origin in some), ("Sec-Fetch-Site", site)]
            answer = await asker(
                method, path, [*headers, ("Content-Type", "application/json"), ("Authorization", asker.token)]
            )
            sent += 1
            if (answer.code in REFUSALS) is not wrong(host, some, site) or cors(answer):
                odd.append((method, path, *headers, answer.status, answer.code))
        return sent, odd

    sent, odd = asyncio.run(ask())
    assert sent > 10_000 and odd[:5] == []


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/v1/chat/completions"), ("POST", "/v1/adapters"), ("POST", "/v1/files")]
)
def test_every_content_type(asker: Asker, method: str, path: str) -> None:
    """JSON routes take JSON, the one form route takes a form, and nothing else is as much as looked at."""

    async def ask() -> None:
        for kind in (*JSON_TYPES, *OTHER_TYPES):
            headers = [("Host", OWN), ("Content-Type", kind), ("Authorization", asker.token)]
            answer = await asker(method, path, headers)
            takes = (kind or "").startswith("multipart/") if path == "/v1/files" else kind in JSON_TYPES
            if answer.status != 404:  # a family that is not there has nothing to refuse
                assert (answer.status == 415) is not takes, (kind, answer)

    asyncio.run(ask())


def pages() -> Iterator[tuple[str, str, list[tuple[str, str | None]]]]:
    """The headers that browsers send for a foreign page's requests, with and without Sec-Fetch-Site."""
    for (method, path), modern, rebound in product(ROUTES, (True, False), (True, False)):
        host, origin = ("evil.com:8321", "http://evil.com:8321") if rebound else (OWN, "https://evil.com")
        site = ("same-origin" if rebound else "cross-site") if modern else None
        simple = method in ("GET", "POST")
        for kind in SIMPLE_TYPES if method == "POST" else (None,):
            # A rebound page is of the same origin for its browser: a GET has no Origin then, and no preflight is asked.
            sends_origin = method != "GET" or not rebound
            headers = [("Host", host), ("Origin", origin if sends_origin else None), ("Sec-Fetch-Site", site)]
            yield (method if simple or rebound else "OPTIONS"), path, [*headers, ("Content-Type", kind)]
        if method == "GET":  # <img>, <script>: no CORS mode, so no Origin
            yield (
                method,
                path,
                [("Host", host), ("Sec-Fetch-Site", site), ("Sec-Fetch-Mode", "no-cors" if modern else None)],
            )


def test_what_browsers_send_for_foreign_pages(asker: Asker) -> None:
    """All refused but what an old browser sends for an <img>: that changes nothing, and no page can read it."""

    async def ask() -> None:
        for method, path, headers in pages():
            answer = await asker(method, path, headers)
            unmarked = (
                method == "GET"
                and dict(headers)["Host"] == OWN
                and not {"Origin", "Sec-Fetch-Site"} & {name for name, value in headers if value is not None}
            )
            assert unmarked or answer.code in REFUSALS, (method, path, headers, answer)
            assert cors(answer) == []

    asyncio.run(ask())


WELCOME: dict[str, list[tuple[str, str | None]]] = {
    "curl": [("User-Agent", "curl/8.5.0"), ("Accept", "*/*")],
    "openai for Python": [
        ("User-Agent", "OpenAI/Python 3.54.0"),
        ("X-Stainless-Lang", "python"),
        ("Authorization", "Bearer x"),
    ],
    "openai for Node": [("User-Agent", "OpenAI/JS 6.9.0"), ("X-Stainless-Runtime", "node"), ("Sec-Fetch-Mode", "cors")],
    "groq": [("User-Agent", "Groq/Python 1.7.0"), ("X-Stainless-Async", "false"), ("Authorization", "Bearer x")],
    "together": [("User-Agent", "Together/Python 3.1.1"), ("Authorization", "Bearer x")],
    "a Tauri core": [("Accept", "*/*")],
    "an Electron main process": [("Sec-Fetch-Mode", "cors"), ("User-Agent", "node")],
    "a VS Code extension": [("User-Agent", "node"), ("Connection", "keep-alive")],
    "an address typed into a browser": [
        ("Sec-Fetch-Site", "none"),
        ("Sec-Fetch-Mode", "navigate"),
        ("Sec-Fetch-Dest", "document"),
    ],
    "the page at /": [("Origin", f"http://{OWN}"), ("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Mode", "cors")],
    "the page at /, in an old browser": [("Origin", f"http://{OWN}")],
}
SHELLS = {
    "the page that was let in": "https://app.example.com",
    "Tauri on macOS and Linux": "tauri://localhost",
    "Tauri on Windows": "http://tauri.localhost",
    "Tauri on Windows, https": "https://tauri.localhost",
    "Electron, from a file": "file://",
    "Electron, by a scheme": "app://obsidian.md",
    "a VS Code webview": "vscode-webview://0a1b2c3d",
    "VS Code's own window": "vscode-file://vscode-app",
}


@pytest.mark.parametrize("who", WELCOME)
def test_applications_are_let_through(asker: Asker, who: str) -> None:
    """Requests of programs and of our own page reach the endpoints, which refuse only their bodies."""
    for host in (OWN,) if "page" in who else GOOD_HOSTS:
        headers = [("Host", host), ("Content-Type", "application/json"), *WELCOME[who]]
        answer = asyncio.run(asker("POST", "/v1/chat/completions", headers))
        assert (answer.status, answer.code) == (400, "missing_required_parameter")


@pytest.mark.parametrize("who", SHELLS)
def test_shells_that_were_let_in(asker: Asker, opened: Asker, who: str) -> None:
    """With --allow-origin they pass the preflight and the request, cross-site or not; without it neither."""
    origin = SHELLS[who]
    for site in (None, "cross-site", "same-site"):
        page = [("Host", OWN), ("Origin", origin), ("Sec-Fetch-Site", site)]
        preflight = [
            *page,
            ("Access-Control-Request-Method", "POST"),
            ("Access-Control-Request-Headers", "authorization"),
        ]
        allowed = asyncio.run(opened("OPTIONS", "/v1/chat/completions", preflight))
        assert allowed.status == 204 and allowed.headers["access-control-allow-origin"] == origin
        answer = asyncio.run(opened("POST", "/v1/chat/completions", [*page, ("Content-Type", "application/json")]))
        assert answer.code == "missing_required_parameter"
        assert asyncio.run(asker("OPTIONS", "/v1/chat/completions", preflight)).code == "origin_not_allowed"


def test_a_preflight_tells_the_methods_of_the_route(opened: Asker) -> None:
    """DELETE and PUT where a route has them, and only there; unknown headers are not promised."""

    def methods(path: str) -> str:
        page = [("Host", OWN), ("Origin", "tauri://localhost"), ("Access-Control-Request-Method", "DELETE")]
        return asyncio.run(opened("OPTIONS", path, page)).headers["access-control-allow-methods"]

    assert methods("/v1/chat/completions") == "POST" and methods("/v1/responses/resp_1") == "DELETE, GET"
    assert methods("/nowhere") == "GET, POST"


def test_an_allowed_page_still_needs_what_its_route_needs(opened: Asker) -> None:
    """Being let in is no token."""
    page = [("Host", OWN), ("Origin", "https://app.example.com"), ("Content-Type", "application/json")]
    answer = asyncio.run(opened("DELETE", "/v1/responses/x", page))
    assert answer.code == "response_not_found" and answer.headers["access-control-allow-origin"]
    assert (
        asyncio.run(opened("POST", "/v1/chat/completions", [*page[:2], ("Content-Type", "text/plain")])).status == 415
    )
