"""Every value that crosses between the two processes arrives as it was sent, and nothing else is taken for one."""

from __future__ import annotations

import logging
import os
import threading
from io import BufferedReader
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from edgelora.core.errors import BackendError, Busy, ContextTooLong, EdgeloraError, NotFound, Unavailable, UsageError
from edgelora.core.events import Candidate, Finished, FinishReason, ScoredToken, TextDelta, Timings, Usage
from edgelora.core.request import AdapterRef, AdapterUse, Request
from edgelora.core.sampling_params import Constraint, SamplingParams
from edgelora.engine.adapters.counts import AdapterCounts
from edgelora.engine.adapters.pool import PoolEntry
from edgelora.engine.process import messages
from edgelora.engine.process.error_codec import EncodedError, error_of, fault_of
from edgelora.engine.process.pipes import MAX_FRAME_BYTES, Outbox, read_frames
from edgelora.engine.process.stats_totals import StatsTotals, without_same
from edgelora.engine.scheduler.occupancy import Occupancy, Reuse
from edgelora.engine.stats import EngineStats
from edgelora.store.prefixes.layout import StoredPrefix
from tests.support.fake_backend.backend import FAKE_CAPABILITIES

REF = AdapterRef("a", "v" * 64, Path("/some where/ä"), 5, (1, 2))
SAMPLING = SamplingParams(
    *(0.5, 0.9, 40, 0.05, 1.1, 32, 2**64 - 1, 7, ("END", "é"), 0.5, -1.0, ((5, 1.5),), 3, Constraint("{}")),
    *(2, True, (4, 5), True),
)
SCORED = ScoredToken(Candidate(5, b"\xc3", -0.5), (Candidate(6, b"", -1.0),), 7)
REQUEST = Request("r", (1, 2, 3), (AdapterUse(REF, -0.5, 3),), SAMPLING, "ann", 2)
FAULT = fault_of(NotFound("adapter", "x", ["xy"]))
STATS = EngineStats(
    *(1, 2, (PoolEntry(REF, 0, True, 1, True, 4, 5.5),), 3, 4, 5, 6),
    reuse=Reuse(1, 2, 3, 4),
    counts=(AdapterCounts("a", 1, 2, 3, 4, 5.0),),
    occupancy=(Occupancy(("a",), 1, 2, 3, 4),),
)
COMMANDS: list[messages.Command] = [
    messages.Open("m:f", b"\x00\xff", 1, 2, True, 3, messages.Prefixes(Path("p"), 1, Path("b"), "t")),
    messages.Submit(REQUEST),
    messages.Submit(REQUEST, messages.PrefixWriteSpec(frozenset({(("v", "p"), 1.0, 0)}), (1, 2), "name")),
    messages.Cancel("r"),
    messages.Preload(1, REF, True, REF),
    messages.Ping(),
    messages.Close(True, None),
]
EVENTS: list[messages.Event] = [
    messages.Loading("Loading", 1, 2),
    messages.Ready(FAKE_CAPABILITIES, "kv"),
    messages.NotOpened(FAULT),
    messages.Placed("r"),
    messages.TextProduced("r", TextDelta("é\0", (SCORED,))),
    messages.RequestFinished("r", Finished(FinishReason.LENGTH, Usage(1, 2, 3, 4, 5), Timings(0.1, 0.2, 0.3, 1e-9))),
    messages.RequestFailed("r", FAULT),
    messages.Preloaded(1, True),
    messages.Preloaded(2, FAULT),
    messages.PrefixWritten("r", StoredPrefix(Path("x"), 3, "d", None)),
    messages.PrefixWritten("r", None, FAULT),
    messages.Stats(STATS, ("counts",)),
    messages.Pong(3, 1.5),
    messages.Pong(3, None),
    messages.Pong(3, None, 12),
    messages.FirstUse("step", (Path("x"), Path("y"))),
    messages.Logged("edgelora.x", logging.WARNING, "line\n"),
]


def test_everything_crosses_unchanged() -> None:
    """All commands, and all events, in one frame each; no type is left out here."""
    assert {type(one) for one in COMMANDS} == set(get_args(messages.Command))
    assert {type(one) for one in EVENTS} == set(get_args(messages.Event))
    assert messages.decode_commands(messages.encode(COMMANDS)) == COMMANDS
    assert messages.decode_events(messages.encode(EVENTS)) == EVENTS


@pytest.mark.parametrize("bad", [b"", b"\x00", messages.encode([("Cancel", 5)]), messages.encode([("Never", "x")])])
def test_what_is_no_message_is_refused(bad: bytes) -> None:
    """Types are checked where they arrive."""
    with pytest.raises(msgspec.DecodeError):
        messages.decode_commands(bad)


