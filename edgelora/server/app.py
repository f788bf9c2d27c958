"""The application: its endpoints, the dialects it speaks, and the order of the middleware."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from edgelora.runtime.interface import Runtime
from edgelora.server.api.groq_dialect import GROQ
from edgelora.server.api.openai.dialect import OPENAI
from edgelora.server.api.openai.embeddings import embeddings_endpoints
from edgelora.server.api.openai.generation import generation_endpoints
from edgelora.server.api.openai.models import ModelsRoutes
from edgelora.server.api.openai.tokenize import token_endpoints, v1_token_endpoints
from edgelora.server.api.responses.routes import ResponsesRoutes
from edgelora.server.api.routes import management_endpoints, project_endpoints
from edgelora.server.api.together.dialect import TOGETHER
from edgelora.server.auth.gate import Authenticators
from edgelora.server.auth.scoped_runtime import scoped
from edgelora.server.generation.dialect import Dialects
from edgelora.server.http.drain import Drain
from edgelora.server.http.endpoint import Endpoint
from edgelora.server.http.errors import MethodNotAllowed, UnknownRoute
from edgelora.server.http.options import ServerOptions
from edgelora.server.http.reply import add_headers
from edgelora.server.management.manager import Manager
from edgelora.server.middleware.boundary import Boundary
from edgelora.server.middleware.guard import Guard, OriginRules
from edgelora.server.openapi.route import OpenApiRoutes
from edgelora.server.page.routes import page_endpoints
from edgelora.server.router import make_routes
from edgelora.server.telemetry.counters import Counters
from edgelora.server.telemetry.health import HealthRoutes
from edgelora.server.telemetry.metrics import MetricsRoutes
from edgelora.server.telemetry.status import StatusRoutes

PREFIX = "/v1"
GROQ_PREFIX = "/openai"
"""The prefix that Groq's clients put before OpenAI's paths."""


def build_app(runtime: Runtime, options: ServerOptions, drain: Drain | None = None) -> Starlette:
    """Return the ASGI application over a resident base. `drain`: tells the application that its server is ending.

    Raises UsageError for options that cannot be right, StorageError where the keys cannot be read.
    """
    drain, counters = drain or Drain(), Counters(started=time.monotonic())
    runtime = scoped(runtime)
    manager = Manager.of(runtime, options)
    apis = _api_endpoints(runtime, options, drain, manager)
    others = (*_own_endpoints(runtime, options, drain, counters), *apis, *project_endpoints(manager))
    endpoints = (*OpenApiRoutes(others).endpoints(), *others, *_with_prefix(apis))
    routes = make_routes(endpoints, Authenticators.of(options))
    app = Starlette(
        routes=routes,
        middleware=[
            Middleware(Boundary, counters=counters, access_log=options.access_log),
            Middleware(Guard, rules=OriginRules.of(options), routes=routes),
        ],
        exception_handlers={HTTPException: _refuse_route},
    )
    app.router.redirect_slashes = False
    return app


def _own_endpoints(runtime: Runtime, options: ServerOptions, drain: Drain, counters: Counters) -> tuple[Endpoint, ...]:
    """The endpoints that are at one path only."""
    return (
        *HealthRoutes(runtime, drain).endpoints(),
        *MetricsRoutes(runtime, counters).endpoints(),
        *page_endpoints(),
        *StatusRoutes(runtime, counters, drain).endpoints(),
        *token_endpoints(runtime, options),
    )


def _api_endpoints(runtime: Runtime, options: ServerOptions, drain: Drain, manager: Manager) -> tuple[Endpoint, ...]:
    """The endpoints of OpenAI's API and of its relatives, which Groq's clients call with a prefix."""
    dialects = Dialects(OPENAI, TOGETHER, GROQ)
    return (
        *ResponsesRoutes(runtime, options, drain).endpoints(),
        *ModelsRoutes(runtime, dialects).endpoints(),
        *generation_endpoints(runtime, options, drain, dialects),
        *v1_token_endpoints(runtime, options),
        *embeddings_endpoints(options),
        *management_endpoints(manager),
    )


def _with_prefix(endpoints: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
    """The same endpoints for Groq's clients. The OpenAPI document describes each once, without the prefix."""
    return tuple(replace(endpoint, path=GROQ_PREFIX + endpoint.path) for endpoint in endpoints)


async def _refuse_route(request: Request, error: Exception) -> Response:
    """Raise the router's refusals as errors of the project's tree, for which the boundary writes the reply."""
    if not isinstance(error, HTTPException) or error.status_code not in (404, 405):
        raise error
    route = f"{request.method} {request.scope['raw_path'].decode('latin-1')[:200]}"
    if error.status_code == 404:
        raise UnknownRoute("unknown_url", f"There is no {route} here.", f"Routes start with {PREFIX}/.")
    add_headers(request.scope, [(b"allow", (error.headers or {}).get("Allow", "").encode())])
    raise MethodNotAllowed("method_not_allowed", f"{route} is not a method of this route.")
