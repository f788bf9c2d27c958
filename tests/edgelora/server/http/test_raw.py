"""Whatever bytes arrive, the answer is documented and the server lives on."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.support.server import TEST_OPTIONS, Reply, RunningServer, parse_reply, serving
from tests.support.service import FakeService

CHAT = b'{"model":"tiny","messages":[{"role":"user","content":"Hi"}]}'
LINE = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
WHOLE = LINE + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(CHAT) + CHAT

# Behind a request that may be cut short: fills it up, and is itself none, so that the server ends the connection.
END = b"\r\n\r\nX\r\n\r\n"

MALFORMED = [
    b"\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nHost: evil.com\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\nHost localhost\r\n\r\n",
    b"GET /v1/\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n",
    b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    LINE + b"Content-Length: -1\r\n\r\n",
    LINE + b"Content-Length: 1e3\r\n\r\n",
    LINE + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
    LINE + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n12345",
    LINE + b"Transfer-Encoding: gzip\r\n\r\n",
    LINE + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    LINE + b"Content-Length: 5\r\n\r\n12345POST / HTTP/1.1\r\n\r\n",
]


def _checked(raw: bytes) -> Reply | None:
    """The first response in `raw`: JSON of a documented status. None where the connection ended without one."""
    if not raw:
        return None
    reply = parse_reply(raw)
    assert reply.status in {200, 400, 403, 404, 405, 408, 413, 415}, raw
    assert reply.headers["content-type"] == "application/json"
    return reply


@pytest.mark.parametrize("data", MALFORMED)
def test_malformed_requests_get_an_error_object(server: RunningServer, data: bytes) -> None:
    """Malformed HTTP gets an error in the usual shape, and the next request is served."""
    reply = _checked(server.send(data + END))
    assert reply is None or (400 <= reply.status < 500 and reply.error["code"])
    assert server.request("GET", "/health").status == 200


def test_bytes_that_are_not_http(server: RunningServer) -> None:
    """Even below the application the error has the shape of all others."""
    reply = parse_reply(server.send(b"NOT HTTP AT ALL\r\n\r\n"))
    assert (reply.status, reply.error["code"], reply.error["type"]) == (400, "malformed_http", "invalid_request_error")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "BREW"])
def test_wrong_methods(server: RunningServer, method: str) -> None:
    """A method a route does not have is 405 with Allow, as an error object."""
    reply = server.request(method, "/v1/chat/completions", b"{}", {"Content-Type": "application/json"})
    assert (reply.status, reply.error["code"], reply.headers["allow"]) == (405, "method_not_allowed", "POST")


@pytest.mark.parametrize(
    "path", ["/v1", "/v1/", "/v2/models", "/v1/chat/completions/", "/v1//models", "/../etc/passwd"]
)
def test_unknown_paths(server: RunningServer, path: str) -> None:
    """A path nobody serves is 404 as an error object, and never a redirect."""
    reply = server.request("GET", path)
    assert (reply.status, reply.error["code"], reply.error["param"]) == (404, "unknown_url", None)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/models/me%2Fa:v1", 200),
        ("/v1/models/me/a:v1", 200),
        ("/v1/models/me%2fa%3Av1", 200),
        ("/openai/v1/models/tiny", 200),
        ("/v1/models/tiny%3Amedical-faq", 200),
        ("/v1/models/..%2F..%2Fetc%2Fpasswd", 404),
        ("/v1/models/%00", 404),
        ("/v1/models/%ff", 404),
        ("/v1/models/", 404),
        ("/v1/models/medical-faq/", 404),
    ],
)
def test_model_ids_in_paths(server: RunningServer, path: str, status: int) -> None:
    """Ids with slashes and colons are found, written either way; nothing else is."""
    assert server.request("GET", path).status == status


def test_bad_json_is_explained(server: RunningServer) -> None:
    """A body that is no JSON is 400 invalid_json, with the place."""
    reply = server.post("/v1/chat/completions", b'{"model": }')
    assert (reply.status, reply.error["code"]) == (400, "invalid_json") and "column 11" in reply.error["message"]


def test_chunked_bodies_are_read_and_capped(server: RunningServer) -> None:
    """A body without a length is read as it comes, and refused as soon as it is too large."""
    head = LINE + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert parse_reply(server.send(head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(CHAT), CHAT))).status == 200
    piece = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    reply = parse_reply(server.send(head + piece * 5 + b"0\r\n\r\n"))
    assert (reply.status, reply.error["code"]) == (413, "body_too_large")


def _mutated(random_: random.Random) -> bytes:
    data = bytearray(WHOLE)
    for _ in range(random_.randint(1, 8)):
        at = random_.randrange(len(data))
        match random_.randrange(5):
            case 0:
                data[at] = random_.randrange(256)
            case 1:
                del data[at : at + random_.randint(1, 20)]
            case 2:
                data[at:at] = random_.randbytes(random_.randint(1, 8))
            case 3:
                data[at:at] = random_.choice([b"\r\n", b'"', b"{", b"[", b"\\ud800", b"\x00", b"1e999", b",", b": "])
            case _:
                start = random_.randrange(len(data))
                data[at:at] = data[start : start + random_.randint(1, 40)]
    return bytes(data)


@pytest.fixture
def impatient(service: FakeService) -> Iterator[RunningServer]:
    """A server that does not wait long for the rest of a body."""
    with serving(service, replace(TEST_OPTIONS, body_seconds=0.05)) as running:
        yield running


def test_seeded_mutations_never_break_the_server(impatient: RunningServer) -> None:
    """Some hundred damaged requests: each answer is documented, and afterwards the sound one is served."""
    random_ = random.Random(20)
    statuses = set()
    for _ in range(300):
        reply = _checked(impatient.send(_mutated(random_) + END))
        statuses.add(reply and reply.status)
    assert {200, 400} <= statuses, "the mutations are neither all fatal nor all harmless"
    assert impatient.post("/v1/chat/completions", CHAT).status == 200
