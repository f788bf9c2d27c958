"""The endpoints of an assembled application, read from its routes."""

from __future__ import annotations

from pathlib import Path

from starlette.routing import Route

from edgelora.server.app import GROQ_PREFIX, build_app
from edgelora.server.auth.gate import Gate
from edgelora.server.http.endpoint import Endpoint
from edgelora.server.http.options import ServerOptions
from edgelora.server.router import MethodDispatch
from tests.support.service import FakeService


def app_routes(folder: Path) -> list[Route]:
    """Every route of the application. Fails for a mount, which would hide its routes."""
    with FakeService(folder, adapters={}) as service:
        app = build_app(service, ServerOptions())
    routes = [route for route in app.routes if isinstance(route, Route)]
    assert len(routes) == len(app.routes)
    return routes


def app_gates(folder: Path) -> dict[tuple[str, str], Gate]:
    """The gate of each route by method and by the route's template."""
    gates = {}
    for route in app_routes(folder):
        assert isinstance(route.app, MethodDispatch) and route.methods == set(route.app.gates)
        gates.update({(method, route.path): gate for method, gate in route.app.gates.items()})
    return gates


def documented_endpoints(folder: Path) -> list[Endpoint]:
    """The endpoints that the OpenAPI document describes: each once, without Groq's prefix."""
    endpoints = {id(gate.endpoint): gate.endpoint for gate in app_gates(folder).values()}
    return [endpoint for endpoint in endpoints.values() if not endpoint.path.startswith(f"{GROQ_PREFIX}/")]
