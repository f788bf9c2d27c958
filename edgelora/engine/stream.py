"""One request's events, from the engine thread to one consumer: a thread, or a task of any asyncio loop.

Owns the queue and the waking. Does not own the request: `cancel` only forwards the request to cancel.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING

from edgelora.core.events import Event, Failed, Finished, TextDelta

if TYPE_CHECKING:
    import asyncio

# A waiting thread wakes up this often, because Windows delivers Ctrl-C only between waits.
_INTERRUPT_SECONDS = 0.5


class Stream:
    """Any number of TextDelta, then exactly one Finished or Failed, then the end of the iteration.

    One consumer: `for event in stream`, or `async for event in stream`. The queue has no bound, so that a stalled
    reader costs memory for its own answer only and never holds up the engine.
    """

    def __init__(self, request_id: str, cancel: Callable[[str], None]) -> None:
        self.request_id = request_id
        self._cancel = cancel
        self._events: deque[Event] = deque()
        self._changed = threading.Condition()
        self._sealed = False
        """True once the last event is in the queue; nothing may follow it."""
        self._ended = False
        """True once the last event was taken."""
        self.prompt_tokens = 0
        """Number of tokens in the request's prompt, set by the engine."""
        self.placed = False
        """True if the request has, or had, a sequence id; until then it waits."""
        self.whole = False
        """Set by a reader that shows nothing before the end and so can handle a TextDelta.anew."""
        self._parked: tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | None = None

    def put(self, event: Event) -> None:
        """Engine side: queue an event without blocking. An event after the last one is dropped."""
        with self._changed:
            if self._sealed:
                return
            self._sealed = isinstance(event, (Finished, Failed))
            self._events.append(event)
            self._changed.notify_all()
            parked, self._parked = self._parked, None
        if parked is not None:
            _wake(*parked)

    def place(self) -> None:
        """Engine side: record that the request got its sequence id. May be called twice."""
        self.placed = True

    def cancel(self) -> None:
        """Cancel from any thread: the stream ends with Failed(Cancelled) unless it ended before."""
        self._cancel(self.request_id)

    def text(self) -> str:
        """Wait for the whole answer and return it. Raises the error of a Failed."""
        parts: list[str] = []
        for event in self:
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, TextDelta):
                parts.append(event.text)
        return "".join(parts)

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        with self._changed:
            while not self._events:
                if self._ended:
                    raise StopIteration
                self._changed.wait(_INTERRUPT_SECONDS)
            return self._take()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        while True:
            with self._changed:
                if self._events:
                    return self._take()
                if self._ended:
                    raise StopAsyncIteration
                # Only here: a command line that reads with a thread starts without it, which is noticeable.
                import asyncio

                loop = asyncio.get_running_loop()
                future = loop.create_future()
                self._parked = (loop, future)
            await future

    def _take(self) -> Event:
        event = self._events.popleft()
        self._ended = isinstance(event, (Finished, Failed))
        return event


def _wake(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> None:
    try:
        loop.call_soon_threadsafe(_resolve, future)
    except RuntimeError:
        # The consumer's loop is closed: nobody is left to wake, and the engine must go on.
        return


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
