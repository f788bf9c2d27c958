"""Every endpoint of the application has its access, and the router, the gate and the document read the same one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from edgelora.server.auth.gate import Authenticators, Gate
from edgelora.server.http.endpoint import Access, Endpoint, Media
from edgelora.server.http.options import ServerOptions
from edgelora.server.openapi.document import document
from edgelora.server.router import make_routes
from tests.support.endpoints import app_gates, documented_endpoints
from tests.support.server import TEST_OPTIONS, serving
from tests.support.service import FakeService

PAGE = ("/", "/page.css", "/page.js", "/chat.js", "/icon.svg")
OPEN = {("GET", path) for path in (*PAGE, "/health", "/ready", "/openapi.json")} | {
    ("PUT", "/v2/uploads/{upload}/{file:number}/{piece:number}")
}
"""The endpoints that need no key: their replies hold nothing private, or their URL is signed."""
MANAGED = [
    ("POST", "/v1/files"),
    ("GET", "/v1/files"),
    ("GET", "/v1/files/{id}"),
    ("DELETE", "/v1/files/{id}"),
    ("DELETE", "/openai/v1/files/{id}"),
    ("POST", "/v1/fine_tunings"),
    ("GET", "/v1/fine_tunings"),
    ("DELETE", "/v1/fine_tunings/{id}"),
    ("POST", "/v1/adapters"),
    ("DELETE", "/v1/adapters/{name}"),
    ("POST", "/v1/adapters/{name}/pin"),
    ("POST", "/v1/load_lora_adapter"),
    ("POST", "/v1/unload_lora_adapter"),
    ("POST", "/v1/models"),
    ("DELETE", "/v1/models/{id:path}"),
    ("GET", "/v1/jobs/{id}"),
    ("POST", "/v2/projects/{project}/models"),
    ("GET", "/v2/projects/{project}/models/uploads/{id}"),
]
USED = [
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{id:path}"),
    ("HEAD", "/openai/v1/models"),
    ("GET", "/v1/adapters"),
    ("GET", "/v1/adapters/{name}"),
    ("POST", "/v1/chat/completions"),
    ("GET", "/metrics"),
]


@pytest.fixture(scope="module")
def gates(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Gate]:
    """By method and template, each the gate of the assembled application."""
    return app_gates(tmp_path_factory.mktemp("app"))


def test_every_route_has_its_access(gates: dict[tuple[str, str], Gate]) -> None:
    """Each method of each route is gated by its own endpoint, and only the ones listed here are open."""
    assert len(gates) > 100
    for (method, path), gate in gates.items():
        endpoint = gate.endpoint
        assert (path, method in endpoint.methods) == (endpoint.path, True)
        assert isinstance(endpoint.access, Access)
        if endpoint.access in (Access.OPEN, Access.SIGNED):
            assert (endpoint.method, path) in OPEN
    assert {(gate.endpoint.method, path) for (_, path), gate in gates.items()} >= OPEN


def test_the_document_and_the_gates_agree(tmp_path: Path, gates: dict[tuple[str, str], Gate]) -> None:
    """The document asks for a key exactly where the gate does, and describes each endpoint once."""
    endpoints = documented_endpoints(tmp_path)
    paths: dict[str, Any] = document(endpoints, version="0")["paths"]
    assert sum(len(methods) for methods in paths.values()) == len(endpoints)
    for endpoint in endpoints:
        operation = paths[endpoint.documented_path][endpoint.method.lower()]
        access = gates[endpoint.method, endpoint.path].endpoint.access
        needed = {"open": 0, "signed": 0, "key": 3, "full_key": 3, "management": 2}[access]
        assert (operation["operationId"], len(operation["security"])) == (endpoint.operation_id, needed)


def test_the_prefix_of_groq_changes_nothing(gates: dict[tuple[str, str], Gate]) -> None:
    """An endpoint under /openai has the rules of the one without it."""
    prefixed = [(method, path) for method, path in gates if path.startswith("/openai/")]
    assert len(prefixed) > 40
    for method, path in prefixed:
        endpoint, original = gates[method, path].endpoint, gates[method, path.removeprefix("/openai")].endpoint
        assert (endpoint.access, endpoint.media, endpoint.metered) == (
            original.access, original.media, original.metered,
        )  # fmt: skip


@pytest.mark.parametrize(("method", "path"), MANAGED)
def test_changing_and_showing_files_needs_the_token(method: str, path: str, gates: dict[tuple[str, str], Gate]) -> None:
    """Files, registrations, loading, deleting: the token's, under either prefix."""
    assert gates[method, path].endpoint.access is Access.MANAGEMENT


