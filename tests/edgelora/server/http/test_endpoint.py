"""Every route of the application has its door in the one table."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.routing import Route

from edgelora.server.app import build_app
from edgelora.server.auth.gate import Gate
from edgelora.server.http.endpoint import Door, Media, row_of, rows_of
from edgelora.server.http.options import ServerOptions
from tests.support.service import FakeService

PAGE = ("/", "/page.css", "/page.js", "/chat.js", "/icon.svg")
OPEN = {("GET", path) for path in (*PAGE, "/health", "/ready", "/openapi.json")} | {
    ("PUT", "/v2/uploads/{upload}/{file:int}/{piece:int}")
}
"""What is told or taken without a key: nothing that is anybody's, or what its own address is the key to."""
MANAGED = [
    ("POST", "/v1/files"),
    ("GET", "/v1/files"),
    ("GET", "/v1/files/{id}"),
    ("GET", "/v1/files/{id:path}/content"),
    ("DELETE", "/openai/v1/files/{file_id}"),
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
    ("GET", "/v1/adapters/{name:path}"),
    ("POST", "/v1/chat/completions"),
    ("GET", "/metrics"),
]


def routes(tmp_path: Path) -> list[Route]:
    with FakeService(tmp_path, adapters={}) as service:
        app = build_app(service, ServerOptions())
    assert all(isinstance(route, Route) for route in app.routes), "a mount would hide its routes from the gate"
    return [route for route in app.routes if isinstance(route, Route)]


def test_every_route_has_its_door(tmp_path: Path) -> None:
    """Each method of each route stands in the table, is gated, and only what the table calls open is open."""
    found = [(method, route) for route in routes(tmp_path) for method in route.methods or ()]
    assert len(found) > 8
    for method, route in found:
        row = row_of(method, route.path)
        assert row is not None, f"{method} {route.path} has no row in doors.TABLE"
        assert isinstance(route.app, Gate)
        if row.door in (Door.OPEN, Door.SIGNED):
            assert (method.replace("HEAD", "GET"), route.path) in OPEN


@pytest.mark.parametrize(("method", "path"), MANAGED)
def test_what_changes_or_shows_files_needs_the_token(method: str, path: str) -> None:
    """Files, registrations, loading, deleting: the token's, under either prefix."""
    row = row_of(method, path)
    assert row is not None and row.door is Door.TOKEN


@pytest.mark.parametrize(("method", "path"), USED)
def test_what_applications_use_needs_a_key_at_most(method: str, path: str) -> None:
    """Asking for models and answers is no management."""
    row = row_of(method, path)
    assert row is not None and row.door is Door.KEY


def test_what_tells_of_everything_is_not_for_every_key() -> None:
    """Lists of all adapters are marked; lists that are cut to the key are not."""
    assert all((row := row_of("GET", path)) and row.whole for path in ("/metrics", "/v1/status", "/v1/adapters"))
    assert all((row := row_of("GET", path)) and not row.whole for path in ("/v1/models", "/health"))


def test_one_route_takes_a_form() -> None:
    """multipart/form-data, which any page can post, is for uploads alone."""
    assert [path for method, path in MANAGED + USED if _media(method, path) is Media.FORM] == ["/v1/files"]


def _media(method: str, path: str) -> Media:
    row = row_of(method, path)
    assert row is not None
    return row.media


@pytest.mark.parametrize("path", ["/v1/secrets", "/v2/models", "/v1/models/{id}/x", "/debug", "/v1/chat"])
def test_a_route_that_was_forgotten_is_never_served(path: str) -> None:
    """An application with a route that no row means cannot be built."""
    with pytest.raises(LookupError, match=r"doors\.TABLE says nothing of GET and POST"):
        rows_of({"GET", "POST"}, path)


def test_generations_are_metered() -> None:
    """What computes answers counts against the limits of a minute, looking does not."""
    metered = {path for method, path in MANAGED + USED if (row := row_of(method, path)) is not None and row.metered}
    assert metered == {"/v1/chat/completions"}
