"""The benchmarks' client against a small server of its own: who is sent when, and what is kept of the answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import repeat

import pytest

from benchmarks.harness.client import Exchange, Post, keep_busy, post_json, send_on_time
from benchmarks.harness.workload import Job

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def job(at: float = 0.0) -> Job:
    return Job(at, None, (1,), 1)


def write(_job: Job) -> Post:
    return post_json("/x", {"a": 1})


async def serving(answer: Answer, ask: Callable[[int], Awaitable[list[Exchange]]]) -> list[Exchange]:
    """What `ask(port)` gets from a server that reads a request and lets `answer` write."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b'{"a": 1}')
        await answer(writer)
        writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        return await ask(server.sockets[0].getsockname()[1])


def test_no_request_waits_for_an_answer() -> None:
    """Every job is under way before the first one is answered."""
    arrived: list[asyncio.Event] = []
    everybody = asyncio.Event()

    async def answer(writer: asyncio.StreamWriter) -> None:
        arrived.append(asyncio.Event())
        if len(arrived) == 5:
            everybody.set()
        await everybody.wait()
        writer.write(HEAD + chunk(b"data: 1\n\n") + chunk(b""))

    found = asyncio.run(serving(answer, lambda port: send_on_time([job()] * 5, port, write)))
    assert [exchange.status for exchange in found] == [200] * 5


def test_the_intended_time_is_kept() -> None:
    """What is reported as intended is the job's time after the start, not when it was sent."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + chunk(b""))

    first, second = asyncio.run(serving(answer, lambda port: send_on_time([job(0.0), job(0.05)], port, write)))
    assert second.intended - first.intended == pytest.approx(0.05)
    assert first.sent >= first.intended and second.sent >= second.intended and second.ended is not None


def test_frames_are_put_together() -> None:
    """Events split anywhere over the chunks come out whole; comments are no events."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + chunk(b"data: on") + chunk(b"e\n") + chunk(b"\n: keep\n\ndata: two\n\n") + chunk(b""))

    (found,) = asyncio.run(serving(answer, lambda port: send_on_time([job()], port, write)))
    assert [data for _, data in found.frames] == [b"one", b"two"]
    assert found.ended is not None and not found.error


@pytest.mark.parametrize("cut", [HEAD + chunk(b"data: one\n\n"), HEAD[:20], b""])
def test_a_broken_answer_is_noted(cut: bytes) -> None:
    """A connection that ends too soon is an error of that exchange, and nothing ended."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(cut)

    (found,) = asyncio.run(serving(answer, lambda port: send_on_time([job()], port, write)))
    assert found.error and found.ended is None


def test_a_refusal_is_known() -> None:
    """A 429 with its body."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 429 Busy\r\nContent-Length: 4\r\n\r\nfull")

    (found,) = asyncio.run(serving(answer, lambda port: send_on_time([job()], port, write)))
    assert found.refused and found.frames[0][1] == b"full"


def test_nobody_there_is_noted() -> None:
    """A refused connection is an error of that exchange."""

    async def ask(_port: int) -> list[Exchange]:
        return await send_on_time([job()], 1, write)

    async def answer(_writer: asyncio.StreamWriter) -> None: ...

    (found,) = asyncio.run(serving(answer, ask))
    assert found.status == 0 and found.error


def test_the_server_is_kept_busy() -> None:
    """As many requests as asked are under way at once, never more."""
    now = most = 0

    async def answer(writer: asyncio.StreamWriter) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1
        writer.write(HEAD + chunk(b""))

    found = asyncio.run(serving(answer, lambda port: keep_busy(repeat(job()), port, write, width=3, seconds=0.1)))
    assert most == 3 and len(found) > 3
