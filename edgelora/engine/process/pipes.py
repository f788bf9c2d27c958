"""Frames of messages over a pair of pipes: four bytes of length (little-endian), then msgpack. Owns the writing thread.

Nothing here polls: a reader sleeps in `read`, a writer in its queue. Messages queued during a write are sent together
in the next frame.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from io import BufferedReader
from typing import Any, TypeVar

import msgspec

from edgelora.core.errors import BackendError
from edgelora.engine.process import messages

MAX_FRAME_BYTES = 64 << 20
"""Maximum bytes of a frame, more than a prompt of a million tokens needs. A larger length is invalid."""
_HEAD = 4
_BATCH = 256
"""Maximum number of messages in one frame."""

Message = TypeVar("Message")


def read_frames(pipe: BufferedReader, decode: Callable[[bytes], Sequence[Message]]) -> Iterator[Sequence[Message]]:
    """Yield every frame until the other side closes, or dies in the middle of one.

    Raises BackendError(code engine_protocol) for invalid bytes.
    """
    while len(head := _read(pipe, _HEAD)) == _HEAD:
        length = int.from_bytes(head, "little")
        if length > MAX_FRAME_BYTES:
            raise BackendError("engine_protocol", f"A message of {length:,} bytes cannot be one.")
        body = _read(pipe, length)
        if len(body) < length:
            return
        try:
            yield decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BackendError("engine_protocol", f"A message cannot be read: {error}.") from error


def _read(pipe: BufferedReader, length: int) -> bytes:
    try:
        return pipe.read(length)
    except (OSError, ValueError):  # A pipe that was closed under its reader has ended, too.
        return b""


class Outbox:
    """The writing end. `put` never blocks; `send` writes before it returns.

    Both do nothing once the pipe is broken: the reader of the other direction notices that.
    """

    def __init__(self, descriptor: int, *, name: str) -> None:
        """Take over `descriptor`, which `close` closes. `name`: name of the thread."""
        self._descriptor = descriptor
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._broken = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, message: object) -> None:
        self._queue.put(message)

    def send(self, message: object) -> None:
        """Write a message before returning, ahead of queued ones. Blocks while the pipe is full."""
        self._write([message])

    def close(self, timeout: float | None = None) -> None:
        """Write the queued messages, end the thread and close the pipe. Later messages are lost."""
        self._queue.put(None)
        self._thread.join(timeout)

    def _run(self) -> None:
        more = True
        while more:
            batch = [self._queue.get()]
            while batch[-1] is not None and len(batch) < _BATCH and not self._queue.empty():
                batch.append(self._queue.get())
            if batch[-1] is None:
                more = False
                batch.pop()
            if batch:
                self._write(batch)
        with self._lock:
            self._broken = True
            os.close(self._descriptor)

    def _write(self, batch: list[object]) -> None:
        body = messages.encode(batch)
        data = memoryview(len(body).to_bytes(_HEAD, "little") + body)
        with self._lock:
            while data and not self._broken:
                try:
                    data = data[os.write(self._descriptor, data) :]
                except OSError:
                    self._broken = True
