"""What the server under test has: ids that right requests can name."""

from __future__ import annotations

from typing import Any

from tests.contract.runner import Names
from tests.support.server import RunningServer

MODEL = "tiny"
ADAPTER = "a"


def names_on(server: RunningServer) -> Names:
    """Of the scripted service of `tests/support/service.py`, with one adapter."""

    def id_for(path: str) -> str:
        if path.startswith("/v1/responses/"):
            return _response(server, background=path.endswith("/cancel"))
        return MODEL

    return Names(MODEL, ADAPTER, id_for)


def _response(server: RunningServer, *, background: bool) -> str:
    body: dict[str, Any] = {"model": MODEL, "input": "Hi", "background": background}
    response_id: str = server.post("/v1/responses", body).json["id"]
    return response_id
