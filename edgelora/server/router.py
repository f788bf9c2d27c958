"""The application's routes, made of its endpoints: one route for each path, with a gate in front of each handler."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping

from starlette.convertors import register_url_convertor
from starlette.routing import Route, request_response
from starlette.types import ASGIApp, Receive, Scope, Send

from edgelora.server.auth.gate import Authenticators, Gate
from edgelora.server.http.endpoint import Endpoint, Handler
from edgelora.server.http.path_number import NumberConvertor

register_url_convertor("number", NumberConvertor())


class MethodDispatch:
    """An ASGI application that passes each request on to the gate of its HTTP method."""

    def __init__(self, gates: Mapping[str, Gate]) -> None:
        """`gates`: by method. The route lets no other method through."""
        self.gates = gates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.gates[scope["method"]](scope, receive, send)


def make_routes(endpoints: Iterable[Endpoint], authenticators: Authenticators) -> list[Route]:
    """Return a route for each path, in the order of each path's first endpoint; the first route that matches answers.

    Raises ValueError if two endpoints have the same method and path.
    """
    by_path: dict[str, dict[str, Gate]] = {}
    for endpoint in endpoints:
        gates = by_path.setdefault(endpoint.path, {})
        gate = Gate(_application(endpoint.handler), endpoint, authenticators)
        for method in endpoint.methods:
            if method in gates:
                raise ValueError(f"two endpoints answer {method} {endpoint.path}")
            gates[method] = gate
    return [Route(path, MethodDispatch(gates), methods=list(gates)) for path, gates in by_path.items()]


def _application(handler: Handler) -> ASGIApp:
    # starlette tells the two kinds apart in the same way.
    if inspect.isfunction(handler) or inspect.ismethod(handler):
        return request_response(handler)
    return handler  # type: ignore[return-value]
