"""The memory of the Responses API: what was answered, for going on from it. In memory only, and bounded.

Bounded by count, by the bytes of whole conversations, and by time since an entry was last used. Owns no HTTP and no
generation. Thread-safe.
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
    """One response with what it answered."""

    response: ResponseObject
    before: tuple[Item, ...]
    """The conversation it went on from, earlier answers included; instructions are never carried over."""
    inputs: tuple[Item, ...]
    owner: str
    """The name of the key it was made with: nobody else is told that it exists."""

    @property
    def conversation(self) -> tuple[Item, ...]:
        """What a response that names this one goes on from."""
        return (*self.before, *self.inputs, *self.response.output)


@dataclass(frozen=True, slots=True)
class ResponseStoreLimits:
    count: int = 512
    nbytes: int = 32 << 20
    """Of all conversations kept, as JSON: each counts whole, though they share what they have in common."""
    seconds: float = 3600.0
    """Since an entry was last used."""


@dataclass(slots=True)
class _Entry:
    kept: StoredResponse
    nbytes: int
    used: float


class ResponseStore:
    """Responses by id, the least recently used given up first."""

    def __init__(self, bounds: ResponseStoreLimits, *, clock: Callable[[], float]) -> None:
        """`clock`: seconds, never going back."""
        self._bounds = bounds
        self._clock = clock
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._nbytes = 0
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        return self._nbytes

    def put(self, kept: StoredResponse) -> None:
        """Keep a response, or what became of it. One larger than the whole memory is not kept."""
        nbytes = len(msgspec.json.encode(kept.conversation)) + len(msgspec.json.encode(kept.response))
        with self._lock:
            self._drop(kept.response.id)
            if nbytes <= self._bounds.nbytes:
                self._entries[kept.response.id] = _Entry(kept, nbytes, self._clock())
                self._nbytes += nbytes
            self._trim()

    def get(self, response_id: str, *, owner: str) -> StoredResponse:
        """Raises NotFound: never kept, of another owner, deleted, or given up."""
        with self._lock:
            self._trim()
            entry = self._entries.get(response_id)
            if entry is None or entry.kept.owner != owner:
                raise _unknown(response_id)
            entry.used = self._clock()
            self._entries.move_to_end(response_id)
            return entry.kept

    def replace(self, kept: StoredResponse) -> None:
        """As `put`, but nothing where the response was deleted or given up meanwhile."""
        with self._lock:
            if kept.response.id in self._entries:
                self.put(kept)

    def remove(self, response_id: str, *, owner: str) -> StoredResponse:
        """Raises NotFound. Responses that went on from this one keep what was said."""
        with self._lock:
            kept = self.get(response_id, owner=owner)
            self._drop(response_id)
            return kept

    def _drop(self, response_id: str) -> None:
        entry = self._entries.pop(response_id, None)
        if entry is not None:
            self._nbytes -= entry.nbytes

    def _trim(self) -> None:
        oldest_allowed = self._clock() - self._bounds.seconds
        while self._entries:
            first, entry = next(iter(self._entries.items()))
            full = len(self._entries) > self._bounds.count or self._nbytes > self._bounds.nbytes
            if not full and entry.used >= oldest_allowed:
                return
            self._drop(first)


def _unknown(response_id: str) -> NotFound:
    remedy = "Responses are kept in memory for an hour at most, and none over a restart: send the whole conversation."
    error = NotFound("response", response_id, remedy=remedy)
    error.param = None
    return error
