"""Background responses: each has a task that follows its generation until it ends or is cancelled."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing

from msgspec.structs import replace as changed
from starlette.types import Message

from edgelora.core.events import Failed
from edgelora.server.api.responses.events import ResponseWriter
from edgelora.server.api.responses.started import StartedResponse
from edgelora.server.api.responses.store import ResponseStore
from edgelora.server.generation.follow import follow
from edgelora.server.generation.generate import log_unknown
from edgelora.server.http.drain import Drain
from edgelora.server.http.errors import internal_error
from edgelora.server.http.timeouts import RequestTimeouts

_TICK_SECONDS = 60.0
"""Seconds between keep-alive ticks, which are ignored here."""


class Background:
    """The running background responses. They end with the server. Not thread-safe: event loop only."""

    def __init__(self, store: ResponseStore, drain: Drain, timeouts: RequestTimeouts) -> None:
        self._store = store
        self._drain = drain
        self._timeouts = timeouts
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._cancelled: set[str] = set()

    def start(self, started: StartedResponse) -> None:
        """Follow a response. It is in the store, in progress, when this returns."""
        response_id = started.response.id
        self._store.put(started.stored(started.response))
        task = asyncio.create_task(self._work(started))
        self._tasks[response_id] = task
        task.add_done_callback(lambda _task: self._tasks.pop(response_id, None))

    async def cancel(self, response_id: str) -> None:
        """End a response if it is running. Returns once its partial output is in the store."""
        task = self._tasks.get(response_id)
        if task is not None:
            self._cancelled.add(response_id)
            task.cancel()
            await asyncio.wait({task})

    async def _work(self, started: StartedResponse) -> None:
        writer = ResponseWriter(started.response, started.chat_format)
        try:
            await self._follow(started, writer)
        except Exception as error:  # No client waits to be told; the response would be in progress for ever.
            log_unknown(error)
            writer.event(Failed(internal_error()), now=int(time.time()))
        finally:
            response = writer.response
            if started.response.id in self._cancelled:
                self._cancelled.discard(started.response.id)
                if response.status == "in_progress":
                    response = changed(response, status="cancelled")
            self._store.replace(started.stored(response))

    async def _follow(self, started: StartedResponse, writer: ResponseWriter) -> None:
        followed = follow(
            started.stream, receive=_never_disconnects, drain=self._drain, tick=_TICK_SECONDS, timeouts=self._timeouts
        )
        async with aclosing(followed) as events:
            async for event in events:
                if isinstance(event, Failed):
                    log_unknown(event.error)
                writer.event(event, now=int(time.time()))


async def _never_disconnects() -> Message:
    await asyncio.Event().wait()
    raise RuntimeError("unreachable")
