"""Following one generation while its client listens. Owns the race between answer, disconnect and end of draining."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable

from starlette.types import Receive

from edgelora.core import Event, Failed, Finished, TextDelta
from edgelora.server.caller import charge
from edgelora.server.errors import ClientGone, Unavailable
from edgelora.server.record import note_event
from edgelora.stream import Stream


class Drain:
    """The server's end: `begun` once no new connection is taken, `cut` once running answers must end too."""

    def __init__(self) -> None:
        self.begun = False
        self.cut = asyncio.Event()

    def begin(self) -> None:
        self.begun = True


async def follow(stream: Stream, *, receive: Receive, drain: Drain, tick: float) -> AsyncGenerator[Event | None]:
    """The stream's events to its end; None after each `tick` seconds of silence. Close it to cancel the generation.

    Raises ClientGone as soon as the client hangs up. When draining is cut the last event is Failed(Unavailable).
    The request's body must have been read: only then does `receive` wait for the disconnect. The caller is charged for
    the tokens of prompt and answer, or, of an answer that was cut short, for what was sent of it.
    """
    events = aiter(stream)
    gone = asyncio.create_task(_gone(receive))
    cut = asyncio.create_task(drain.cut.wait())
    upcoming = asyncio.create_task(_next(events))
    tokens = 0
    try:
        while True:
            await asyncio.wait({upcoming, gone, cut}, timeout=tick, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                raise ClientGone
            if cut.done():
                yield Failed(Unavailable("shutting_down", "The server is shutting down.", "Send the request again."))
                return
            if not upcoming.done():
                yield None
                continue
            event = upcoming.result()
            note_event(event)
            tokens = event.usage.total_tokens if isinstance(event, Finished) else tokens + 1
            yield event
            if not isinstance(event, TextDelta):
                return
            upcoming = asyncio.create_task(_next(events))
    finally:
        stream.cancel()
        charge(tokens)
        await _settle((upcoming, gone, cut))


async def _next(events: AsyncIterator[Event]) -> Event:
    return await anext(events)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _settle(tasks: Iterable[asyncio.Task[object]]) -> None:
    """Cancel what still waits, and take every result, so that none is reported as lost."""
    waiting = list(tasks)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