def every_class(root: type[EdgeloraError] = EdgeloraError) -> list[type[EdgeloraError]]:
    return [root, *(kind for below in root.__subclasses__() for kind in every_class(below))]


@pytest.mark.parametrize("kind", every_class())
def test_errors_cross(kind: type[EdgeloraError]) -> None:
    """Of every class: what it says, and what the edges make of it."""
    error = kind.__new__(kind)
    EdgeloraError.__init__(error, "some_code", "What.", "Do.", param="p")
    if isinstance(error, Busy):
        error.retry_after = 2.5
    if isinstance(error, NotFound):
        error.name, error.near = "x", ("xy",)
    back = error_of(msgspec.msgpack.decode(msgspec.msgpack.encode(fault_of(error)), type=EncodedError))
    assert type(back) is kind and vars(back) == vars(error) and str(back) == str(error)
    assert (back.status, back.exit_code) == (error.status, error.exit_code)


def test_errors_with_sentences_of_their_own_cross() -> None:
    """Those that make them themselves, and those of a class the other side does not know."""
    for error in (ContextTooLong(tokens=5, limit=4), Unavailable("c", "What.", retry_after=3.0)):
        assert str(error_of(fault_of(error))) == str(error)
    unknown = EncodedError(("NeverHeardOf", "UsageError", "EdgeloraError"), "c", "What.", "", None)
    assert type(error_of(unknown)) is UsageError


def test_other_exceptions_become_the_backends(caplog: pytest.LogCaptureFixture) -> None:
    """What is not of the tree is told as such, and logged."""
    error = error_of(fault_of(KeyError("x")))
    assert isinstance(error, BackendError) and error.code == "backend_failed" and "KeyError" in error.what
    assert "KeyError" in caplog.text


def test_statistics_cross_in_parts() -> None:
    """Parts that did not change are left out and put back; sums go on over the processes."""
    totals = StatsTotals()
    totals.take(STATS, ())
    sent, same = without_same(STATS, STATS)
    assert set(same) == {"adapters", "counts", "occupancy"} and sent.adapters == ()
    totals.take(sent, same)
    assert totals.now == STATS
    totals.ended()
    assert (totals.now.running, totals.now.adapters, totals.now.occupancy) == (0, (), ())
    assert (totals.now.steps, totals.now.counts) == (STATS.steps, STATS.counts)
    totals.take(STATS, ())
    assert (totals.now.steps, totals.now.tokens, totals.now.reuse) == (6, 8, Reuse(2, 4, 6, 8))
    assert totals.now.counts == (AdapterCounts("a", 2, 4, 6, 8, 5.0),) and totals.now.adapters == STATS.adapters


def pipe() -> tuple[Outbox, BufferedReader]:
    reading, writing = os.pipe()
    return Outbox(writing, name="test"), os.fdopen(reading, "rb")


def test_frames_keep_order_and_end() -> None:
    """What is put from many threads arrives whole; nothing is lost at the end; a closed pipe ends the reading."""
    outbox, reader = pipe()

    def put(thread: int) -> None:
        for number in range(500):
            outbox.put(messages.Cancel(f"{thread} {number}"))

    threads = [threading.Thread(target=put, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    closer = threading.Thread(target=lambda: [*(t.join() for t in threads), outbox.close()])
    closer.start()
    with reader:
        seen = [c.id for frame in read_frames(reader, messages.decode_commands) for c in frame]  # type: ignore[union-attr]
    closer.join(20)
    for thread in range(4):
        assert [one for one in seen if one.startswith(f"{thread} ")] == [f"{thread} {n}" for n in range(500)]
    outbox.put(messages.Ping())
    outbox.send(messages.Ping())


@pytest.mark.parametrize(
    ("data", "says"),
    [((MAX_FRAME_BYTES + 1).to_bytes(4, "little"), "cannot be one"), (b"\x01\0\0\0\xc1", "cannot be read")],
)
def test_bytes_that_are_no_frames(data: bytes, says: str) -> None:
    """They end the conversation with an error, and a frame that was cut ends it quietly."""
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    with os.fdopen(reading, "rb") as reader, pytest.raises(BackendError, match=says):
        list(read_frames(reader, messages.decode_commands))
    reading, writing = os.pipe()
    os.write(writing, b"\x09\0\0\0abc")
    os.close(writing)
    with os.fdopen(reading, "rb") as reader:
        assert list(read_frames(reader, messages.decode_commands)) == []
