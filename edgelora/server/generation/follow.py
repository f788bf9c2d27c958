"""Following the generations of an answer until they end, their client disconnects, or they are cut short."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from starlette.types import Receive

from edgelora.core.errors import Unavailable
from edgelora.core.events import Event, Failed, TextDelta
from edgelora.engine.stream import Stream
from edgelora.server.generation.token_meter import TokenMeter
from edgelora.server.http.drain import Drain
from edgelora.server.http.errors import ClientGone
from edgelora.server.http.timeouts import ENDLESS, RequestTimeouts
from edgelora.server.telemetry.request_record import note_event

_SHUTTING_DOWN = Unavailable("shutting_down", "The server is shutting down.", "Send the request again.")


@dataclass(frozen=True, slots=True)
class ChoiceResult:
    """An event of one choice of an answer."""

    choice: int
    event: Event


Events = AsyncGenerator[Event | None]


async def follow(
    stream: Stream, *, receive: Receive, drain: Drain, tick: float, timeouts: RequestTimeouts = ENDLESS
) -> Events:
    """Follow one generation, as `follow_all` does."""
    results = follow_all((stream,), receive=receive, drain=drain, tick=tick, timeouts=timeouts)
    async with aclosing(results):
        async for result in results:
            yield None if result is None else result.event


async def follow_all(
    streams: Sequence[Stream],
    *,
    receive: Receive,
    drain: Drain,
    tick: float,
    timeouts: RequestTimeouts = ENDLESS,
    prompts: int = 1,
) -> AsyncGenerator[ChoiceResult | None]:
    """Yield the events of all choices until each has ended or one has failed; None after `tick` seconds of silence.

    Close the generator to cancel the generations. Raises ClientGone as soon as the client disconnects. The last event
    is Failed if draining is cut or a limit of `timeouts` is reached. The request's body must have been read, because
    only then does `receive` wait for the disconnect. `prompts`: how many prompts the choices answer, as many choices
    each, in order. Their tokens count against the caller's limits as they are used.
    """
    events = [aiter(stream) for stream in streams]
    gone = asyncio.create_task(_gone(receive))
    cut = asyncio.create_task(drain.cut.wait())
    upcoming = {choice: asyncio.create_task(_next(stream_events)) for choice, stream_events in enumerate(events)}
    meter = TokenMeter(streams, prompts=prompts)
    each = len(streams) // prompts
    clock = asyncio.get_running_loop().time
    began = clock()
    try:
        while upcoming:
            placed = any(stream.placed for stream in streams)
            pause = min(tick, timeouts.left(clock() - began, placed=placed))
            await asyncio.wait({*upcoming.values(), gone, cut}, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                raise ClientGone
            error = _SHUTTING_DOWN if cut.done() else timeouts.spent(clock() - began, placed=placed)
            if error is not None:
                yield ChoiceResult(0, Failed(error))
                return
            ready = [choice for choice, task in upcoming.items() if task.done()]
            if not ready:
                yield None
            for choice in ready:
                event = upcoming.pop(choice).result()
                first = choice % each == 0  # The prompt, which its choices share, counts with the first of them.
                note_event(event, choice=choice, prompt=first)
                meter.event(choice, event)
                if isinstance(event, TextDelta):
                    upcoming[choice] = asyncio.create_task(_next(events[choice]))
                yield ChoiceResult(choice, event)
                if isinstance(event, Failed):
                    return
    finally:
        for stream in streams:
            stream.cancel()
        meter.close()
        await _settle((*upcoming.values(), gone, cut))


async def _next(events: AsyncIterator[Event]) -> Event:
    return await anext(events)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _settle(tasks: Iterable[asyncio.Task[object]]) -> None:
    """Cancel pending tasks and retrieve every result, so that asyncio reports none as never retrieved."""
    waiting = list(tasks)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
