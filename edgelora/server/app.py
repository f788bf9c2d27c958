"""The application: which path leads where. Owns the route table and the order of the middleware."""

from __future__ import annotations

import time

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgelora.runtime.interface import Runtime
from edgelora.server.api.openai.chat import CHAT, start_chat
from edgelora.server.api.openai.completions import COMPLETION, start_completion
from edgelora.server.api.openai.embeddings import embeddings_routes
from edgelora.server.api.openai.models import ModelsRoutes
from edgelora.server.api.openai.tokenize import count_routes, token_routes
from edgelora.server.api.responses.routes import ResponsesRoutes
from edgelora.server.api.routes import management_routes
from edgelora.server.api.together.start import start_together_chat, start_together_completion
from edgelora.server.auth.gate import Authenticators, gated
from edgelora.server.auth.scoped_runtime import scoped
from edgelora.server.generation.generate import GenerationApp
from edgelora.server.http.drain import Drain
from edgelora.server.http.errors import MethodNotAllowed, UnknownRoute
from edgelora.server.http.options import ServerOptions
from edgelora.server.http.reply import add_headers
from edgelora.server.middleware.boundary import Boundary
from edgelora.server.middleware.guard import Guard, OriginRules
from edgelora.server.openapi.route import openapi_routes
from edgelora.server.page.routes import page_routes
from edgelora.server.telemetry.counters import Counters
from edgelora.server.telemetry.health import HealthRoutes
from edgelora.server.telemetry.metrics import MetricsRoutes
from edgelora.server.telemetry.status import StatusRoutes

PREFIXES = ("/v1", "/openai/v1")
"""OpenAI's prefix, and the one Groq's clients put before it."""


def build_app(runtime: Runtime, options: ServerOptions, drain: Drain | None = None) -> Starlette:
    """The ASGI application over a resident base. `drain` is how its server tells it that the end is near.

    Raises UsageError for options that cannot be right, StorageError where the keys cannot be read.
    """
    drain, counters = drain or Drain(), Counters(started=time.monotonic())
    runtime = scoped(runtime)
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
        routes=gated(routes, Authenticators.of(options)),
        middleware=[
            Middleware(Boundary, counters=counters, access_log=options.access_log),
            Middleware(Guard, rules=OriginRules.of(options), routes=routes),
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
