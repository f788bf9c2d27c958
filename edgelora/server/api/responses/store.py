"""The store of responses, from which later ones continue. In memory only.

Bounded by count, by the size of whole conversations, and by time since the last use of an entry.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from edgelora.core.errors import NotFound
from edgelora.server.api.responses.types import Item, ResponseObject


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response with its conversation."""

    response: ResponseObject
    before: tuple[Item, ...]
    """The conversation that it continues, earlier answers included, without any instructions."""
    inputs: tuple[Item, ...]
    owner: str
    """The name of the key that it was made with. For other callers it does not exist."""

    @property
    def conversation(self) -> tuple[Item, ...]:
        """The items that a response continues which names this one."""
        return (*self.before, *self.inputs, *self.response.output)


@dataclass(frozen=True, slots=True)
class ResponseStoreLimits:
    count: int = 512
    """Maximum number of responses."""
    nbytes: int = 32 << 20
    """Maximum size of all conversations as JSON. Each counts in full, although they may share items."""
    seconds: float = 3600.0
    """Maximum seconds since the last use of a response."""


@dataclass(slots=True)
class _Entry:
    stored: StoredResponse
    nbytes: int
    used: float


class ResponseStore:
    """Responses by id; the least recently used is dropped first. Thread-safe."""

    def __init__(self, limits: ResponseStoreLimits, *, clock: Callable[[], float]) -> None:
        """`clock`: returns monotonic seconds."""
        self._limits = limits
        self._clock = clock
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._nbytes = 0
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        return self._nbytes

    def put(self, stored: StoredResponse) -> None:
        """Store a response, or replace it. One that is larger than the limit of all is dropped."""
        nbytes = len(msgspec.json.encode(stored.conversation)) + len(msgspec.json.encode(stored.response))
        with self._lock:
            self._drop(stored.response.id)
            if nbytes <= self._limits.nbytes:
                self._entries[stored.response.id] = _Entry(stored, nbytes, self._clock())
                self._nbytes += nbytes
            self._trim()

    def get(self, response_id: str, *, owner: str) -> StoredResponse:
        """Return a response. Raises NotFound if it was not stored, has another owner, or was deleted or dropped."""
        with self._lock:
            self._trim()
            entry = self._entries.get(response_id)
            if entry is None or entry.stored.owner != owner:
                raise _unknown(response_id)
            entry.used = self._clock()
            self._entries.move_to_end(response_id)
            return entry.stored

    def replace(self, stored: StoredResponse) -> None:
        """Replace a response, unless it was deleted or dropped meanwhile."""
        with self._lock:
            if stored.response.id in self._entries:
                self.put(stored)

    def remove(self, response_id: str, *, owner: str) -> StoredResponse:
        """Delete a response and return it. Raises NotFound. Responses that continued it keep their conversations."""
        with self._lock:
            stored = self.get(response_id, owner=owner)
            self._drop(response_id)
            return stored

    def _drop(self, response_id: str) -> None:
        entry = self._entries.pop(response_id, None)
        if entry is not None:
            self._nbytes -= entry.nbytes

    def _trim(self) -> None:
        oldest_allowed = self._clock() - self._limits.seconds
        while self._entries:
            first, entry = next(iter(self._entries.items()))
            full = len(self._entries) > self._limits.count or self._nbytes > self._limits.nbytes
            if not full and entry.used >= oldest_allowed:
                return
            self._drop(first)


def _unknown(response_id: str) -> NotFound:
    remedy = "Responses are stored in memory for an hour at most, and none over a restart: send the whole conversation."
    error = NotFound("response", response_id, remedy=remedy)
    error.param = None
    return error
