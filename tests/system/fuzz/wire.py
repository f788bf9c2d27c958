"""One case over a real socket, and whether what came back is something the server may answer."""

from __future__ import annotations

import json
import socket
import struct
import time
from contextlib import suppress
from dataclasses import dataclass

from tests.system.fuzz.cases import Case

HANG_SECONDS = 20.0
"""For a first answer, or the end of the connection: far more than any bound of the server under test."""
QUIET_SECONDS = 0.2
"""After an answer: when nothing more is awaited of pipelined requests."""

CLIENT_ERRORS = frozenset({400, 401, 403, 404, 405, 408, 409, 411, 413, 414, 415, 416, 422, 429, 431})
SERVER_ERRORS = frozenset(
    {
        (501, "embeddings_not_supported"),
        (503, "not_ready"),
        (503, "offline"),
        (503, "shutting_down"),
    }
)
"""What is documented: each with the code that says which."""


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Outcome:
    statuses: tuple[int, ...]
    findings: tuple[str, ...]


def attempt(port: int, case: Case) -> Outcome:
    """Send a case, read what comes, and judge it. Never raises for what a server may do."""
    try:
        connection = socket.create_connection(("127.0.0.1", port), timeout=HANG_SECONDS)
    except OSError as error:
        return Outcome((), (f"no connection: {error}",))
    with connection:
        _send(connection, case)
        if case.ending != "read":
            _leave(connection, case.ending)
            return Outcome((), ())
        return _read(connection, case)


def _send(connection: socket.socket, case: Case) -> None:
    for piece in case.pieces:
        if piece.pause:
            time.sleep(piece.pause)
        with suppress(ConnectionError):  # the server may have answered and closed already
            connection.sendall(piece.data)


def _leave(connection: socket.socket, ending: str) -> None:
    if ending == "reset":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    elif ending == "half":
        with suppress(OSError):
            connection.shutdown(socket.SHUT_WR)


def _read(connection: socket.socket, case: Case) -> Outcome:
    received, responses, until = bytearray(), [], time.monotonic() + HANG_SECONDS
    bodiless = case.requests == 1 and b"".join(piece.data for piece in case.pieces).startswith(b"HEAD ")
    ended = False
    while not ended and len(responses) < case.requests:
        # Of several answers one may be a HEAD's, whose end cannot be seen until the next one begins.
        awaited = not responses and not (received and case.requests > 1)
        connection.settimeout(max(0.1, until - time.monotonic()) if awaited else QUIET_SECONDS)
        try:
            data = connection.recv(1 << 16)
        except TimeoutError:
            if awaited:
                return Outcome((), (f"no answer and no end within {HANG_SECONDS:g} s",))
            break
        except ConnectionError:
            data = b""
        ended = not data
        received += data
        try:
            while (found := take(received, ended=ended, bodiless=bodiless)) is not None:
                if found.status >= 200:
                    responses.append(found)
        except (ValueError, IndexError):
            return Outcome((), (f"no HTTP: {bytes(received[:200])!r}",))
    findings = tuple(finding for response in responses if (finding := judge(response)))
    return Outcome(tuple(response.status for response in responses), findings)


def take(received: bytearray, *, ended: bool, bodiless: bool = False) -> Response | None:
    """The first whole response in what was received, taken out of it."""
    head, blank, rest = bytes(received).partition(b"\r\n\r\n")
    if not blank:
        return None
    lines = head.decode("latin-1").split("\r\n")
    status = int(lines[0].split(" ")[1])
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    body: bytes | None = b""
    used = 0
    if bodiless or status < 200 or status in (204, 304) or rest.startswith(b"HTTP/1."):
        pass
    elif headers.get("transfer-encoding") == "chunked":
        body, used = _unchunked(rest)
    elif "content-length" in headers:
        used = int(headers["content-length"])
        body = rest[:used] if len(rest) >= used else None
    else:
        body, used = (rest, len(rest)) if ended else (None, 0)
    if body is None:
        return None
    del received[: len(head) + 4 + used]
    return Response(status, headers, body)


def _unchunked(data: bytes) -> tuple[bytes | None, int]:
    body, at = bytearray(), 0
    while (end := data.find(b"\r\n", at)) >= 0:
        size = int(data[at:end], 16)
        if len(data) < end + 4 + size:
            break
        body += data[end + 2 : end + 2 + size]
        at = end + 4 + size
        if size == 0:
            return bytes(body), at
    return None, 0


def judge(response: Response) -> str:
    """What is wrong with a response; nothing where it is one the server may give."""
    if response.status < 400:
        return _judge_stream(response) if "event-stream" in response.headers.get("content-type", "") else ""
    if not response.body:
        return "" if response.status in CLIENT_ERRORS else f"{response.status} without a body"
    try:
        error = json.loads(response.body)["error"]
        code = error["code"]
    except (ValueError, KeyError, TypeError):
        return f"{response.status} with a body of another shape: {response.body[:200]!r}"
    if set(error) != {"message", "type", "param", "code"} or not isinstance(code, str):
        return f"{response.status} with other fields: {sorted(error)}"
    documented = response.status in CLIENT_ERRORS or (response.status, code) in SERVER_ERRORS
    return "" if documented else f"{response.status} {code}: {error['message'][:300]}"


def _judge_stream(response: Response) -> str:
    for frame in response.body.split(b"\n\n"):
        data = frame.partition(b"data: ")[2]
        if data and data != b"[DONE]":
            try:
                fields = json.loads(data)
            except ValueError:
                return f"a frame that is no JSON: {data[:200]!r}"
            if b"internal_error" in data:
                return f"a stream that failed: {fields}"
    return ""
