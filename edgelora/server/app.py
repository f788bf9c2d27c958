"""The application: which path leads where. Owns the route table and the order of the middleware."""

from __future__ import annotations

import time

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgelora.server.boundary import Boundary, add_headers
from edgelora.server.chat import CHAT, start_chat
from edgelora.server.completions import COMPLETION, start_completion
from edgelora.server.counters import Counters
from edgelora.server.embeddings import embeddings_routes
from edgelora.server.errors import MethodNotAllowed, UnknownRoute
from edgelora.server.follow import Drain
from edgelora.server.gate import Keepers, gated
from edgelora.server.generate import GenerationApp
from edgelora.server.health import HealthRoutes
from edgelora.server.management import management_routes
from edgelora.server.metrics import MetricsRoutes
from edgelora.server.models import ModelsRoutes
from edgelora.server.openapi.route import openapi_routes
from edgelora.server.options import ServerOptions
from edgelora.server.page import page_routes
from edgelora.server.permitted import permitted
from edgelora.server.responses.routes import ResponsesRoutes
from edgelora.server.runtime import Runtime
from edgelora.server.security import Guard, Rules
from edgelora.server.status import StatusRoutes
from edgelora.server.together_start import start_together_chat, start_together_completion
from edgelora.server.tokens import count_routes, token_routes

PREFIXES = ("/v1", "/openai/v1")
"""OpenAI's prefix, and the one Groq's clients put before it."""


def build_app(runtime: Runtime, options: ServerOptions, drain: Drain | None = None) -> Starlette:
    """The ASGI application over a resident base. `drain` is how its server tells it that the end is near.

    Raises UsageError for options that cannot be right, StorageError where the keys cannot be read.
    """
    drain, counters = drain or Drain(), Counters(started=time.monotonic())
    runtime = permitted(runtime)
    health = HealthRoutes(runtime, drain)
    routes = [Route("/health", health.health), Route("/ready", health.ready)]
    routes += [Route("/metrics", MetricsRoutes(runtime, counters).metrics), *page_routes()]
    routes += [Route("/v1/status", StatusRoutes(runtime, counters, drain).status)]
    routes += [*openapi_routes(), *token_routes("", runtime, options)]
    responses = ResponsesRoutes(runtime, options, drain)
    for prefix in PREFIXES:
        routes += [*responses.routes(prefix), *_api_routes(prefix, runtime, options, drain)]
    routes += management_routes(PREFIXES, runtime, options)
    app = Starlette(
        routes=gated(routes, Keepers.of(options)),
        middleware=[
            Middleware(Boundary, counters=counters, access_log=options.access_log),
            Middleware(Guard, rules=Rules.of(options), routes=routes),
        ],
        exception_handlers={HTTPException: _refuse_route},
    )
    app.router.redirect_slashes = False
    return app


def _api_routes(prefix: str, runtime: Runtime, options: ServerOptions, drain: Drain) -> list[Route]:
    models = ModelsRoutes(runtime)
    chat = GenerationApp(runtime, options, drain, CHAT, start_chat, start_together_chat)
    completion = GenerationApp(runtime, options, drain, COMPLETION, start_completion, start_together_completion)
    return [
        Route(f"{prefix}/models", models.list),
        Route(f"{prefix}/models/{{id:path}}", models.retrieve),
        Route(f"{prefix}/chat/completions", chat, methods=["POST"]),
        Route(f"{prefix}/completions", completion, methods=["POST"]),
        *token_routes(prefix, runtime, options),
        *count_routes(prefix, runtime, options),
        *embeddings_routes(prefix, options),
    ]


async def _refuse_route(request: Request, error: Exception) -> Response:
    """The router's refusals as errors of the project's tree; the boundary words them."""
    if not isinstance(error, HTTPException) or error.status_code not in (404, 405):
        raise error
    asked = f"{request.method} {request.scope['raw_path'].decode('latin-1')[:200]}"
    if error.status_code == 404:
        raise UnknownRoute("unknown_url", f"There is no {asked} here.", f"Routes start with {PREFIXES[0]}/.")
    add_headers(request.scope, [(b"allow", (error.headers or {}).get("Allow", "").encode())])
    raise MethodNotAllowed("method_not_allowed", f"{asked} is not a method of this route.")
