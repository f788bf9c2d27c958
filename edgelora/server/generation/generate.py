"""The ASGI application of a generating endpoint: read the body, start the generation in a thread, follow it, reply.

Knows no field names and no API: those are the dialects'.
"""

from __future__ import annotations

import hashlib
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from edgelora.core.errors import EdgeloraError
from edgelora.core.events import Failed, Finished, TextDelta
from edgelora.core.request import AdapterUse
from edgelora.runtime.interface import Runtime
from edgelora.server.generation.dialect import Dialect, Dialects, GenerationFormat
from edgelora.server.generation.follow import ChoiceResult, follow_all
from edgelora.server.generation.sse import ChunkHead, ReplyShape, SseWriter, total, whole_answer
from edgelora.server.generation.started import StartedGeneration
from edgelora.server.http.drain import Drain
from edgelora.server.http.errors import internal_error
from edgelora.server.http.json_body import parse_object
from edgelora.server.http.json_route import JSON_HEADERS, read_json
from edgelora.server.http.options import ServerOptions
from edgelora.server.http.reply import send_reply
from edgelora.server.http.workers import run_start

logger = logging.getLogger(__name__)

STREAM_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)


ChoiceResults = AsyncGenerator[ChoiceResult | None]


@dataclass(frozen=True, slots=True)
class GenerationApp:
    runtime: Runtime
    options: ServerOptions
    drain: Drain
    dialects: Dialects
    format_of: Callable[[Dialect], GenerationFormat]
    """Picks this endpoint's kind of generation from the dialect of a request."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw = await read_json(scope, receive, self.options)
        generation = self.format_of(self.dialects.of(Headers(scope=scope)))
        started = await run_start(lambda: generation.start(self.runtime, parse_object(raw)))
        for stream in started.streams:
            stream.whole = not started.body.stream
        tick = self.options.keepalive_seconds
        async with aclosing(
            follow_all(
                started.streams,
                receive=receive,
                drain=self.drain,
                tick=tick,
                timeouts=self.options.timeouts,
                prompts=started.prompts,
            )
        ) as events:
            if started.body.stream:
                await self._send_stream(started, generation.shape, events, send)
            else:
                await self._send_whole(started, generation.shape, events, send)

    async def _send_whole(
        self, started: StartedGeneration, shape: ReplyShape, results: ChoiceResults, send: Send
    ) -> None:
        deltas: list[list[TextDelta]] = [[] for _ in started.streams]
        ends: dict[int, Finished] = {}
        async for result in results:
            if result is None:
                continue
            if isinstance(result.event, Failed):
                raise result.event.error
            if isinstance(result.event, TextDelta):
                if result.event.anew:
                    deltas[result.choice].clear()
                deltas[result.choice].append(result.event)
            else:
                ends[result.choice] = result.event
        choices = [
            started.make_writer(choice).whole_choice(texts, ends[choice].reason) for choice, texts in enumerate(deltas)
        ]
        usage = total([ends[choice].usage for choice in range(len(choices))], prompts=started.prompts)
        reply = whole_answer(self._head(started, shape), shape, choices=choices, usage=usage)
        await send_reply(send, 200, JSON_HEADERS, reply)

    async def _send_stream(
        self, started: StartedGeneration, shape: ReplyShape, results: ChoiceResults, send: Send
    ) -> None:
        first = await anext(results)
        if first is not None and isinstance(first.event, Failed):
            # Nothing has been sent yet, so the client can have a status and not only a frame.
            raise first.event.error
        writers = [started.make_writer(choice) for choice in range(len(started.streams))]
        head, include_usage = self._head(started, shape), started.body.include_usage
        writer = SseWriter(head, shape, writers, include_usage=include_usage, prompts=started.prompts)
        await send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})
        await send_frames(send, writer.opening() + writer.event(first))
        async for result in results:
            if result is not None and isinstance(result.event, Failed):
                log_unknown(result.event.error)
            frames = writer.event(result)
            if frames:
                await send_frames(send, frames)
        await send({"type": "http.response.body", "body": b""})

    def _head(self, started: StartedGeneration, shape: ReplyShape) -> ChunkHead:
        return ChunkHead(
            id=f"{shape.id_prefix}{uuid.uuid4().hex}",
            created=int(time.time()),
            model=started.body.answering,
            fingerprint=_fingerprint(self.runtime.base.name, started.adapters),
        )


async def send_frames(send: Send, frames: bytes) -> None:
    await send({"type": "http.response.body", "body": frames, "more_body": True})


def log_unknown(error: Exception) -> None:
    if not isinstance(error, EdgeloraError):
        logger.error("%s", internal_error().what, exc_info=error)


def _fingerprint(base: str, adapters: Iterable[AdapterUse]) -> str:
    """Return an id that changes with the base and with the version or weight of any adapter, whatever their order."""
    parts = sorted(f"{use.ref.version}*{use.weight!r}" for use in adapters if use.weight)
    return "fp_" + hashlib.sha256("\n".join([base, *parts]).encode()).hexdigest()[:12]
