"""The prompt prefixes seen before: a bounded count, in memory only. Thread-safe."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict

from edgelora.core.kv import Key
from edgelora.store.prefixes.origin import token_bytes

REMEMBERED = 1024
"""Maximum number of prefixes remembered; the least recently seen is dropped."""


class SeenPrefixes:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: OrderedDict[str, int] = OrderedDict()

    def again(self, key: Key, tokens: tuple[int, ...]) -> bool:
        """Count a prompt that begins with these tokens under these adapters. Return True if it is not the first."""
        digest = hashlib.sha256(repr(sorted(key)).encode() + token_bytes(tokens)).hexdigest()
        with self._lock:
            count = self._counts[digest] = self._counts.pop(digest, 0) + 1
            if len(self._counts) > REMEMBERED:
                self._counts.popitem(last=False)
        return count > 1
