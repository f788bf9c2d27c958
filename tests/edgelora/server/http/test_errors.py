"""Every error of the project's tree has one status, one type and one shape over HTTP."""

from __future__ import annotations

import json

import pytest

from edgelora.core.errors import BaseError, Busy, Cancelled, ContextTooLong, NotFound, StorageError, UsageError
from edgelora.server.http.errors import Forbidden, Unauthorized, Unavailable, error_reply

CASES = [
    (UsageError("bad", "What.", "Do.", param="n"), 400, "invalid_request_error", {}),
    (ContextTooLong(tokens=9, limit=8), 400, "invalid_request_error", {}),
    (NotFound("model", "medcal", ["medical"]), 404, "invalid_request_error", {}),
    (Unauthorized("invalid_api_key", "No."), 401, "authentication_error", {"www-authenticate": "Bearer"}),
    (Forbidden("host_not_allowed", "No."), 403, "permission_error", {}),
    (Busy("queue_full", "Full.", retry_after=2.1), 429, "rate_limit_error", {"retry-after": "3"}),
    (Busy("queue_full", "Full."), 429, "rate_limit_error", {"retry-after": "1"}),
    (Unavailable("not_ready", "Soon."), 503, "server_error", {"retry-after": "1"}),
    (Cancelled(), 503, "server_error", {"retry-after": "1"}),
    (BaseError("base_missing", "No base."), 503, "server_error", {"x-should-retry": "false"}),
    (StorageError("no_space", "Full."), 507, "server_error", {"x-should-retry": "false"}),
]


@pytest.mark.parametrize(("error", "status", "kind", "headers"), CASES)
def test_status_type_and_headers(error: Exception, status: int, kind: str, headers: dict[str, str]) -> None:
    """The status is the class's; the type is what the hosted APIs say; waiting is told in Retry-After."""
    reply = error_reply(error)
    assert reply.status == status
    assert {name.decode(): value.decode() for name, value in reply.headers} == headers
    body = json.loads(reply.body)["error"]
    assert set(body) == {"message", "type", "param", "code"} and body["type"] == kind


def test_the_fields_are_the_errors_own() -> None:
    """Message, code and param are taken over; the message says what happened and what to do."""
    body = json.loads(error_reply(CASES[0][0]).body)["error"]
    assert body == {"message": "What. Do.", "type": "invalid_request_error", "param": "n", "code": "bad"}


def test_near_names_reach_the_client() -> None:
    """A misspelt model is answered with the nearest names."""
    assert "medical" in json.loads(error_reply(NotFound("model", "medcal", ["medical"])).body)["error"]["message"]


def test_the_inside_stays_inside() -> None:
    """An exception outside the tree becomes an internal error without its message, and is not retried."""
    reply = error_reply(KeyError("/home/someone/secret"))
    assert reply.status == 500 and b"secret" not in reply.body
    assert (b"x-should-retry", b"false") in reply.headers
    assert json.loads(reply.body)["error"]["code"] == "internal_error"
