"""Streams: every event in order, one end, for a thread or any asyncio loop, and no reader can hold up the writer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from edgelora.core.errors import BackendError
from edgelora.core.events import Event, Failed, Finished, FinishReason, TextDelta, Timings, Usage
from edgelora.engine.stream import Stream

END = Finished(FinishReason.STOP, Usage(1, 2), Timings(queued=0.0, load=0.0, prefill=0.0, decode=0.0))
EVENTS: list[Event] = [TextDelta("a"), TextDelta("b"), END]


def stream(cancel: Callable[[str], None] = lambda _: None) -> Stream:
    return Stream("r1", cancel)


def in_thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def write(target: Stream, events: list[Event]) -> None:
    for event in events:
        target.put(event)


async def read(source: Stream) -> list[Event]:
    return [event async for event in source]


def test_events_come_in_order_and_end() -> None:
    """The last event ends the iteration, for good."""
    s = stream()
    write(s, EVENTS)
    assert list(s) == EVENTS
    assert list(s) == []


def test_a_parked_thread_is_woken() -> None:
    """A reader that came first gets everything the writer puts later."""
    s = stream()
    got: list[Event] = []
    reader = in_thread(lambda: got.extend(s))
    write(s, EVENTS)
    reader.join(10)
    assert got == EVENTS


def test_text_collects_the_answer() -> None:
    """text() is all the deltas together."""
    s = stream()
    write(s, EVENTS)
    assert s.text() == "ab"


def test_text_raises_what_failed() -> None:
    """The error itself, not a wrapper."""
    s, error = stream(), BackendError("x", "It broke.")
    write(s, [TextDelta("a"), Failed(error)])
    with pytest.raises(BackendError) as caught:
        s.text()
    assert caught.value is error


def test_nothing_follows_the_end() -> None:
    """A second end, as a shutdown may send one, is dropped, also after the first was read."""
    s = stream()
    write(s, [END, Failed(BackendError("x", "Late.")), TextDelta("late")])
    assert list(s) == [END]
    s.put(TextDelta("later"))
    assert list(s) == []


def test_a_stalled_reader_does_not_block_the_writer() -> None:
    """put returns however much nobody reads."""
    s = stream()
    write(s, [TextDelta("x")] * 50_000)
    s.put(END)
    assert len(s.text()) == 50_000


def test_async_iteration() -> None:
    """A task parked in any loop is woken from another thread."""

    async def scene() -> list[Event]:
        s = stream()
        task = asyncio.create_task(read(s))
        await asyncio.sleep(0)
        writer = in_thread(lambda: write(s, EVENTS))
        events = await asyncio.wait_for(task, 10)
        writer.join()
        return events

    assert asyncio.run(scene()) == EVENTS
    assert asyncio.run(scene()) == EVENTS


def test_events_put_before_the_loop_started() -> None:
    """What is there already is read without waiting, and an ended stream ends at once."""
    s = stream()
    write(s, EVENTS)
    assert asyncio.run(read(s)) == EVENTS
    assert asyncio.run(read(s)) == []


def test_a_cancelled_task_loses_nothing() -> None:
    """A wait given up (a timeout, say) leaves the events to the next one."""

    async def scene() -> list[Event]:
        s = stream()
        task = asyncio.create_task(anext(s))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        write(s, EVENTS)
        return await read(s)

    assert asyncio.run(scene()) == EVENTS


def test_a_closed_loop_does_not_hurt_the_writer() -> None:
    """The consumer's loop may be gone when the next event comes."""
    s = stream()
    loop = asyncio.new_event_loop()
    task = loop.create_task(read(s))
    loop.run_until_complete(asyncio.sleep(0))
    task.cancel()
    loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    loop.close()
    write(s, EVENTS)
    assert list(s) == EVENTS


def test_cancel_passes_the_id_on() -> None:
    """The stream knows its request; ending it is the engine's work."""
    asked: list[str] = []
    s = stream(asked.append)
    s.cancel()
    s.cancel()
    assert asked == ["r1", "r1"]