@pytest.mark.parametrize(("method", "path"), USED)
def test_applications_need_a_key_at_most(method: str, path: str, gates: dict[tuple[str, str], Gate]) -> None:
    """Asking for models and answers is no management."""
    assert gates[method, path].endpoint.access in (Access.KEY, Access.FULL_KEY)


def test_descriptions_of_every_adapter_are_not_for_every_key(gates: dict[tuple[str, str], Gate]) -> None:
    """Lists of all adapters need an unrestricted key; lists that are cut to the key do not."""
    full = {path for (_, path), gate in gates.items() if gate.endpoint.access is Access.FULL_KEY}
    assert {path for path in full if not path.startswith("/openai/")} == {
        "/metrics", "/v1/status", "/v1/adapters", "/v1/adapters/{name}",
    }  # fmt: skip


def test_one_route_takes_a_form(gates: dict[tuple[str, str], Gate]) -> None:
    """multipart/form-data, which any page can post, is for uploads alone."""
    forms = {key for key, gate in gates.items() if gate.endpoint.media is Media.FORM}
    assert forms == {("POST", "/v1/files"), ("POST", "/openai/v1/files")}


def test_only_put_takes_any_content_type(gates: dict[tuple[str, str], Gate]) -> None:
    """No page can send a PUT across origins without a preflight."""
    assert {method for (method, _), gate in gates.items() if gate.endpoint.media is Media.BYTES} == {"PUT"}


async def _answer(_request: Request) -> Response:
    return Response()


def test_an_endpoint_without_access_cannot_be_written() -> None:
    """The type demands it: there is no default."""
    with pytest.raises(TypeError, match="access"):
        Endpoint("GET", "/debug", _answer, operation_id="debug", summary="Debug")  # type: ignore[call-arg]


def test_two_endpoints_cannot_answer_the_same_requests() -> None:
    """The second would never be reached."""
    open_endpoint, key_endpoint = (
        Endpoint("GET", "/a", _answer, access, str(access), "A") for access in (Access.OPEN, Access.KEY)
    )
    with pytest.raises(ValueError, match="two endpoints answer GET /a"):
        make_routes([open_endpoint, key_endpoint], Authenticators.of(ServerOptions()))


def test_an_unknown_method_is_answered_with_all_that_there_are(gates: dict[tuple[str, str], Gate]) -> None:
    """A path has a single route for all methods, so that the Allow header of a 405 is complete."""
    endpoints = [gates["GET", "/v1/files"].endpoint, gates["POST", "/v1/files"].endpoint]
    (route,) = make_routes(endpoints, Authenticators.of(ServerOptions()))
    assert route.methods == {"GET", "HEAD", "POST"}


def test_generations_are_metered(gates: dict[tuple[str, str], Gate]) -> None:
    """Generations and the counting of tokens count against the limits per minute, other calls do not."""
    metered = {path.removeprefix("/openai") for (_, path), gate in gates.items() if gate.endpoint.metered}
    generating = {"/v1/chat/completions", "/v1/completions", "/v1/responses"}
    counting = {f"{prefix}/{verb}" for prefix in ("", "/v1") for verb in ("tokenize", "detokenize")}
    counting |= {f"{path}/input_tokens" for path in ("/v1/chat/completions", "/v1/responses")}
    assert metered == generating | counting


def test_numbers_in_paths_are_bounded(tmp_path: Path) -> None:
    """Python converts no number of 5,000 digits, so no path may have starlette's own."""
    with FakeService(tmp_path, adapters={}) as service, serving(service, TEST_OPTIONS) as server:
        for number in ("1" * 5000, "1" * 10, "-1", "x"):
            reply = server.request("PUT", f"/v2/uploads/a/{number}/1", b"x")
            assert (reply.status, reply.error["code"]) == (404, "unknown_url")


def test_no_path_has_an_unbounded_number(gates: dict[tuple[str, str], Gate]) -> None:
    """Of all that are there."""
    assert not [path for _, path in gates if ":int}" in path or ":float}" in path]
