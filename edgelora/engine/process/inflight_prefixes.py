"""Prefixes that callers wait to see on disk while another process computes and writes them. Thread-safe."""

from __future__ import annotations

import threading

from edgelora.engine.prefix_cache.cache import PrefixWrite
from edgelora.engine.process import messages
from edgelora.engine.process.error_codec import error_of


class InflightPrefixes:
    """Prefixes to keep by request id; their result arrives after the request's own end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keeps: dict[str, PrefixWrite] = {}

    def send(self, request_id: str, keep: PrefixWrite | None) -> messages.PrefixWriteSpec | None:
        """Register the prefix and return its message. A resent request registers the same prefix again."""
        if keep is None:
            return None
        with self._lock:
            self._keeps[request_id] = keep
        return messages.PrefixWriteSpec(keep.key, keep.tokens, keep.name)

    def settle(self, event: messages.PrefixWritten) -> None:
        keep = self._take(event.id)
        if keep is None:
            return
        if event.stored is not None:
            keep.done.set_result(event.stored)
        elif event.fault is not None:
            keep.done.set_exception(error_of(event.fault))
        else:
            keep.done.cancel()

    def forget(self, request_id: str) -> None:
        """Cancel the prefix of a request whose process died."""
        keep = self._take(request_id)
        if keep is not None:
            keep.done.cancel()

    def _take(self, request_id: str) -> PrefixWrite | None:
        with self._lock:
            return self._keeps.pop(request_id, None)
