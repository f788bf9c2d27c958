"""A sample of the fuzz (`python -m tests.system.fuzz` runs all of it), and that it would find something."""

from __future__ import annotations

import json

import pytest

from tests.system.fuzz.cases import make_case
from tests.system.fuzz.runner import left_behind, run
from tests.system.fuzz.wire import Response, judge, take

ROUTES = [("GET", "/v1/models"), ("POST", "/v1/chat/completions"), ("POST", "/v1/files"), ("DELETE", "/v1/files/{id}")]
IDLE = {
    **dict.fromkeys(("connections", "tasks", "queued", "running", "leases"), 0),
    "threads": 5,
    "descriptors": 8,
    "resident": 60 << 20,
    "errors": [],
}


def test_a_sample() -> None:
    """Some hundred malformed requests on every route: documented answers only, and nothing is left behind."""
    report = run(range(300))
    assert report.findings == []
    assert report.routes > 20 and {200, 400, 404} <= set(report.statuses) and len(report.kinds) == 7


def test_a_number_is_a_case() -> None:
    """What was found can be sent again."""
    cases = [[make_case(number, ROUTES, token="t") for number in range(50)] for _ in range(2)]
    assert cases[0] == cases[1] and len({case.pieces for case in cases[0]}) == 50


def error(status: int, code: object, **more: object) -> Response:
    fields = {"message": "m", "type": "t", "param": None, "code": code, **more}
    return Response(status, {}, json.dumps({"error": fields}).encode())


@pytest.mark.parametrize(
    ("response", "wrong"),
    [
        (error(400, "invalid_json"), False),
        (error(501, "embeddings_not_supported"), False),
        (Response(200, {}, b"anything"), False),
        (Response(200, {"content-type": "text/event-stream"}, b'data: {"a":1}\n\ndata: [DONE]\n\n'), False),
        (error(500, "internal_error"), True),
        (error(503, "internal_error"), True),
        (error(418, "teapot"), True),
        (error(400, None), True),
        (error(400, "x", extra=1), True),
        (Response(400, {}, b"Bad Request"), True),
        (Response(500, {}, b""), True),
        (Response(400, {}, b'{"error":"text"}'), True),
        (Response(200, {"content-type": "text/event-stream"}, b'data: {"a":\n\n'), True),
        (Response(200, {"content-type": "text/event-stream"}, b'data: {"error":{"code":"internal_error"}}\n\n'), True),
    ],
)
def test_the_judge(response: Response, wrong: bool) -> None:
    """Only what is documented passes."""
    assert bool(judge(response)) is wrong


def test_responses_are_taken_one_by_one() -> None:
    """By length, in chunks, without a body, at the end of the connection; what is not whole is waited for."""
    received = bytearray(
        b"HTTP/1.1 100 Continue\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab"
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nc\r\n0\r\n\r\n"
        b"HTTP/1.1 204 No Content\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nxy"
    )
    found = [take(received, ended=False) for _ in range(5)]
    assert [response and (response.status, response.body) for response in found] == [
        (100, b""),
        (200, b"ab"),
        (200, b"c"),
        (204, b""),
        None,
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"leases": 1},
        {"connections": 2},
        {"threads": 200},
        {"descriptors": 40},
        {"resident": 200 << 20},
        {"errors": ["Traceback"]},
    ],
)
def test_what_is_left_behind_is_found(change: dict[str, object]) -> None:
    """Each kind of leak, and what was logged."""
    assert left_behind(IDLE, IDLE) == []
    assert len(left_behind(IDLE, {**IDLE, **change})) == 1
