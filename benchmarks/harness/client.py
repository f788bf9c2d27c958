"""An HTTP client that sends each request at its time, whatever has become of the others, and notes when bytes came.

Frames are kept as they came and read after the run, so that the client costs the server little of the machine. Knows
no server's field names: those are `targets.py`'s.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import h11

from benchmarks.harness.workload import Job

PATIENCE_SECONDS = 300.0
"""For one whole answer; then it counts as lost."""
_READ_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Post:
    path: str
    body: bytes
    head: bytes = b"Content-Type: application/json\r\n"
    """Header lines beside those every request has."""


@dataclass(slots=True)
class Exchange:
    """What became of one job. Times are seconds of time.monotonic."""

    job: Job
    intended: float
    sent: float = 0.0
    status: int = 0
    """0: no answer came."""
    streamed: bool = False
    """Whether the answer comes as server-sent events."""
    frames: list[tuple[float, bytes]] = field(default_factory=list)
    """When each server-sent event was complete, and its data; of another answer the body, in pieces."""
    ended: float | None = None
    """When the answer's last byte came; None where it never did."""
    error: str = ""
    retry_after: str = ""
    """When a refused client is to come back, as it was told."""

    @property
    def refused(self) -> bool:
        return self.status == 429


Write = Callable[[Job], Post]


async def send_on_time(jobs: Iterable[Job], port: int, write: Write) -> list[Exchange]:
    """Every job at its time from now on: none waits for another's answer."""
    start = time.monotonic()

    async def at_its_time(job: Job) -> Exchange:
        await asyncio.sleep(max(0.0, start + job.at - time.monotonic()))
        return await exchange(job, port, write(job), intended=start + job.at)

    return list(await asyncio.gather(*map(at_its_time, jobs)))


async def keep_busy(jobs: Iterator[Job], port: int, write: Write, *, width: int, seconds: float) -> list[Exchange]:
    """`width` requests at any time, for so long; each intended when it is sent. The capacity is measured with this."""
    until = time.monotonic() + seconds
    done: list[Exchange] = []

    async def worker() -> None:
        while time.monotonic() < until:
            for job in islice(jobs, 1):
                done.append(await exchange(job, port, write(job), intended=time.monotonic()))

    await asyncio.gather(*(worker() for _ in range(width)))
    return done


async def exchange(job: Job, port: int, post: Post, *, intended: float) -> Exchange:
    """One request on a connection of its own. What goes wrong is noted in the result, not raised."""
    result = Exchange(job, intended, sent=time.monotonic())
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await _exchange(result, port, post)
    except (OSError, TimeoutError, h11.RemoteProtocolError) as error:
        result.error = f"{type(error).__name__}: {error}"
    return result


async def _exchange(result: Exchange, port: int, post: Post) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request_bytes(port, post))
        await _receive(result, reader)
        result.ended = time.monotonic()
    finally:
        writer.close()


def request_bytes(port: int, post: Post) -> bytes:
    head = f"POST {post.path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n"
    return head.encode() + post.head + f"Content-Length: {len(post.body)}\r\n\r\n".encode() + post.body


async def _receive(result: Exchange, reader: asyncio.StreamReader) -> None:
    connection = h11.Connection(h11.CLIENT)
    # h11 wants to have seen the request whose answer it reads.
    connection.send(h11.Request(method="POST", target="/", headers=[("Host", "x"), ("Connection", "close")]))
    connection.send(h11.EndOfMessage())
    rest = b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(_READ_BYTES))
        elif isinstance(event, h11.Response):
            result.status = event.status_code
            headers = dict(event.headers)
            result.streamed = headers.get(b"content-type", b"").startswith(b"text/event-stream")
            result.retry_after = headers.get(b"retry-after", b"").decode("latin-1")
        elif isinstance(event, h11.Data):
            rest = _keep_frames(result, rest + bytes(event.data))
        elif isinstance(event, (h11.EndOfMessage, h11.ConnectionClosed)):
            if rest:
                result.frames.append((time.monotonic(), rest))
            return


def _keep_frames(result: Exchange, data: bytes) -> bytes:
    """Note the events that are complete; returns the beginning of the next one."""
    if result.status != 200 or not result.streamed:
        return data
    *frames, rest = data.split(b"\n\n")
    now = time.monotonic()
    for frame in frames:
        if frame.startswith(b"data: "):
            result.frames.append((now, frame.removeprefix(b"data: ")))
    return rest


def post_json(path: str, body: dict[str, object]) -> Post:
    return Post(path, json.dumps(body).encode())
