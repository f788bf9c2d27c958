"""Responses that nobody waits for: each a task that follows its generation, until it ends or is cancelled."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing

from msgspec.structs import replace as changed
from starlette.types import Message

from edgelora.core.events import Failed
from edgelora.server.api.responses.begun import StartedResponse
from edgelora.server.api.responses.events import ResponseWriter
from edgelora.server.api.responses.store import ResponseStore
from edgelora.server.generation.follow import follow
from edgelora.server.generation.generate import log_unknown
from edgelora.server.http.drain import Drain

_TICK_SECONDS = 60.0
"""Silence means nothing here: nobody listens."""


class Background:
    """The running ones. As many as the engine takes; they end with the server. On the server's loop only."""

    def __init__(self, store: ResponseStore, drain: Drain) -> None:
        self._store = store
        self._drain = drain
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._cancelled: set[str] = set()

    def start(self, begun: StartedResponse) -> None:
        """Follow it from now on. It is in the store, in progress, before this returns."""
        response_id = begun.response.id
        self._store.put(begun.kept(begun.response))
        task = asyncio.create_task(self._work(begun))
        self._tasks[response_id] = task
        task.add_done_callback(lambda _task: self._tasks.pop(response_id, None))

    async def cancel(self, response_id: str) -> None:
        """End it, where it still runs; returns once the store has what there is of it."""
        task = self._tasks.get(response_id)
        if task is not None:
            self._cancelled.add(response_id)
            task.cancel()
            await asyncio.wait({task})

    async def _work(self, begun: StartedResponse) -> None:
        writer = ResponseWriter(begun.response, begun.chat_format)
        try:
            async with aclosing(follow(begun.stream, receive=_nobody, drain=self._drain, tick=_TICK_SECONDS)) as events:
                async for event in events:
                    if isinstance(event, Failed):
                        log_unknown(event.error)
                    writer.event(event, now=int(time.time()))
        finally:
            response = writer.response
            if begun.response.id in self._cancelled:
                self._cancelled.discard(begun.response.id)
                if response.status == "in_progress":
                    response = changed(response, status="cancelled")
            self._store.replace(begun.kept(response))


async def _nobody() -> Message:
    await asyncio.Event().wait()
    raise RuntimeError("nobody listens")
