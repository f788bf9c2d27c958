"""The way of every generation through the server: read, start off the loop, follow, answer whole or as a stream.

Owns no field names: those are chat.py's and completions.py's, which bring a `ReplyShape` and a `Start`.
"""

from __future__ import annotations

import hashlib
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from anyio import to_thread
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from edgelora.core.errors import EdgeloraError
from edgelora.core.events import Failed, Finished, TextDelta
from edgelora.core.request import AdapterUse
from edgelora.core.sampling_params import SamplingParams
from edgelora.engine.stream import Stream
from edgelora.runtime.interface import Runtime
from edgelora.server.api.together.dialect import from_together, in_its_words
from edgelora.server.generation.choice_writer import ChoiceWriter
from edgelora.server.generation.follow import ChoiceResult, follow_all
from edgelora.server.generation.request_body import GenerationFields
from edgelora.server.generation.sse import ChunkHead, ReplyShape, SseWriter, total, whole_answer
from edgelora.server.http.drain import Drain
from edgelora.server.http.errors import internal_error
from edgelora.server.http.json_body import parse_object
from edgelora.server.http.json_route import JSON_HEADERS, read_json
from edgelora.server.http.options import ServerOptions
from edgelora.server.http.reply import send_reply

logger = logging.getLogger(__name__)

STREAM_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)


@dataclass(frozen=True, slots=True)
class Job:
    """A request that was understood and is running."""

    body: GenerationFields
    adapters: tuple[AdapterUse, ...]
    streams: tuple[Stream, ...]
    """One for each choice."""
    writer: Callable[[], ChoiceWriter]
    """Makes a choice's."""


Start = Callable[[Runtime, dict[str, object]], Job]
"""Blocking: parse a body, resolve its model, begin. Raises EdgeloraError."""

Submit = Callable[[SamplingParams], Stream]


@dataclass(frozen=True, slots=True)
class GenerationApp:
    """The ASGI app of one generating route."""

    runtime: Runtime
    options: ServerOptions
    drain: Drain
    shape: ReplyShape
    start: Start
    start_together: Start
    """For Together's clients."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw = await read_json(scope, receive, self.options)
        together = from_together(Headers(scope=scope))
        start = self.start_together if together else self.start
        job = await to_thread.run_sync(lambda: start(self.runtime, parse_object(raw)))
        for stream in job.streams:
            stream.whole = not job.body.stream
        shape = in_its_words(self.shape) if together else self.shape
        tick = self.options.keepalive_seconds
        async with aclosing(
            follow_all(job.streams, receive=receive, drain=self.drain, tick=tick, timeouts=self.options.timeouts)
        ) as events:
            if job.body.stream:
                await self._send_stream(job, shape, events, send)
            else:
                await self._send_whole(job, shape, events, send)

    async def _send_whole(
        self, job: Job, shape: ReplyShape, events: AsyncGenerator[ChoiceResult | None], send: Send
    ) -> None:
        deltas: list[list[TextDelta]] = [[] for _ in job.streams]
        ends: dict[int, Finished] = {}
        async for heard in events:
            if heard is None:
                continue
            if isinstance(heard.event, Failed):
                raise heard.event.error
            if isinstance(heard.event, TextDelta):
                if heard.event.anew:
                    deltas[heard.choice].clear()
                deltas[heard.choice].append(heard.event)
            else:
                ends[heard.choice] = heard.event
        choices = [job.writer().whole(said, ends[choice].reason) for choice, said in enumerate(deltas)]
        usage = total([end.usage for end in ends.values()])
        await send_reply(send, 200, JSON_HEADERS, whole_answer(self._head(job), shape, choices=choices, usage=usage))

    async def _send_stream(
        self, job: Job, shape: ReplyShape, events: AsyncGenerator[ChoiceResult | None], send: Send
    ) -> None:
        first = await anext(events)
        if first is not None and isinstance(first.event, Failed):
            # Nothing has been sent yet, so the client can have a status and not only a frame.
            raise first.event.error
        wordings = [job.writer() for _ in job.streams]
        writer = SseWriter(self._head(job), shape, wordings, include_usage=job.body.include_usage)
        await send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})
        await send_frames(send, writer.opening() + writer.event(first))
        async for heard in events:
            if heard is not None and isinstance(heard.event, Failed):
                log_unknown(heard.event.error)
            frames = writer.event(heard)
            if frames:
                await send_frames(send, frames)
        await send({"type": "http.response.body", "body": b""})

    def _head(self, job: Job) -> ChunkHead:
        return ChunkHead(
            id=f"{self.shape.id_prefix}{uuid.uuid4().hex}",
            created=int(time.time()),
            model=job.body.model,
            fingerprint=_fingerprint(self.runtime.base.name, job.adapters),
        )


def begin_all(samplings: Sequence[SamplingParams], submit: Submit) -> tuple[Stream, ...]:
    """All of the answers or none: they share the prompt's prefill (`sharing.py`). Raises what `submit` does."""
    streams: list[Stream] = []
    try:
        for sampling in samplings:
            streams.append(submit(sampling))
    except BaseException:
        for stream in streams:
            stream.cancel()
        raise
    return tuple(streams)


async def send_frames(send: Send, frames: bytes) -> None:
    await send({"type": "http.response.body", "body": frames, "more_body": True})


def log_unknown(error: Exception) -> None:
    if not isinstance(error, EdgeloraError):
        logger.error("%s", internal_error().what, exc_info=error)


def _fingerprint(base: str, adapters: Iterable[AdapterUse]) -> str:
    """Names what answered: it changes with the base, and with any adapter's version or weight, in any order."""
    parts = sorted(f"{use.ref.version}*{use.weight!r}" for use in adapters if use.weight)
    return "fp_" + hashlib.sha256("\n".join([base, *parts]).encode()).hexdigest()[:12]
