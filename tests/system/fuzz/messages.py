"""HTTP requests as bytes: a right one for a route, and the ways in which it may be wrong."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field

from tests.system.fuzz.bodies import body_of, form_of, mutated, written

IDS = (
    *("medical-faq", "tiny", "x", "file_1", "ft%3Atiny%3Aorg%2Fa-0123456789ab", "..%2F..%2Fetc%2Fpasswd", "%00", "%ff"),
    *(
        "%F0%9F%98%80",
        "a%2Fb",
        "a/b",
        "-1",
        "0",
        "99999999999999999999",
        "a" * 3000,
        "%",
        "%zz",
        "",
        ".",
        "..",
        "con",
        "*",
    ),
)
TARGETS = (
    *(
        "/",
        "//",
        "*",
        "/v1",
        "/v1/",
        "/V1/MODELS",
        "/v1//models",
        "/v1/models?" + "a=b&" * 50,
        "/v1/models#x",
        "/v1/models;x",
    ),
    *("/v1/%6dodels", "/v1/models%0a", "/v1/models%0d%0aX:1", "/..%2f..", "http://evil.com/v1/models", "localhost:80"),
    *(
        "/" + "a" * 8300,
        "/v1/models/" + "%41" * 2000,
        "/openai/openai/v1/models",
        "/v1/models/%2e%2e/%2e%2e",
        "/\x7f",
        "",
    ),
)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW", "get", "", "G" * 300)
HOSTS = (
    "localhost",
    "127.0.0.1:8321",
    "[::1]",
    "evil.com",
    "localhost.evil.com",
    "",
    "a" * 5000,
    "127.0.0.1.nip.io",
    "\xff",
)
HEADERS: tuple[tuple[str, str], ...] = (
    ("Origin", "https://evil.com"),
    ("Origin", "null"),
    ("Origin", "tauri://localhost"),
    ("Sec-Fetch-Site", "cross-site"),
    ("Sec-Fetch-Site", "same-origin"),
    ("Access-Control-Request-Method", "DELETE"),
    ("Access-Control-Request-Headers", "authorization, " * 500),
    ("Authorization", "Bearer x"),
    ("Authorization", "Bearer \xff\xfe"),
    ("Authorization", "Basic Og=="),
    ("Authorization", "Bearer " + "k" * 50_000),
    ("X-API-Key", ""),
    ("Content-Type", "text/plain"),
    ("Content-Type", "application/json; charset=utf-16"),
    ("Content-Type", "multipart/form-data"),
    ("Content-Type", ";;;;"),
    ("Content-Encoding", "gzip"),
    ("Content-Length", "-1"),
    ("Content-Length", "0"),
    ("Content-Length", "7"),
    ("Content-Length", "1e3"),
    ("Content-Length", "9" * 30),
    ("Content-Length", "4194305"),
    ("Transfer-Encoding", "chunked"),
    ("Transfer-Encoding", "gzip, chunked"),
    ("Transfer-Encoding", "identity"),
    ("Expect", "100-continue"),
    ("Expect", "200-ok"),
    ("Upgrade", "websocket"),
    ("Upgrade", "h2c"),
    ("Connection", "upgrade"),
    ("Connection", "keep-alive"),
    ("Range", "bytes=0-1"),
    ("If-None-Match", "*"),
    ("Accept", "text/event-stream"),
    ("Last-Event-ID", "1"),
    ("X-Forwarded-For", "6.6.6.6"),
    ("X-Forwarded-Host", "evil.com"),
    ("Cookie", "a=b; " * 1000),
    ("X-Odd", "a\tb"),
    ("X-Odd", "\x00"),
    ("X-Odd", "folded\r\n value"),
    ("X Odd", "1"),
    ("", "1"),
    ("X-Long", "y" * 70_000),
)
_PARAMETER = re.compile(r"\{[^}]*\}")


@dataclass(slots=True)
class Message:
    method: str
    target: str
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    chunked: bool = False
    version: str = "HTTP/1.1"

    def head(self) -> bytes:
        lines = [f"{self.method} {self.target} {self.version}", *(f"{name}: {value}" for name, value in self.headers)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")


def right(method: str, template: str, random_: random.Random, *, token: str) -> Message:
    """A request that the route might answer with 200, in most of the ways that clients write it."""
    target = _PARAMETER.sub(lambda _: random_.choice(IDS), template)
    message = Message(method, target, [("Host", random_.choice(["localhost", "127.0.0.1:1", "[::1]"]))])
    if random_.random() < 0.7:
        message.headers.append(("Authorization", f"Bearer {token}") if random_.random() < 0.8 else ("x-api-key", token))
    if method in ("POST", "PUT", "PATCH"):
        if template.endswith("/files"):
            kind, message.body = form_of(random_)
        else:
            kind, message.body = "application/json", written(body_of(template, random_)).encode()
        message.headers.append(("Content-Type", kind))
    return message


def damaged(message: Message, template: str, random_: random.Random) -> Message:
    """The same with one to three things wrong about it."""
    for _ in range(random_.choice([1, 1, 1, 2, 3])):
        match random_.randrange(10):
            case 0 | 1 | 2 | 3:
                if not template.endswith("/files"):
                    message.body = written(mutated(body_of(template, random_), random_)).encode("utf-8", "replace")
            case 4:
                message.body = damaged_bytes(message.body or b"{}", random_)
            case 5 | 6:
                message.headers.insert(random_.randrange(len(message.headers) + 1), random_.choice(HEADERS))
            case 7:
                message.target = random_.choice(TARGETS)
            case 8:
                message.method = random_.choice(METHODS)
            case _:
                _worse(message, random_)
    return message


def _worse(message: Message, random_: random.Random) -> None:
    match random_.randrange(5):
        case 0:
            message.headers = [header for header in message.headers if header[0] != "Host"]
        case 1:
            message.headers.append(("Host", random_.choice(HOSTS)))
        case 2:
            message.headers += [(f"X-{number}", "1") for number in range(random_.choice([90, 101, 5000]))]
        case 3:
            message.version = random_.choice(["HTTP/1.0", "HTTP/2.0", "HTTP/9.9", "http/1.1", "HTTP/1.1 x", ""])
        case _:
            message.headers.clear()


def framed(message: Message, random_: random.Random) -> bytes:
    """The whole request, its body announced by length or in chunks: rightly as a rule."""
    if message.body and random_.random() < 0.25:
        message.headers.append(("Transfer-Encoding", "chunked"))
        return message.head() + chunks(message.body, random_)
    if message.body or message.method in ("POST", "PUT", "PATCH"):
        length = len(message.body) + random_.choice([0] * 17 + [-1, 1, 1000])
        message.headers.append(("Content-Length", str(max(0, length))))
    return message.head() + message.body


def chunks(body: bytes, random_: random.Random) -> bytes:
    """In pieces of any size, with extensions and trailers, and now and then wrong."""
    out = bytearray()
    while body:
        size = random_.choice([1, 2, 7, 100, len(body)])
        piece, body = body[:size], body[size:]
        out += b"%x%s\r\n%s\r\n" % (len(piece), random_.choice([b"", b"", b";a=b", b" "]), piece)
        if len(out) > 20_000 and size < 100:
            break
    end = [b"0\r\n\r\n"] * 8 + [
        b"0\r\nX: y\r\n\r\n",
        b"",
        b"zz\r\n",
        b"-1\r\n\r\n",
        b"f" * 20 + b"\r\n",
        b"0\r\n" + b"T: t\r\n" * 9000,
    ]
    return bytes(out) + random_.choice(end)


def damaged_bytes(data: bytes, random_: random.Random) -> bytes:
    """Bytes flipped, cut out, doubled, or put in."""
    raw = bytearray(data)
    for _ in range(random_.randint(1, 6)):
        at = random_.randrange(len(raw) + 1)
        match random_.randrange(5):
            case 0 if at < len(raw):
                raw[at] = random_.randrange(256)
            case 1:
                del raw[at : at + random_.randint(1, 20)]
            case 2:
                raw[at:at] = random_.randbytes(random_.randint(1, 8))
            case 3:
                raw[at:at] = random_.choice(
                    [b"\r\n", b'"', b"{", b"[", b"\\ud800", b"\x00", b"1e999", b",", b": ", b"\xff"]
                )
            case _:
                start = random_.randrange(len(raw) + 1)
                raw[at:at] = raw[start : start + random_.randint(1, 40)]
    return bytes(raw)
