"""Following an answer's generations while its client listens.

Owns the race between answer, disconnect and end of draining.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from starlette.types import Receive

from edgelora.core.errors import Unavailable
from edgelora.core.events import Event, Failed, Finished, TextDelta
from edgelora.engine.stream import Stream
from edgelora.server.auth.caller import charge
from edgelora.server.http.drain import Drain
from edgelora.server.http.errors import ClientGone
from edgelora.server.http.timeouts import ENDLESS, RequestTimeouts
from edgelora.server.telemetry.request_record import note_event

_SHUTTING_DOWN = Unavailable("shutting_down", "The server is shutting down.", "Send the request again.")


@dataclass(frozen=True, slots=True)
class ChoiceResult:
    """What came of one choice of an answer."""

    choice: int
    event: Event


Events = AsyncGenerator[Event | None]


async def follow(
    stream: Stream, *, receive: Receive, drain: Drain, tick: float, timeouts: RequestTimeouts = ENDLESS
) -> Events:
    """`follow_all` of one generation."""
    everything = follow_all((stream,), receive=receive, drain=drain, tick=tick, timeouts=timeouts)
    async with aclosing(everything) as heard:
        async for one in heard:
            yield None if one is None else one.event


async def follow_all(
    streams: Sequence[Stream], *, receive: Receive, drain: Drain, tick: float, timeouts: RequestTimeouts = ENDLESS
) -> AsyncGenerator[ChoiceResult | None]:
    """The events of an answer's choices as they come, to the end of each, or to the first Failed; None after each
    `tick` seconds of silence. Close it to cancel the generations.

    Raises ClientGone as soon as the client hangs up. When draining is cut the last event is Failed(Unavailable), when
    `timeouts` is at its end what that says.
    The request's body must have been read: only then does `receive` wait for the disconnect. The caller is charged for
    the tokens of prompt and answer, or, of an answer that was cut short, for what was sent of it.
    """
    events = [aiter(stream) for stream in streams]
    gone = asyncio.create_task(_gone(receive))
    cut = asyncio.create_task(drain.cut.wait())
    upcoming = {choice: asyncio.create_task(_next(one)) for choice, one in enumerate(events)}
    tokens = dict.fromkeys(upcoming, 0)
    clock = asyncio.get_running_loop().time
    began = clock()
    try:
        while upcoming:
            placed = any(stream.placed for stream in streams)
            pause = min(tick, timeouts.left(clock() - began, placed=placed))
            await asyncio.wait({*upcoming.values(), gone, cut}, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                raise ClientGone
            why = _SHUTTING_DOWN if cut.done() else timeouts.spent(clock() - began, placed=placed)
            if why is not None:
                yield ChoiceResult(0, Failed(why))
                return
            come = [choice for choice, task in upcoming.items() if task.done()]
            if not come:
                yield None
            for choice in come:
                event = upcoming.pop(choice).result()
                note_event(event, answer=choice)
                tokens[choice] = _tokens(event, choice, tokens[choice])
                if isinstance(event, TextDelta):
                    upcoming[choice] = asyncio.create_task(_next(events[choice]))
                yield ChoiceResult(choice, event)
                if isinstance(event, Failed):
                    return
    finally:
        for stream in streams:
            stream.cancel()
        charge(sum(tokens.values()))
        await _settle((*upcoming.values(), gone, cut))


def _tokens(event: Event, choice: int, before: int) -> int:
    """What a choice is charged for so far; the prompt they share counts with the first."""
    if isinstance(event, Finished):
        return event.usage.completion_tokens if choice else event.usage.total_tokens
    return before + isinstance(event, TextDelta)


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
